"""Hosts on one machine: network namespaces on a bridge, each with its own name, processes, and folder for Ray's files.

Needs root and iproute2 (Linux). Everything has names that begin with a prefix of its own, addresses from one
private subnet, and is gone when the network is closed: processes, namespaces, the bridge. Mounts are made in the mount
namespaces of the hosts' processes and end with them. Only processes inside these namespaces are ever signalled, and
all of them were started from here.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

MAX_HOSTS = 16
INIT = 'hostname "$1" && mount --bind "$2" "$3" && echo up && while :; do sleep 1 & wait; done'
"""The first process of a host: it gives the host its name and its folder, and collects what is orphaned there."""
NEW_NAMESPACES = ("--uts", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc")
"""Processes, too: a driver that saw the nodes of other hosts would take one of them for its own."""
START_LIMIT_S = 20.0
POLL_S = 0.2
END_LIMIT_S = 20.0


def find_obstacle() -> str | None:
    """Say what keeps this machine from having hosts; None if nothing does."""
    if os.geteuid() != 0:
        return (
            "network namespaces need root; run this as root, or in a container that has CAP_SYS_ADMIN and CAP_NET_ADMIN"
        )
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("mount", "mount")):
        if shutil.which(program) is None:
            return f"there is no program '{program}'; install {package}"
    return None


@dataclass(frozen=True)
class Host:
    """One host of a network."""

    name: str
    namespace: str
    """Of the network; as `ip netns` lists it."""
    address: str
    folder: Path
    """What the host has in place of the network's shared place for Ray."""


@dataclass
class Network:
    """A bridge, and hosts that reach each other over it. A context manager: all is gone at its end."""

    names: Sequence[str]
    """Of the hosts."""
    folder: Path
    """For the hosts' own files and the logs of their processes; a short path, as sockets lie below it."""
    subnet: str = "10.77.0"
    """First three numbers of the addresses; nothing else may use them."""
    prefix: str = field(default_factory=lambda: f"tm{secrets.token_hex(3)}")
    """What the names of all that is added to the machine begin with; short, as those of links must be."""
    hosts: dict[str, Host] = field(default_factory=dict)
    _logs: list[IO[bytes]] = field(default_factory=list)
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < len(self.names) <= MAX_HOSTS:
            raise ValueError(f"need 1 to {MAX_HOSTS} hosts, got {len(self.names)}")

    @property
    def ray_folder(self) -> Path:
        """Where every host has its own folder; the same path on all, as Ray wants it."""
        return self.folder / "ray"

    @property
    def gateway(self) -> str:
        """This machine's own address on the bridge."""
        return f"{self.subnet}.254"

    def __enter__(self) -> "Network":
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        taken = run_ip("-o", "address", "show").stdout
        if f" {self.subnet}." in taken:
            raise RuntimeError(f"this machine has an address in {self.subnet}.0/24 already; give another subnet")
        self.ray_folder.mkdir(parents=True)
        bridge = f"{self.prefix}br"
        run_ip("link", "add", "name", bridge, "type", "bridge")
        run_ip("address", "add", f"{self.gateway}/24", "dev", bridge)
        run_ip("link", "set", bridge, "up")
        for number, name in enumerate(self.names, start=1):
            host = Host(name, f"{self.prefix}-{name}", f"{self.subnet}.{number}", self.folder / "hosts" / name)
            host.folder.mkdir(parents=True)
            run_ip("netns", "add", host.namespace)
            self.hosts[name] = host
            inside = ("netns", "exec", host.namespace, "ip")
            link = self._name_link(host)
            run_ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            run_ip("link", "set", link, "master", bridge)
            run_ip("link", "set", link, "up")
            run_ip(*inside, "link", "set", "lo", "up")
            run_ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
            run_ip(*inside, "link", "set", "eth0", "up")
            # Ray finds a host's own address by the way to others. Nobody answers beyond the bridge.
            run_ip(*inside, "route", "add", "default", "dev", "eth0")

    def close(self) -> None:
        """End all processes of the hosts, and remove the hosts and the bridge."""
        for host in self.hosts.values():
            self.end(host.name)
        for host in self.hosts.values():
            run_ip("link", "delete", self._name_link(host), check=False)
            run_ip("netns", "delete", host.namespace, check=False)
        run_ip("link", "delete", f"{self.prefix}br", check=False)
        self.hosts.clear()
        for process in self._processes:
            process.poll()
        for log in self._logs:
            log.close()

    def start(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], *, log: str
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a host; what it prints is appended to the log of that name."""
        target = self.open_log(log)
        process = subprocess.Popen(
            ["nsenter", "--target", str(self._boot(name)), "--net", "--uts", "--mount", "--pid", *command],
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.STDOUT,
        )
        self._processes.append(process)
        return process

    def _boot(self, name: str) -> int:
        """Start the first process of a host if it is not there; give its id.

        Raises:
            RuntimeError: It did not come up.
        """
        if (first := self._find_init(name)) is not None:
            return first
        host = self.hosts[name]
        places = (f"{self.prefix}-{name}", str(host.folder), str(self.ray_folder))
        command = ["ip", "netns", "exec", host.namespace, "unshare", *NEW_NAMESPACES, "sh", "-c", INIT, "sh", *places]
        num_ups = self.read_log(f"init-{name}").count("up")
        self._processes.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.open_log(f"init-{name}"))
        )
        deadline_s = time.monotonic() + START_LIMIT_S
        while self.read_log(f"init-{name}").count("up") == num_ups or (first := self._find_init(name)) is None:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"host '{name}' did not come up in {START_LIMIT_S:.0f} s")
            time.sleep(0.02)
        return first

    def _find_init(self, name: str) -> int | None:
        """Find the process that is the first one of its host."""
        for process in self.list_processes(name, INIT):
            try:
                status = Path("/proc", str(process), "status").read_text()
            except OSError:
                continue
            if any(line.startswith("NSpid:") and line.split()[2:] == ["1"] for line in status.splitlines()):
                return process
        return None

    def open_log(self, log: str) -> IO[bytes]:
        """Open a log to append to."""
        path = self.get_log_path(log)
        path.parent.mkdir(exist_ok=True)
        target = path.open("ab")
        self._logs.append(target)
        return target

    def get_log_path(self, log: str) -> Path:
        """Give the path of a log."""
        return self.folder / "logs" / f"{log}.log"

    def read_log(self, log: str) -> str:
        """Read what was printed so far."""
        path = self.get_log_path(log)
        return path.read_text(errors="replace") if path.exists() else ""

    def list_processes(self, name: str, part: str = "") -> list[int]:
        """List the processes of a host whose command line holds some words."""
        found = []
        for word in run_ip("netns", "pids", self.hosts[name].namespace, check=False).stdout.split():
            try:
                line = Path("/proc", word, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if part in line:
                found.append(int(word))
        return found

    def send(self, name: str, number: signal.Signals, part: str = "") -> int:
        """Send a signal to the processes of a host; give how many there were."""
        processes = self.list_processes(name, part)
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        return len(processes)

    def end(self, name: str, part: str = "") -> None:
        """Kill the processes of a host until there are none, also those that are started meanwhile."""
        deadline_s = time.monotonic() + END_LIMIT_S
        while self.send(name, signal.SIGKILL, part) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
            for process in self._processes:
                process.poll()

    def set_link(self, name: str, *, is_up: bool) -> None:
        """Plug a host in or out: without its link nothing arrives, and nobody is told."""
        run_ip("link", "set", self._name_link(self.hosts[name]), "up" if is_up else "down")

    def _name_link(self, host: Host) -> str:
        return f"{self.prefix}v{host.address.rpartition('.')[2]}"


def run_ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run `ip`.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"'ip {' '.join(arguments)}' failed: {done.stderr.strip()}")
    return done

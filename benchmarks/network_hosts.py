"""Hosts on one machine: network namespaces on a bridge, each with its own name, processes, and folder for Ray's files.

Needs Linux, root and iproute2. All names begin with a random prefix, and all addresses are in one private subnet.
Closing the network removes processes, namespaces and the bridge. Mounts are made in the mount namespaces of the hosts'
processes and end with them. Signals go only to processes inside these namespaces, all of them started from here.
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
"""First process of a host: sets the host name, mounts the folder of the host, and reaps orphaned processes."""
NEW_NAMESPACES = ("--uts", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc")
"""With a process namespace: a driver that sees the nodes of other hosts takes one of them for a local node."""
START_LIMIT_S = 20.0
POLL_S = 0.2
END_LIMIT_S = 20.0


def find_obstacle() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if os.geteuid() != 0:
        return (
            "network namespaces need root; run this as root, or in a container that has CAP_SYS_ADMIN and CAP_NET_ADMIN"
        )
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("mount", "mount")):
        if shutil.which(program) is None:
            return f"program '{program}' is not installed; install {package}"
    return None


@dataclass(frozen=True)
class Host:
    """One host of a network."""

    name: str
    namespace: str
    """Network namespace, as `ip netns` lists it."""
    address: str
    folder: Path
    """Mounted on this host at `Network.ray_folder`."""


@dataclass
class Network:
    """A bridge and hosts that reach each other over it. A context manager that removes all of it at the end."""

    names: Sequence[str]
    """Names of the hosts."""
    folder: Path
    """Files of the hosts and logs of their processes; a short path, because paths of sockets are limited."""
    subnet: str = "10.77.0"
    """First three numbers of the addresses; this machine must not use them otherwise."""
    prefix: str = field(default_factory=lambda: f"tm{secrets.token_hex(3)}")
    """Prefix of the names of namespaces and links; short, because names of links are limited."""
    hosts: dict[str, Host] = field(default_factory=dict)
    _logs: list[IO[bytes]] = field(default_factory=list)
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < len(self.names) <= MAX_HOSTS:
            raise ValueError(f"need 1 to {MAX_HOSTS} hosts, got {len(self.names)}")

    @property
    def ray_folder(self) -> Path:
        """Path of Ray's files, the same on all hosts, as Ray requires; each host has its own folder mounted there."""
        return self.folder / "ray"

    @property
    def gateway(self) -> str:
        """Address of this machine on the bridge."""
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
            raise RuntimeError(f"this machine has an address in {self.subnet}.0/24 already; use another subnet")
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
            # Ray finds the address of its host by a route to other networks. The route leads nowhere.
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
        """Start a command on a host; append its output to the named log."""
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
        """Start the first process of a host if it does not run; return its id.

        Raises:
            RuntimeError: It did not start in time.
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
                raise RuntimeError(f"host '{name}' did not start in {START_LIMIT_S:.0f} s")
            time.sleep(0.02)
        return first

    def _find_init(self, name: str) -> int | None:
        """Process id of the first process of a host; None if it does not run."""
        for process in self.list_processes(name, INIT):
            try:
                status = Path("/proc", str(process), "status").read_text()
            except OSError:
                continue
            if any(line.startswith("NSpid:") and line.split()[2:] == ["1"] for line in status.splitlines()):
                return process
        return None

    def open_log(self, log: str) -> IO[bytes]:
        """Open a log for appending."""
        path = self.get_log_path(log)
        path.parent.mkdir(exist_ok=True)
        target = path.open("ab")
        self._logs.append(target)
        return target

    def get_log_path(self, log: str) -> Path:
        """Path of a log."""
        return self.folder / "logs" / f"{log}.log"

    def read_log(self, log: str) -> str:
        """Output in a log so far; empty if the log does not exist."""
        path = self.get_log_path(log)
        return path.read_text(errors="replace") if path.exists() else ""

    def list_processes(self, name: str, part: str = "") -> list[int]:
        """Ids of the processes of a host whose command line contains a text."""
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
        """Send a signal to processes of a host; return their number."""
        processes = self.list_processes(name, part)
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        return len(processes)

    def end(self, name: str, part: str = "") -> None:
        """Kill processes of a host until none is left, those included that start meanwhile."""
        deadline_s = time.monotonic() + END_LIMIT_S
        while self.send(name, signal.SIGKILL, part) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
            for process in self._processes:
                process.poll()

    def set_link(self, name: str, *, is_up: bool) -> None:
        """Bring the link of a host up or down. Without it packets are lost without an error."""
        run_ip("link", "set", self._name_link(self.hosts[name]), "up" if is_up else "down")

    def _name_link(self, host: Host) -> str:
        return f"{self.prefix}v{host.address.rpartition('.')[2]}"


def run_ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run the program `ip`.

    Raises:
        RuntimeError: It failed, and `check` is set.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"'ip {' '.join(arguments)}' failed: {done.stderr.strip()}")
    return done

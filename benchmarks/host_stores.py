"""Stores for the hosts of `benchmarks.network_hosts`: moto's S3 server, Ceph RGW, or the disk of this machine."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import fsspec
from botocore.exceptions import BotoCoreError

from benchmarks.network_hosts import Network

HOST = "s3"
BUCKET = "tagmask"
START_LIMIT_S = 90.0
CEPH_PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "monmaptool", "radosgw", "radosgw-admin")
CEPH_CONFIG = """
[global]
fsid = {fsid}
mon host = v1:{address}:6789
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
ms bind msgr2 = false
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
crash dir = {folder}
mon data = {folder}/mon.a
osd data = {folder}/osd.0
"""


class Store(Protocol):
    """A store on a separate host, or a folder that all hosts see."""

    @property
    def root_uri(self) -> str:
        """Folder of inputs and outputs."""

    def start(self) -> None:
        """Start the store, empty."""

    def get_variables(self) -> Mapping[str, str]:
        """Environment variables of its clients."""

    def fail(self) -> str:
        """Make the store unreachable; return a description of the fault."""

    def recover(self) -> None:
        """Make the store reachable again, with its contents."""


@dataclass
class Disk:
    """A folder of this machine, in place of a disk that all hosts share."""

    folder: Path

    @property
    def root_uri(self) -> str:
        """Folder of inputs and outputs."""
        return str(self.folder)

    def start(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def get_variables(self) -> Mapping[str, str]:
        """No variables: a folder needs none."""
        return {}

    def fail(self) -> str:
        """Refuse: a disk of this machine cannot become unreachable.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a shared disk cannot become unreachable; give --store moto or --store rgw for this scenario")

    def recover(self) -> None:
        """Do nothing: this store does not fail."""


@dataclass
class Moto:
    """Moto's S3 server. It keeps its data in memory, so its fault is a link that is down, not a kill."""

    network: Network
    root_uri: str = f"s3://{BUCKET}"

    def start(self) -> None:
        """Start the server."""
        command = [sys.executable, "-m", "moto.server", "--host", "0.0.0.0", "--port", "5000"]
        self.network.start(HOST, command, dict(os.environ), log="moto")
        make_bucket(self.get_variables())

    def get_variables(self) -> Mapping[str, str]:
        """Environment variables of its clients."""
        return make_s3_variables(f"http://{self.network.hosts[HOST].address}:5000", "testing", "testing")

    def fail(self) -> str:
        """Take the link of its host down."""
        self.network.set_link(HOST, is_up=False)
        return "the link of moto's host is down"

    def recover(self) -> None:
        """Bring the link of its host up."""
        self.network.set_link(HOST, is_up=True)


@dataclass
class CephRgw:
    """Ceph RGW on one monitor and one OSD that keeps objects in memory. Its fault is a killed gateway."""

    network: Network
    root_uri: str = f"s3://{BUCKET}"
    keys: tuple[str, str] = field(default_factory=lambda: (secrets.token_hex(8), secrets.token_hex(16)))

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        return self.network.folder / "ceph"

    def start(self) -> None:
        """Start the monitor, the OSD and the gateway.

        Raises:
            ValueError: A program of Ceph is not installed.
        """
        missing = [name for name in CEPH_PROGRAMS if shutil.which(name) is None]
        if missing:
            raise ValueError(
                f"program '{missing[0]}' is not installed; install ceph-mon, ceph-osd, ceph-common and radosgw, "
                "or give --store moto"
            )
        address = self.network.hosts[HOST].address
        fsid = "11111111-2222-3333-4444-555555555555"
        for name in ("mon.a", "osd.0", "rgw"):
            (self.folder / name).mkdir(parents=True)
        self._config.write_text(CEPH_CONFIG.format(fsid=fsid, address=address, folder=self.folder))
        monmap = str(self.folder / "monmap")
        self._call("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v1:{address}:6789]", monmap)
        as_root = ("--setuser", "root", "--setgroup", "root")
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, *as_root)
        self._start("ceph-mon", "-f", "-i", "a", *as_root)
        self._call("ceph", "osd", "new", "22222222-2222-3333-4444-555555555555")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", "22222222-2222-3333-4444-555555555555", *as_root)
        self._start("ceph-osd", "-f", "-i", "0", *as_root)
        self.recover()
        user = ("user", "create", "--uid=tagmask", "--display-name=tagmask")
        self._call("radosgw-admin", *user, f"--access-key={self.keys[0]}", f"--secret={self.keys[1]}")
        make_bucket(self.get_variables())

    def get_variables(self) -> Mapping[str, str]:
        """Environment variables of its clients."""
        return make_s3_variables(f"http://{self.network.hosts[HOST].address}:7480", *self.keys)

    def fail(self) -> str:
        """Kill the gateway."""
        self.network.end(HOST, "radosgw")
        return "the gateway is killed"

    def recover(self) -> None:
        """Start the gateway; the OSD kept the objects."""
        frontend = "--rgw_frontends=beast endpoint=0.0.0.0:7480"
        self._start("radosgw", "-f", "-n", "client.rgw.a", frontend, f"--rgw_data={self.folder}/rgw")

    @property
    def _config(self) -> Path:
        return self.folder / "ceph.conf"

    def _start(self, program: str, *arguments: str) -> None:
        command = [program, *arguments[:1], "-c", str(self._config), *arguments[1:]]
        self.network.start(HOST, command, dict(os.environ), log=program)

    def _call(self, program: str, *arguments: str) -> None:
        """Run a program of Ceph on its host and wait for it; repeat until the daemons answer."""
        config = [] if program == "monmaptool" else ["-c", str(self._config)]

        def is_done() -> bool:
            process = self.network.start(HOST, [program, *config, *arguments], dict(os.environ), log="ceph-setup")
            try:
                return process.wait(30) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                return False

        wait_until(
            is_done, START_LIMIT_S, f"'{program}' did not succeed; see {self.network.get_log_path('ceph-setup')}"
        )


def make_s3_variables(url: str, key: str, secret: str) -> dict[str, str]:
    """Environment variables of an S3 client."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def make_bucket(variables: Mapping[str, str]) -> None:
    """Create the bucket as soon as the store answers."""
    store = fsspec.filesystem(
        "s3",
        key=variables["AWS_ACCESS_KEY_ID"],
        secret=variables["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        skip_instance_cache=True,
    )

    def is_made() -> bool:
        try:
            store.mkdir(BUCKET)
        except (OSError, BotoCoreError):
            return False
        return True

    wait_until(is_made, START_LIMIT_S, f"no store answers at {variables['AWS_ENDPOINT_URL']}")


def wait_until(is_true: Callable[[], bool], limit_s: float, complaint: str) -> None:
    """Wait until a condition is true.

    Raises:
        RuntimeError: It is not true in time; the message is the complaint.
    """
    deadline_s = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{complaint} ({limit_s:.0f} s)")
        time.sleep(0.5)

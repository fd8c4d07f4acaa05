"""Hosts of `benchmarks.outages`. Skipped where network namespaces cannot be made."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.network_hosts import Network, find_obstacle, run_ip

FETCH = (
    "import sys, urllib.request\n"
    "try: sys.exit(urllib.request.urlopen(sys.argv[1], timeout=2).status != 200)\n"
    "except OSError: sys.exit(3)"
)
SUBNET = "10.213.77"


def can_make_namespaces() -> bool:
    name = f"tmprobe{os.getpid()}"
    if find_obstacle() is not None or run_ip("netns", "add", name, check=False).returncode:
        return False
    bridge = run_ip("link", "add", "name", f"pb{os.getpid() % 10000}", "type", "bridge", check=False)
    run_ip("link", "delete", f"pb{os.getpid() % 10000}", check=False)
    run_ip("netns", "delete", name, check=False)
    return bridge.returncode == 0


pytestmark = pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2")


@pytest.fixture
def folder() -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="tm", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def wait_for_line(network: Any, log: Any, part: Any) -> None:
    while part not in network.read_log(log):
        pass


def test_hosts_reach_each_other_until_a_link_is_down_and_leave_nothing_behind(folder: Any) -> None:
    variables = dict(os.environ)
    with Network(("a", "b"), folder, SUBNET) as network:
        serve = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "0.0.0.0", "--directory", str(folder)]
        server = network.start("a", serve, variables, log="a")
        wait_for_line(network, "a", "Serving HTTP")
        fetch = [sys.executable, "-c", FETCH, f"http://{network.hosts['a'].address}:8000/"]
        assert network.start("b", fetch, variables, log="b").wait(60) == 0
        network.set_link("a", is_up=False)
        assert network.start("b", fetch, variables, log="b").wait(60) == 3
        network.set_link("a", is_up=True)
        assert network.start("b", fetch, variables, log="b").wait(60) == 0
        assert network.list_processes("a", "http.server")
        assert network.list_processes("b", "http") == []
        assert network.send("a", signal.SIGSTOP, "http.server")
        prefix = network.prefix
    assert server.wait(60) == -signal.SIGKILL
    assert prefix not in run_ip("netns", "list").stdout
    assert prefix not in run_ip("link", "show").stdout


def test_every_host_has_its_own_name_and_its_own_files_at_the_same_path(folder: Any) -> None:
    with Network(("a", "b"), folder, SUBNET) as network:
        for name in network.names:
            command = ["sh", "-c", f"hostname > {network.ray_folder}/name; hostname"]
            assert network.start(name, command, dict(os.environ), log=name).wait(60) == 0
        names = [network.read_log(name).strip() for name in network.names]
        assert names == [(network.folder / "hosts" / name / "name").read_text().strip() for name in network.names]
        assert len(set(names)) == 2
        assert os.listdir(network.ray_folder) == []  # noqa: PTH208 (a listing outside of the hosts' namespaces)


def test_subnet_of_this_machine_is_refused(folder: Any) -> None:
    with Network(("a",), folder, SUBNET) as network:
        with pytest.raises(RuntimeError, match="use another subnet"):
            Network(("b",), folder / "other", SUBNET).__enter__()
        # The refused network does not change the first one.
        assert f"{network.prefix}br" in run_ip("link", "show", "up").stdout

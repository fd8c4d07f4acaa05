"""Ray that does not come up: real starts in processes of their own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
import jobs.cluster.connection
from jobs.command_line.console import run_job
jobs.cluster.connection.PAUSE_S = 0.1

class Healing:
    "A stream for errors: whoever writes to it mends the machine."
    def write(self, text):
        os.environ.pop("RAY_gcs_server_port_wait_time_s", None)
        return sys.__stderr__.write(text)
    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)

def count_servers():
    folders = [folder for folder in os.listdir("/proc") if folder.isdigit()]
    mine = 0
    for folder in folders:
        try:
            with open(f"/proc/{folder}/cmdline", "rb") as file:
                mine += b"gcs_server" in file.read().split(b"\\0")[0] and os.getpgid(int(folder)) == os.getpgid(0)
        except OSError:
            pass
    return mine

def job():
    try:
        jobs.cluster.connection.connect(None if sys.argv[1] == "local" else sys.argv[1], num_cpus=1)
    finally:
        print("servers", count_servers())
    import ray
    print("cpus", ray.cluster_resources()["CPU"])
    return 0

if sys.argv[2] == "heal":
    sys.stderr = Healing()
sys.exit(run_job(job))
"""

WORKERS = """
import os, ray
from jobs.cluster.connection import connect

@ray.remote
class Actor:
    def get_niceness(self):
        return os.nice(0)

@ray.remote
def get_niceness():
    return os.nice(0)

connect("local", num_cpus=1)
found = ray.get([Actor.remote().get_niceness.remote(), get_niceness.remote()])
print(*[niceness - os.nice(0) for niceness in found])
"""


def choose_environment(folder: str, variables: Any) -> dict[str, str]:
    """Environment of this process with other variables; None deletes one."""
    ours = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "RAY_ADDRESS": None}
    return {key: value for key, value in (os.environ | ours | variables).items() if value is not None}


def run(address: Any, *, heals: bool = False, **variables: Any) -> Any:
    return run_program(PROGRAM, address, "heal" if heals else "-", **variables)


def run_program(program: str, *arguments: str, **variables: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env=choose_environment(folder, variables),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            process_group=0,
        )


@pytest.mark.ray
def test_ray_that_is_not_up_in_time_is_tried_once_more_and_then_told_in_our_words() -> None:
    done = run("local", RAY_gcs_server_port_wait_time_s="0")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0].startswith("warning: a local Ray did not come up: ")
    assert done.stderr.splitlines()[-1].startswith("error: a local Ray did not come up in 2 tries: Timed out waiting")
    # What came up too late is ended.
    assert done.stdout == "servers 0\n"


@pytest.mark.ray
def test_ray_that_comes_up_at_the_second_try_is_used() -> None:
    done = run("local", heals=True, RAY_gcs_server_port_wait_time_s="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "servers 1\ncpus 1.0\n"


@pytest.mark.ray
@pytest.mark.parametrize(("variable", "niceness"), [(None, 0), ("7", 7)])
def test_workers_of_a_local_ray_have_the_niceness_of_its_driver_unless_the_environment_sets_another(
    variable: Any, niceness: int
) -> None:
    done = run_program(WORKERS, RAY_worker_niceness=variable)
    assert done.stdout == f"{niceness} {niceness}\n", done.stderr


def test_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        done = run(address)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: the Ray cluster at '{address}' did not come up in 2 tries" in done.stderr
    assert "correct --address" in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "host:port"])
def test_address_that_is_none_is_a_wrong_command(address: str) -> None:
    done = run(address)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: the Ray cluster at '{address}' cannot be used: ")


def make_long_folder(num_bytes: int) -> Path:
    folder = Path("/tmp", f"rc{os.getpid()}".ljust(num_bytes - len("/tmp/"), "x"))
    folder.mkdir()
    return folder


def read_room(error: str) -> int:
    """Longest folder for temporary files, as the message has it."""
    return int(error.partition("leave room for ")[2].partition(";")[0])


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_temporary_folder_that_is_too_long_for_sockets_is_told_before_ray_starts(name: str) -> None:
    folder = "/tmp/" + "ä" * 60
    variables: dict[str, Any] = {"RAY_TMPDIR": None, name: folder}
    done = run("local", **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {name} '{folder}' has 125 bytes, and the names of Ray's sockets below it")
    assert done.stderr.rstrip().endswith("set RAY_TMPDIR to a shorter folder, such as /tmp")
    assert 30 < read_room(done.stderr) < 60
    assert done.stdout == "servers 0\n"


@pytest.mark.ray
def test_temporary_folder_that_just_fits_is_used() -> None:
    # One byte less than the process of the refusal has, for an ID of a process may be longer than its.
    room = read_room(run("local", RAY_TMPDIR="/tmp/" + "x" * 99).stderr) - 1
    folder = make_long_folder(room)
    try:
        done = run("local", RAY_TMPDIR=str(folder))
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


FEW_INPUTS = """
import sys, warnings, ray
from jobs.cluster.connection import connect

class Copy:
    def __init__(self, table):
        pass

    def __call__(self, rows):
        return rows

connect("local", num_cpus=2)
if sys.argv[1] == "loud":
    warnings.resetwarnings()
rows = ray.data.range(1, override_num_blocks=1)
copies = rows.map_batches(Copy, fn_constructor_args=["x" * 1000], concurrency=2, num_cpus=0.1)
print(len(copies.take_all()))
"""


@pytest.mark.ray
@pytest.mark.parametrize(
    ("how", "variables"), [("quiet", {}), ("loud", {"RAY_BACKEND_LOG_LEVEL": "error"})], ids=["quiet", "loud"]
)
def test_ray_prints_nothing_that_looks_like_an_error_when_there_is_none(how: str, variables: dict[str, str]) -> None:
    done = run_program(FEW_INPUTS, how, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    for text in ("minimum number of concurrent actors", "constructor arguments in the object store"):
        # The loud one shows that this Ray still says so.
        assert (text in done.stderr) == (how == "loud"), done.stderr

"""Connection to Ray: the cluster that a job was submitted to, or a local Ray."""

import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private.node import Node
from ray.job_config import JobConfig

from jobs.cluster.settings import find_address
from pipeline.errors import ClusterError
from pipeline.storage.uris import require_no_password

logger = logging.getLogger(__name__)

FORWARDED_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""S3 settings of the driver that workers on other machines receive. Credentials are not sent; machines have theirs."""

LOCAL_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Settings of a local Ray that are set where the environment does not set them.

By default Ray starts workers at nice 15, so that other programs of the machine leave them next to nothing of its CPUs.
"""
NUM_TRIES = 2
PAUSE_S = 5.0
"""Seconds between two tries, in which a load may end or a head may start."""
OUR_FOLDER = Path(__file__).parents[2]
"""Folder of the project's packages."""
MAX_SOCKET_BYTES = 107
"""Maximum length of the path of a socket on Linux (AF_UNIX), in bytes."""
LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""Path of Ray's longest socket below its folder for temporary files, with the ID of this process."""
PROBE_TIMEOUT_S = 10.0
"""Seconds to wait for a connection to the address of a cluster. Ray itself waits 15 minutes without a message."""


def connect(address: str | None, num_cpus: int | None = None) -> None:
    """Connect to a Ray cluster, or start a local Ray.

    Args:
        address: Address of a cluster, or `local` for a local Ray. None: the cluster that runs this job
            (`ray job submit` sets RAY_ADDRESS), else a local Ray.
        num_cpus: CPU slots of a local Ray; None: one per core. May exceed the cores, so that processes that mostly
            wait do not prevent others from starting.

    A connected process keeps its connection. If Ray does not start in time, for example on a busy machine, it is tried
    once more.

    Raises:
        ClusterError: Ray does not start, or no cluster answers at the address.
        ValueError: The address is not valid, an endpoint in the environment that is sent to workers contains a
            password, or the folder for temporary files has too long a path.
    """
    wanted = find_address(address)
    environment = None if wanted == "local" else {"env_vars": _choose_variables()}
    if ray.is_initialized():
        return
    _quieten_ray()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "job_config": _OurImports()}
    if environment is not None:
        _try_twice(
            lambda: _join(wanted, options | {"runtime_env": environment}),
            what=f"the Ray cluster at '{wanted}'",
            advice="start it or correct --address",
        )
        return
    _require_short_paths()
    for name, value in LOCAL_VARIABLES.items():
        os.environ.setdefault(name, value)
    options |= {"num_cpus": num_cpus, "include_dashboard": False}
    _try_twice(
        lambda: ray.init(address="local", **options),
        what="a local Ray",
        advice="see whether this machine has memory, disk and CPU time to spare",
    )


def _require_short_paths() -> None:
    """Check that the sockets of a local Ray fit below its folder for temporary files.

    Raises:
        ValueError: They do not.
    """
    folder = get_default_system_temp_dir()
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name) == folder), "the temporary folder")
    room = MAX_SOCKET_BYTES - len(LONGEST_SOCKET.format(pid=os.getpid())) - 1
    num_bytes = len(os.fsencode(folder.rstrip("/")))
    if num_bytes > room:
        raise ValueError(
            f"{name} '{folder}' has {num_bytes} bytes, and the names of Ray's sockets below it leave room for {room}; "
            "set RAY_TMPDIR to a shorter folder, such as /tmp"
        )


FEW_INPUTS = r"The minimum number of concurrent actors for '.*' is set to \d+, but the operator only received"
"""Start of a warning of Ray Data about its own settings."""
CORE_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
"""Variable with the lowest level of what Ray's core prints and logs."""


class _OurImports(JobConfig):
    """Job configuration with which workers import from the project's folder first, never from the current folder.

    By default Ray searches the driver's current folder and the folder of its script first. A folder of the user may
    contain packages with the same names, such as `models`.
    """

    def _serialize(self) -> Any:
        # Ray calls this between the start of a local node, whose processes keep their logs, and that of the driver's
        # core. The core prints what looks like an error and is none: that actors have "constructor arguments in the
        # object store". It has no setting for one message, and its failures reach the driver as exceptions.
        os.environ.setdefault(CORE_LOG_LEVEL, "fatal")
        if not self._runtime_env_has_working_dir():
            self._py_driver_sys_path = [str(OUR_FOLDER)]
        return super()._serialize()


def _quieten_ray() -> None:
    """Silence Ray except for errors of its start. Failures reach the driver as exceptions.

    The log files of Ray's session contain all messages.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    # A run of less chunks than workers has nothing to tune.
    warnings.filterwarnings("ignore", FEW_INPUTS, UserWarning)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            # Ray prints every frame of a failed dataset; the driver reports it in one line.
            handler.setLevel(logging.CRITICAL + 1)
    # Raylets print each dead worker, with C++ stacks, in all drivers; no setting of Ray turns that off.
    ray._private.worker.print_to_stdstream = _log_report  # type: ignore[assignment]


def _log_report(report: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Log at debug level what Ray prints by default. Replaces `ray._private.worker.print_to_stdstream`."""
    logger.debug("%s: %s", report.get("pid"), "\n".join(map(str, report.get("lines") or ())))


def _try_twice(start: Callable[[], object], *, what: str, advice: str) -> None:
    """Start or join a Ray cluster; try once more if it fails.

    Raises:
        ClusterError: The second try failed too.
        ValueError: Ray rejects its arguments, so another try cannot succeed.
    """
    for attempt in range(1, NUM_TRIES + 1):
        try:
            start()
        except ValueError as error:
            raise ValueError(f"{what} cannot be used: {_get_first_line(error)}; {advice}") from error
        except Exception as error:  # Ray raises plain `Exception` and other types when it does not start in time
            _end_half_started(error)
            cause = _get_first_line(error)
            if attempt == NUM_TRIES:
                raise ClusterError(
                    f"{what} did not come up in {NUM_TRIES} tries: {cause}; {advice}, then run the same command again"
                ) from error
            print(f"warning: {what} did not come up: {cause}; trying once more", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S)
        else:
            return


def _join(address: str, options: dict[str, Any]) -> None:
    """Join a cluster; fail early if its address does not accept connections."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit() and "://" not in address:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S):
            pass
    ray.init(address=address, **options)


def _end_half_started(error: BaseException) -> None:
    """End the processes of a local node that did not start, so that they do not compete with those of the next try.

    Ray keeps no reference to the node. Only the frames of the exception have it.
    """
    traceback = error.__traceback__
    while traceback is not None:
        node = traceback.tb_frame.f_locals.get("self")
        traceback = traceback.tb_next
        if isinstance(node, Node) and getattr(node, "all_processes", None):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def _get_first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _choose_variables() -> dict[str, str]:
    """Environment variables for the workers. Ray rejects variables that the job's runtime environment already has.

    Raises:
        ValueError: An endpoint contains a password, which Ray would store and show.
    """
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    told = (submitted.get("runtime_env") or {}).get("env_vars") or {}
    chosen = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ and name not in told}
    for name, value in chosen.items():
        try:
            require_no_password(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return chosen

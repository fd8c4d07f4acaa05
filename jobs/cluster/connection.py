"""Where a job computes: the Ray cluster that it was submitted to, or a local Ray of its own."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private.node import Node
from ray.job_config import JobConfig

from pipeline.errors import ClusterError
from pipeline.storage.uris import require_no_password

logger = logging.getLogger(__name__)

FORWARDED_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""What workers on other machines are told of the driver's S3. Credentials never travel: they have their own."""

NUM_TRIES = 2
PAUSE_S = 5.0
"""Between two tries: what keeps a machine busy may be over, and a head may be up."""
OUR_FOLDER = Path(__file__).parents[2]
"""What holds our packages."""
PROBE_TIMEOUT_S = 10.0
"""For an answer of a cluster's address. Ray itself asks for a quarter of an hour, and says nothing meanwhile."""


def use_endpoint(url: str | None) -> None:
    """Let S3 mean another store than that of AWS, here and in all workers; None leaves it as it is.

    Raises:
        ValueError: It is no URL, or holds a password.
    """
    if url is None:
        return
    require_no_password(url)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"need --endpoint-url to start with http:// or https://, got '{url.rpartition('@')[2]}'")
    os.environ["AWS_ENDPOINT_URL"] = url


def connect(address: str | None, num_cpus: int | None = None) -> None:
    """Connect to Ray; start a local one when there is no cluster to connect to.

    Args:
        address: Address of a cluster, or `local` for a Ray of our own. None: the cluster that runs this job
            (`ray job submit` sets RAY_ADDRESS), else a Ray of our own.
        num_cpus: CPU slots of a Ray of our own; None: one per core. May exceed the cores, so that processes
            that mostly wait do not keep others from starting.

    A process that is connected already stays as it is. A Ray that is not up in time, as it happens on a busy machine,
    is tried once more.

    Raises:
        ClusterError: Ray did not come up, or no cluster answers at the address.
        ValueError: An endpoint that the environment names, and that workers would be told, holds a password; or the
            address is none.
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options |= {"num_cpus": num_cpus, "include_dashboard": False}
    _try_twice(
        lambda: ray.init(address="local", **options),
        what="a local Ray",
        advice="see whether this machine has memory, disk and CPU time to spare",
    )


class _OurImports(JobConfig):
    """The description of this job, in which workers import from our folder first and never from the current one.

    Ray puts the driver's current folder and that of its script before all others. A folder of the user's may hold
    packages named as ours, such as `models`.
    """

    def _serialize(self) -> Any:
        if not self._runtime_env_has_working_dir():
            self._py_driver_sys_path = [str(OUR_FOLDER)]
        return super()._serialize()


def _quieten_ray() -> None:
    """Let Ray print nothing but what keeps it from starting; what fails reaches the driver as an exception.

    The log files of Ray's session still hold all of it.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            # A failed dataset is told with every frame, and by us in a line.
            handler.setLevel(logging.CRITICAL + 1)
    # Raylets report each worker that dies, with stacks of C++, to all drivers; no setting of Ray's keeps them silent.
    ray._private.worker.print_to_stdstream = _log_report  # type: ignore[assignment]


def _log_report(report: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Log what Ray would print, in place of `ray._private.worker.print_to_stdstream`."""
    logger.debug("%s: %s", report.get("pid"), "\n".join(map(str, report.get("lines") or ())))


def _try_twice(start: Callable[[], object], *, what: str, advice: str) -> None:
    """Start or join a Ray; once more if it fails.

    Raises:
        ClusterError: It failed again.
        ValueError: Ray does not take what it is given, which will not change.
    """
    for attempt in range(1, NUM_TRIES + 1):
        try:
            start()
        except ValueError as error:
            raise ValueError(f"{what} cannot be used: {_get_first_line(error)}; {advice}") from error
        except Exception as error:  # a Ray that is not up in time is a plain `Exception`, and more of them
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
    """Join a cluster, if anybody listens at its address."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit() and "://" not in address:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S):
            pass
    ray.init(address=address, **options)


def _end_half_started(error: BaseException) -> None:
    """End the processes of a node of our own that did not come up: late ones would compete with those of the next try.

    Ray forgets them; the node is only found in the frames of what it raised.
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
    """Choose what workers are told; Ray refuses what the job's own environment tells them already.

    Raises:
        ValueError: An endpoint holds a password, which Ray would keep and show.
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

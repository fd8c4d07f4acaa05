"""Where a job computes: the Ray cluster that it was submitted to, or a local Ray of its own."""

import json
import logging
import os

import ray

from pipeline.passwords import require_no_password

FORWARDED_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""What workers on other machines are told of the driver's S3. Credentials never travel: they have their own."""


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

    A process that is connected already stays as it is.

    Raises:
        ValueError: An endpoint that the environment names, and that workers would be told, holds a password.
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    environment = None if wanted == "local" else {"env_vars": _choose_variables()}
    if ray.is_initialized():
        return
    # Ray's own lines only; what fails in a worker reaches the driver as an exception.
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        # Ray Data's plans and summaries still go to the log files of the session.
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
    if environment is not None:
        ray.init(address=wanted, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


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

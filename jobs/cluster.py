"""Where a job computes: the Ray cluster that it was submitted to, or a local Ray of its own."""

import logging
import os

import ray


def connect(address: str | None, num_cpus: int | None = None) -> None:
    """Connect to Ray; start a local one when there is no cluster to connect to.

    Args:
        address: Address of a cluster, or `local` for a Ray of our own. None: the cluster that runs this job
            (`ray job submit` sets RAY_ADDRESS), else a Ray of our own.
        num_cpus: CPU slots of a Ray of our own; None: one per core. May exceed the cores, so that processes
            that mostly wait do not keep others from starting.

    A process that is connected already stays as it is.
    """
    if ray.is_initialized():
        return
    # Ray's own lines only; what fails in a worker reaches the driver as an exception.
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        # Ray Data's plans and summaries still go to the log files of the session.
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if wanted != "local":
        ray.init(address=wanted, logging_level=logging.ERROR, log_to_driver=False)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )

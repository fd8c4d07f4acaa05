"""Watch of the head of a cluster: ends the driver with a message when the head is lost. Ray ends it without one."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from jobs.command_line.console import EXIT_FAILED

RAY_TIMEOUT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAY_TIMEOUT_S = 60.0
"""Seconds after which Ray ends the driver when the head is lost, unless the variable sets another time."""
POLL_PERIOD_S = 3.0
CONNECT_TIMEOUT_S = 3.0


@contextmanager
def watch_head(describe_loss: Callable[[], str]) -> Iterator[None]:
    """End this process with a message when the head of the cluster is lost. Needs a connected Ray.

    A head that restarts in time, with external state, is not lost. The process ends shortly before Ray would end it
    without a message and with a C++ stack.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    limit_s = 0.75 * float(os.environ.get(RAY_TIMEOUT_VARIABLE, RAY_TIMEOUT_S))
    is_over = threading.Event()

    def watch() -> None:
        seen_s = time.monotonic()
        while not is_over.wait(POLL_PERIOD_S):
            if _answers(host, int(port)):
                seen_s = time.monotonic()
            elif time.monotonic() - seen_s >= limit_s:
                _end(
                    f"error: the head of the cluster ({host}:{port}) has been gone for {limit_s:.0f} s; ", describe_loss
                )

    threading.Thread(target=watch, name="head", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _end(cause: str, describe_loss: Callable[[], str]) -> None:
    sys.stdout.flush()
    print(cause + describe_loss(), file=sys.stderr, flush=True)
    # Every call to Ray hangs now, in all threads.
    os._exit(EXIT_FAILED)

"""Waiting for a store that is temporarily unavailable, or a disk that is temporarily full.

The cause of an error separates an outage from a refusal. A refusal (access denied, missing bucket, invalid name) is
permanent. An outage (no connection, no response, a server error, no space) is temporary, and the operation is retried.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import aiohttp
import botocore.exceptions
import tenacity

from pipeline.errors import NO_SPACE, BucketError, OutageError, UriError
from pipeline.storage.store_errors import list_causes

logger = logging.getLogger(__name__)

DEFAULT_OUTAGE_S = 900.0
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 15.0

PASSING = NO_SPACE | {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESHUTDOWN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Error numbers of a disk or network that may recover."""
REFUSALS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    aiohttp.InvalidURL,
    BucketError,
    UriError,
)
NETWORK_FAILURES = (
    ConnectionError,
    TimeoutError,
    aiohttp.ClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)
"""Exceptions of the stores' clients without a response of the server."""
PASSING_STATUS = frozenset({408, 409, 425, 429})
"""HTTP status codes below 500 that allow a retry; all from 500 on do."""

PASSING_CODES = frozenset({"QuotaExceeded", "RequestTimeout", "SlowDown"})
"""Error codes of S3 that are temporary regardless of their status: a store can be freed of data, too."""

T = TypeVar("T")


def is_outage(error: BaseException) -> bool:
    """Check whether an error comes from a store that may recover, by its chain of causes.

    >>> is_outage(ConnectionRefusedError()), is_outage(OSError(errno.ENOSPC, "full")), is_outage(PermissionError())
    (True, True, False)
    """
    causes = list(list_causes(error))
    if any(isinstance(cause, REFUSALS) for cause in causes):
        return False
    # The server's response decides before the client's exception: s3fs raises EIO for each code it does not know.
    for cause in causes:
        if _find_s3_code(cause) in PASSING_CODES:
            return True
        if (status := _find_http_status(cause)) is not None:
            return status >= 500 or status in PASSING_STATUS
    return any(_is_transient(cause) for cause in causes)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (*NETWORK_FAILURES, OutageError)):
        return True
    return isinstance(error, OSError) and error.errno in PASSING


def _find_s3_code(error: Any) -> str | None:
    """Error code of S3 in an exception of botocore."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _find_http_status(error: Any) -> int | None:
    """HTTP status in an exception of a client; each client has its own attribute for it."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    of_error = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    for value in (found, getattr(response, "status_code", None), *of_error):
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


def _ignore_wait(_: str | None) -> None:
    """Ignore a wait."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for the end of an outage, and whom to notify."""

    limit_s: float = DEFAULT_OUTAGE_S
    """Seconds from the first attempt to the start of the last one; 0: no retry."""
    on_wait: Callable[[str | None], None] = _ignore_wait
    """Called before each wait with its reason, and with None when the store has recovered."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, waiting ends and the error is raised."""

    def call(self, operation: Callable[[], T]) -> T:
        """Call an operation; repeat it while an outage makes it fail.

        Args:
            operation: Must be idempotent: it may be called several times.

        Raises:
            Exception: Of the operation, if it is not an outage or the outage exceeds the limit.
        """
        started_s = time.monotonic()

        def announce(state: tenacity.RetryCallState) -> None:
            outcome, action = state.outcome, state.next_action
            error = outcome.exception() if outcome else None
            delay_s = action.sleep if action else 0.0
            self.on_wait(
                f"{error} (for {time.monotonic() - started_s:.0f} s now, tried again in {delay_s:.0f} s, "
                f"given up after {self.limit_s:.0f} s)"
            )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: is_outage(error) and not self.stop.is_set()),
            stop=tenacity.stop_after_delay(self.limit_s),
            wait=tenacity.wait_exponential_jitter(initial=FIRST_DELAY_S, max=MAX_DELAY_S),
            sleep=tenacity.sleep_using_event(self.stop),
            before_sleep=announce,
            reraise=True,
        )
        answer = retrying(operation)
        if retrying.statistics.get("attempt_number", 1) > 1:
            self.on_wait(None)
        return answer


class Resumed(Generic[T]):
    """An iterator that restarts after its last item when it has failed."""

    def __init__(self, start: Callable[[T | None], Iterator[T]]) -> None:
        """Take items from `start(last)`, which continues after the item `last`; None: from the beginning."""
        self._start = start
        self._last: T | None = None
        self._items: Iterator[T] | None = None

    def advance(self) -> T | None:
        """Return the next item; None at the end."""
        if self._items is None:
            self._items = self._start(self._last)
        try:
            item = next(self._items, None)
        except BaseException:
            self._items = None
            raise
        if item is not None:
            self._last = item
        return item

"""A store that is away, or a disk that is full, for a while: what was asked of it is asked again until it answers.

An outage is told from a refusal by its cause. A refusal (access denied, no such bucket, a bad name) comes again
however often one asks. An outage (no connection, no answer, an error of the server, no space) passes.
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

from pipeline.errors import NO_SPACE, OutageError
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
"""What a system call reports of a disk or network that may recover."""
REFUSALS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
NETWORK_FAILURES = (
    ConnectionError,
    TimeoutError,
    aiohttp.ClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)
"""What clients of stores raise without an answer of the server."""
PASSING_STATUS = frozenset({408, 409, 425, 429})
"""Answers of HTTP that ask for another try, besides all from 500 on."""

PASSING_CODES = frozenset({"QuotaExceeded", "RequestTimeout", "SlowDown"})
"""Answers of S3 that may become others, whatever their status is: space can be made in a store, too."""

T = TypeVar("T")


def is_outage(error: BaseException) -> bool:
    """Tell whether an error comes from a store that may answer later, by all that caused it.

    >>> is_outage(ConnectionRefusedError()), is_outage(OSError(errno.ENOSPC, "full")), is_outage(PermissionError())
    (True, True, False)
    """
    causes = list(list_causes(error))
    if any(isinstance(cause, REFUSALS) for cause in causes):
        return False
    # The answer of a server says more than what its client made of it: s3fs makes an EIO of each code it does not know.
    for cause in causes:
        if _find_code(cause) in PASSING_CODES:
            return True
        if (status := _find_status(cause)) is not None:
            return status >= 500 or status in PASSING_STATUS
    return any(_is_passing(cause) for cause in causes)


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, (*NETWORK_FAILURES, OutageError)):
        return True
    return isinstance(error, OSError) and error.errno in PASSING


def _find_code(error: Any) -> str | None:
    """Find the code of S3 that an exception of botocore carries."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _find_status(error: Any) -> int | None:
    """Find the HTTP status that a client's exception carries; every client keeps it elsewhere."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for value in (found, *(getattr(error, name, None) for name in ("status", "status_code", "code"))):
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


def _ignore(_: str | None) -> None:
    """Tell nobody of a wait."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an outage is waited for, and who hears of it."""

    limit_s: float = DEFAULT_OUTAGE_S
    """The last try begins so long after the first one; 0: no second try."""
    on_wait: Callable[[str | None], None] = _ignore
    """Called before each wait with what is waited for, and with None when the store answers again."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set: nothing is waited for any longer, and the error is raised."""

    def call(self, operation: Callable[[], T]) -> T:
        """Call an operation until no outage keeps it from its end.

        Args:
            operation: May be called several times; what it did before it failed must do no harm.

        Raises:
            Exception: What the operation raised, if it is no outage or the outage lasts too long.
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
    """An iterator that is started again, behind the last item that it gave, once it has failed."""

    def __init__(self, start: Callable[[T | None], Iterator[T]]) -> None:
        """Take items from `start(last)`, which goes on behind an item; None: from the beginning."""
        self._start = start
        self._last: T | None = None
        self._items: Iterator[T] | None = None

    def advance(self) -> T | None:
        """Give the next item; None at the end."""
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

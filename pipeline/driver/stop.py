"""The request to stop a driver, and its grace period."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Stop:
    """A request to stop, which may never come."""

    grace_s: float = 2.0
    """Grace period for commits and seals, in seconds."""
    _since_s: float | None = None
    event: threading.Event = field(default_factory=threading.Event)
    """Set once the stop is requested."""

    def request(self) -> None:
        """Request the stop. May be called by a signal handler."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        self.event.set()

    @property
    def is_requested(self) -> bool:
        """Whether the stop is requested."""
        return self.event.is_set()

    @property
    def remaining_s(self) -> float:
        """Rest of the grace period in seconds; all of it before the request."""
        return self.grace_s if self._since_s is None else max(0.0, self._since_s + self.grace_s - time.monotonic())

"""How a driver is asked to end, and how long it may take."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Stop:
    """The wish that a driver ends."""

    grace_s: float = 2.0
    """For how long commits and seals that are under way are still waited for."""
    _since_s: float | None = None
    event: threading.Event = field(default_factory=threading.Event)
    """Set once the driver should end."""

    def request(self) -> None:
        """Ask the driver to end; may be called by a handler of signals."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        self.event.set()

    @property
    def is_requested(self) -> bool:
        """Whether the driver should end."""
        return self.event.is_set()

    @property
    def remaining_s(self) -> float:
        """Seconds of grace that are left; all of them while nobody asked."""
        return self.grace_s if self._since_s is None else max(0.0, self._since_s + self.grace_s - time.monotonic())

"""The content of a read task. Without Ray, whose import takes a second."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa


class ReadPart(NamedTuple):
    """The content of one read task."""

    read: Callable[[], Iterator[pa.Table]]
    """Runs in a worker process; must be picklable."""
    num_bytes: int
    """Estimated size of what is read."""

"""The options of tagmask demo."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoJob:
    """Make tagged pictures, train on their tags, label others, score the masks, and leave a page."""

    out: Path = Path("demo")
    """Folder of the demo. What an earlier demo left in it is removed."""
    epochs: int | None = None
    """Epochs of training; default: the recipe's."""
    photos_only: bool = False
    """Only make the pictures, for commands of your own. Nothing else in the folder is touched."""

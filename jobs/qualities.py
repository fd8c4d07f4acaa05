"""What better maps cost: named settings of a labelling run. Each function returns a whole configuration.

docs/measurements.md has mIoU and images/s of each.
"""

from collections.abc import Callable

from models.fusion import Fusion
from pipeline.config import LabelConfig, MapConfig, ViewConfig

BEST_SCALES = (0.75, 1.0, 1.25)
"""Those of the MCTformer+ authors."""


def fast() -> LabelConfig:
    """One view: half the cost of `balanced`; there are no views to agree, so view_agreement is null."""
    return LabelConfig(views=ViewConfig(flip=False), maps=MapConfig(fusion=Fusion.SQUARE_ROOT))


def balanced() -> LabelConfig:
    """One size and its mirror image."""
    return LabelConfig(maps=MapConfig(fusion=Fusion.SQUARE_ROOT))


def best() -> LabelConfig:
    """Three sizes, each with its mirror image."""
    return LabelConfig(views=ViewConfig(scales=BEST_SCALES), maps=MapConfig(fusion=Fusion.SQUARE_ROOT))


QUALITIES: dict[str, Callable[[], LabelConfig]] = {"fast": fast, "balanced": balanced, "best": best}
"""What `--quality` chooses from."""

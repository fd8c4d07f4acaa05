"""What better maps cost: named settings of a labelling run. Each function returns a whole configuration.

All join attention and patch CAM by the square root of their product, whatever the variant, and spread maps along the
patch affinity twice where the authors do it once. Maps so spread fade more slowly, hence the higher threshold: 0.6 lies
between the best ones of the two models of docs/measurements.md, which has mIoU and images/s of each. tagmask calibrate
finds the threshold of another model.
"""

from collections.abc import Callable

from models.fusion import Fusion
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement, ViewConfig

THRESHOLD = 0.6
AFFINITY_STEPS = 2
BEST_SCALES = (1.0, 1.25)
"""No smaller one, as the authors have: maps of few patches blur those of many."""


def fast() -> LabelConfig:
    """One view: half the cost of `balanced`; there are no views to agree, so view_agreement is null."""
    return LabelConfig(views=ViewConfig(flip=False), maps=_make_maps(PixelRefinement.NONE))


def balanced() -> LabelConfig:
    """An image and its mirror image."""
    return LabelConfig(maps=_make_maps(PixelRefinement.NONE))


def best() -> LabelConfig:
    """Two sizes, each with its mirror image, and masks drawn to the edges of the image.

    New masks of its kept maps need the images again.
    """
    return LabelConfig(views=ViewConfig(scales=BEST_SCALES), maps=_make_maps(PixelRefinement.PAR))


def _make_maps(pixel_refinement: PixelRefinement) -> MapConfig:
    return MapConfig(
        fusion=Fusion.SQUARE_ROOT,
        affinity_steps=AFFINITY_STEPS,
        pixel_refinement=pixel_refinement,
        background_threshold=THRESHOLD,
        foreground_threshold=THRESHOLD,
    )


QUALITIES: dict[str, Callable[[], LabelConfig]] = {"fast": fast, "balanced": balanced, "best": best}
"""What `--quality` chooses from."""

"""The options of tagmask calibrate."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """Find thresholds for the class maps of a labelled sample, with true masks or without."""

    labels: str
    """Labelling run to look at: output folder or URI of tagmask label or remask, made with --maps.keep-maps."""
    out: str
    """File or URI to write."""
    truth: str | None = None
    """Folder, URI or tar of true masks, as for tagmask evaluate; or the word overrides, for corrected masks of the
    run. Default: none, and a rule that needs none."""
    truth_frame: Literal["auto", "stored", "upright"] = "auto"
    """Frame of true masks whose photo has an EXIF orientation: its stored pixels, or the photo turned upright. auto: by
    the EXIF of the true mask, else by its size; true masks that fit both are refused."""
    fit_share: float = 0.5
    """With truth: share of its images that thresholds are fitted on; the others only judge them."""
    by_class: bool = True
    """With truth: a threshold for each class, and not just one for all."""
    min_stability: float = 1.0
    """Leave pixels open (255) in the widest band of thresholds around the one found, within which the mask keeps this
    share of its area. 1: no band."""
    max_images: int = 20_000
    """Without truth: at most about so many images, spread over all manifests; 60 kB of memory each. With truth all
    images that have it are looked at."""
    rng_seed: int = 0
    """Decides which images are fitted on."""
    num_threads: int = 4
    """Manifests that are read at the same time."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if not 0 < self.fit_share <= 1:
            raise ValueError(f"need 0 < --fit-share <= 1, got {self.fit_share}")
        if not 0 < self.min_stability <= 1:
            raise ValueError(f"need 0 < --min-stability <= 1, got {self.min_stability}")
        if self.max_images < 1 or self.num_threads < 1:
            raise ValueError(f"need --max-images and --num-threads >= 1, got {self.max_images} and {self.num_threads}")

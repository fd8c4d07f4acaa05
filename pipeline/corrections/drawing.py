"""What a tool's file says about an image: regions of classes, in the order in which they are drawn."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from pipeline.errors import CorrectionError
from pipeline.run.vocabulary import BACKGROUND, Vocabulary, normalise_tag

MAX_PIXELS = 2**30
_NAME = re.compile(r"-(\d{1,9})-(\d{1,15})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowName:
    """A row as the file of a tool names it; what it does not say is None."""

    place: int | None = None
    """Place of the shard in the run."""
    shard: str | None = None
    index: int
    key: str | None = None
    stem: str | None = None
    """Name of the exported image without suffix."""


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of one class."""

    class_id: int
    draw: Callable[[], Bool[np.ndarray, "h w"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The mask of one image, upright, that is drawn when it is needed."""

    source: str
    """File of the tool."""
    title: str
    """Image as the file names it."""
    row: RowName
    size: tuple[int, int] | None
    """Height and width that the file says; None: those of the image."""
    regions: Sequence[Region]
    """Later ones lie on top."""
    annotator: str | None = None

    def draw(self, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """Draw the mask on an upright image of a size.

        Raises:
            CorrectionError: The annotation has another size, or is damaged.
        """
        if self.size is not None and self.size != size:
            raise CorrectionError(
                f"'{self.source}', image '{self.title}': is of {self.size[1]} x {self.size[0]} pixels, and the image "
                f"of its row is of {size[1]} x {size[0]}, upright; annotate the images of tagmask export"
            )
        mask = np.zeros(size, np.uint8)
        for region in self.regions:
            try:
                pixels = region.draw()
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                raise self._refuse(f"has an annotation that cannot be read: {error!r}") from error
            if pixels.shape != size:
                found = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise self._refuse(f"has an annotation of {found} pixels, not of {size[1]} x {size[0]}")
            mask[pixels] = region.class_id
        return mask

    def _refuse(self, said: str) -> CorrectionError:
        return CorrectionError(
            f"'{self.source}', image '{self.title}': {said}; mend it in the tool, or delete it from the file"
        )


def find_class(vocabulary: Vocabulary, name: str, source: str) -> int:
    """Find the class of a label by its name or an alias; 0 for the background.

    Raises:
        CorrectionError: There is none.
    """
    if normalise_tag(name) == BACKGROUND:
        return 0
    matched = vocabulary.match([name]).class_ids
    if len(matched) != 1:
        some = ", ".join(vocabulary.classes[:10])
        raise CorrectionError(
            f"'{source}' has label '{name}', which names no class of the run ({some}); rename it in the tool or add it "
            "as an alias to the vocabulary of another run"
        )
    return matched[0]


def parse_name(path: str, source: str) -> RowName:
    """Find the row that the name of an exported image leads to: KEY-SHARD-INDEX.jpg, in whatever folder.

    Raises:
        CorrectionError: It is no name of tagmask export.
    """
    stem = re.split(r"[/\\]", path)[-1]
    stem = re.sub(r"\.[A-Za-z]{2,5}\Z", "", stem)
    found = _NAME.search(stem)
    if found is None:
        raise CorrectionError(
            f"'{source}' has image '{path}', which is no name of tagmask export; annotate the images of an export, and "
            "keep their names"
        )
    return RowName(place=int(found[1]), index=int(found[2]), stem=stem)


def require_size(height: int, width: int) -> tuple[int, int]:
    """Check the size of an image.

    Raises:
        ValueError: No image has this size.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"need the size of an image, got {width} x {height}")
    return height, width


def draw_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Draw polygons, each x, y, x, y and so on, by pycocotools.

    Raises:
        ValueError: One has less than three points.
    """
    from pycocotools import mask as rle

    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers; need x and y of three points at least")
    height, width = require_size(*size)
    parts = rle.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    pixels: np.ndarray = rle.decode(rle.merge(parts)).astype(bool)
    return pixels


def draw_box(left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Draw a box, in pixels."""
    pixels = np.zeros(require_size(*size), bool)
    pixels[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return pixels


def require_pycocotools() -> None:
    """Check that pycocotools is there, which draws polygons and reads run lengths of COCO.

    Raises:
        CorrectionError: It is not.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise CorrectionError("import-masks needs pycocotools; install it by: pip install 'tagmask[export]'")

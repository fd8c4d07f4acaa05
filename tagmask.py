"""Masks from image tags, in Python and on the command line.

    import tagmask

    tagmask.load("bundle").label("dog.jpg", ["dog"])          # mask, class maps, statistics of one photo
    for image, mask, row in tagmask.open("s3://bucket/masks"):  # the masks of a labelling run
        ...

Nothing here needs a cluster. The code is in `pipeline.library`; the commands are in `jobs`.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from pipeline.library.labelled_photo import LabelledPhoto
    from pipeline.library.mask_dataset import MaskDataset, UnevenRanks
    from pipeline.library.mask_shard import MaskShard
    from pipeline.library.photo_labeler import PhotoLabeler, VocabularySource
    from pipeline.library.samples import MaskSample
    from pipeline.library.transforms import ToTensors
    from pipeline.published.rows import MaskRow
    from pipeline.published.splits import Splits
    from pipeline.run.config import LabelConfig

    __version__: str

__all__ = [
    "LabelledPhoto",
    "MaskDataset",
    "MaskRow",
    "MaskSample",
    "MaskShard",
    "PhotoLabeler",
    "ToTensors",
    "__version__",
    "load",
    "open",
]

_PLACES = {
    "LabelledPhoto": "pipeline.library.labelled_photo",
    "MaskDataset": "pipeline.library.mask_dataset",
    "MaskRow": "pipeline.published.rows",
    "MaskSample": "pipeline.library.samples",
    "MaskShard": "pipeline.library.mask_shard",
    "PhotoLabeler": "pipeline.library.photo_labeler",
    "ToTensors": "pipeline.library.transforms",
}


def load(
    bundle: "str | PathLike[str]",
    *,
    vocabulary: "VocabularySource | None" = None,
    quality: str = "balanced",
    calibration: "str | PathLike[str] | None" = None,
    config: "LabelConfig | None" = None,
    device: str = "auto",
) -> "PhotoLabeler":
    """Load a model that labels photos, with the same masks and figures as `tagmask label`.

        labeler = tagmask.load("s3://bucket/model/bundle")
        photo = labeler.label("dog.jpg", ["dog"])
        photo.upright_mask, photo.class_maps["dog"], photo.statistics["dog"], photo.quality

    Args:
        bundle: Folder of the model bundle: a path, s3://, hf:// or another URI.
        vocabulary: File with classes and aliases, its fields, or a `Vocabulary`; None: the class names of the bundle.
        quality: fast, balanced or best, as `tagmask label --quality`.
        calibration: File of `tagmask calibrate`.
        config: All settings of masks, such as `tagmask.open(run).run.config`, in place of `quality`.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        BundleError: There is no bundle, it is damaged, or its classes are not those of the vocabulary.
        VocabularyError: The vocabulary is missing or cannot be used.
        CalibrationError: The calibration cannot be used, or was made for other class maps.
        FileNotFoundError: There is no such calibration.
        ValueError: A setting is wrong.
        LabellingError: PyTorch sees no such GPU.
        ImportError: A folder of the user hides the packages of tagmask.
    """
    _require_own_packages()
    from jobs.qualities import QUALITIES
    from pipeline.library.photo_labeler import PhotoLabeler

    if config is None and quality not in QUALITIES:
        raise ValueError(f"need quality {', '.join(QUALITIES)}; got {quality!r}")
    return PhotoLabeler(
        str(bundle),
        QUALITIES[quality]() if config is None else config,
        vocabulary=vocabulary,
        calibration=None if calibration is None else str(calibration),
        device=device,
    )


def open(
    run: "str | PathLike[str]",
    *,
    min_quality: float | None = None,
    max_quality: float | None = None,
    classes: Iterable[str] = (),
    statuses: Iterable[str] = ("labelled",),
    reasons: Iterable[str] = (),
    keys: Iterable[str] | None = None,
    splits: "str | Splits | None" = None,
    split: str | Sequence[str] = (),
    columns: str | Sequence[str] | None = None,
    shards: str | Sequence[str] | None = None,
    upright: bool = True,
    transform: "Callable[[MaskSample], Any] | None" = None,
    shuffle: bool = False,
    seed: int = 0,
    uneven_ranks: "UnevenRanks" = "repeat",
    overrides: bool = True,
) -> "MaskDataset":
    """Open the masks of a labelling run: iterate over (image, mask, row), or train on them with PyTorch.

        masks = tagmask.open("s3://bucket/masks", min_quality=0.6)
        for image, mask, row in masks:
            print(row.key, row.class_names, row.quality, image.size, mask.shape)

    Args:
        run: Output folder of `tagmask label` or `tagmask remask`.
        min_quality: Lowest quality, 0 to 1.
        max_quality: Highest quality, 0 to 1.
        classes: Rows with a tag of at least one of these classes. Empty: all.
        statuses: labelled, rejected. Rejected rows have no mask: iterate over `rows()`.
        reasons: Rows rejected for one of these reasons; leave out `statuses` or give rejected.
        keys: Keys of samples; None: all.
        splits: Shares of splits, which keys decide: "train=0.9,val=0.1".
        split: One or more of the splits. Empty: all.
        columns: Columns of rows; None: all but the class maps.
        shards: Names of shards; None: all that are published.
        upright: Turn image and mask by the EXIF orientation, as viewers and training tools do; False: stored pixels.
        transform: Called with each `MaskSample`, in the process that reads it, such as `ToTensors(224)`.
        shuffle: Another order in each epoch; see `MaskDataset.set_epoch`.
        seed: Decides the orders.
        uneven_ranks: If ranks of `torch.distributed` cannot have equally many rows: `repeat` or `drop` a few, or
            `exact`, each row once, and ranks differ by a row.
        overrides: Masks that were corrected and brought back by `tagmask import-masks`, in place of those of the run;
            `row.values["override_tool"]` tells them. False: masks as they were labelled.

    Raises:
        ManifestError: The folder holds no run, nothing is published, it has no such shard, or corrected masks are
            damaged.
        VocabularyError: The run lacks a class.
        ValueError: A setting is wrong.
        ImportError: A folder of the user hides the packages of tagmask.
    """
    _require_own_packages()
    from pipeline.library.mask_dataset import MaskDataset
    from pipeline.library.row_choice import choose_rows

    row_filter = choose_rows(
        min_quality=min_quality,
        max_quality=max_quality,
        classes=classes,
        statuses=statuses,
        reasons=reasons,
        keys=keys,
        splits=splits,
        split=split,
    )
    return MaskDataset(
        run,
        row_filter,
        columns=columns,
        shard_names=shards,
        upright=upright,
        transform=transform,
        shuffle=shuffle,
        rng_seed=seed,
        uneven_ranks=uneven_ranks,
        overrides=overrides,
    )


def main() -> None:
    """Run the command line of this process, and end it."""
    # Users have folders called `jobs`, `models` and `pipeline`, too. Those come first by `python -m`, or by an empty
    # entry of PYTHONPATH.
    sys.path.insert(0, str(Path(__file__).parent))
    from jobs.command_line.commands import main as run_command
    from jobs.command_line.console import leave

    leave(run_command())


def __getattr__(name: str) -> Any:
    """The names of `__all__` that need an import."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("tagmask")
    if name not in _PLACES:
        raise AttributeError(f"module 'tagmask' has no attribute {name!r}")
    _require_own_packages()
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _require_own_packages() -> None:
    """Check that no folder of the user hides the packages of tagmask."""
    here = Path(__file__).resolve().parent
    for name in ("jobs", "models", "pipeline"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != here:
            found = "nothing" if spec is None else spec.origin or f"a folder without __init__.py in {sys.path}"
            raise ImportError(
                f"tagmask needs its own package '{name}', and Python finds {found}; rename yours, or start Python in "
                "another folder"
            )


if __name__ == "__main__":
    main()

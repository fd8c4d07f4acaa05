"""Labelled runs to export: photos of every orientation and kind, and keys that no file system likes."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.driver.waves import Hooks
from pipeline.export.formats.catalogue import Formats
from pipeline.export.job.assembly import ExportSummary, export_run
from pipeline.export.job.identity import Export, claim_folder
from pipeline.export.job.selection import Selection
from pipeline.export.samples import ExportSample
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.published.rows import iterate_rows
from pipeline.published.run import PublishedRun, open_published
from pipeline.published.splits import parse_splits
from pipeline.run.records import InputShard
from pipeline.storage.listing import find_object
from tests.factories import make_labelled_row, make_parquet, make_rejected_row, make_run
from tests.fakes import SerialCluster

CLASSES = ("cat", "dog")
HEIGHT, WIDTH = 20, 30
KEYS = [
    "plain",
    "a/b\\c:d",
    "dots.in.it.jpg",
    "猫🐈",
    "Ünï",
    "\"quoted\" 'twice'",
    "line\nbreak\ttab",
    "<b>html</b>",
    "x" * 300,
    "CON",
    "Case",
    "case",
    "../../up",
    " spaces ",
    "-rf",
]
NUM_ROWS = 3 * len(KEYS)
"""Labelled rows of `hostile_run`."""
NAMES = ["background", *CLASSES]
SPLITS = parse_splits("train=0.6,val=0.4")
KINDS = ("JPEG", "PNG", "WEBP", "CMYK", "grey", "deep", "BMP", "TIFF")


@dataclass(frozen=True)
class Scene:
    """A photo and its mask, both as stored."""

    photo: bytes
    mask: np.ndarray
    exif_orientation: int


def make_scene(number: int) -> Scene:
    """Make a photo with a bright corner, which is class 1 or 2; orientations and kinds of files take turns."""
    orientation, kind = 1 + number % 8, KINDS[(number + number // 8) % len(KINDS)]
    if kind in ("grey", "deep", "BMP"):
        orientation = 1
    upright = np.zeros((HEIGHT, WIDTH), np.uint8)
    # No symmetry: each turn moves it.
    upright[2:10, 16 : 26 - number % 3] = 1 + number % 2
    # Left open, as where two classes meet.
    upright[12, 3:9] = 255 if number % 3 == 0 else 0
    mask = place_on_stored_pixels(upright, orientation)
    if number % 5 == 4:
        return Scene(encode(np.zeros_like(mask), kind, orientation), np.zeros_like(mask), orientation)
    return Scene(
        encode(np.where((mask > 0) & (mask < 255), 230, 20).astype(np.uint8), kind, orientation), mask, orientation
    )


def encode(grey: np.ndarray, kind: str, orientation: int) -> bytes:
    """Encode a grey picture as a kind of file, with its EXIF orientation."""
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"exif": exif.tobytes()} if orientation != 1 else {}
    match kind:
        case "grey":
            kind = "JPEG"
        case "CMYK":
            image, kind = image.convert("RGB").convert("CMYK"), "JPEG"
        case "deep":
            image, kind = Image.fromarray(grey.astype(np.uint16) * 257), "PNG"
        case "PNG":
            image = image.convert("RGBA")
        case _:
            image = image.convert("RGB")
    if kind == "JPEG":
        options["quality"] = 100
    if kind == "WEBP":
        options["lossless"] = True
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_sample(mask: np.ndarray) -> ExportSample:
    """Make a sample of a mask; the rest of it is not looked at."""
    return ExportSample(
        name="a-0-0",
        number=0,
        key="a",
        shard_name="s",
        index=0,
        image=b"",
        image_suffix=".jpg",
        mask=mask,
        class_ids=(1, 2),
        tags=(),
        quality=0.5,
        split="train",
        values={},
    )


def list_shard(path: Path) -> InputShard:
    """Describe a shard as a listing does."""
    found = find_object(str(path))
    assert found is not None
    return InputShard(uri=str(path), name=path.stem, size_bytes=found.size_bytes, etag=found.etag)


def make_rows(keys: Sequence[str], scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Rows of scenes, with tags that the vocabulary lacks; qualities rise from 0.05 to 0.95."""
    rows = []
    for place, (key, scene) in enumerate(zip(keys, scenes, strict=True)):
        class_ids = [int(value) for value in np.unique(scene.mask) if value not in (0, 255)] or [1]
        row = make_labelled_row(
            key,
            scene.mask,
            class_ids,
            photo=scene.photo,
            exif_orientation=scene.exif_orientation,
            tags_unknown=["<i>", "🐈"],
        )
        rows.append(row | {"quality": 0.05 + 0.9 * place / len(keys)})
    return rows


def make_hostile_run(folder: Path, num_shards: int = 3, extend: bool = False) -> str:
    """Publish a run of Parquet shards with the same keys, one rejected row each, and a last shard without rows."""
    shards: dict[InputShard, Sequence[Mapping[str, Any]]] = {}
    for number in range(num_shards):
        scenes = [make_scene(number + place) for place in range(len(KEYS))]
        photos = [*(scene.photo for scene in scenes), b"broken"]
        path = folder / f"s{number}.parquet"
        if path.exists():
            # An extension leaves the shards that the run has.
            continue
        make_parquet(path, {"image": photos, "tags": [["cat"]] * len(photos)}, row_group_size=4)
        shards[list_shard(path)] = [*make_rows(KEYS, scenes), make_rejected_row("bad")]
    if not extend:
        empty = make_parquet(folder / "empty.parquet", {"image": [b"x"][:0], "tags": [["x"]][:0]})
        shards[list_shard(empty)] = []
    make_run(f"{folder}/run", CLASSES, shards, extend=extend)
    return f"{folder}/run"


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of hostile keys and photos."""
    return make_hostile_run(tmp_path_factory.mktemp("hostile"))


def open_export(run_uri: str, out_uri: str, format_name: str = "voc", **options: Any) -> Export:
    """Open an export as the job does; `options` are fields of the selection, but for `skip_missing` and `formats`."""
    formats, skip_missing = options.pop("formats", Formats()), options.pop("skip_missing", False)
    export = Export(
        run=open_published(run_uri),
        out_uri=out_uri,
        format_name=format_name,
        format=formats.choose(format_name),
        selection=Selection(**options),
        skip_missing=skip_missing,
    )
    export.format.check(export.context)
    claim_folder(export)
    return export


def export_all(run_uri: str, out_uri: str, format_name: str = "voc", **options: Any) -> ExportSummary:
    """Export a run in this process."""
    return export_run(open_export(run_uri, out_uri, format_name, **options), cluster=SerialCluster(), hooks=Hooks())


def count_manifest_pixels(run: PublishedRun) -> Counter[int]:
    """Pixels of each mask value by the statistics of the manifests, without a look at masks."""
    counts: Counter[int] = Counter()
    for uri in run.manifest_uris:
        for row in iterate_rows(run, uri):
            if row.is_labelled:
                num = row.get("width") * row.get("height")
                counts[0] += round(row.get("background_fraction") * num)
                counts[255] += round(row.get("ignore_fraction") * num)
                for one in row.get("classes"):
                    counts[one["class_id"]] += round(one["area_fraction"] * num)
    return +counts


def count_without_ignored(run: PublishedRun) -> Counter[int]:
    """Pixels of each mask value where ignored ones become background."""
    counts = count_manifest_pixels(run)
    assert counts[255]
    return counts + Counter({0: counts.pop(255)})


def count_pixels(masks: Sequence[np.ndarray]) -> Counter[int]:
    """Pixels of each value."""
    counts: Counter[int] = Counter()
    for mask in masks:
        values, numbers = np.unique(mask, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


def require_aligned(image: Image.Image, mask: np.ndarray) -> None:
    """Check that the bright pixels of a photo are those of its mask."""
    pixels = np.asarray(image)
    if image.mode == "I;16" or pixels.dtype != np.uint8:
        pixels = (pixels // 257).astype(np.uint8)
    elif image.mode != "L":
        pixels = np.asarray(image.convert("RGB"))[..., 1]
    assert ((pixels > 125) == ((mask > 0) & (mask < 255))).mean() > 0.97

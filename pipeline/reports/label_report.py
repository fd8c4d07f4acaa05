"""Committed manifests as one page: figures, and pictures of photo, class maps, mask and truth.

manifests -> a sample of them -> figures; picked rows + their photos from the input shards -> HTML
"""

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch.nn import functional

from pipeline.commit.manifests import Manifest, list_manifests, open_manifest
from pipeline.errors import ShardError
from pipeline.evaluation.evaluate import FindTruth, decode_truth
from pipeline.images.decode import DecodedImage, decode_image, turn_upright
from pipeline.images.masks import build_palette, decode_class_maps, decode_mask
from pipeline.inputs.chunks import read_chunks
from pipeline.printable import show_in_page
from pipeline.run.config import InputConfig
from pipeline.run.counts import LabelCounts
from pipeline.run.identity import read_config, read_run
from pipeline.run.records import IGNORE_LABEL, Chunk, InputShard, Status
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary

MAX_SIDE_PX = 280
"""Pictures on the page are at most this large."""
MAX_MANIFESTS = 32
"""Figures and pictures come from at most this many manifests, spread evenly over the run."""
NUM_UNKNOWN_TAGS = 20
_HEAT = np.array([[20, 11, 53], [133, 33, 107], [229, 92, 48], [252, 195, 45], [252, 255, 164]], np.float32)
"""Colours of a class map from 0 to 1, in equal steps."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text for the page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture as the page embeds it."""

    caption: str
    source: str
    """A data URI."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the gallery."""

    key: str
    tags: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(kw_only=True)
class _Figures:
    """What is added up over the sampled manifests."""

    num_images: Counter[int] = field(default_factory=Counter)
    sums: Counter[tuple[int, str]] = field(default_factory=Counter)
    nums: Counter[tuple[int, str]] = field(default_factory=Counter)
    unknown_tags: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        self.unknown_tags.update(row["tags_unknown"] or [])
        for entry in row["classes"] or []:
            self.num_images[entry["class_id"]] += 1
            for name in ("presence", "area_fraction", "confidence_mean", "stability"):
                if entry[name] is not None:
                    self.sums[entry["class_id"], name] += entry[name]
                    self.nums[entry["class_id"], name] += 1

    def average(self, class_id: int, name: str) -> str:
        number = self.nums[class_id, name]
        return f"{self.sums[class_id, name] / number:.2f}" if number else "-"


def build_report(
    labels_uri: str,
    *,
    find_truth: FindTruth | None = None,
    num_images: int = 24,
    rng_seed: int = 0,
    tables: Sequence[Table] = (),
    title: str = "tagmask",
) -> str:
    """Make the page of a labelling run.

    Args:
        labels_uri: Output of tagmask label.
        find_truth: Gives the true mask of a key, where there is one.
        num_images: Pictures in the gallery.
        rng_seed: Which ones.
        tables: Shown first.
        title: Of the page.

    Returns:
        HTML that needs no other file.
    """
    run = read_run(labels_uri)
    vocabulary = parse_vocabulary(run["vocabulary"])
    inputs = read_config(labels_uri, run).inputs
    uris = list_manifests(labels_uri)
    manifests = [open_manifest(uri) for uri in _spread(uris, MAX_MANIFESTS)]
    figures = _Figures()
    rng = np.random.default_rng(rng_seed)
    picked = _pick_rows(manifests, figures, num_images, rng)
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    examples = [
        example
        for manifest, rows in picked
        for example in make_examples(manifest, rows, inputs, vocabulary, palette, find_truth)
    ]
    return render_page(
        title=title,
        tables=[*tables, *_make_tables(run, manifests, len(uris), figures, vocabulary)],
        galleries={"": examples},
        vocabulary=vocabulary,
    )


def render_page(
    *,
    title: str,
    tables: Sequence[Table],
    galleries: Mapping[str, Sequence[Example]],
    vocabulary: Vocabulary,
    charts: Sequence[str] = (),
) -> str:
    """Render a page that needs no other file.

    Args:
        title: Of the page.
        tables: Shown first.
        galleries: Examples by heading; without heading if it is empty.
        vocabulary: Gives the colours of the legend.
        charts: SVG, shown between tables and galleries.
    """
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    template = jinja2.Environment(autoescape=True, finalize=show_in_page, undefined=jinja2.StrictUndefined).from_string(
        files("pipeline.reports").joinpath("templates/report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        tables=tables,
        charts=charts,
        galleries=galleries,
        legend=[
            (name, "#" + bytes(palette[index + 1].tolist()).hex()) for index, name in enumerate(vocabulary.classes)
        ],
    )


def _spread(uris: Sequence[str], most: int) -> list[str]:
    places = np.unique(np.linspace(0, len(uris) - 1, min(most, len(uris))).astype(int))
    return [uris[place] for place in places]


def _pick_rows(
    manifests: Sequence[Manifest], figures: _Figures, num_images: int, rng: np.random.Generator
) -> list[tuple[Manifest, list[dict[str, Any]]]]:
    """Add up the figures, and pick rows so that every class is shown about equally often."""
    columns = ["key", "index", "status", "class_ids", "tags_unknown", "classes"]
    candidates: list[tuple[int, dict[str, Any]]] = []
    for place, manifest in enumerate(manifests):
        for row in manifest.iterate_rows(columns):
            figures.add(row)
            if row["status"] == Status.LABELLED:
                candidates.append((place, {name: row[name] for name in ("index", "class_ids")}))
    shown: Counter[int] = Counter()
    wanted: dict[int, set[int]] = {}
    order = [int(index) for index in rng.permutation(len(candidates))]
    for _ in range(min(num_images, len(order))):
        best = min(order, key=lambda index: min(shown[class_id] for class_id in candidates[index][1]["class_ids"]))
        order.remove(best)
        place, row = candidates[best]
        shown.update(row["class_ids"])
        wanted.setdefault(place, set()).add(row["index"])
    return [
        (manifests[place], [row for row in manifests[place].iterate_rows() if row["index"] in indices])
        for place, indices in sorted(wanted.items())
    ]


def make_examples(
    manifest: Manifest,
    rows: Sequence[dict[str, Any]],
    inputs: InputConfig,
    vocabulary: Vocabulary,
    palette: UInt8[np.ndarray, "256 3"],
    find_truth: FindTruth | None,
) -> list[Example]:
    """Make the pictures of some labelled rows of a manifest: photo, class maps, mask, and truth where there is one."""
    photos = _read_photos(manifest, {row["key"]: row["image_sha256"] for row in rows}, inputs)
    return [_make_example(row, photos.get(row["key"]), vocabulary, palette, find_truth) for row in rows]


def _read_photos(manifest: Manifest, digests: Mapping[str, str], inputs: InputConfig) -> dict[str, DecodedImage]:
    """Read photos from the input shard, by key; those that are gone or have changed are missing.

    Args:
        manifest: Of the shard.
        digests: For each wanted key, sha256 of the photo that was labelled.
        inputs: How the run read its shards.
    """
    photos: dict[str, DecodedImage] = {}
    try:
        for piece in read_chunks(InputShard(**manifest.footer["shard"]), inputs):
            for sample in piece.samples if isinstance(piece, Chunk) else ():
                if sample.image is None or sample.key not in digests or sample.key in photos:
                    continue
                if hashlib.sha256(sample.image).hexdigest() == digests[sample.key]:
                    # The run has labelled this image, so its own limit let it pass.
                    image = decode_image(sample.image, max_pixels=2**31, min_short_side_px=MAX_SIDE_PX)
                    if isinstance(image, DecodedImage):
                        photos[sample.key] = image
            if len(photos) == len(digests):
                break
    except (ShardError, FileNotFoundError):
        return photos
    return photos


def _make_example(
    row: Mapping[str, Any],
    photo: DecodedImage | None,
    vocabulary: Vocabulary,
    palette: UInt8[np.ndarray, "256 3"],
    find_truth: FindTruth | None,
) -> Example:
    orientation = row["exif_orientation"]
    stored = decode_mask(row["mask"]["bytes"])
    mask = turn_upright(stored, orientation)
    size = _fit(mask.shape)
    grey = np.full((*size, 3), 128, np.uint8)
    rgb = grey if photo is None else np.asarray(Image.fromarray(photo.image_rgb).resize(size[::-1]))
    pictures = [] if photo is None else [_embed("photo", rgb)]
    names = [vocabulary.classes[class_id - 1] for class_id in row["class_ids"]]
    if row["class_maps"] is not None:
        for name, class_map in zip(names, _enlarge(decode_class_maps(row["class_maps"]), size), strict=True):
            pictures.append(_embed(f"map: {name}", _heat(rgb, class_map)))
    pictures.append(_embed("mask", _overlay(rgb, _shrink(mask, size), palette)))
    payload = find_truth(row["key"]) if find_truth else None
    note = "the input shard is gone or has changed: no photo" if photo is None else ""
    if payload is not None:
        truth = turn_upright(decode_truth(payload, row["key"], stored.shape, len(vocabulary.classes)), orientation)
        pictures.append(_embed("truth", _overlay(rgb, _shrink(truth, size), palette)))
        note = f"{note} mean IoU with the truth {_compute_mean_iou(mask, truth):.2f}"
    unknown = row["tags_unknown"]
    tags = ", ".join(names) + (f" (unknown: {', '.join(unknown)})" if unknown else "")
    return Example(key=row["key"], tags=tags, note=note.strip(), pictures=tuple(pictures))


def _compute_mean_iou(mask: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"]) -> float:
    counted = truth != IGNORE_LABEL
    overlaps = []
    for value in np.union1d(np.unique(mask[counted]), np.unique(truth[counted])):
        either = ((mask == value) | (truth == value)) & counted
        overlaps.append(((mask == value) & (truth == value) & counted).sum() / either.sum())
    return float(np.mean(overlaps)) if overlaps else float("nan")


def _fit(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = MAX_SIDE_PX / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _shrink(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "new_h new_w"]:
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _enlarge(maps: Float[np.ndarray, "k gh gw"], size: tuple[int, int]) -> Float[np.ndarray, "k h w"]:
    return functional.interpolate(torch.from_numpy(np.array(maps))[None], size=size, mode="bilinear")[0].numpy()


def _heat(rgb: UInt8[np.ndarray, "h w 3"], class_map: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    steps = np.linspace(0, 1, len(_HEAT))
    colored = np.stack([np.interp(class_map, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return (0.35 * rgb.mean(-1, keepdims=True) + 0.65 * colored).clip(0, 255).astype(np.uint8)


def _overlay(
    rgb: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    colored = np.where((mask == 0)[..., None], rgb * 0.55, 0.4 * rgb + 0.6 * palette[mask])
    return colored.clip(0, 255).astype(np.uint8)


def _embed(caption: str, rgb: UInt8[np.ndarray, "h w 3"]) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=82)
    return Picture(caption=caption, source=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")


def _make_tables(
    run: Mapping[str, Any],
    manifests: Sequence[Manifest],
    num_manifests: int,
    figures: _Figures,
    vocabulary: Vocabulary,
) -> list[Table]:
    counts = reduce(LabelCounts.merge, (LabelCounts.from_dict(manifest.footer["counts"]) for manifest in manifests))
    sampled = f"from {len(manifests)} of {num_manifests} manifests"
    facts = (
        ("shards published", f"{num_manifests} of {len(run['inputs'])}"),
        (f"images ({sampled})", f"{counts.num_read}"),
        ("labelled", f"{counts.num_labelled}"),
        *((f"rejected, {reason}", f"{number}") for reason, number in sorted(counts.rejected_by_reason.items())),
        ("model", run["model_digest"][:16]),
        ("run", run["fingerprint"][:16]),
        ("library version", run["library_version"]),
    )
    columns = ("presence", "area_fraction", "confidence_mean", "stability")
    classes = tuple(
        (name, str(figures.num_images[index]), *(figures.average(index, column) for column in columns))
        for index, name in enumerate(vocabulary.classes, start=1)
    )
    unknown = figures.unknown_tags.most_common(NUM_UNKNOWN_TAGS)
    header = ("class", "images", "presence", "area", "confidence", "stability")
    tables = [
        Table(title="Run", header=("", ""), rows=facts),
        Table(title="Classes", header=header, rows=classes, note=f"Means over the images of a class, {sampled}."),
    ]
    if unknown:
        rows = tuple((tag, str(number)) for tag, number in unknown)
        tables.append(Table(title="Unknown tags", header=("tag", "images"), rows=rows))
    return tables

"""Corrections from Label Studio's JSON: the latest annotation of each task; predictions are no annotations.

Source of the brush's run lengths: package rle-pack of thi.ng/umbrella, which the tool uses.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from pipeline.corrections.drawing import (
    Correction,
    Region,
    RowName,
    draw_box,
    draw_polygons,
    find_class,
    parse_name,
    require_size,
)
from pipeline.errors import CorrectionError
from pipeline.run.vocabulary import Vocabulary

NUM_CHANNELS = 4
HALF_OPAQUE = 128
"""The tool smooths borders of brush strokes."""
WITHOUT_PIXELS = frozenset({"choices", "textarea", "rating", "number", "taxonomy", "datetime", "relation"})
"""Kinds of results that describe an image as a whole."""


def read_label_studio(tasks: Sequence[Any], source: str, vocabulary: Vocabulary) -> Iterator[Correction | None]:
    """Read the corrections of a file of tasks; None for a task without an annotation that was submitted.

    Raises:
        CorrectionError: The file holds no tasks, or has labels or images that the run lacks.
    """
    try:
        for task in tasks:
            done = [one for one in task["annotations"] if not one.get("was_cancelled")]
            if not done:
                yield None
                continue
            latest = max(done, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
            title = str(task["data"].get("name") or task["data"]["image"])
            regions, size = _read_results(latest["result"], source, title, vocabulary)
            yield Correction(
                source=source,
                title=title,
                row=_read_row(task["data"], source),
                size=size,
                regions=regions,
                annotator=_name_annotator(latest.get("completed_by")),
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorrectionError(
            f"'{source}' is no file of tasks of Label Studio: {error!r}; export it as JSON (not JSON-MIN)"
        ) from error


def _read_row(data: Mapping[str, Any], source: str) -> RowName:
    if "shard" in data and "index" in data:
        return RowName(shard=str(data["shard"]), index=int(data["index"]), key=data.get("key"))
    return parse_name(str(data["image"]).split("?d=")[-1].split("?")[0], source)


def _name_annotator(completed_by: Any) -> str | None:
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return None if completed_by is None else str(completed_by)


def _read_results(
    results: Sequence[Any], source: str, title: str, vocabulary: Vocabulary
) -> tuple[list[Region], tuple[int, int] | None]:
    regions, sizes = [], set()
    for one in results:
        kind = str(one["type"])
        if kind in WITHOUT_PIXELS:
            continue
        if kind not in ("brushlabels", "polygonlabels", "rectanglelabels") or one.get("image_rotation"):
            raise CorrectionError(
                f"'{source}', image '{title}': has a region of kind '{kind}' or of a turned image; masks are made of "
                "brush strokes, polygons and boxes of images that are not turned"
            )
        labels = one["value"][kind]
        if len(labels) != 1:
            raise CorrectionError(f"'{source}', image '{title}': has a region of {len(labels)} labels; give it one")
        size = require_size(int(one["original_height"]), int(one["original_width"]))
        sizes.add(size)
        class_id = find_class(vocabulary, str(labels[0]), source)
        regions.append(
            Region(class_id, lambda kind=kind, value=one["value"], size=size: _draw(kind, value, size))  # type: ignore[misc]
        )
    if len(sizes) > 1:
        raise CorrectionError(f"'{source}', image '{title}': has regions of several sizes; draw them again")
    return regions, next(iter(sizes), None)


def _draw(kind: str, value: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    height, width = size
    if kind == "brushlabels":
        values = decode_brush(value["rle"], height * width * NUM_CHANNELS)
        return values.reshape(height, width, NUM_CHANNELS)[..., 3] >= HALF_OPAQUE
    # Points and sides are in per cent.
    if kind == "polygonlabels":
        ring = [side * of / 100 for point in value["points"] for side, of in zip(point, (width, height), strict=True)]
        return draw_polygons([ring], size)
    if value.get("rotation"):
        raise ValueError("a box that is turned")
    left, top = value["x"] * width / 100, value["y"] * height / 100
    return draw_box(left, top, left + value["width"] * width / 100, top + value["height"] * height / 100, size)


def decode_brush(encoded: Sequence[int], num_values: int) -> UInt8[np.ndarray, " num"]:
    """Decode the run lengths of a brush.

    A head of 32 bits for the number of values, 5 for the bits of a value, and four times 4 for the bits of a length.
    Then runs: a bit that says whether one value is repeated, two that choose the bits of the length, the length, and
    one value or as many as the length says.

    Raises:
        ValueError: They are damaged, or of another number of values.
    """
    bits = np.unpackbits(np.asarray(encoded, np.uint8))
    text = (bits + ord("0")).tobytes().decode()
    place = 0

    def take(num: int) -> int:
        nonlocal place
        place += num
        if place > len(text):
            raise ValueError("run lengths that end early")
        return int(text[place - num : place], 2)

    num, num_bits = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if num != num_values or num_bits != 8:
        raise ValueError(f"run lengths of {num} values of {num_bits} bits; need {num_values} of 8")
    values = np.zeros(num, np.uint8)
    start = 0
    while start < num:
        is_repeated = take(1)
        stop = start + 1 + take(sizes[take(2)])
        if stop > num:
            raise ValueError("run lengths of more values than they say")
        if is_repeated:
            values[start:stop] = take(8)
        else:
            num_taken = 8 * (stop - start)
            if place + num_taken > len(bits):
                raise ValueError("run lengths that end early")
            values[start:stop] = np.packbits(bits[place : place + num_taken])
            place += num_taken
        start = stop
    return values

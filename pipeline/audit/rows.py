"""Checks of the columns of a row, alone and against each other.

Ranges and rules follow the documented format. No code here is shared with the code that writes rows.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.audit.masks import MaskRules, make_palette
from pipeline.run.records import Reason, Status

LABELLED_COLUMNS = (
    *("width", "height", "exif_orientation", "image_sha256", "tags_unknown", "class_ids", "mask", "quality"),
    *("ignore_fraction", "background_fraction", "margin_mean", "entropy_mean"),
    *("suggested_class_ids", "doubtful_class_ids", "classes"),
)
"""Columns that are not null in a row with a mask."""
MASK_COLUMNS = (
    *("mask", "quality", "ignore_fraction", "background_fraction", "margin_mean", "entropy_mean"),
    *("suggested_class_ids", "doubtful_class_ids", "classes", "class_maps"),
)
"""Columns that are null in a row without a mask."""
SHARES = ("quality", "ignore_fraction", "background_fraction", "margin_mean", "entropy_mean")
CLASS_SHARES = ("area_fraction", "presence")
OPTIONAL_CLASS_SHARES = ("confidence_mean", "stability", "view_agreement", "head_agreement")
SHA256 = re.compile(r"[0-9a-f]{64}")
SLACK = 1e-5
"""Tolerance: means of float32 values may exceed their maximum."""
REASONS = frozenset(str(reason) for reason in Reason)

FIRST_VERSION_OF_PLACES = 5
"""Format version from which rows state where their images are, and masks the orientation of their images."""
FIRST_VERSION_OF_CENTRED_SAMPLES = 4
"""Format version from which masks are measured at image size, and components at pixels centred in the image."""


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """Rules for rows, from the configuration and the vocabulary of a run."""

    num_classes: int
    draws_suggestions: bool
    keeps_maps: bool
    min_presence: float
    has_place_columns: bool
    """Whether rows have the columns of the shard and of the place of the image."""
    has_places: bool
    """Whether these lead to images; masks of maps that an older version kept have no places."""
    mask: MaskRules


def read_rules(record: Mapping[str, Any]) -> RowRules:
    """Read the rules for rows from run.json.

    Raises:
        KeyError: It is not the record of a run; likewise TypeError and ValueError.
    """
    maps, vocabulary = record["config"]["maps"], record["vocabulary"]
    version = record.get("format_version", 1)
    version_of_source = record.get("source", {}).get("format_version", version)
    classes = list(vocabulary["classes"])
    colours = vocabulary.get("colours")
    parsed = None if colours is None else [bytes.fromhex(colours[name].removeprefix("#")) for name in classes]
    return RowRules(
        num_classes=len(classes),
        draws_suggestions=bool(maps.get("draw_suggestions", False)),
        keeps_maps=bool(maps.get("keep_maps", False)),
        min_presence=float(maps.get("min_presence", 0.0)),
        has_place_columns=version >= FIRST_VERSION_OF_PLACES,
        has_places=version_of_source >= FIRST_VERSION_OF_PLACES,
        mask=MaskRules(
            has_background=bool(maps.get("has_background", True)),
            may_ignore=maps["background_threshold"] < maps["foreground_threshold"],
            palette=make_palette(parsed),
            is_old=version < FIRST_VERSION_OF_CENTRED_SAMPLES,
            has_orientation=version >= FIRST_VERSION_OF_PLACES,
        ),
    )


def check_row(row: Mapping[str, Any], rules: RowRules) -> Iterator[str]:
    """Find faults of the columns of a row, without decoding its mask."""
    yield from _check_sizes(row)
    if rules.has_place_columns:
        yield from _check_place(row, rules)
    if row["status"] == Status.LABELLED:
        if row["reason"] is not None or row["error"] is not None:
            yield f"is labelled and has the reason {row['reason']!r} and the error {_clip(row['error'])}"
        if missing := [name for name in LABELLED_COLUMNS if row[name] is None]:
            yield f"is labelled and lacks {', '.join(missing)}"
            return
        yield from _check_labelled(row, rules)
    elif row["status"] == Status.REJECTED:
        if not row["reason"]:
            yield "is rejected without a reason"
        elif row["reason"] not in REASONS:
            yield f"is rejected with the unknown reason {_clip(row['reason'])}"
        if not row["error"]:
            yield "is rejected without an error"
        if surplus := [name for name in MASK_COLUMNS if row[name] is not None]:
            yield f"is rejected and has {', '.join(surplus)}"
        if row["class_ids"] is not None:
            yield from _check_ids("class_ids", row["class_ids"], rules.num_classes)
    else:
        yield f"has the status {_clip(row['status'])}"


def _check_sizes(row: Mapping[str, Any]) -> Iterator[str]:
    size = [row[name] for name in ("width", "height", "exif_orientation")]
    if size != [None] * 3 and (None in size or min(size) < 1 or size[2] > 8):
        yield f"has the width {size[0]}, height {size[1]} and exif_orientation {size[2]}"
    sha256 = row["image_sha256"]
    if sha256 is not None and not SHA256.fullmatch(sha256):
        yield f"has the image_sha256 {_clip(sha256)}"
    if row["tags_unknown"] is not None and None in row["tags_unknown"]:
        yield "has a null among its tags_unknown"


def _check_place(row: Mapping[str, Any], rules: RowRules) -> Iterator[str]:
    """Check the columns of the place of an image against each other."""
    offset, num_bytes, uri = (row[name] for name in ("image_offset", "image_bytes", "image_uri"))
    said = f"has the image_offset {offset}, image_bytes {num_bytes} and image_uri {_clip(uri)}"
    if not rules.has_places:
        if (offset, num_bytes, uri) != (None, None, None):
            yield f"{said}, which its source lacks"
        return
    is_negative = any(number is not None and number < 0 for number in (offset, num_bytes))
    has_two_places = offset is not None and uri is not None
    lacks_size = num_bytes is None and (offset is not None or row["status"] == Status.LABELLED)
    if is_negative or has_two_places or lacks_size:
        yield said


def _check_labelled(row: Mapping[str, Any], rules: RowRules) -> Iterator[str]:
    faults = list(_check_classes(row, rules))
    yield from faults
    if row["mask"]["bytes"] is None:
        yield "is labelled and its mask has no bytes"
    yield from _check_path(row)
    yield from (f"has the {name} {row[name]}" for name in SHARES if not _is_share(row[name]))
    if faults:
        return
    yield from _check_quality(row)
    if (row["class_maps"] is not None) != rules.keeps_maps:
        yield "has " + ("no class_maps" if rules.keeps_maps else "class_maps, which its run does not keep")
    elif row["class_maps"] is not None:
        yield from _check_maps(row["class_maps"], row["classes"])


def _check_path(row: Mapping[str, Any]) -> Iterator[str]:
    path = row["mask"]["path"]
    # Older versions used the key, with folders. A reader that writes files by path must stay in its own folder.
    is_plain = path is not None and path.endswith(".png") and path.isprintable() and not re.search(r"[\\:]", path)
    if not is_plain or path.startswith("/") or ".." in path.split("/"):
        yield f"has a mask with the path {_clip(path)}"


def _check_classes(row: Mapping[str, Any], rules: RowRules) -> Iterator[str]:
    ids, suggested, classes = row["class_ids"], row["suggested_class_ids"], row["classes"]
    for name in ("suggested_class_ids", "doubtful_class_ids"):
        yield from _check_ids(name, row[name], rules.num_classes)
    num_tagged = len(ids) - len(suggested) if rules.draws_suggestions else len(ids)
    yield from _check_ids("class_ids", ids[:num_tagged], rules.num_classes)
    if not ids or ids[num_tagged:] != (suggested if rules.draws_suggestions else []):
        yield f"has the class_ids {ids[:20]} and suggests {suggested[:20]}"
    elif set(ids[:num_tagged]) & set(suggested):
        yield f"suggests classes that it has: {suggested[:20]}"
    if None in classes or [one["class_id"] for one in classes] != ids:
        yield f"has statistics of other classes than its class_ids {ids[:20]}"
        return
    for one in classes:
        yield from _check_class(one)
    if any(one["presence"] is None for one in classes):
        return
    doubtful = [one["class_id"] for one in classes if np.float32(one["presence"]) < np.float32(rules.min_presence)]
    if row["doubtful_class_ids"] != doubtful:
        yield f"has the doubtful_class_ids {row['doubtful_class_ids'][:20]}, by their presence these are {doubtful}"


def _check_ids(name: str, ids: Sequence[int | None], num_classes: int) -> Iterator[str]:
    known = [class_id for class_id in ids if class_id is not None]
    if (
        len(known) < len(ids)
        or known != sorted(set(known))
        or (known and not 1 <= known[0] <= known[-1] <= num_classes)
    ):
        yield f"has the {name} {list(ids[:20])}; need ascending ids from 1 to {num_classes}"


def _check_class(one: Mapping[str, Any]) -> Iterator[str]:
    where = f"of class {one['class_id']}"
    yield from (f"has the {name} {one[name]} {where}" for name in CLASS_SHARES if not _is_share(one[name]))
    yield from (
        f"has the {name} {one[name]} {where}"
        for name in OPTIONAL_CLASS_SHARES
        if one[name] is not None and not _is_share(one[name])
    )
    std, peak, number = one["presence_std"], one["raw_peak"], one["components"]
    if std is None or not 0 <= std <= 0.5 + SLACK:
        yield f"has the presence_std {std} {where}"
    if peak is None or not math.isfinite(peak):
        yield f"has the raw_peak {peak} {where}"
    if number is None or number < 0:
        yield f"has {number} components {where}"


def _check_quality(row: Mapping[str, Any]) -> Iterator[str]:
    """Check that the quality is the stability of the least stable class to draw."""
    drawn = [one for one in row["classes"] if one["class_id"] not in row["doubtful_class_ids"]]
    quality = min((one["stability"] or 0.0 for one in drawn), default=0.0)
    if row["quality"] != quality:
        yield f"has the quality {row['quality']}, by its classes it is {quality}"


def _check_maps(maps: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    height, width, scales, values = (maps[name] for name in ("height", "width", "scales", "values"))
    if None in (height, width, scales, values) or min(height, width) < 1:
        yield f"has class_maps of {height} x {width}"
    elif len(scales) != len(classes) or len(values) != len(classes) * height * width:
        yield f"has {len(scales)} class_maps in {len(values)} bytes, need {len(classes)} of {height} x {width}"
    elif scales != [one["raw_peak"] for one in classes]:
        yield "has class_maps whose scales are not the raw_peak of their classes"
    else:
        of_class = np.frombuffer(values, np.uint8).reshape(len(classes), -1)
        if not all((found.min(), found.max()) in ((0, 0), (0, 255)) for found in of_class):
            yield "has class_maps that do not reach from 0 to 255"


def _is_share(value: float | None) -> bool:
    return value is not None and 0 <= value <= 1 + SLACK


def _clip(value: Any) -> str:
    return repr(value)[:80]

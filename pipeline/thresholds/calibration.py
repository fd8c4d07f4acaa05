"""The artefact that says which thresholds fit the class maps of a model: what is in it, and which runs may use it.

A threshold means something only for maps that come about as those did that it was fitted on: by the same model, views
and evidence. So the artefact holds their description, and a run whose maps come about otherwise refuses it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.documents import STRICT, DocumentError, check_fields, parse_json, show_value
from pipeline.errors import CalibrationError
from pipeline.run.config import LabelConfig, MapConfig, compute_fingerprint, describe_config
from pipeline.run.identity import flatten
from pipeline.storage.storage import read_bytes

CALIBRATION_VERSION = 1
MASK_FIELDS = ("background_threshold", "foreground_threshold", "class_scales")
"""What a calibration sets. It decides masks and no maps."""
_NOT_OF_MAPS = (
    *MASK_FIELDS,
    *("has_background", "min_presence", "suggestion_threshold", "draw_suggestions", "keep_maps"),
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds, what they hold for, and how they were found."""

    __pydantic_config__ = STRICT

    background_threshold: float
    foreground_threshold: float
    class_scales: tuple[float, ...] | None
    """As `MapConfig.class_scales`."""
    maps: Mapping[str, Any]
    """Everything that decides the class maps, as `describe_maps` gives it."""
    method: str
    """How the thresholds were found, in words."""
    uses_truth: bool
    figures: Mapping[str, Any]
    """What was measured: plain values for JSON."""

    def apply(self, maps: MapConfig) -> MapConfig:
        """Set the thresholds of a configuration."""
        return replace(maps, **{name: getattr(self, name) for name in MASK_FIELDS})


def describe_maps(model_digest: str, classes: Sequence[str], config: LabelConfig) -> dict[str, Any]:
    """Collect everything that decides class maps, as plain values: whatever is not known to leave them as they are."""
    described = describe_config(config)
    maps = {name: value for name, value in described["maps"].items() if name not in _NOT_OF_MAPS}
    return {"model_digest": model_digest, "classes": list(classes), "views": described["views"], "maps": maps}


def use_calibration(uri: str, maps: Mapping[str, Any]) -> Calibration:
    """Read a calibration and check that it was made for class maps like these.

    Args:
        uri: Where it is.
        maps: What decides the maps, as `describe_maps` gives it.

    Raises:
        FileNotFoundError: There is none.
        CalibrationError: It is not usable or was made for others; the message names what differs.
    """
    calibration = load_calibration(uri)
    before, after = flatten(dict(calibration.maps)), flatten(dict(maps))
    differences = [
        f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if differences:
        raise CalibrationError(
            f"calibration '{uri}' was made for other class maps: {'; '.join(differences)}; run tagmask calibrate on "
            "masks of this model and these settings"
        )
    return calibration


def encode_calibration(calibration: Calibration) -> bytes:
    """Encode a calibration as JSON, for people too."""
    fields = asdict(calibration)
    return json.dumps(
        {"version": CALIBRATION_VERSION, "fingerprint": compute_fingerprint(fields["maps"]), **fields},
        indent=1,
        ensure_ascii=False,
    ).encode()


def load_calibration(uri: str) -> Calibration:
    """Read a calibration.

    Raises:
        FileNotFoundError: There is none.
        CalibrationError: It is none, was edited so that it no longer fits itself, or is of another version.
    """
    try:
        # Figures may be NaN; thresholds are checked by the configuration that gets them.
        fields = parse_json(read_bytes(uri), allow_non_finite=True)
        if not isinstance(fields, dict):
            raise DocumentError(f"need a mapping, got {show_value(fields)}")
        version, fingerprint = fields.pop("version", None), fields.pop("fingerprint", None)
        if version != CALIBRATION_VERSION:
            raise ValueError(f"it has version {version!r}, this is version {CALIBRATION_VERSION}")
        calibration: Calibration = check_fields(Calibration, fields)
        if compute_fingerprint(fields["maps"]) != fingerprint:
            raise ValueError("its fingerprint is not that of its maps; was it edited?")
        # Checks the values, too.
        calibration.apply(MapConfig())
    except ValueError as error:
        raise CalibrationError(f"'{uri}' is no usable calibration: {error}; run tagmask calibrate again") from error
    return calibration

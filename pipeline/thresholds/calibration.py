"""Calibration: a file of thresholds for the class maps of a model, and the check of which runs may use it.

A threshold holds only for maps of the model, views and evidence that it was fitted on. So the file describes its maps,
and a run with other maps refuses it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.documents import STRICT, DocumentError, check_fields, parse_json, show_value
from pipeline.errors import CalibrationError
from pipeline.run.config import LabelConfig, MapConfig, describe_config
from pipeline.run.fingerprint import compute_fingerprint, list_changes
from pipeline.storage.reading import read_bytes

CALIBRATION_VERSION = 1
MASK_FIELDS = ("background_threshold", "foreground_threshold", "class_scales")
"""Settings that a calibration replaces. They decide masks and no class maps."""
_NOT_OF_MAPS = (
    *MASK_FIELDS,
    *("has_background", "min_presence", "suggestion_threshold", "draw_suggestions", "keep_maps"),
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds, the class maps that they hold for, and how they were found."""

    __pydantic_config__ = STRICT

    background_threshold: float
    foreground_threshold: float
    class_scales: tuple[float, ...] | None
    """As `MapConfig.class_scales`."""
    maps: Mapping[str, Any]
    """Everything that decides the class maps: the result of `describe_maps`."""
    method: str
    """Description of how the thresholds were found."""
    uses_truth: bool
    figures: Mapping[str, Any]
    """Measured figures, as plain values for JSON."""

    def apply(self, maps: MapConfig) -> MapConfig:
        """Configuration with the thresholds of this calibration."""
        return replace(maps, **{name: getattr(self, name) for name in MASK_FIELDS})


def describe_maps(model_digest: str, classes: Sequence[str], config: LabelConfig) -> dict[str, Any]:
    """Collect everything that decides class maps as plain values: all settings but those known not to change them."""
    described = describe_config(config)
    maps = {name: value for name, value in described["maps"].items() if name not in _NOT_OF_MAPS}
    return {"model_digest": model_digest, "classes": list(classes), "views": described["views"], "maps": maps}


def use_calibration(uri: str, maps: Mapping[str, Any]) -> Calibration:
    """Read a calibration and check that it was made for such class maps.

    Args:
        uri: Of the calibration.
        maps: What decides the class maps: the result of `describe_maps`.

    Raises:
        FileNotFoundError: There is no such file.
        CalibrationError: It is not usable, or was made for other maps; the message names the differences.
    """
    calibration = load_calibration(uri)
    differences = list_changes(dict(calibration.maps), dict(maps))
    if differences:
        raise CalibrationError(
            f"calibration '{uri}' was made for other class maps: {'; '.join(differences)}; run tagmask calibrate on "
            "masks of this model and these settings"
        )
    return calibration


def encode_calibration(calibration: Calibration) -> bytes:
    """Encode a calibration as indented JSON."""
    fields = asdict(calibration)
    return json.dumps(
        {"version": CALIBRATION_VERSION, "fingerprint": compute_fingerprint(fields["maps"]), **fields},
        indent=1,
        ensure_ascii=False,
    ).encode()


def load_calibration(uri: str) -> Calibration:
    """Read a calibration.

    Raises:
        FileNotFoundError: There is no such file.
        CalibrationError: It is not a calibration, was edited without its fingerprint, or has another version.
    """
    try:
        # Figures may be NaN. The configuration checks the thresholds.
        fields = parse_json(read_bytes(uri), allow_non_finite=True)
        if not isinstance(fields, dict):
            raise DocumentError(f"need a mapping, got {show_value(fields)}")
        version, fingerprint = fields.pop("version", None), fields.pop("fingerprint", None)
        if version != CALIBRATION_VERSION:
            raise ValueError(f"it has version {version!r}, this is version {CALIBRATION_VERSION}")
        calibration: Calibration = check_fields(Calibration, fields)
        if compute_fingerprint(fields["maps"]) != fingerprint:
            raise ValueError("its fingerprint is not that of its maps; was it edited?")
        # Checks the values too.
        calibration.apply(MapConfig())
    except ValueError as error:
        raise CalibrationError(f"'{uri}' is no usable calibration: {error}; run tagmask calibrate again") from error
    return calibration

"""Description of a model and digest of its files. Without PyTorch, which takes seconds to import."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.configuration import MCTformerConfig
from models.documents import STRICT, CheckpointError, DocumentError, check_fields, parse_json

BUNDLE_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """Description of a model, without its weights."""

    __pydantic_config__ = STRICT

    config: MCTformerConfig
    class_names: tuple[str, ...]
    """In the order of the class tokens."""
    input_mean: tuple[float, float, float]
    """Of each channel, for pixels in [0, 1]."""
    input_std: tuple[float, float, float]
    """Likewise."""
    backbone: str = ""
    """timm name of the backbone that training started from; empty without one."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Configuration of the training run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Best epoch, rule of its choice, and history."""
    library_version: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Fingerprints of the training run and of its data, and versions of the libraries."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.input_mean)):
            raise ValueError(f"need a finite input_mean, got {self.input_mean}; give that of the training images")
        if not all(0 < value < math.inf for value in self.input_std):
            raise ValueError(f"need a finite input_std above 0, got {self.input_std}; give that of the training images")
        if len(self.class_names) != self.config.num_classes:
            raise ValueError(
                f"the model has {self.config.num_classes} classes, got {len(self.class_names)} names: "
                f"{', '.join(self.class_names)}"
            )


def parse_description(payload: bytes) -> ModelBundle:
    """Parse the file `model.json` of a bundle.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    try:
        # The metrics of a training run may be NaN; nothing is computed from them.
        fields = parse_json(payload, allow_non_finite=True)
        if not isinstance(fields, dict) or fields.pop("format", None) != BUNDLE_FORMAT:
            raise DocumentError("it has the format of another version")
        bundle: ModelBundle = check_fields(ModelBundle, fields)
    except DocumentError as error:
        raise CheckpointError(f"model.json cannot be used: {error}; copy the bundle again or train it again") from error
    return bundle


def compute_digest(files: Mapping[str, bytes]) -> str:
    """Compute the digest of a bundle: SHA-256 over its files, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()

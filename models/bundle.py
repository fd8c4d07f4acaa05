"""Models as files: our bundle, the authors' checkpoints, timm's backbones.

Whatever is loaded, every key that finds no place is named, and so is every weight that finds no key.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch

from models.documents import STRICT, DocumentError, check_fields, parse_json
from models.mctformer import MCTformer, MCTformerConfig
from models.weights import (
    CheckpointError,
    decode_weights,
    load_weights,
    require_finite,
)

BUNDLE_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """What a model is, besides its weights."""

    __pydantic_config__ = STRICT

    config: MCTformerConfig
    class_names: tuple[str, ...]
    """In the order of the class tokens."""
    input_mean: tuple[float, float, float]
    """Per channel, for pixels in [0, 1]."""
    input_std: tuple[float, float, float]
    backbone: str = ""
    """timm name of the backbone that training started from; empty without one."""
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    library_version: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Fingerprint of the training run (shards, vocabulary, configuration), and versions of the libraries."""

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


def encode_bundle(model: MCTformer, bundle: ModelBundle) -> dict[str, bytes]:
    """Encode a model as the files of a bundle. Equal models give equal bytes.

    Raises:
        CheckpointError: A weight is not finite.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.state_dict().items())}
    require_finite(weights)
    description = asdict(bundle) | {"config": bundle.config.describe(), "format": BUNDLE_FORMAT}
    return {
        "model.safetensors": safetensors.torch.save(weights),
        "model.json": (json.dumps(description, indent=1, sort_keys=True) + "\n").encode(),
    }


def decode_bundle(files: Mapping[str, bytes]) -> tuple[MCTformer, ModelBundle]:
    """Decode the files of a bundle: the model in evaluation mode, and what it is.

    Raises:
        CheckpointError: A file cannot be read, or the weights are not those of the configuration.
    """
    bundle = _parse_description(files["model.json"])
    weights = decode_weights(files["model.safetensors"])
    model = make_empty_model(bundle.config)
    load_weights(model, weights, unused=(), name=str(bundle.config.variant))
    return model.eval(), bundle


def make_empty_model(config: MCTformerConfig) -> MCTformer:
    """Make a model that has shapes and no memory yet: whether its weights fit is known before it takes any."""
    with torch.device("meta"):
        return MCTformer(config)


def _parse_description(payload: bytes) -> ModelBundle:
    try:
        # Figures of a training run may be NaN; nothing is computed from them.
        fields = parse_json(payload, allow_non_finite=True)
        if not isinstance(fields, dict) or fields.pop("format", None) != BUNDLE_FORMAT:
            raise DocumentError("it has the format of another version")
        bundle: ModelBundle = check_fields(ModelBundle, fields)
    except DocumentError as error:
        raise CheckpointError(f"model.json cannot be used: {error}; copy the bundle again or train it again") from error
    return bundle


def compute_digest(files: Mapping[str, bytes]) -> str:
    """Compute the name of a bundle: sha256 over its files, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()

"""Model bundle: a network, its classes and its input statistics as two files, `model.safetensors` and `model.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict

import safetensors.torch
import torch

from models.description import BUNDLE_FORMAT, parse_description
from models.description import ModelBundle as ModelBundle
from models.description import compute_digest as compute_digest
from models.mctformer import MCTformer, MCTformerConfig
from models.weights import CheckpointError as CheckpointError
from models.weights import decode_weights, load_weights, require_finite


def encode_bundle(model: MCTformer, bundle: ModelBundle) -> dict[str, bytes]:
    """Encode a model as the files of a bundle; equal models have equal bytes.

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
    """Decode the files of a bundle: the model in evaluation mode, and its description.

    Raises:
        CheckpointError: A file is damaged, or the weights do not fit the configuration.
    """
    bundle = parse_description(files["model.json"])
    weights = decode_weights(files["model.safetensors"])
    model = make_empty_model(bundle.config)
    load_weights(model, weights, unused=(), name=str(bundle.config.variant))
    return model.eval(), bundle


def make_empty_model(config: MCTformerConfig) -> MCTformer:
    """Build a model on the meta device: weights can be checked against its shapes before it has memory."""
    with torch.device("meta"):
        return MCTformer(config)

"""Weights of a model: checking keys, shapes and finiteness, loading. Foreign files are read by `checkpoints/`."""

import logging
from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from models.documents import CheckpointError as CheckpointError

logger = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]

HEADER_LENGTH_BYTES = 8
"""Size of the header's length, which begins a safetensors file."""
MAX_HEADER_BYTES = 8 * 2**20
"""Above the header of any model."""
MAX_NAMED = 5
"""Tensors with non-finite values that a message names at most."""
MAX_LISTED = 100
"""Keys that do not fit that a message names at most."""


def decode_weights(payload: bytes) -> dict[str, Tensor]:
    """Decode a safetensors file.

    Raises:
        CheckpointError: It is not a safetensors file, or its header exceeds `MAX_HEADER_BYTES`.
    """
    length = int.from_bytes(payload[:HEADER_LENGTH_BYTES], "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, len(payload) - HEADER_LENGTH_BYTES):
        raise CheckpointError(
            f"the weights are not a safetensors file: a header of {length} bytes in a file of {len(payload)}, need at "
            f"most {MAX_HEADER_BYTES}; copy the file again"
        )
    try:
        return safetensors.torch.load(payload)
    except Exception as error:  # damage raises SafetensorError, KeyError, RuntimeError, ..., by its position
        raise CheckpointError(
            f"the weights are not a safetensors file: {type(error).__name__}: {error}; copy the file again"
        ) from error


def load_weights(model: nn.Module, weights: StateDict, *, unused: Sequence[str], name: str) -> None:
    """Load weights by name into a model.

    Args:
        model: May be on the meta device; its memory is allocated after the checks.
        weights: By key; need all keys of the model.
        unused: Keys that `weights` may have and the model does not.
        name: Of the model, for messages.

    Raises:
        CheckpointError: Keys, shapes or types do not fit, or values are not finite; the message names them.
    """
    own = model.state_dict()
    complaints = []
    missing = [key for key in own if key not in weights]
    foreign = [key for key in weights if key not in own and key not in unused]
    misfits = [
        f"{key} is {list(weights[key].shape)}, needs {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if missing:
        complaints.append(f"missing: {_join_names(missing)}")
    if foreign:
        complaints.append(f"without a place in the model: {_join_names(foreign)}")
    if misfits:
        complaints.append(f"shapes that do not fit: {_join_names(misfits, '; ')}")
    if complaints:
        raise CheckpointError(f"the weights are not those of this {name} ({'; '.join(complaints)})")
    left_out = [key for key in unused if key in weights]
    if left_out:
        logger.info("not used by this model, by design: %s", ", ".join(left_out))
    # Converted first: a value that is finite in float64 may overflow in float32.
    fitted = {key: _convert_dtype(key, weights[key], own[key].dtype) for key in own}
    require_finite(fitted)
    if any(tensor.is_meta for tensor in own.values()):
        # Not `to_empty`, which imports the compiler of PyTorch: 1.5 s. Copied: the caller may change its tensors.
        fitted = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in fitted.items()}
        model.load_state_dict(fitted, assign=True)
        return
    model.load_state_dict(fitted)


def require_finite(weights: StateDict) -> None:
    """Check that all values of all tensors are finite.

    Raises:
        CheckpointError: Some are not; the message names tensors and counts.
    """
    counts = {key: _count_non_finite(tensor) for key, tensor in weights.items()}
    damaged = [f"{key} has {number} of {weights[key].numel()}" for key, number in counts.items() if number]
    if damaged:
        more = f" and {len(damaged) - MAX_NAMED} more tensors" if len(damaged) > MAX_NAMED else ""
        raise CheckpointError(
            f"weights are not finite (NaN or infinite values: {', '.join(damaged[:MAX_NAMED])}{more}); "
            "copy the model again, or train it again from a checkpoint before the loss became non-finite"
        )


def _join_names(names: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return separator.join(names[:MAX_LISTED]) + more


def _convert_dtype(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point() and dtype.is_floating_point:
        raise CheckpointError(f"weight {key} is {tensor.dtype}, needs floating point numbers; export the model again")
    return tensor.to(dtype)


def _count_non_finite(tensor: Tensor) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    # The 8-bit types have no `isfinite`; float32 represents all their values.
    values = tensor.float() if tensor.is_floating_point() and tensor.element_size() < 2 else tensor
    return int(tensor.numel() - values.isfinite().sum())

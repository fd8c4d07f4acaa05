"""The weights of a model from a checkpoint file, and what a reader of the output should be told of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoints.candidates import choose_candidate, find_candidates
from models.checkpoints.kinds import join_names
from models.checkpoints.reading import read_checkpoint
from models.weights import CheckpointError, StateDict, require_finite


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of one model of a checkpoint file."""

    weights: dict[str, Tensor]
    """By key, without wrappers and prefixes."""
    notes: tuple[str, ...]
    """Lines for the user: which weights were taken, what was converted, what was passed over."""


def load_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Load the weights of one model from a checkpoint of any common form; no code of the file is executed.

    Args:
        path: Written by `torch.save` or in safetensors; its suffix has no effect.
        key: Name of the weights to take where the file has several; None: the first by `Candidate.rank`.

    Raises:
        CheckpointError: The file cannot be read, has no state dict or none under this key, or values are missing or not
            finite.
    """
    content, foreign_types = read_checkpoint(path)
    try:
        candidates = find_candidates(content)
        taken = choose_candidate(candidates, key)
        counters = [name for name, tensor in taken.weights.items() if _is_counter(tensor)]
        weights = {name: tensor.detach() for name, tensor in taken.weights.items() if name not in counters}
        _require_values(weights)
        # All of them, for an unused one that is not finite shows that the file is damaged or its training failed.
        require_finite(weights)
    except CheckpointError as error:
        more = f" (objects of other types: {join_names(foreign_types)})" if foreign_types else ""
        raise CheckpointError(f"'{path}' cannot be used: {error}{more}") from error
    notes = []
    if len(candidates) > 1:
        others = join_names([one.name for one in candidates if one is not taken])
        notes.append(
            f"'{path}' has several weights: '{taken.name}' is taken, not {others}; choose with --key, in training "
            "--backbone-key"
        )
    elif taken.name:
        notes.append(f"weights are taken from '{taken.name}' of '{path}'")
    if foreign_types:
        notes.append(f"objects that are no weights are passed over: {join_names(foreign_types)}")
    if counters:
        notes.append(f"counters that are no weights are passed over: {join_names(counters)}")
    return Checkpoint(weights=weights, notes=(*notes, *_describe_conversions(weights)))


def _is_counter(tensor: Tensor) -> bool:
    """True for the numbers that averages of weights keep beside them, such as n_averaged and step."""
    return tensor.ndim == 0 and not tensor.is_floating_point() and not tensor.is_complex()


def _require_values(weights: StateDict) -> None:
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else "sparse" if not tensor.is_meta else "without values (meta)"
            raise CheckpointError(f"weight {name} is {kind}; export the model as dense floating point numbers")


def _describe_conversions(weights: dict[str, Tensor]) -> list[str]:
    counts = Counter(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    return [
        f"{number} of {len(weights)} tensors are converted from {str(dtype).removeprefix('torch.')} to float32"
        for dtype, number in counts.items()
        if dtype != torch.float32
    ]

"""The models within a checkpoint: found under any wrappers and prefixes, named, and one of them chosen.

{"model": {"module.cls_token": ...}, "model_ema": {...}} -> candidates model.module, model_ema
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor

from models.checkpoints.arrays import read_array
from models.checkpoints.stand_ins import Record
from models.weights import CheckpointError, StateDict

ANCHORS = ("patch_embed.proj.weight", "cls_token")
"""Keys of a ViT that no wrapper has: what stands before one of them is the prefix of a model. The first that occurs."""
MAX_DEPTH = 12
"""Wrappers within wrappers that are looked into."""
MAX_VISITS = 200_000
"""Modules and weights of a pickled module that are looked at: modules that hold one another stand for any number."""
AVERAGES = ("ema", "average", "averaged", "swa")
"""Parts of the names of averaged weights."""
TOP_NAMES = ("model", "state_dict", "net", "network", "module")
"""Names of the plain weights; their candidates are chosen before those of unknown names."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights of one model within a checkpoint, by their keys without prefix."""

    name: str
    """Wrappers and prefix, joined by dots; empty for a bare state dict."""
    weights: StateDict

    @property
    def rank(self) -> int:
        """Place in the choice: plain weights, then a teacher's, unknown names, averaged ones, a student's."""
        parts = [part.lower() for part in self.name.split(".") if not part.isdecimal()]
        words = {word for part in parts for word in part.split("_")}
        if "student" in parts:
            return 4
        if words & set(AVERAGES):
            return 3
        if "teacher" in parts:
            return 1
        return 0 if not parts or not parts[0] or parts[0] in TOP_NAMES else 2


def find_candidates(content: Any) -> list[Candidate]:
    """Find the models within a checkpoint, best first.

    Raises:
        CheckpointError: There are no named tensors.
    """
    groups = list(_iterate_groups(content, (), set()))
    if not groups:
        raise CheckpointError("it has no state dict: no tensors with names")
    for anchor in ANCHORS:
        found = [one for path, group in groups for one in _split_by_prefix(path, group, anchor)]
        if found:
            return sorted(found, key=lambda one: (one.rank, -len(one.weights)))
    # Not a ViT: the largest group, whose keys the caller's message names.
    path, group = max(groups, key=lambda pair: len(pair[1]))
    return [Candidate(name=".".join(path), weights=group)]


def choose_candidate(candidates: Sequence[Candidate], key: str | None) -> Candidate:
    """Choose the first candidate, or the one that a key names.

    Args:
        candidates: Best first.
        key: Name of a candidate, or some of its parts, such as `model_ema` of `model_ema.module`; None: the first.

    Raises:
        CheckpointError: The key names none of them, or several.
    """
    if key is None:
        return candidates[0]
    exact = [one for one in candidates if one.name == key]
    matches = exact or [one for one in candidates if f".{key}." in f".{one.name}."]
    names = ", ".join(f"'{one.name}'" for one in candidates)
    if not matches:
        raise CheckpointError(f"it has no weights under '{key}'; it has {names or 'none'}")
    if len(matches) > 1:
        raise CheckpointError(f"'{key}' names several of its weights; give one of {names}")
    return matches[0]


def _iterate_groups(
    value: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Iterate over the dicts with named tensors, and pickled modules as such dicts; objects may contain themselves."""
    if len(path) > MAX_DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Record):
        group = dict(_flatten_module(value, "", 0, count()))
        if group:
            yield path, group
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _iterate_groups(inner, (*path, str(index)), seen)
    elif isinstance(value, Mapping):
        arrays = {name: read_array(inner) if isinstance(inner, Record) else inner for name, inner in value.items()}
        group = {name: inner for name, inner in arrays.items() if isinstance(name, str) and isinstance(inner, Tensor)}
        if group:
            yield path, group
        for name, inner in value.items():
            if not isinstance(inner, Tensor):
                yield from _iterate_groups(inner, (*path, str(name)), seen)


def _flatten_module(record: Record, prefix: str, depth: int, visits: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the weights of a pickled `torch.nn.Module` by the keys of its state dict."""
    state = record.state
    if next(visits) > MAX_VISITS:
        raise CheckpointError(f"it has more than {MAX_VISITS} modules and weights; give the state dict of one model")
    if not isinstance(state, Mapping) or depth > MAX_DEPTH:
        return
    for kind in ("_parameters", "_buffers"):
        named = state.get(kind)
        for name, tensor in named.items() if isinstance(named, Mapping) else ():
            if isinstance(tensor, Tensor):
                next(visits)
                yield f"{prefix}{name}", tensor
    modules = state.get("_modules")
    for name, inner in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(inner, Record):
            yield from _flatten_module(inner, f"{prefix}{name}.", depth + 1, visits)


def _split_by_prefix(path: tuple[str, ...], group: Mapping[str, Tensor], anchor: str) -> Iterator[Candidate]:
    """Split a state dict into the models whose keys have one prefix each.

    Keys of no prefix belong to the model without a prefix, else to all of them.
    """
    prefixes = [name.removesuffix(anchor) for name in group if name == anchor or name.endswith(f".{anchor}")]
    weights: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
    for name, tensor in group.items():
        shared = {prefix: _share_parts(name, prefix) for prefix in prefixes}
        most = max((len(start) for start in shared.values()), default=0)
        for prefix, start in shared.items():
            if len(start) == most and (most or not prefix or "" not in weights):
                own = name.removeprefix(start)
                # A wrapped key that another key would hide keeps its whole name, and is named as one without a place.
                weights[prefix][name if own in weights[prefix] or (own in group and start) else own] = tensor
    for prefix, found in weights.items():
        yield Candidate(name=".".join([*path, *prefix.split(".")[:-1]]), weights=found)


def _share_parts(name: str, prefix: str) -> str:
    """Longest start of a prefix, in whole parts, that a name has too.

    >>> _share_parts("module.head.weight", "module.backbone.")
    'module.'
    """
    shared = ""
    for part in prefix.split(".")[:-1]:
        if not name.startswith(f"{shared}{part}."):
            break
        shared += f"{part}."
    return shared

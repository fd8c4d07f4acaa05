"""Safe reading of a checkpoint file: tensors and plain containers, no object of another type, no code."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from models.checkpoints.kinds import FileKind, find_file_kind
from models.checkpoints.pickles import PickledName, scan_pickle
from models.checkpoints.stand_ins import make_stand_ins
from models.weights import CheckpointError

NUM_LEGACY_PICKLES = 5
"""Pickles at the start of a file before PyTorch 1.6: magic number, version, system, content, keys of the storages."""
NEVER_READ = ("os", "posix", "nt", "sys", "subprocess")
"""Modules that no checkpoint names; PyTorch refuses most of them under any stand-in."""
_NOT_TOLD = ("torch.", "collections.", "builtins.", "_codecs.", "numpy.")
"""Packages whose objects are read, or missed by nobody."""
MAX_UNPACKED_RATIO = 8
"""Largest ratio of the unpacked size of a zip to its size; torch.save does not compress."""


class CheckpointContent(NamedTuple):
    """Content of a checkpoint file: dicts, lists, tensors, plain values, and records of other objects."""

    content: Any
    foreign_types: tuple[str, ...]
    """Full names of the types that records stand in for."""


def read_checkpoint(path: Path) -> CheckpointContent:
    """Read a checkpoint by its content, not by its suffix; no code of the file is executed.

    Raises:
        CheckpointError: It cannot be read, or calls functions when it is unpickled; the message contains the reason.
    """
    kind = find_file_kind(path)
    try:
        if kind == FileKind.SAFETENSORS:
            return CheckpointContent(safetensors.torch.load_file(path), ())
        found = _scan_file(path, kind)
        names = sorted({one.name for one in found})
        _require_no_system_calls(names)
        # Opened here: torch.load(path) would follow the suffix.
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(make_stand_ins(found)),
            path.open("rb") as file,
        ):
            # What PyTorch warns of concerns the programmer: old storages, other pickle protocols.
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # the unpickler raises any error: EOFError, UnpicklingError, KeyError, RuntimeError ...
        raise CheckpointError(f"'{path}' cannot be read as a checkpoint: {_describe(error)}") from error
    return CheckpointContent(content, tuple(name for name in names if not name.startswith(_NOT_TOLD)))


def _require_no_system_calls(names: list[str]) -> None:
    for name in names:
        if name.partition(".")[0] in NEVER_READ:
            raise CheckpointError(
                f"it names {name}, so it is a program and not weights; do not trust this file, get the weights as "
                ".safetensors"
            )


def _scan_file(path: Path, kind: FileKind) -> list[PickledName]:
    if kind == FileKind.TORCH_ZIP:
        with zipfile.ZipFile(path) as archive:
            _require_unpackable(archive, path.stat().st_size)
            name = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            return scan_pickle(io.BytesIO(archive.read(name)))
    with path.open("rb") as file:
        return [one for _ in range(NUM_LEGACY_PICKLES) for one in scan_pickle(file)]


def _require_unpackable(archive: zipfile.ZipFile, num_bytes: int) -> None:
    num_unpacked = sum(entry.file_size for entry in archive.infolist())
    if num_unpacked > MAX_UNPACKED_RATIO * num_bytes:
        raise CheckpointError(
            f"its {num_bytes} bytes unpack to {num_unpacked}, which is more than any program writes; do not trust this "
            "file, get the weights as .safetensors"
        )


def _describe(error: Exception) -> str:
    """One sentence for an error of a library, never its advice to load unsafely."""
    text = str(error).partition("\n")[0].strip()
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text or not text:
        words = "it holds objects or pickle instructions that are not those of a state dict"
        return f"{words}; get the weights as .safetensors"
    return f"{type(error).__name__}: {text[:200].rstrip('.')}; copy the file again"

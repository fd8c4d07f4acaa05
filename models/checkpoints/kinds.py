"""Which kind of file a checkpoint is, by its first bytes; what is no checkpoint, in words that help."""

import json
import tarfile
import zipfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from models.weights import MAX_HEADER_BYTES, CheckpointError

NUM_FIRST_BYTES = 512
MAX_INDEX_BYTES = 16 * 2**20
"""Above the index of any model in several files."""
MAX_SHOWN = 3
"""Names of members or files that a message contains at most."""


class FileKind(StrEnum):
    """Kinds of files that can be read."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch_zip"
    """Written by torch.save since PyTorch 1.6."""
    TORCH_LEGACY = "torch_legacy"
    """Written by torch.save before, or with `_use_new_zipfile_serialization=False`."""


_MAGIC_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that begins a file of torch.save before PyTorch 1.6."""
_FOREIGN = (
    (b"\x1f\x8b", "it is compressed with gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it"),
    (b"BZh", "it is compressed with bzip2; unpack it"),
    (b"\xfd7zXZ\x00", "it is compressed with xz; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it"),
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes; give weights of PyTorch"),
    (b"\x93NUMPY", "it is a NumPy array; give a whole state dict"),
    (b"GGUF", "it is a GGUF file; give weights of PyTorch"),
    (b"version https://git-lfs", "it is a Git LFS pointer and not the file itself; run `git lfs pull`"),
)


def find_file_kind(path: Path) -> FileKind:
    """Find the kind of a checkpoint; its suffix has no effect.

    Raises:
        CheckpointError: It is another kind of file; the message contains which, and the step that helps.
    """
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder; give the file of weights in it{_suggest_file(path)}")
    if not path.is_file():
        raise CheckpointError(f"'{path}' does not exist; check the path of the checkpoint, which is a local file")
    try:
        with path.open("rb") as file:
            first = file.read(NUM_FIRST_BYTES)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be opened: {error.strerror}; check its permissions") from error
    if first[:2] == b"PK":
        return _check_zip(path)
    if 0 < int.from_bytes(first[:8], "little") <= MAX_HEADER_BYTES and first[8:9] == b"{":
        return FileKind.SAFETENSORS
    if first.startswith(_MAGIC_PICKLE):
        return FileKind.TORCH_LEGACY
    raise CheckpointError(f"'{path}' is not a checkpoint: {_name_foreign(path, first)}")


def _suggest_file(folder: Path) -> str:
    names = sorted(item.name for item in folder.iterdir() if item.suffix in (".safetensors", ".pth", ".pt", ".bin"))
    return f", such as {join_names(names)}" if names else ""


def _check_zip(path: Path) -> FileKind:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"'{path}' is truncated: the directory at the end of its zip is missing; copy it again")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}; copy it again") from error
    inner = [name.partition("/")[2] or name for name in names]
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"'{path}' is a TorchScript archive, a program with weights; give the state dict of the model that it was "
            "made of, as .safetensors"
        )
    if "data.pkl" in inner:
        return FileKind.TORCH_ZIP
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"'{path}' holds NumPy arrays (.npz), as JAX models do; give weights of PyTorch, such as those of timm"
        )
    raise CheckpointError(f"'{path}' is a zip archive of {join_names(names)}; unpack it and give the file in it")


def _name_foreign(path: Path, first: bytes) -> str:
    if not first:
        return "it is empty; copy it again"
    for start, words in _FOREIGN:
        if first.startswith(start):
            return words
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is an HTML page, such as the answer of a server that wants a login; download the file itself"
    if text.startswith(b"<?xml"):
        return "it is an XML document, such as the error of a store; download the file itself"
    if text.startswith((b"{", b"[")):
        return _name_json(path)
    if tarfile.is_tarfile(path):
        return _name_tar(path)
    if first[:1] == b"\x80":
        return "it is a plain Python pickle, not a file of torch.save; give the weights as .safetensors"
    return f"it begins with {first[:8]!r}; give a .safetensors file, or a .pth file of torch.save"


def _name_json(path: Path) -> str:
    try:
        fields = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_INDEX_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and isinstance(fields.get("weight_map"), dict):
        files = sorted({str(name) for name in fields["weight_map"].values()})
        return (
            f"it is the index of weights in {len(files)} files ({join_names(files)}); join them into one .safetensors "
            "file and give that"
        )
    return "it is a JSON document, such as a configuration; give the file of weights beside it"


def _name_tar(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except (tarfile.TarError, OSError, EOFError):
        return "it is a damaged tar archive; copy it again"
    if {"sys_info", "pickle", "storages"} <= set(names):
        return (
            "it has the tar format of PyTorch before 0.1.10, which cannot be read safely; get the weights as "
            ".safetensors"
        )
    return f"it is a tar archive of {join_names(names)}; unpack it and give the file in it"


def join_names(names: Sequence[str]) -> str:
    """Join the first `MAX_SHOWN` names, and the number of the others.

    >>> join_names(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:MAX_SHOWN]) + more

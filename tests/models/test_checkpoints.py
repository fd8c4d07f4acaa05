"""Foreign checkpoints in the forms that people have: what is read, which weights are taken, what is refused and how."""

import argparse
import collections
import datetime
import io
import json
import pathlib
import pickle
import subprocess
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from jobs.import_checkpoint import main
from models.bundle import decode_bundle
from models.checkpoints.loading import load_checkpoint
from models.mctformer import MCTformer
from models.weights import CheckpointError
from tests.models.test_bundle import make_model, save_as_authors

ADVICE = ("weights_only", "add_safe_globals", "allowlist", "trust this")


class Settings(dict[str, Any]):
    """A configuration of someone's own, as CfgNode and EasyDict are."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.is_frozen = True


def make_weights() -> dict[str, torch.Tensor]:
    return dict(make_model().state_dict())


def add_prefix(weights: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def write_vocabulary(folder: Path, classes: Any = ("cat", "dog", "cow")) -> str:
    (folder / "vocabulary.json").write_text(json.dumps({"classes": list(classes)}))
    return str(folder / "vocabulary.json")


def run_import(folder: Path, path: Path, *flags: str, variant: str = "v2") -> int:
    words = ["--checkpoint", str(path), "--variant", variant, "--vocabulary", write_vocabulary(folder)]
    return main([*words, "--out", str(folder / "model"), *flags])


def read_imported(folder: Path) -> MCTformer:
    names = ("model.json", "model.safetensors")
    return decode_bundle({name: (folder / "model" / name).read_bytes() for name in names})[0]


def require_equal(weights: Any, expected: Any) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


PREFIXES = [
    "",
    "module.",
    "model.",
    "_orig_mod.",
    "backbone.",
    "encoder.",
    "net.",
    "module._orig_mod.",
    "_orig_mod.module.model.backbone.",
    "their.own.name.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "net", "teacher", "student", "ema", "module"])
def test_weights_are_found_under_any_wrapper_and_prefix(tmp_path: Path, wrapper: str, prefix: str) -> None:
    weights = make_weights()
    wrapped: Any = add_prefix(weights, prefix)
    torch.save({wrapper: wrapped} if wrapper else wrapped, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, weights)


def test_wrappers_within_wrappers_and_lists_are_looked_into(tmp_path: Path) -> None:
    weights = make_weights()
    content = {"runs": [{"epoch": 3}, [{"checkpoint": {"state_dict": {"model": add_prefix(weights, "module.")}}}]]}
    torch.save(content, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, weights)


def test_head_beside_a_wrapped_backbone_belongs_to_the_model(tmp_path: Path) -> None:
    weights = make_weights()
    split = {
        (f"module.{name}" if name.startswith("head") else f"module.backbone.{name}"): tensor
        for name, tensor in weights.items()
    }
    torch.save(split, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, weights)


def test_optimiser_and_plain_values_beside_the_weights_are_no_weights(tmp_path: Path) -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, 64, 64)).class_logits.sum().backward()
    optimizer.step()
    content = {"epoch": 3, "best": None, "optimizer": optimizer.state_dict(), "model": model.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, dict(model.state_dict()))


def test_counters_beside_averaged_weights_are_passed_over_and_named(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(make_model())
    torch.save({"step": torch.tensor(7), "initted": torch.tensor(True), **averaged.state_dict()}, tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    require_equal(checkpoint.weights, make_weights())
    assert "counters that are no weights are passed over: 'step', 'initted', 'n_averaged'" in checkpoint.notes


def test_vit_without_classifier_is_no_import_of_another_variant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: tensor for name, tensor in make_weights().items() if not name.startswith("head.")}
    torch.save(weights | {"cls_token": weights["cls_token"][:, :1]}, tmp_path / "vit.pth")
    assert run_import(tmp_path, tmp_path / "vit.pth") == 2
    printed = capsys.readouterr().err
    assert "it looks like a plain ViT or DeiT" in printed
    assert "--backbone-weights" in printed
    assert "--variant" not in printed


def make_foreign_objects() -> dict[str, Any]:
    counts: Any = collections.defaultdict(list)
    counts["a"].append(1)
    return {
        "args": argparse.Namespace(lr=0.1, output_dir=pathlib.PosixPath("/out"), betas=(0.9, 0.95)),
        "windows": pathlib.PureWindowsPath("C:/out"),
        "paths": [pathlib.PurePosixPath("a/b")],
        "scalar": np.float64(0.7),
        "array": np.arange(3),
        "names": np.array(["a", "b"], dtype=object),
        "dtype": np.dtype("float32"),
        "when": datetime.datetime(2024, 1, 2),
        "counts": counts,
        "recent": collections.deque([1.0, 2.0], maxlen=5),
        "space": types.SimpleNamespace(a=1),
        "config": Settings(width=64, nested=Settings(depth=2)),
        "range": range(3),
    }


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", list(make_foreign_objects()))
def test_object_of_another_type_beside_the_weights_is_passed_over(tmp_path: Path, name: str, is_zip: bool) -> None:
    content = {name: make_foreign_objects()[name], "model": make_weights()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, make_weights())


def test_names_of_old_and_new_numpy_are_both_read(tmp_path: Path) -> None:
    """Files keep the names of the NumPy that wrote them; a pickle of each is made by a change of the name."""
    torch.save({"best": np.float64(0.7), "model": make_weights()}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for member in new.infolist():
            payload = new.read(member).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
            old.writestr(member.filename, payload)
    assert b"numpy.core.multiarray" in zipfile.ZipFile(tmp_path / "old.pth").read("new/data.pkl")
    for name in ("new", "old"):
        require_equal(load_checkpoint(tmp_path / f"{name}.pth").weights, make_weights())


def test_import_of_a_checkpoint_with_a_namespace_names_what_it_passes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_as_authors(make_model(), tmp_path / "plain.pth")
    module = {"activation": nn.GELU()}
    content = torch.load(tmp_path / "plain.pth", weights_only=True) | make_foreign_objects() | module
    torch.save(content, tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 0
    printed = capsys.readouterr().out
    assert "objects that are no weights are passed over: 'argparse.Namespace'" in printed
    require_equal(read_imported(tmp_path).state_dict(), make_weights())


def test_whole_pickled_module_is_read_without_its_class(tmp_path: Path) -> None:
    for name, module in (("a", make_model()), ("b", nn.DataParallel(make_model()))):
        torch.save({"ema": module, "epoch": 1}, tmp_path / f"{name}.pth")
        require_equal(load_checkpoint(tmp_path / f"{name}.pth").weights, make_weights())


def test_safetensors_and_torch_files_are_read_under_each_others_suffix(tmp_path: Path) -> None:
    weights = make_weights()
    safetensors.torch.save_file(weights, tmp_path / "a.pth")
    torch.save({"model": weights}, tmp_path / "b.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    for name in ("a.pth", "b.safetensors", "pytorch_model.bin"):
        require_equal(load_checkpoint(tmp_path / name).weights, weights)


def save_several(path: Path) -> dict[str, Any]:
    """Write a file with plain, averaged and teacher's weights, which differ in one value."""
    found = {}
    for number, name in enumerate(("student", "model_ema", "model", "teacher", "swa_model")):
        found[name] = make_weights() | {"head.bias": torch.full((3,), float(number))}
    torch.save(found, path)
    return found


def test_of_several_weights_the_plain_ones_are_taken_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = save_several(tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 0
    assert "'model' is taken, not 'teacher', 'model_ema', 'swa_model' and 1 more" in capsys.readouterr().out
    require_equal(read_imported(tmp_path).state_dict(), found["model"])


@pytest.mark.parametrize("key", ["student", "model_ema", "teacher"])
def test_key_chooses_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    found = save_several(tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth", "--key", key) == 0
    assert f"'{key}' is taken" in capsys.readouterr().out
    require_equal(read_imported(tmp_path).state_dict(), found[key])


def test_key_that_names_nothing_is_refused_with_the_names_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_several(tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth", "--key", "model_emma") == 2
    assert "no weights under 'model_emma'; it has 'model', 'teacher', 'model_ema'" in capsys.readouterr().err


def test_student_and_teacher_in_one_state_dict_are_two_models(tmp_path: Path) -> None:
    student, teacher = make_weights(), make_weights() | {"head.bias": torch.ones(3)}
    flat = add_prefix(student, "student.backbone.") | add_prefix(teacher, "teacher.backbone.")
    torch.save({"state_dict": flat}, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, teacher)
    require_equal(load_checkpoint(tmp_path / "a.pth", key="student").weights, student)


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made_by = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made_by


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", ["eval", "open", "getattr", "system", "popen", "touch", "load"])
def test_file_that_calls_functions_is_refused_and_nothing_is_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, is_zip: bool
) -> None:
    mark = tmp_path / "executed"
    calls = {
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "open": Call(open, str(mark), "w"),
        "getattr": Call(getattr, "a", "upper"),
        "system": Call(__import__("os").system, f"touch {mark}"),
        "popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "touch": Call(pathlib.Path.touch, mark),
        "load": Call(torch.hub.load, str(tmp_path), "a"),
    }
    content = {"model": make_weights(), "args": argparse.Namespace(inner=[calls[kind]])}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    assert run_import(tmp_path, tmp_path / "a.pth") == 2
    error = capsys.readouterr().err
    assert "so it is a program and not weights; do not trust this file" in error
    assert "Traceback" not in error
    assert not mark.exists()
    assert not (tmp_path / "model").exists()


def make_archive(kind: str, files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=written, mode="w") as tar:
            for name, payload in files.items():
                header = tarfile.TarInfo(name)
                header.size = len(payload)
                tar.addfile(header, io.BytesIO(payload))
    else:
        with zipfile.ZipFile(written, "w") as archive:
            for name, payload in files.items():
                archive.writestr(name, payload)
    return written.getvalue()


INDEX = {"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
FOREIGN_FILES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html>", "HTML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML document"),
    "index": (json.dumps(INDEX).encode(), "index of weights in 2 files ('m-1.safetensors', 'm-2.safetensors')"),
    "json": (b'{"architectures": []}', "JSON document"),
    "deep json": (b"[" * 100_000, "JSON document"),
    "gzip": (b"\x1f\x8b\x08" + bytes(9), "compressed with gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "HDF5"),
    "npz": (make_archive("zip", {"a.npy": b"x"}), "NumPy arrays"),
    "zip": (make_archive("zip", {"a/model.pth": b"x"}), "zip archive of 'a/model.pth'"),
    "truncated": (make_archive("zip", {"a/data.pkl": bytes(500)})[:300], "is truncated"),
    "old tar": (make_archive("tar", dict.fromkeys(("sys_info", "pickle", "storages"), b"x")), "before 0.1.10"),
    "tar": (make_archive("tar", {"model.pth": b"x"}), "tar archive of 'model.pth'"),
    "pickle": (pickle.dumps({"a": 1}), "plain Python pickle"),
    "empty": (b"", "is empty"),
    "text": (b"hello there", "begins with b'hello th'"),
    "big header": ((2**40).to_bytes(8, "little") + b"{}", "not a checkpoint"),
}


@pytest.mark.parametrize("kind", list(FOREIGN_FILES))
def test_file_that_is_no_checkpoint_is_named_as_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    payload, words = FOREIGN_FILES[kind]
    (tmp_path / "a.pth").write_bytes(payload)
    assert run_import(tmp_path, tmp_path / "a.pth") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not [advice for advice in ADVICE if advice in line]


def test_torchscript_archive_and_folder_are_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"is a folder; give the file of weights in it, such as 'a\.pth'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damaged_file_is_refused_in_one_line_without_advice_of_the_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    whole = io.BytesIO()
    if form == "safetensors":
        whole.write(safetensors.torch.save(make_weights()))
    else:
        torch.save({"model": make_weights()}, whole, _use_new_zipfile_serialization=form == "zip")
    payload = whole.getvalue()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(payload)
        start = int(rng.integers(0, 4000))
        damaged[start : start + 8] = rng.bytes(8)
        cut = int(rng.integers(1, len(payload)))
        for content in (bytes(damaged), payload[:cut]):
            (tmp_path / "a.pth").write_bytes(content)
            if run_import(tmp_path, tmp_path / "a.pth") == 2:
                (line,) = capsys.readouterr().err.splitlines()
                assert not [advice for advice in ADVICE if advice in line]


def test_other_pickle_protocol_is_read_or_refused_without_advice(tmp_path: Path) -> None:
    torch.save({"model": make_weights(), "args": argparse.Namespace()}, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="pickle instructions that are not those of a state dict"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("start", "skip", "new"),
    [
        (b"PK\1\2", 6, b"\xff\0"),  # a version that zipfile does not know
        (b"PK\1\2", 0, b"XX"),
        (b"PK\6\6", 40, b"\xff\xff"),  # size of the directory
    ],
)
def test_zip_with_a_damaged_directory_is_refused_by_name(tmp_path: Path, start: bytes, skip: int, new: bytes) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(2)}, path)
    payload = path.read_bytes()
    place = payload.index(start) + skip
    path.write_bytes(payload[:place] + new + payload[place + len(new) :])
    with pytest.raises(CheckpointError, match=r"/a\.pth' (is damaged|is truncated|cannot be read).*copy it again"):
        load_checkpoint(path)

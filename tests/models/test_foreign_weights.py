"""Weights of a readable checkpoint: those of another variant, architecture or size, without values, not finite."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jobs.import_checkpoint import main
from models.checkpoints.loading import load_checkpoint
from models.importers import load_backbone_weights, load_timm_backbone
from models.mctformer import Variant
from models.weights import CheckpointError
from tests.models.test_bundle import make_model, make_vit, save_as_authors
from tests.models.test_checkpoints import (
    add_prefix,
    make_weights,
    read_imported,
    require_equal,
    run_import,
    write_vocabulary,
)


@pytest.mark.parametrize("wanted", list(Variant))
@pytest.mark.parametrize("given", list(Variant))
def test_weights_of_another_variant_are_refused_with_the_option_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Variant, wanted: Variant
) -> None:
    extra: dict[str, torch.Tensor] = {
        Variant.V1: {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)},
        Variant.V2: {},
        Variant.PLUS: {"pos_embed": torch.zeros(1, 17, 64)},
    }[given]
    save_as_authors(make_model(given), tmp_path / "a.pth", **extra)
    code = run_import(tmp_path, tmp_path / "a.pth", variant=str(wanted))
    if given == wanted:
        assert code == 0
        return
    assert code == 2
    error = capsys.readouterr().err
    assert f"is not a checkpoint of MCTformer {wanted}: it looks like MCTformer {given} (" in error
    assert f"--variant {given}" in error
    assert "3 class tokens, width 64, depth 2, patches of 16 px" in error


@pytest.mark.parametrize("variant", list(Variant))
def test_plain_vit_is_not_imported_as_any_variant(tmp_path: Path, variant: Variant) -> None:
    torch.save(make_vit().state_dict(), tmp_path / "a.pth")
    words = ["--checkpoint", str(tmp_path / "a.pth"), "--variant", str(variant), "--out", str(tmp_path / "model")]
    assert main([*words, "--vocabulary", write_vocabulary(tmp_path, ["cat"])]) == 2


def test_import_of_nan_names_tensor_and_count_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = make_weights()
    weights["blocks.1.mlp.fc1.weight"][:2, 0] = torch.inf
    weights["cls_token"][0, 0, 0] = torch.nan
    torch.save({"model": weights}, tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 2
    error = capsys.readouterr().err
    assert "cls_token has 1 of 192, blocks.1.mlp.fc1.weight has 2 of 16384" in error
    assert not (tmp_path / "model").exists()


def test_nan_in_a_weight_that_the_model_does_not_use_is_refused_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": make_weights() | {"norm.weight": torch.tensor([1.0, torch.nan])}}, tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 2
    assert "norm.weight has 1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["<f4", ">f4"])
def test_weights_as_numpy_arrays_are_read(tmp_path: Path, order: str) -> None:
    arrays = {name: np.asarray(tensor.numpy(), order) for name, tensor in make_weights().items()}
    arrays["blocks.0.mlp.fc1.weight"] = np.asfortranarray(arrays["blocks.0.mlp.fc1.weight"])
    torch.save({"model": arrays}, tmp_path / "a.pth")
    require_equal(load_checkpoint(tmp_path / "a.pth").weights, make_weights())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_converted_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in make_weights().items()}
    torch.save({"model": weights}, tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 0
    words = f"{len(weights)} of {len(weights)} tensors are converted from {str(dtype)[6:]} to float32"
    assert words in capsys.readouterr().out
    require_equal(read_imported(tmp_path).state_dict(), {name: one.float() for name, one in weights.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to(torch.int64), "weight head.bias is torch.int64, needs floating point numbers"),
        (lambda tensor: tensor.to(torch.complex64), "weight head.bias is torch.complex64"),
        (lambda tensor: tensor.to_sparse(), "weight head.bias is sparse"),
        (lambda tensor: tensor.to("meta"), "weight head.bias is without values"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "weight head.bias is quantized"),
    ],
)
def test_weights_without_floating_point_values_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    weights = make_weights()
    torch.save(weights | {"head.bias": change(weights["head.bias"])}, tmp_path / "a.pth")
    assert run_import(tmp_path, tmp_path / "a.pth") == 2
    assert words in capsys.readouterr().err


def test_teacher_of_self_supervision_is_taken_as_backbone(tmp_path: Path) -> None:
    vit = dict(make_vit().state_dict())
    projection = {"head.mlp.0.weight": torch.zeros(8, 64)}
    content = {
        "student": add_prefix(vit, "module.backbone.") | add_prefix(projection, "module."),
        "teacher": add_prefix(vit, "backbone.") | projection,
        "args": argparse.Namespace(arch="vit_tiny"),
    }
    torch.save(content, tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert "'teacher.backbone' is taken, not 'student.module.backbone'" in checkpoint.notes[0]
    model = make_model()
    unused = load_backbone_weights(model, checkpoint.weights)
    assert "head.mlp.0.weight" in unused
    torch.testing.assert_close(model.state_dict()["blocks.0.attn.qkv.weight"], vit["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("variant", list(Variant))
def test_mctformer_as_backbone_is_refused(variant: Variant) -> None:
    with pytest.raises(CheckpointError, match=f"not those of a backbone: it looks like MCTformer {variant}"):
        load_backbone_weights(make_model(), make_model(variant).state_dict())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight"], "transformers"),
        (["conv1.weight", "layer1.0.conv1.weight"], "a ResNet"),
        (["layers.0.blocks.0.attn.relative_position_bias_table"], "a Swin"),
        (["class_token", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"], "torchvision"),
        (["some", "thing"], "another model; it has some, thing"),
    ],
)
def test_backbone_of_another_architecture_is_named(tmp_path: Path, keys: list[str], words: str) -> None:
    torch.save({key: torch.zeros(1, 1, 64) for key in keys}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"looks like .*{words}"):
        load_backbone_weights(make_model(), load_checkpoint(tmp_path / "a.pth").weights)


def test_backbone_of_another_size_is_refused_with_the_name_that_fits(tmp_path: Path) -> None:
    vit = make_vit(embed_dim=192, num_heads=3, depth=12)
    torch.save({"model": vit.state_dict()}, tmp_path / "a.pth")
    backbone = load_timm_backbone("deit_small_patch16_224", weights_path=tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"width 192, the model 384; .* as deit_tiny_patch16_224 or vit_tiny"):
        load_backbone_weights(make_model(width=384, depth=12, num_heads=6), backbone.weights)


def test_checkpoint_that_unpacks_to_far_more_than_its_size_is_refused_before_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bytes(2**22), protocol=2))
    with pytest.raises(CheckpointError, match="unpack to 4194.*, which is more than any program writes"):
        load_checkpoint(tmp_path / "small.pth")


def test_modules_that_hold_one_another_many_times_are_refused(tmp_path: Path) -> None:
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(9):
        outer = nn.Module()
        for name in range(8):
            outer.add_module(str(name), module)
        module = outer
    torch.save({"model": module}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match="more than 200000 modules and weights"):
        load_checkpoint(tmp_path / "nested.pth")

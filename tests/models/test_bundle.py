"""Models as files: what is loaded, what is refused, and what the message names."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from models.bundle import ModelBundle, compute_digest, decode_bundle, encode_bundle
from models.checkpoints.loading import load_checkpoint
from models.importers import import_authors_checkpoint, load_backbone_weights, load_timm_backbone
from models.mctformer import MCTformer, MCTformerConfig, Variant
from models.weights import MAX_HEADER_BYTES, CheckpointError

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "cow")
STATISTICS: dict[str, Any] = {"input_mean": (0.5, 0.5, 0.5), "input_std": (0.5, 0.5, 0.5)}


def make_model(variant: Any = Variant.V2, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_classes": 3, "image_size": 64, "width": 64, "depth": 2, "num_heads": 1} | changes
    return MCTformer(MCTformerConfig(variant=variant, **sizes)).eval()


def make_bundle(model: Any) -> Any:
    return ModelBundle(config=model.config, class_names=CLASSES, metrics={"mean_ap": 0.5}, **STATISTICS)


@pytest.mark.parametrize("variant", list(Variant))
def test_encoded_bundle_decodes_to_the_same_model(variant: Any) -> None:
    model = make_model(variant)
    files = encode_bundle(model, make_bundle(model))
    again, description = decode_bundle(files)
    assert description == make_bundle(model)
    images = torch.randn(1, 3, 48, 64)
    torch.testing.assert_close(again(images).class_logits, model(images).class_logits, rtol=0, atol=0)
    assert not again.training


def test_digest_depends_on_weights_and_description() -> None:
    model = make_model()
    files = encode_bundle(model, make_bundle(model))
    assert compute_digest(files) == compute_digest(encode_bundle(model, make_bundle(model)))
    other = encode_bundle(model, replace(make_bundle(model), metrics={"mean_ap": 0.6}))
    assert compute_digest(files) != compute_digest(other)
    with torch.no_grad():
        model.cls_token += 1
    assert compute_digest(files) != compute_digest(encode_bundle(model, make_bundle(model)))


@pytest.mark.parametrize("damage", [{"model.json": b"{"}, {"model.safetensors": b"xx"}, {"model.json": b"{}"}])
def test_damaged_bundle_is_refused(damage: dict[str, bytes]) -> None:
    model = make_model()
    with pytest.raises(CheckpointError):
        decode_bundle(encode_bundle(model, make_bundle(model)) | damage)


def test_number_of_names_other_than_that_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 classes, got 2 names"):
        ModelBundle(config=make_model().config, class_names=("cat", "dog"), **STATISTICS)


def save_as_authors(model: Any, path: Path, **extra: Any) -> None:
    """The authors' models have unused weights: a final norm, and a head or position embeddings."""
    weights = model.state_dict() | {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)} | extra
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)


@pytest.mark.parametrize("variant", list(Variant))
def test_authors_checkpoint_determines_sizes_and_weights(tmp_path: Path, variant: Any) -> None:
    model = make_model(variant)
    extra = {
        Variant.V1: {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)},
        Variant.V2: {},
        Variant.PLUS: {"pos_embed": torch.zeros(1, 17, 64)},
    }
    save_as_authors(model, tmp_path / "a.pth", **extra[variant])
    again, bundle = import_authors_checkpoint(tmp_path / "a.pth", variant=variant, class_names=CLASSES, **STATISTICS)
    assert bundle.config == model.config
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(images).class_logits, model(images).class_logits, rtol=0, atol=0)


def test_every_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    model = make_model()
    save_as_authors(model, tmp_path / "a.pth", surprise=torch.zeros(1), other_one=torch.zeros(1))
    with pytest.raises(CheckpointError, match="without a place in the model: surprise, other_one"):
        import_authors_checkpoint(tmp_path / "a.pth", variant=Variant.V2, class_names=CLASSES, **STATISTICS)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "blocks.1.attn.proj" not in name}
    torch.save(weights, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"missing: blocks\.1\.attn\.proj\.weight, blocks\.1\.attn\.proj\.bias"):
        import_authors_checkpoint(tmp_path / "b.pth", variant=Variant.V2, class_names=CLASSES, **STATISTICS)


def test_shapes_that_cannot_fit_are_named_with_both(tmp_path: Path) -> None:
    weights = make_model().state_dict() | {"blocks.1.mlp.fc2.bias": torch.zeros(7)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc2\.bias is \[7\], needs \[64\]"):
        import_authors_checkpoint(tmp_path / "a.pth", variant=Variant.V2, class_names=CLASSES, **STATISTICS)


def test_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    save_as_authors(make_model(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="has 3 class tokens, got 2 class names"):
        import_authors_checkpoint(tmp_path / "a.pth", variant=Variant.V2, class_names=("a", "b"), **STATISTICS)


def test_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    save_as_authors(make_model(Variant.V2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of MCTformer plus"):
        import_authors_checkpoint(tmp_path / "a.pth", variant=Variant.PLUS, class_names=CLASSES, **STATISTICS)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_in_a_checkpoint_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "a.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nothing"])
def test_file_that_is_not_a_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "b.pth")


def make_vit(**changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "img_size": 64,
        "patch_size": 16,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 1,
        "num_classes": 10,
    }
    return timm.models.vision_transformer.VisionTransformer(**sizes | changes).eval()


@pytest.mark.parametrize("variant", list(Variant))
def test_vit_weights_go_to_their_places_and_the_class_token_to_every_class(variant: Any) -> None:
    vit = make_vit()
    model = make_model(variant)
    own_head = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("head.")}
    unused = load_backbone_weights(model, vit.state_dict())
    assert set(unused) == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    state = model.state_dict()
    torch.testing.assert_close(state["blocks.1.attn.qkv.weight"], vit.state_dict()["blocks.1.attn.qkv.weight"])
    for index in range(3):
        torch.testing.assert_close(state["cls_token"][:, index], vit.cls_token[:, 0])
    positions = state["pos_embed_pat"] if variant == Variant.PLUS else state["pos_embed"][:, 3:]
    torch.testing.assert_close(positions, vit.pos_embed[:, 1:])
    for name, tensor in own_head.items():
        torch.testing.assert_close(state[name], tensor)


def test_positions_of_a_vit_are_resized_to_the_grid_of_the_model() -> None:
    model = make_model(image_size=96)
    load_backbone_weights(model, make_vit().state_dict())
    assert model.pos_embed.shape == (1, 3 + 36, 64)


def test_vit_of_another_width_or_with_foreign_keys_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has width 32, the model 64"):
        load_backbone_weights(make_model(), make_vit(embed_dim=32).state_dict())
    with pytest.raises(CheckpointError, match="depth 3, the model 2"):
        load_backbone_weights(make_model(), make_vit(depth=3).state_dict())
    with pytest.raises(CheckpointError, match="has no 'cls_token'"):
        load_backbone_weights(make_model(), make_vit(class_token=False, global_pool="avg").state_dict())


def test_timm_backbone_has_sizes_input_statistics_and_weights(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    backbone = load_timm_backbone("vit_tiny_patch16_224", weights_path=tmp_path / "vit.safetensors")
    assert (backbone.width, backbone.depth, backbone.num_heads, backbone.patch_size) == (192, 12, 3, 16)
    assert backbone.input_mean == (0.5, 0.5, 0.5)
    assert set(backbone.weights) == set(vit.state_dict())
    assert load_timm_backbone("deit_small_patch16_224").input_mean == (0.485, 0.456, 0.406)


def test_backbone_that_cannot_be_downloaded_is_refused_with_the_remedy(tmp_path: Path) -> None:
    program = (
        "from models.importers import load_timm_backbone\n"
        "from models.weights import CheckpointError\n"
        "try:\n    load_timm_backbone('vit_tiny_patch16_224', pretrained=True)\n"
        "except CheckpointError as error:\n    print(error)"
    )
    # In a new process, as the library checks for a network once, when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert done.stdout.startswith("the weights of timm's 'vit_tiny_patch16_224' cannot be downloaded (")
    assert "give them as a file, or `none` for random ones" in done.stdout


def test_unknown_backbone_is_refused_with_similar_names() -> None:
    with pytest.raises(CheckpointError, match=r"no model 'vit_tinny_patch16_224'; names near it: vit_"):
        load_timm_backbone("vit_tinny_patch16_224")
    with pytest.raises(CheckpointError, match="not a plain ViT"):
        load_timm_backbone("resnet18")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10**9}, "need width >= 1 and at most 65536"),
        ({"depth": 10**6}, "need depth >= 1 and at most 1024"),
        ({"mlp_ratio": 1e308}, "need mlp_ratio above 0"),
        ({"drop_path": float("nan")}, "need 0 <= drop_path < 1"),
        # Within the bounds of any model, and terabytes that no weights are there for.
        ({"width": 48_000, "depth": 64}, r"cls_token is \[1, 3, 64\], needs \[1, 3, 48000\]"),
        ({"depth": 1024}, r"missing: blocks\.2\..* and 12164 more"),
        ({"image_size": 65536, "patch_size": 16}, "pos_embed is"),
        ({"num_heads": "1"}, r"config\.num_heads: input should be a valid integer"),
        ({"variant": "v9"}, r"config\.variant"),
        ({"depths": 2}, r"config\.depths: unexpected"),
    ],
)
def test_sizes_that_do_not_fit_the_weights_are_refused_before_memory_is_allocated(sizes: Any, message: str) -> None:
    model = make_model()
    files = encode_bundle(model, make_bundle(model))
    description = json.loads(files["model.json"])
    description["config"] |= sizes
    with pytest.raises(CheckpointError, match=message):
        decode_bundle(files | {"model.json": json.dumps(description).encode()})


@pytest.mark.parametrize("length", [0, 2**40, 2**64 - 1, MAX_HEADER_BYTES + 1])
def test_weights_with_an_invalid_header_are_refused(length: Any) -> None:
    model = make_model()
    files = encode_bundle(model, make_bundle(model))
    weights = length.to_bytes(8, "little") + files["model.safetensors"][8:]
    with pytest.raises(CheckpointError, match=f"a header of {length} bytes"):
        decode_bundle(files | {"model.safetensors": weights})


@pytest.mark.parametrize(("old", "new"), [(b'{"', b'x"'), (b'"F32"', b'"F99"'), (b"data_offsets", b"data_offsetz")])
def test_weights_with_a_damaged_header_are_refused(old: bytes, new: bytes) -> None:
    model = make_model()
    files = encode_bundle(model, make_bundle(model))
    weights = files["model.safetensors"].replace(old, new, 1)
    with pytest.raises(CheckpointError, match=r"the weights are not a safetensors file: \w+Error"):
        decode_bundle(files | {"model.safetensors": weights})


def test_checkpoint_with_missing_blocks_is_refused_before_memory_is_allocated(tmp_path: Path) -> None:
    weights = make_model().state_dict() | {"blocks.99999999.attn.proj.bias": torch.zeros(64)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"without a place in the model: blocks\.99999999\.attn\.proj\.bias"):
        import_authors_checkpoint(tmp_path / "a.pth", variant=Variant.V2, class_names=CLASSES, **STATISTICS)

"""Agreement of the model with the authors' code, and properties for any weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_leaves

from models.attention import compute_class_to_patch, propagate
from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer, MCTformerConfig, Variant, hold_in_bf16, pool_by_rank, resize_positions

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = ("square", "wide", "tall", "ragged")
NUM_LAYERS = 3
TOLERANCE = 1e-5
PRODUCTS = (nn.Linear, nn.Conv2d)
"""Layers that autocast computes in bfloat16."""


def load_golden_model(variant: Any) -> Any:
    config = MCTformerConfig(variant=variant, num_classes=5, image_size=64, width=48, depth=4, num_heads=3)
    model = MCTformer(config).eval()
    weights = load_file(GOLDEN / f"{variant}.weights.safetensors")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def measure_error(value: Any, expected: Any) -> float:
    assert value.shape == expected.shape
    return float((value - expected).norm() / expected.norm())


@pytest.fixture(params=list(Variant), scope="module")
def golden(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    variant = request.param
    return variant, load_golden_model(variant), load_file(GOLDEN / f"{variant}.outputs.safetensors")


@pytest.mark.parametrize("name", INPUTS)
@torch.inference_mode()
def test_outputs_are_those_of_the_authors_code(golden: tuple[Any, Any, Any], name: Any) -> None:
    variant, model, expected = golden
    output = model(expected[f"{name}.input"])
    assert measure_error(output.class_logits, expected[f"{name}.class_logits"]) < TOLERANCE
    if variant == Variant.V1:
        assert output.patch_logits is None
        assert output.patch_cam is None
    else:
        assert measure_error(output.patch_logits, expected[f"{name}.patch_logits"]) < TOLERANCE
    if variant == Variant.PLUS:
        assert measure_error(output.class_tokens, expected[f"{name}.class_tokens_per_layer"]) < TOLERANCE


@pytest.mark.parametrize("name", INPUTS)
@torch.inference_mode()
def test_maps_and_refined_maps_are_those_of_the_authors_code(golden: tuple[Any, Any, Any], name: Any) -> None:
    variant, model, expected = golden
    images = expected[f"{name}.input"]
    output = model(images)
    evidence = compute_evidence(output, variant, torch.arange(5).expand(len(images), 5), num_layers=NUM_LAYERS)
    kinds = {"mct": evidence.class_to_patch}
    if variant != Variant.V1:
        kinds |= {"patchcam": evidence.patch_cam, "fused": evidence.fused}
    assert {f"{name}.maps.{kind}" for kind in kinds} == {key for key in expected if key.startswith(f"{name}.maps.")}
    for kind, maps in kinds.items():
        assert measure_error(maps, expected[f"{name}.maps.{kind}"]) < TOLERANCE, kind
        assert measure_error(propagate(output, maps), expected[f"{name}.refined.{kind}"]) < TOLERANCE, kind


@torch.inference_mode()
def test_propagating_unit_maps_gives_the_columns_of_the_affinity(golden: tuple[Any, Any, Any]) -> None:
    """As many maps as patches, which is more than a head is wide: the product is taken slice by slice."""
    _, model, expected = golden
    output = model(expected["tall.input"])
    num_patches = output.grid[0] * output.grid[1]
    units = torch.eye(num_patches).reshape(1, num_patches, *output.grid)
    columns = propagate(output, units).flatten(2).transpose(1, 2)
    assert num_patches > output.queries[0].shape[-1]
    assert measure_error(columns, expected["tall.patch_affinity"]) < TOLERANCE


@torch.inference_mode()
def test_affinity_may_be_that_of_the_last_layers_and_be_applied_again(golden: tuple[Any, Any, Any]) -> None:
    _, model, expected = golden
    output = model(expected["tall.input"])
    num_patches = output.grid[0] * output.grid[1]
    maps = torch.rand(1, 2, *output.grid, generator=torch.Generator().manual_seed(0))
    queries, keys = output.queries[-1], output.keys[-1]
    attention = (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(-1).mean(1)
    affinity = attention[:, -num_patches:, -num_patches:]
    once = (maps.flatten(2) @ affinity.transpose(1, 2)).unflatten(-1, output.grid)
    torch.testing.assert_close(refine_class_maps(output, maps, num_layers=1), once)
    twice = (once.flatten(2) @ affinity.transpose(1, 2)).unflatten(-1, output.grid)
    torch.testing.assert_close(refine_class_maps(output, maps, num_layers=1, num_steps=2), twice)
    with pytest.raises(ValueError, match="need 1 <= num_layers <= "):
        refine_class_maps(output, maps, num_layers=99)


@torch.inference_mode()
def test_affinity_in_bfloat16_is_near_that_of_the_same_queries_and_keys_in_float32(
    golden: tuple[Any, Any, Any],
) -> None:
    """At any scale of the maps: those of a faint class are small."""
    _, model, expected = golden
    with torch.autocast("cpu", torch.bfloat16):
        output = model(expected["wide.input"])
    assert output.queries[0].dtype == torch.bfloat16
    queries, keys = (tuple(one.float() for one in layers) for layers in (output.queries, output.keys))
    maps = torch.rand(2, 40, *output.grid, generator=torch.Generator().manual_seed(0))
    wanted = propagate(output._replace(queries=queries, keys=keys), maps, num_steps=2)
    assert measure_error(propagate(output, maps, num_steps=2), wanted) < 2e-3
    assert measure_error(propagate(output, maps * 1e-30, num_steps=2) * 1e30, wanted) < 2e-3


@torch.inference_mode()
def test_affinity_in_bfloat16_keeps_what_rounding_takes_from_the_maps(golden: tuple[Any, Any, Any]) -> None:
    """Patches that attend to themselves alone return their own values; bfloat16 has 8 bits of each."""
    _, model, expected = golden
    output = model(expected["wide.input"])
    own = torch.cat([torch.zeros(3, 16), 100 * torch.eye(16)])[None, None].bfloat16()
    few = output._replace(queries=(own,), keys=(own,), grid=(1, 16))
    maps = torch.rand(1, 2, 1, 16, generator=torch.Generator().manual_seed(0))
    assert float((propagate(few, maps) - maps).abs().max()) < 2**-15


@torch.inference_mode()
def test_maps_of_some_classes_equal_those_of_all_classes(golden: tuple[Any, Any, Any]) -> None:
    variant, model, expected = golden
    output = model(expected["square.input"])
    everything = compute_evidence(output, variant, torch.arange(5).expand(2, 5))
    index = torch.tensor([[4, 0], [2, 2]])
    wanted = compute_evidence(output, variant, index)
    for row in range(2):
        torch.testing.assert_close(wanted.fused[row], everything.fused[row, index[row]])


@torch.inference_mode()
def test_class_to_patch_attention_never_exceeds_the_number_of_layers(golden: tuple[Any, Any, Any]) -> None:
    _, model, expected = golden
    output = model(expected["wide.input"])
    attention = compute_class_to_patch(output, 2, torch.arange(5).expand(2, 5))
    assert attention.min() >= 0
    assert attention.flatten(2).sum(-1).max() <= 2


@pytest.mark.parametrize("num_layers", [0, 5])
@torch.inference_mode()
def test_layers_that_the_model_does_not_have_are_refused(golden: tuple[Any, Any, Any], num_layers: int) -> None:
    _, model, expected = golden
    with pytest.raises(ValueError, match="4, the depth of the model"):
        compute_class_to_patch(model(expected["square.input"]), num_layers, torch.zeros(2, 1, dtype=torch.long))


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 400), (240, 16)])
@torch.inference_mode()
def test_any_size_of_at_least_a_patch_is_accepted(golden: tuple[Any, Any, Any], size: tuple[int, int]) -> None:
    _, model, _ = golden
    output = model(torch.zeros(1, 3, *size))
    assert output.grid == (size[0] // 16, size[1] // 16)
    assert output.class_logits.isfinite().all()


@torch.inference_mode()
def test_weights_held_in_bfloat16_give_what_autocast_gives_with_those_of_the_model(
    golden: tuple[Any, Any, Any],
) -> None:
    _, model, expected = golden
    held = hold_in_bf16(model)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = model(expected["wide.input"]), held(expected["wide.input"])
    for name, values, wanted in zip(one._fields, other, one, strict=True):
        assert type(values) is type(wanted), name
        for found, single in zip(flatten(values), flatten(wanted), strict=True):
            assert found.dtype == single.dtype, name
            assert torch.equal(found, single), name
    # The model itself stays, for images that overflow.
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    products = [f"{name}.weight" for name, module in held.named_modules() if isinstance(module, PRODUCTS)]
    types = {name: weights.dtype for name, weights in held.named_parameters()}
    assert {types[name] for name in products} == {torch.bfloat16}


def flatten(value: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]


def test_training_step_reaches_every_weight(golden: tuple[Any, Any, Any]) -> None:
    variant, _, expected = golden
    model = load_golden_model(variant).train()
    output = model(expected["square.input"])
    loss = output.class_logits.square().mean()
    if output.patch_logits is not None:
        loss = loss + output.patch_logits.square().mean()
    loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_ranked_pooling_lies_between_mean_and_maximum() -> None:
    cam = torch.randn(2, 3, 7, 5)
    pooled = pool_by_rank(cam, 0.9)
    assert (pooled <= cam.amax((2, 3))).all()
    assert (pooled >= cam.mean((2, 3))).all()
    weights = [0.9**rank for rank in range(35)]
    ranked = sorted(cam[1, 2].flatten().tolist(), reverse=True)
    by_hand = sum(weight * value for weight, value in zip(weights, ranked, strict=True)) / sum(weights)
    assert float(pooled[1, 2]) == pytest.approx(by_hand, abs=1e-5)


def test_positions_keep_their_values_when_the_grid_stays() -> None:
    table = torch.randn(1, 49, 8)
    torch.testing.assert_close(resize_positions(table, (7, 7)), table)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("grid", [(1, 1), (14, 23), (40, 3), (33, 33)])
def test_positions_are_resized_to_the_exact_grid(grid: tuple[int, int], offset: float) -> None:
    assert resize_positions(torch.randn(1, 196, 4), grid, offset=offset).shape == (1, grid[0] * grid[1], 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes >= 1"),
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"rank_decay": 0.0}, "rank_decay <= 1"),
        ({"image_size": 8}, "image_size >= patch_size"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCTformerConfig(**{"variant": Variant.V2, "num_classes": 3} | changes)

"""Fusion and scaling of class maps."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.class_maps import compute_evidence, scale_min_max, take_classes
from models.fusion import Fusion
from models.mctformer import MCTformer, MCTformerConfig, Variant


def make_output(variant: Any) -> Any:
    torch.manual_seed(1)
    config = MCTformerConfig(
        variant=variant, num_classes=4, image_size=32, patch_size=8, width=32, depth=3, num_heads=2
    )
    with torch.inference_mode():
        return MCTformer(config).eval()(torch.randn(2, 3, 32, 40))


INDEX = torch.tensor([[0, 3], [2, 1]])


def test_v1_has_attention_alone() -> None:
    evidence = compute_evidence(make_output(Variant.V1), Variant.V1, INDEX)
    assert evidence.patch_cam is None
    assert evidence.fused is evidence.class_to_patch


def test_v2_multiplies_and_plus_takes_the_root_of_the_product() -> None:
    for variant in (Variant.V2, Variant.PLUS):
        evidence = compute_evidence(make_output(variant), variant, INDEX)
        product = evidence.class_to_patch * evidence.patch_cam
        torch.testing.assert_close(evidence.fused, product.sqrt() if variant == Variant.PLUS else product)
        assert evidence.patch_cam.min() >= 0


def test_fusion_may_differ_from_that_of_the_authors() -> None:
    chosen = {Variant.V2: Fusion.SQUARE_ROOT, Variant.PLUS: Fusion.PRODUCT}
    for variant, fusion in chosen.items():
        output = make_output(variant)
        evidence = compute_evidence(output, variant, INDEX, fusion=fusion)
        product = evidence.class_to_patch * evidence.patch_cam
        torch.testing.assert_close(evidence.fused, product.sqrt() if fusion == Fusion.SQUARE_ROOT else product)


def test_attention_is_summed_over_layers_and_averaged_for_plus() -> None:
    output = make_output(Variant.PLUS)
    summed = compute_evidence(output, Variant.V2, INDEX, num_layers=3).class_to_patch
    averaged = compute_evidence(output, Variant.PLUS, INDEX).class_to_patch
    torch.testing.assert_close(averaged * 3, summed)


def test_classes_are_selected_per_image() -> None:
    maps = torch.arange(2 * 4).reshape(2, 4, 1, 1).float().expand(2, 4, 3, 5)
    assert take_classes(maps, INDEX)[:, :, 0, 0].tolist() == [[0, 3], [6, 5]]


@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_scaled_maps_fill_zero_to_one_from_any_scale(rng_seed: int, shift: float, factor: float) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(rng_seed))
    scaled = scale_min_max(maps * factor + shift)
    assert scaled.amin((2, 3)).eq(0).all()
    assert scaled.amax((2, 3)).eq(1).all()
    torch.testing.assert_close(scaled, scale_min_max(maps), atol=1e-3, rtol=1e-3)


def test_constant_map_becomes_zero() -> None:
    assert scale_min_max(torch.full((1, 1, 3, 3), 7.0)).eq(0).all()

"""Work of a GPU on a batch, counted on a pretended one: launches, waits, bytes. These do not depend on the machine."""

import pickle
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jobs.qualities import QUALITIES
from models.bundle import ModelBundle
from models.class_maps import refine_class_maps
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.images.frames import choose_guide_size
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.run.config import LabelConfig, PixelRefinement, settle_config
from tests.images.drawing.full_maps import draw_all
from tests.images.mapping.pretended_device import (
    NAMED,
    PRETENDED,
    CountedTransfers,
    DeviceCounts,
    OnDevice,
    move_to_device,
)

NUM_CLASSES = 20
CLASS_IDS = [(1,), (2, 5), (3,), (4, 8, 20)]


def make_model(variant: Variant = Variant.V2) -> MCTformer:
    torch.manual_seed(0)
    return MCTformer(MCTformerConfig(variant=variant, num_classes=NUM_CLASSES, width=48, num_heads=3)).eval()


def make_config(quality: str, **maps: Any) -> LabelConfig:
    config = QUALITIES[quality]()
    return settle_config(replace(config, maps=replace(config.maps, **maps)), 14)


def make_mapper(
    config: LabelConfig, device: torch.device, *, use_bf16: bool = False, model: MCTformer | None = None
) -> ClassMapper:
    model = model or make_model()
    names = tuple(f"c{number}" for number in range(NUM_CLASSES))
    bundle = ModelBundle(config=model.config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    transfers: Any = None
    if device == PRETENDED:
        move_to_device(model)
        transfers = CountedTransfers()
    return ClassMapper(
        model=model,
        bundle=bundle,
        config=config,
        device=NAMED if device == PRETENDED else device,
        use_bf16=use_bf16,
        transfers=transfers,
    )


def spoil_one_value(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
    """Change one value of the third image to NaN; of class 20 if there are classes, which it does not show."""
    output = output.clone()
    output[2][(19, 0, 0) if output.dim() == 4 else (-1, 0)] = torch.nan
    return output


def make_batch(config: LabelConfig, num_images: int, size: Any = (375, 500)) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_images, 192, 256, 3), dtype=np.uint8)
    ids = [CLASS_IDS[number % len(CLASS_IDS)] for number in range(num_images)]
    guides = None
    if config.maps.pixel_refinement != "none":
        guide_size = choose_guide_size(192, 256, config.maps.pixel_side_px, 16)
        guides = rng.integers(0, 256, (num_images, *guide_size, 3), dtype=np.uint8)
    return frames, ids, [size] * num_images, guides


def count(config: LabelConfig, num_images: int = 16, size: Any = (375, 500)) -> DeviceCounts:
    """Count the work of a batch beside the model, whose blocks run in bfloat16."""
    mapper = make_mapper(config, PRETENDED, use_bf16=True)
    with DeviceCounts() as counts:
        mapper.queue(*make_batch(config, num_images, size))()
    return counts


@pytest.mark.parametrize(("quality", "most"), [("fast", 75), ("balanced", 110)])
def test_launches_beside_the_model_are_few_and_do_not_grow_with_the_batch(quality: str, most: int) -> None:
    counts = count(make_config(quality))
    assert 0 < counts.launches.total() <= most
    assert count(make_config(quality), num_images=32).launches == counts.launches


@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_host_waits_once_a_batch_and_uploads_frames_and_classes(quality: str) -> None:
    config = make_config(quality)
    # The first batch of a process takes constants to the device.
    count(config, num_images=1)
    counts = count(config)
    assert counts.waits == {"download": 1}
    assert counts.num_uploads == (3 if quality == "best" else 2)


def test_suggestions_that_are_drawn_cost_one_more_wait() -> None:
    assert count(make_config("balanced", draw_suggestions=True)).waits == {"download": 2}


def test_bytes_to_the_host_are_those_of_grid_maps_whatever_the_size_of_the_photos() -> None:
    config = make_config("balanced")
    small, large = count(config), count(config, size=(1500, 2000))
    assert small.num_downloaded_bytes == large.num_downloaded_bytes
    assert 0 < small.num_downloaded_bytes / 16 <= 4_000


def test_maps_refined_by_pixels_take_two_bytes_a_pixel_of_the_guide_also_between_processes() -> None:
    config = make_config("best")
    num_classes = max(map(len, CLASS_IDS))
    assert 0 < count(config).num_downloaded_bytes / 16 / num_classes <= 100_000
    with DeviceCounts():
        found = make_mapper(config, PRETENDED).queue(*make_batch(config, 4))()
    assert all(len(pickle.dumps(one)) / len(one.class_ids) <= 100_000 for one in found)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 12), (torch.bfloat16, 16)])
def test_affinity_of_a_view_takes_few_launches(dtype: Any, most: int) -> None:
    with torch.inference_mode():
        output = make_model()(torch.zeros(4, 3, 64, 64))
        moved = output._replace(
            queries=tuple(OnDevice(one.to(dtype)) for one in output.queries),
            keys=tuple(OnDevice(one.to(dtype)) for one in output.keys),
        )
        with DeviceCounts() as counts:
            refine_class_maps(moved, OnDevice(torch.rand(4, 2, 4, 4)), num_steps=2)
    assert 0 < counts.launches.total() <= most
    assert not counts.waits


@pytest.mark.parametrize(
    ("variant", "layer"), [(Variant.V2, "head"), (Variant.PLUS, "head"), *((each, "blocks.10.mlp") for each in Variant)]
)
def test_value_that_is_not_finite_anywhere_marks_its_image_and_no_other(variant: Variant, layer: str) -> None:
    """Also that of a class that is not tagged, whose maps stay on the device."""
    model = make_model(variant)
    model.get_submodule(layer).register_forward_hook(spoil_one_value)
    config = make_config("balanced")
    mapper = make_mapper(config, torch.device("cpu"), model=model)
    found = mapper.queue(*make_batch(config, 4))()
    assert [one.is_finite for one in found] == [True, True, False, True]


def test_what_the_model_returns_for_a_view_is_freed_before_the_next_view() -> None:
    """Patch CAMs of all classes, queries and keys: a thousand classes need 200 MB a view and batch."""
    model, kept, num_alive = make_model(), list[Any](), list[int]()
    model.register_forward_pre_hook(lambda *_: num_alive.append(sum(one() is not None for one in kept)))
    model.register_forward_hook(
        lambda _, __, output: kept.extend(map(weakref.ref, [output.patch_cam, output.keys[0], output.class_tokens]))
    )
    config = make_config("best", pixel_refinement=PixelRefinement.NONE)
    mapper = make_mapper(config, torch.device("cpu"), model=model)
    mapper.queue(*make_batch(config, 2))()
    assert num_alive == [0] * 4


@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_pretended_device_finds_what_the_cpu_finds(quality: str) -> None:
    config = make_config(quality)
    batch = make_batch(config, 4)
    expected = make_mapper(config, torch.device("cpu")).queue(*batch)()
    with DeviceCounts():
        found = make_mapper(config, PRETENDED).queue(*batch)()
    for one, other in zip(found, expected, strict=True):
        assert (one.class_ids, one.is_finite, one.is_refined) == (other.class_ids, True, other.is_refined)
        np.testing.assert_allclose(one.grid_maps, other.grid_maps, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(one.presence, other.presence, atol=1e-6)
        # Refined maps travel as integers of 16 bits.
        sizes = [grid.itemsize for grid in one.grids]
        assert sizes == ([2] if one.is_refined else [grid.itemsize for grid in other.grids])
        for values, expected_values in zip(draw_all(one.scale_maps()), draw_all(other.scale_maps()), strict=True):
            np.testing.assert_allclose(values, expected_values, atol=1e-4)

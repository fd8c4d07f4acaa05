"""Operations on batches of images against those of timm and Pillow on single ones, and what they cost a device."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

from pipeline.training.operations import Operation
from pipeline.training.worker.image_operations import FILL_RGB, apply_operations
from tests.factories import make_photo
from tests.images.mapping.pretended_device import CountedTransfers, DeviceCounts, OnDevice

SIDE = 48
APPLY_WITH_TIMM: dict[str, Any] = NAME_TO_OP
TIMM = {
    Operation.AUTO_CONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
    Operation.INVERT: "Invert",
    Operation.ROTATE: "Rotate",
    Operation.POSTERIZE: "Posterize",
    Operation.SOLARIZE: "Solarize",
    Operation.SOLARIZE_ADD: "SolarizeAdd",
    Operation.COLOR: "Color",
    Operation.CONTRAST: "Contrast",
    Operation.BRIGHTNESS: "Brightness",
    Operation.SHARPNESS: "Sharpness",
    Operation.SHEAR_X: "ShearX",
    Operation.SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateXRel",
    Operation.TRANSLATE_Y: "TranslateYRel",
}
POINTWISE = [
    *((operation, 0.0) for operation in (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.INVERT)),
    *((Operation.POSTERIZE, bits) for bits in (1, 4, 7, 8)),
    *((Operation.SOLARIZE, threshold) for threshold in (0, 26, 128, 256)),
    *((Operation.SOLARIZE_ADD, added) for added in (0, 99, 128)),
    *(
        (operation, factor)
        for operation in (Operation.COLOR, Operation.CONTRAST, Operation.BRIGHTNESS, Operation.SHARPNESS)
        for factor in (0.0, 0.19, 0.7, 1.0, 1.3, 1.81)
    ),
]
GEOMETRIC = [
    *((Operation.ROTATE, degrees) for degrees in (-27.0, 8.5)),
    *((operation, share) for operation in (Operation.SHEAR_X, Operation.SHEAR_Y) for share in (-0.27, 0.11)),
    *((operation, share) for operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y) for share in (-0.4, 0.13)),
]


def make_pictures() -> list[Image.Image]:
    """Small photos, a picture of few values, and one of a single value."""
    photos = [Image.open(io.BytesIO(make_photo(seed))).convert("RGB").resize((SIDE, SIDE)) for seed in range(3)]
    ramp = np.linspace(40, 90, SIDE).astype(np.uint8)
    flat = np.broadcast_to(ramp[None, :, None], (SIDE, SIDE, 3))
    return [*photos, Image.fromarray(np.ascontiguousarray(flat)), Image.new("RGB", (SIDE, SIDE), (9, 80, 200))]


def to_batch(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]).contiguous()


def apply_to_all(pictures: list[Image.Image], *layers: tuple[Operation, float]) -> np.ndarray:
    operations = np.array([layers] * len(pictures), np.float32)
    return apply_operations(to_batch(pictures), operations).permute(0, 2, 3, 1).numpy()


def apply_with_timm(picture: Image.Image, operation: Operation, value: float) -> np.ndarray:
    is_whole = operation in (Operation.POSTERIZE, Operation.SOLARIZE, Operation.SOLARIZE_ADD)
    arguments = (
        ()
        if operation in (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.INVERT)
        else (round(value) if is_whole else value,)
    )
    changed = APPLY_WITH_TIMM[TIMM[operation]](
        picture, *arguments, fillcolor=FILL_RGB, resample=Image.Resampling.BICUBIC
    )
    return np.array(changed)


def draw_operations(number: int, num_layers: int = 2) -> np.ndarray:
    """Operations of a batch in which each kind occurs."""
    choices = [*POINTWISE, *GEOMETRIC, (Operation.NONE, 0.0)]
    generator = np.random.default_rng(0)
    order = [generator.permutation(len(choices)) for _ in range(-(-number // len(choices)) * num_layers)]
    places = np.concatenate(order)[: number * num_layers].reshape(number, num_layers)
    return np.array([[choices[place] for place in row] for row in places], np.float32)


def make_noise(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("operation", "value"), POINTWISE)
def test_operation_without_geometry_gives_the_pixels_of_timm(operation: Operation, value: float) -> None:
    pictures = make_pictures()
    for picture, found in zip(pictures, apply_to_all(pictures, (operation, value)), strict=True):
        np.testing.assert_array_equal(found, apply_with_timm(picture, operation, value))


@pytest.mark.parametrize(("operation", "value"), GEOMETRIC)
def test_geometric_operation_gives_nearly_the_pixels_of_timm(operation: Operation, value: float) -> None:
    smooth = [picture.resize((SIDE // 6, SIDE // 6)).resize((SIDE, SIDE)) for picture in make_pictures()]
    for picture, found in zip(smooth, apply_to_all(smooth, (operation, value)), strict=True):
        expected = apply_with_timm(picture, operation, value).astype(int)
        is_filled = (expected == FILL_RGB).all(axis=-1)
        assert 0.02 < is_filled.mean() < 0.5
        assert ((found == FILL_RGB).all(axis=-1) == is_filled).mean() > 0.99
        assert np.abs(found - expected).mean() < 1.0


@pytest.mark.parametrize(("operation", "value"), GEOMETRIC)
def test_geometric_operation_moves_detail_by_a_bicubic_filter_and_rounds(operation: Operation, value: float) -> None:
    picture = Image.fromarray(make_noise(1)[0].permute(1, 2, 0).numpy())
    (found,) = apply_to_all([picture], (operation, value))
    expected, softer = (
        np.array(APPLY_WITH_TIMM[TIMM[operation]](picture, value, fillcolor=FILL_RGB, resample=one), np.float32)
        for one in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
    )
    is_inside = (found != FILL_RGB).any(axis=-1) & (expected != FILL_RGB).any(axis=-1)
    differences, of_softer = (found - expected)[is_inside], (softer - expected)[is_inside]
    assert np.abs(differences).mean() < 0.7 * np.abs(of_softer).mean()
    # Pillow cuts off fractions, half a level in the mean; here values are rounded.
    assert differences.mean() == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(("operation", "value"), GEOMETRIC)
def test_picture_of_one_colour_keeps_it_up_to_its_edge(operation: Operation, value: float) -> None:
    (found,) = apply_to_all([Image.new("RGB", (SIDE, SIDE), (9, 80, 200))], (operation, value))
    assert set(map(tuple, found.reshape(-1, 3).tolist())) == {(9, 80, 200), FILL_RGB}


def test_layers_are_applied_in_their_order() -> None:
    pictures = make_pictures()[:1]
    first, second = (Operation.BRIGHTNESS, 1.6), (Operation.INVERT, 0.0)
    brightened = Image.fromarray(apply_with_timm(pictures[0], *first))
    np.testing.assert_array_equal(apply_to_all(pictures, first, second)[0], apply_with_timm(brightened, *second))


def test_image_does_not_depend_on_the_others_of_its_batch() -> None:
    images, operations = make_noise(60), draw_operations(60)
    whole = apply_operations(images, operations)
    assert not torch.equal(whole, images)
    for size in (1, 7):
        parts = [
            apply_operations(images[start : start + size], operations[start : start + size])
            for start in range(0, 60, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_images_given_are_not_changed() -> None:
    images = make_noise(20)
    before = images.clone()
    apply_operations(images, draw_operations(20))
    assert torch.equal(images, before)


def test_launches_do_not_grow_with_the_batch_and_nothing_waits_for_the_device() -> None:
    def count(number: int) -> Any:
        images, operations = OnDevice(make_noise(number)), draw_operations(number)
        with DeviceCounts() as counts:
            found = apply_operations(images, operations, upload=CountedTransfers().upload)
        assert isinstance(found, OnDevice)
        assert torch.equal(found.held, apply_operations(images.held, operations))
        return counts

    small, large = count(60), count(180)
    assert not small.waits
    assert (small.num_uploads, large.num_uploads) == (1, 1)
    assert 0 < small.launches.total() <= 300
    assert large.launches == small.launches

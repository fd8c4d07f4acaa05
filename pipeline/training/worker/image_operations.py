"""Operations that vary the images of a batch, on the device that trains.

Images with the same kind of operation are changed together, so the number of launches depends on the kinds and not on
the batch. Nothing waits for the device, to which all that it needs is copied at once. An image does not depend on the
others of its batch. Results are those of timm and Pillow: equal pixels, except of geometric operations, for which
PyTorch's bicubic filter is a little softer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor
from torch.nn import functional

from pipeline.training.operations import Operation

FILL_RGB = (124, 116, 104)
"""Colour of the pixels that a geometric operation leaves empty: the mean of ImageNet, as timm fills them."""
CPU_BATCH = 4
"""Images that a CPU changes together: their intermediate values fit its cache."""
GREY_WEIGHTS = (19595, 38470, 7471)
"""Of red, green and blue, in units of 1 / 65536; Pillow's conversion to grey."""
SMOOTH_CENTRE, SMOOTH_SUM = 5, 13
"""Weight of the middle in Pillow's 3 x 3 filter for sharpness, where its neighbours have 1, and sum of all weights."""

ALIGNMENT = 8
"""Bytes of the largest number that is copied to the device."""

Upload = Callable[[np.ndarray], Tensor]
"""Copies an array to the device without waiting for it."""

LEVELS = np.arange(256)
FIXED_TABLES: dict[Operation, Callable[[np.ndarray], np.ndarray]] = {
    Operation.INVERT: lambda unused: 255 - LEVELS + 0 * unused,
    Operation.POSTERIZE: lambda bits: LEVELS & ~(2 ** (8 - bits.astype(int)) - 1),
    Operation.SOLARIZE: lambda threshold: np.where(threshold > LEVELS, LEVELS, 255 - LEVELS),
    Operation.SOLARIZE_ADD: lambda added: np.where(LEVELS < 128, np.minimum(LEVELS + added, 255), LEVELS),
    Operation.BRIGHTNESS: lambda factor: np.clip(factor * LEVELS.astype(np.float32), 0, 255),
}
"""New values of the values 0 to 255, by the arguments "n 1" of n images."""
GEOMETRIC = (
    Operation.ROTATE,
    Operation.SHEAR_X,
    Operation.SHEAR_Y,
    Operation.TRANSLATE_X,
    Operation.TRANSLATE_Y,
)


def apply_operations(
    images: UInt8[Tensor, "b 3 s s"], operations: Float32[np.ndarray, "b l 2"], upload: Upload | None = None
) -> UInt8[Tensor, "b 3 s s"]:
    """Apply the operations of each image, one layer after the other.

    Args:
        images: On any device; not changed.
        operations: An `Operation` and its argument for each image and layer, on the host.
        upload: Called once with all that the device needs; None: an asynchronous copy from pinned memory.

    Returns:
        Images on the same device.
    """
    if not operations[:, :, 0].any():
        return images
    size = CPU_BATCH if images.device.type == "cpu" else len(images)
    steps = [
        step
        for start in range(0, len(images), size)
        for layer in range(operations.shape[1])
        for step in _plan_layer(operations[start : start + size, layer], start)
    ]
    arrays = [array for step in steps for array in (step.places, step.settings)]
    on_device = iter(_send(arrays, upload or _make_upload(images.device)))
    images = images.clone()
    for step in steps:
        index, settings = next(on_device), next(on_device)
        images.index_copy_(0, index, step.kind.change(images.index_select(0, index), settings))
    return images


class _Step(NamedTuple):
    """Images that one function changes together."""

    kind: "Kind"
    places: Int[np.ndarray, " n"]
    settings: np.ndarray


def _plan_layer(operations: Float32[np.ndarray, "n 2"], start: int) -> Iterator[_Step]:
    """Plan an operation on each of some images, which begin at the place `start`."""
    codes, values = operations[:, 0].astype(int), operations[:, 1]
    for kind in KINDS:
        chosen = np.flatnonzero(np.isin(codes, kind.operations))
        if len(chosen):
            yield _Step(kind, chosen + start, kind.prepare(codes[chosen], values[chosen]))


def _make_upload(device: torch.device) -> Upload:
    """Make the function that copies an array to a device; the host does not wait for what a GPU still computes."""

    def upload(values: np.ndarray) -> Tensor:
        on_host = torch.from_numpy(values)
        # From other memory than pinned one, a copy waits.
        return on_host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else on_host.to(device)

    return upload


def _send(arrays: Sequence[np.ndarray], upload: Upload) -> Iterator[Tensor]:
    """Copy arrays to the device in one piece, and take it apart there."""
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)])
    packed = np.zeros(starts[-1], np.uint8)
    for array, start in zip(arrays, starts, strict=False):
        packed[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    on_device = upload(packed)
    for array, start in zip(arrays, starts.tolist(), strict=False):
        kind = torch.from_numpy(array[:0]).dtype
        yield on_device[start : start + array.nbytes].view(kind).view(array.shape)


def _make_fixed_tables(codes: Int[np.ndarray, " n"], values: Float32[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 1 256"]:
    tables = np.empty((len(codes), 1, 256), np.uint8)
    for operation, make_tables in FIXED_TABLES.items():
        chosen = codes == operation
        tables[chosen, 0] = make_tables(values[chosen, None]).astype(np.uint8)
    return tables


def _look_up(images: UInt8[Tensor, "n 3 s s"], tables: UInt8[Tensor, "n _ 256"]) -> UInt8[Tensor, "n 3 s s"]:
    """Replace each value by that of its image's table: one for each channel, or one for all."""
    starts = torch.arange(0, tables.numel(), 256, dtype=torch.int32, device=images.device)
    index = images + starts.view(tables.shape[0], tables.shape[1], 1, 1)
    return tables.flatten().index_select(0, index.flatten()).view_as(images)


def _stretch(images: UInt8[Tensor, "n 3 s s"], _: Tensor) -> UInt8[Tensor, "n 3 s s"]:
    """Stretch the values of each channel to 0 to 255; a channel of one value stays."""
    low, high = (edge.double()[:, :, None] for edge in images.flatten(2).aminmax(dim=2))
    levels = torch.arange(256, device=images.device)
    # Not 255 / (high - low), which PyTorch computes by the reciprocal.
    scale = torch.full_like(low, 255) / (high - low)
    stretched = (levels * scale - low * scale).clamp(0, 255)
    return _look_up(images, torch.where(high > low, stretched, levels).to(torch.uint8))


def _equalize(images: UInt8[Tensor, "n 3 s s"], _: Tensor) -> UInt8[Tensor, "n 3 s s"]:
    """Spread the values of each channel so that all are about equally frequent."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones((), dtype=torch.long, device=images.device).expand_as(pixels))
    last = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    spread = ((step // 2 + below) // step.clamp_min(1)).clamp_max(255)
    levels = torch.arange(256, device=images.device)
    return _look_up(images, torch.where(step > 0, spread, levels).to(torch.uint8))


def _change_contrast(images: UInt8[Tensor, "n 3 s s"], factors: Float[Tensor, " n"]) -> UInt8[Tensor, "n 3 s s"]:
    sums = _make_grey(images).flatten(1).sum(1)
    mean = (sums.double() / images.shape[-1] ** 2 + 0.5).floor().float()
    levels = torch.arange(256, dtype=torch.float32, device=images.device)
    return _look_up(images, _blend(mean[:, None, None], levels, factors[:, None, None]))


def _change_color(images: UInt8[Tensor, "n 3 s s"], factors: Float[Tensor, " n"]) -> UInt8[Tensor, "n 3 s s"]:
    return _blend(_make_grey(images).float()[:, None], images, factors[:, None, None, None])


def _change_sharpness(images: UInt8[Tensor, "n 3 s s"], factors: Float[Tensor, " n"]) -> UInt8[Tensor, "n 3 s s"]:
    pixels = images.short()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + (SMOOTH_CENTRE - 1) * pixels[..., 1:-1, 1:-1]
    # Pixels at the edge stay as they are.
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = (sums / SMOOTH_SUM + 0.5).floor_()
    return _blend(smooth, images, factors[:, None, None, None])


def _make_grey(images: UInt8[Tensor, "n 3 s s"]) -> Int[Tensor, "n s s"]:
    red, green, blue = (images[:, channel].int() * weight for channel, weight in enumerate(GREY_WEIGHTS))
    return (red + green + blue + 2**15) >> 16


def _blend(origin: Tensor, values: Tensor, factors: Tensor) -> UInt8[Tensor, "..."]:
    """Move values away from an origin by a factor; like Pillow, without rounding."""
    return ((values - origin) * factors).add_(origin).clamp_(0, 255).to(torch.uint8)


def _make_matrices(codes: Int[np.ndarray, " n"], values: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "n 2 3"]:
    """Make the maps from places of the result to places of the image; both have coordinates from -1 to 1."""
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(codes), 1, 1))
    for matrix, code, value in zip(matrices, codes, values.tolist(), strict=True):
        if code == Operation.ROTATE:
            cosine, sine = np.cos(np.radians(value)), np.sin(np.radians(value))
            matrix[:, :2] = (cosine, -sine), (sine, cosine)
        # Rows and columns are counted from the upper left corner.
        elif code == Operation.SHEAR_X:
            matrix[0, 1:] = value
        elif code == Operation.SHEAR_Y:
            matrix[1] = value, 1, value
        elif code == Operation.TRANSLATE_X:
            matrix[0, 2] = 2 * value
        elif code == Operation.TRANSLATE_Y:
            matrix[1, 2] = 2 * value
    return matrices


def _transform(images: UInt8[Tensor, "n 3 s s"], matrices: Float[Tensor, "n 2 3"]) -> UInt8[Tensor, "n 3 s s"]:
    """Rotate, shear and translate images, with a bicubic filter."""
    side = images.shape[-1]
    centres = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
    x, y = centres[None, None, :], centres[None, :, None]
    across, down, offset = matrices[:, :, :, None, None].unbind(2)
    # Written out: a product of matrices may round differently in a batch of another size.
    places = across * x[:, None] + down * y[:, None] + offset
    grid = places.permute(0, 2, 3, 1)
    moved = functional.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    is_outside = (places.abs() >= 1).any(dim=1)
    for channel, value in enumerate(FILL_RGB):
        moved[:, channel].masked_fill_(is_outside, value)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


class Kind(NamedTuple):
    """Operations that one function applies."""

    operations: tuple[Operation, ...]
    change: Callable[[Tensor, Tensor], Tensor]
    """Changes images by their settings, on the device."""
    prepare: Callable[[np.ndarray, np.ndarray], np.ndarray[Any, Any]] = lambda codes, values: values
    """Makes the settings of images from their operations and arguments, on the host."""


KINDS = (
    Kind(tuple(FIXED_TABLES), _look_up, _make_fixed_tables),
    Kind((Operation.AUTO_CONTRAST,), _stretch),
    Kind((Operation.EQUALIZE,), _equalize),
    Kind((Operation.CONTRAST,), _change_contrast),
    Kind((Operation.COLOR,), _change_color),
    Kind((Operation.SHARPNESS,), _change_sharpness),
    Kind(GEOMETRIC, _transform, _make_matrices),
)

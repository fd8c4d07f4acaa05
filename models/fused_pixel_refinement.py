"""Pixel refinement as kernels of Triton, which comes with PyTorch on machines with a GPU.

Import this module only where Triton is installed; `models.pixel_refinement` chooses between the two forms.

Weights are computed again in every round from the colours and are never stored. Stored, the 48 weights of a pixel are
192 bytes, read in every round: 106 MB for an image of 224 x 224 pixels and 10 rounds, 40 us at 2.7 TB/s and 350 us at
the 0.3 TB/s of an L4. Computed, a round reads the colours, their scale and the maps, which the caches hold: about 30 us
of arithmetic on an H100 and 50 us on an L4 (estimates), without memory that grows with the neighbours.
"""

# Triton's compiler reads annotations, and knows none but its own.
# ruff: noqa: ANN001, ANN201, ANN202, N803

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from models import pixel_refinement

TILE_SIZE = (16, 32)
"""Height and width of the pixels of a program. Flat tiles would share fewer of the rows above and below."""
NUM_WARPS = 8

DILATIONS = tl.constexpr(pixel_refinement.DILATIONS)
NUM_DILATIONS = tl.constexpr(len(pixel_refinement.DILATIONS))
NUM_DIRECTIONS = tl.constexpr(len(pixel_refinement.DIRECTIONS))
NUM_NEIGHBOURS = tl.constexpr(pixel_refinement.NUM_NEIGHBOURS)
DOWN = tl.constexpr(tuple(down for down, _ in pixel_refinement.DIRECTIONS))
RIGHT = tl.constexpr(tuple(right for _, right in pixel_refinement.DIRECTIONS))
IS_DIAGONAL = tl.constexpr(tuple(down != 0 and right != 0 for down, right in pixel_refinement.DIRECTIONS))
STRAIGHT = tl.constexpr(tuple(pixel_refinement.weigh_distances()[:, 1].tolist()))
"""Weight by distance of a neighbour in the same row or column, by dilation."""
DIAGONAL = tl.constexpr(tuple(pixel_refinement.weigh_distances()[:, 0].tolist()))
"""The same of the others."""
COLOUR_SCALE = tl.constexpr(pixel_refinement.COLOUR_SCALE)
MIN_COLOUR_STD = tl.constexpr(pixel_refinement.MIN_COLOUR_STD)
POSITION_WEIGHT = tl.constexpr(pixel_refinement.POSITION_WEIGHT)


@torch.no_grad()
def refine_fused(
    class_maps: Float[Tensor, "b k h w"],
    image_rgb: Float[Tensor, "b 3 h w"],
    num_iterations: int,
    tile_size: tuple[int, int] = TILE_SIZE,
) -> Float[Tensor, "b k h w"]:
    """Refine float32 maps as `pixel_refinement.refine_by_pixels` does: one launch, and one for each round.

    Beside the result, memory is taken for one more set of maps and for three numbers a pixel.

    Args:
        class_maps: Float32, on a GPU.
        image_rgb: Float32, in any memory format.
        num_iterations: Rounds of averaging.
        tile_size: Height and width of the pixels of a program, powers of 2. It changes the speed alone.
    """
    if class_maps.numel() == 0 or num_iterations == 0:
        return class_maps
    b, k, h, w = class_maps.shape
    maps = class_maps.contiguous()
    scale = torch.empty((b, 3, h, w), device=maps.device)
    tiles = (triton.cdiv(w, tile_size[1]), triton.cdiv(h, tile_size[0]))
    num_maps = pixel_refinement.choose_block(k)
    shared: dict[str, Any] = {"TILE_HEIGHT": tile_size[0], "TILE_WIDTH": tile_size[1], "num_warps": NUM_WARPS}
    # Triton launches on the current device.
    with torch.cuda.device_of(maps):
        compute_scale[(*tiles, b)](image_rgb, scale, h, w, *image_rgb.stride(), **shared)
        for _ in range(num_iterations):
            mixed = torch.empty_like(maps)
            average_neighbours[(*tiles, b * triton.cdiv(k, num_maps))](
                maps, image_rgb, scale, mixed, k, h, w, *image_rgb.stride(), NUM_MAPS=num_maps, **shared
            )
            maps = mixed
    return maps


@triton.jit
@no_type_check
def compute_scale(
    image,
    scale,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    TILE_HEIGHT: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
):
    """Store the inverse of the scaled standard deviation of the neighbours' colours, by channel."""
    row, column, is_inside = _find_pixels(height, width, TILE_HEIGHT, TILE_WIDTH)
    batch_index = tl.program_id(2).to(tl.int64)
    for channel in tl.static_range(3):
        colours = image + batch_index * image_stride + channel * channel_stride
        own = tl.load(colours + row * row_stride + column * column_stride)
        total = tl.zeros([1, TILE_HEIGHT * TILE_WIDTH], tl.float32)
        squares = tl.zeros([1, TILE_HEIGHT * TILE_WIDTH], tl.float32)
        for index in range(NUM_DILATIONS):
            dilation = _choose(index, DILATIONS)
            for direction in tl.static_range(NUM_DIRECTIONS):
                at_row = tl.minimum(tl.maximum(row + dilation * DOWN[direction], 0), height - 1)
                at_column = tl.minimum(tl.maximum(column + dilation * RIGHT[direction], 0), width - 1)
                difference = tl.load(colours + at_row * row_stride + at_column * column_stride) - own
                total += difference
                squares += difference * difference
        variance = (squares - total * total / NUM_NEIGHBOURS) / (NUM_NEIGHBOURS - 1)
        std = tl.maximum(tl.sqrt(tl.maximum(variance, 0.0)), MIN_COLOUR_STD)
        to = scale + ((batch_index * 3 + channel) * height + row) * width + column
        tl.store(to, 1 / (std * COLOUR_SCALE), mask=is_inside)


@triton.jit
@no_type_check
def average_neighbours(
    maps,
    image,
    scale,
    mixed,
    num_maps,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    NUM_MAPS: tl.constexpr,
    TILE_HEIGHT: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
):
    """Store the weighted mean of the neighbours for up to NUM_MAPS maps of an image.

    The softmax runs along: sums are rescaled whenever a neighbour is closer in colour than all before. So the weights
    sum to 1 however the compiler rounds, also where differences are a million standard deviations.
    """
    row, column, is_inside = _find_pixels(height, width, TILE_HEIGHT, TILE_WIDTH)
    num_groups = tl.cdiv(num_maps, NUM_MAPS)
    batch_index = (tl.program_id(2) // num_groups).to(tl.int64)
    map_index = (tl.program_id(2) % num_groups) * NUM_MAPS + tl.arange(0, NUM_MAPS)[:, None]
    has_map = map_index < num_maps
    map_offset = (batch_index * num_maps + map_index) * height * width

    red = image + batch_index * image_stride
    green, blue = red + channel_stride, red + 2 * channel_stride
    here = row * row_stride + column * column_stride
    own_red, own_green, own_blue = tl.load(red + here), tl.load(green + here), tl.load(blue + here)
    red_scale = scale + batch_index * 3 * height * width + row * width + column
    per_red = tl.load(red_scale)
    per_green, per_blue = tl.load(red_scale + height * width), tl.load(red_scale + 2 * height * width)

    closest = tl.full([1, TILE_HEIGHT * TILE_WIDTH], float("-inf"), tl.float32)
    total = tl.zeros([1, TILE_HEIGHT * TILE_WIDTH], tl.float32)
    by_colour = tl.zeros([NUM_MAPS, TILE_HEIGHT * TILE_WIDTH], tl.float32)
    by_distance = tl.zeros([NUM_MAPS, TILE_HEIGHT * TILE_WIDTH], tl.float32)
    for index in range(NUM_DILATIONS):
        dilation = _choose(index, DILATIONS)
        straight, diagonal = _choose(index, STRAIGHT), _choose(index, DIAGONAL)
        for direction in tl.static_range(NUM_DIRECTIONS):
            at_row = tl.minimum(tl.maximum(row + dilation * DOWN[direction], 0), height - 1)
            at_column = tl.minimum(tl.maximum(column + dilation * RIGHT[direction], 0), width - 1)
            there = at_row * row_stride + at_column * column_stride
            off_red = (tl.load(red + there) - own_red) * per_red
            off_green = (tl.load(green + there) - own_green) * per_green
            off_blue = (tl.load(blue + there) - own_blue) * per_blue
            closeness = (off_red * off_red + off_green * off_green + off_blue * off_blue) / -3.0
            values = tl.load(maps + map_offset + (at_row * width + at_column), mask=has_map, other=0.0)
            # Of the old sums and the new neighbour the closer one has weight 1.
            lesser = tl.exp(-tl.abs(closeness - closest))
            is_closer = closeness > closest
            kept, weight = tl.where(is_closer, lesser, 1.0), tl.where(is_closer, 1.0, lesser)
            total = total * kept + weight
            by_colour = by_colour * kept + values * weight
            by_distance += values * (diagonal if IS_DIAGONAL[direction] else straight)
            closest = tl.maximum(closest, closeness)
    mean = (by_colour / total + by_distance * POSITION_WEIGHT) / (1 + POSITION_WEIGHT)
    tl.store(mixed + map_offset + (row * width + column), mean, mask=has_map & is_inside)


@triton.jit
@no_type_check
def _find_pixels(height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Rows and columns of the pixels of this program, and which are of the image; others repeat its last ones."""
    place = tl.arange(0, TILE_HEIGHT * TILE_WIDTH)[None, :]
    row = tl.program_id(1) * TILE_HEIGHT + place // TILE_WIDTH
    column = tl.program_id(0) * TILE_WIDTH + place % TILE_WIDTH
    is_inside = (row < height) & (column < width)
    return tl.minimum(row, height - 1), tl.minimum(column, width - 1), is_inside


@triton.jit
@no_type_check
def _choose(index, values: tl.constexpr):
    """Choose a constant at run time. Loops over dilations are not unrolled, which compiles 10 times as fast."""
    chosen = values[0]
    for place in tl.static_range(1, NUM_DILATIONS):
        chosen = tl.where(index == place, values[place], chosen)
    return chosen

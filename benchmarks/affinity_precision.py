"""What does the affinity in bfloat16 move? Masks of photos by three forms of it, of the same queries and keys.

    python -m benchmarks.affinity_precision --model MODEL --shards 'eval-*.tar' --vocabulary vocabulary.json

The model runs under bfloat16 autocast, on the CPU as on a GPU. Its maps are then spread in float32, as labelling does
(each map split into a bfloat16 part and what that lacks), and rounded only. Masks are those of `balanced`, of an image
and its mirror image. A last row has the masks of the whole model in float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from jobs.qualities import QUALITIES
from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer
from models.output import MCTformerOutput
from pipeline.bundles import load_bundle
from pipeline.images.drawing.draw import draw_mask
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.mapping.views import list_views, make_view, return_to_frame
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.labelling.prepare import ReadyImage, SamplePreparer
from pipeline.run.config import LabelConfig, settle_config
from pipeline.run.records import Chunk
from pipeline.run.vocabulary import load_vocabulary


@dataclass(frozen=True)
class Benchmark:
    """Compare masks by the form of the affinity."""

    model: str
    """Bundle."""
    vocabulary: str
    """Vocabulary of the model."""
    shards: str
    """Photos with tags."""
    most_photos: int = 1000
    """Photos at most."""


def spread_in_float32(output: MCTformerOutput, maps: Tensor, num_steps: int) -> Tensor:
    """Spread maps with queries and keys converted to float32."""
    queries, keys = (tuple(layer.float() for layer in layers) for layers in (output.queries, output.keys))
    return refine_class_maps(output._replace(queries=queries, keys=keys), maps, num_steps=num_steps)


def spread_as_labelling(output: MCTformerOutput, maps: Tensor, num_steps: int) -> Tensor:
    """Spread maps as labelling does it."""
    return refine_class_maps(output, maps, num_steps=num_steps)


def spread_rounded(
    output: MCTformerOutput, maps: Float[Tensor, "b k gh gw"], num_steps: int
) -> Float[Tensor, "b k gh gw"]:
    """Spread maps that are rounded to bfloat16 before each step."""
    queries, keys = torch.cat(output.queries, 1), torch.cat(output.keys, 1)
    flat, num_classes = maps.flatten(2).transpose(1, 2), maps.shape[1]
    values = torch.zeros_like(keys)
    for _ in range(num_steps):
        values[:, :, -flat.shape[1] :, :num_classes] = flat[:, None]
        spread = functional.scaled_dot_product_attention(queries[:, :, -flat.shape[1] :], keys, values)
        flat = spread[..., :num_classes].mean(1, dtype=torch.float32) * len(output.queries)
    return flat.transpose(1, 2).unflatten(-1, output.grid)


FORMS: dict[str, Callable[[MCTformerOutput, Tensor, int], Tensor]] = {
    "float32": spread_in_float32,
    "as labelling": spread_as_labelling,
    "rounded": spread_rounded,
}
WHOLE_MODEL = "model in float32"


def read_photos(job: Benchmark, preparer: SamplePreparer, config: LabelConfig) -> Iterator[ReadyImage]:
    """Read and decode photos."""
    for shard in list_shards([job.shards]):
        for piece in read_chunks(shard, config.inputs):
            for position, sample in enumerate(piece.samples if isinstance(piece, Chunk) else ()):
                image = preparer.prepare(position, sample)
                if isinstance(image, ReadyImage):
                    yield image


@torch.inference_mode()
def compute_grids(
    model: MCTformer, photo: ReadyImage, pixels: Float[Tensor, "1 3 h w"], config: LabelConfig
) -> dict[str, Float[np.ndarray, "k gh gw"]]:
    """Compute the maps of a photo by each form, summed over views."""
    index = torch.tensor([photo.class_ids]) - 1
    sums: dict[str, Tensor] = {}
    for view in list_views(config.views):
        images = make_view(pixels, view, model.config.patch_size)
        full = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            fast = model(images)
        cases = [(WHOLE_MODEL, full, spread_in_float32), *((name, fast, form) for name, form in FORMS.items())]
        for name, output, form in cases:
            evidence = compute_evidence(output, model.config.variant, index, fusion=config.maps.fusion)
            maps = form(output, evidence.fused, config.maps.affinity_steps)
            sums[name] = sums.get(name, 0) + return_to_frame(maps, view, output.grid)
    return {name: maps[0].numpy() for name, maps in sums.items()}


def draw(grid: Float[np.ndarray, "k gh gw"], photo: ReadyImage, config: LabelConfig) -> np.ndarray:
    """Draw the mask of a photo."""
    maps = GridMaps([grid], photo.upright_size).scale_min_max()
    return draw_mask(maps, photo.class_ids, np.ones(len(grid)), config.maps).mask


def run(job: Benchmark) -> None:
    """Print the share of pixels whose label changes, and the largest change of a map."""
    model, bundle, _ = load_bundle(job.model)
    config = settle_config(QUALITIES["balanced"](), model.config.grid_side)
    preparer = SamplePreparer(
        config=config, vocabulary=load_vocabulary(job.vocabulary), patch_size=model.config.patch_size
    )
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (bundle.input_mean, bundle.input_std))
    names = [*FORMS, WHOLE_MODEL]
    moved, changes, num_pixels, num_photos = dict.fromkeys(names, 0), {name: list[float]() for name in names}, 0, 0
    for photo in read_photos(job, preparer, config):
        if num_photos == job.most_photos:
            break
        pixels = (torch.from_numpy(photo.frame).permute(2, 0, 1)[None].float() / 255 - mean) / std
        grids = compute_grids(model, photo, pixels, config)
        masks = {name: draw(grid, photo, config) for name, grid in grids.items()}
        expected = grids["float32"]
        for name in names:
            moved[name] += int((masks[name] != masks["float32"]).sum())
            changes[name].append(float(abs(grids[name] - expected).max() / expected.max()))
        num_photos, num_pixels = num_photos + 1, num_pixels + masks["float32"].size
    print(f"{num_photos} photos, pixels that differ from those of the affinity in float32")
    for name in names:
        share, median, worst = moved[name] / num_pixels, np.median(changes[name]), max(changes[name])
        print(f"{name:>18}: {share:.3%} of pixels; of a map's peak {median:.2g} (median), {worst:.2g} (worst)")


if __name__ == "__main__":
    run(tyro.cli(Benchmark))

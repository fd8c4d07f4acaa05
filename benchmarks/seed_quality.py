"""How good are the class maps of a model, by evidence, refinement and resolution? Uses photos with true masks.

    python -m benchmarks.seed_quality --models v2/bundle ours/bundle --vocabulary vocabulary.json \
        --shards 'eval-*.tar' --truth truth --num-patches 196 400 784

Class maps from clean tags, of one scale and its flip, are scaled to [0, 1] per class. A pixel gets the best class if
its value exceeds a threshold t, else background. The table shows the best mIoU over t = 0, 0.01 .. 0.99. This t is
chosen with the true masks, so the figure is an upper bound for a run without them.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from models.attention import compute_class_to_patch
from models.class_maps import ATTENTION_LAYERS, refine_class_maps, scale_min_max, take_classes
from models.mctformer import MCTformer
from pipeline.bundles import load_bundle
from pipeline.evaluation.scores import EvaluationCounts, count_best, make_empty_counts, score_curve
from pipeline.evaluation.truth import decode_truth, open_truth
from pipeline.images.decode import DecodedImage, decode_image
from pipeline.images.frames import choose_grid, normalise, resize_rgb
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.class_names import settle_inputs
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk
from pipeline.run.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Score the class maps of models against true masks."""

    models: tuple[str, ...]
    """Model bundles."""
    vocabulary: str
    """Vocabulary of the models."""
    shards: tuple[str, ...]
    """Shards of the photos, which must not have an EXIF rotation."""
    truth: str
    """Folder or tar of true masks."""
    num_patches: tuple[int, ...] = (196,)
    """Resolutions, in patches per image."""
    class_numbers: str | None = None
    """What numbers in place of tags mean: zero-based, one-based or names:FILE."""
    every: int = 1
    """Use every n-th photo."""


class Photo(NamedTuple):
    """A photo with its true mask."""

    image_rgb: UInt8[np.ndarray, "h w 3"]
    class_ids: tuple[int, ...]
    truth: UInt8[np.ndarray, "h w"]


def read_photos(job: Benchmark, vocabulary: Vocabulary) -> Iterator[Photo]:
    """Read the photos that have known tags and a true mask; print how many of the others there are."""
    find_truth = open_truth(job.truth)
    config = settle_inputs(InputConfig(class_numbers=job.class_numbers), vocabulary)
    left_out: Counter[str] = Counter()
    pieces = (piece for shard in list_shards(job.shards) for piece in read_chunks(shard, config))
    samples = [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]
    for sample in samples[:: job.every]:
        payload = find_truth(sample.key)
        decoded = decode_image(sample.image, max_pixels=config.max_image_pixels) if sample.image else None
        matched = vocabulary.match(sample.tags, sample.class_numbers, first_number=config.first_class_number)
        class_ids = matched.class_ids
        if payload is None or not isinstance(decoded, DecodedImage) or not class_ids:
            causes = (
                (payload is None, "no true mask"),
                (not isinstance(decoded, DecodedImage), "no readable image"),
                (bool(sample.tags_error), "unreadable tags, such as numbers without --class-numbers"),
            )
            left_out[next((cause for holds, cause in causes if holds), "no known tag")] += 1
            continue
        truth = decode_truth(payload, sample.key, decoded.image_rgb.shape[:2], len(vocabulary.classes))
        yield Photo(decoded.image_rgb, tuple(class_ids), truth)
    for cause, number in left_out.most_common():
        print(f"left out {number} photos: {cause}")


@torch.inference_mode()
def find_maps(model: MCTformer, images: Tensor, class_ids: tuple[int, ...]) -> dict[str, Tensor]:
    """Class maps of every kind, each `2 k gh gw`, from an image and its flip."""
    output = model(torch.cat([images, images.flip(-1)]))
    index = torch.tensor([class_ids, class_ids], device=images.device) - 1
    layers = min(ATTENTION_LAYERS[model.config.variant], model.config.depth)
    attention = compute_class_to_patch(output, layers, index)
    maps = {"class attention": attention}
    if output.patch_cam is not None:
        cam = take_classes(output.patch_cam, index).relu()
        maps |= {"patch CAM": cam, "attention x CAM": attention * cam, "square root of it": (attention * cam).sqrt()}
    return maps | {f"{kind}, refined": refine_class_maps(output, seen) for kind, seen in maps.items()}


def count_photo(photo: Photo, maps: Tensor, num_classes: int) -> EvaluationCounts:
    """Confusion counts of a photo at every threshold."""
    enlarged = functional.interpolate(maps, size=photo.truth.shape, mode="bilinear", align_corners=False)
    joined = scale_min_max(enlarged[:1] + enlarged[1:].flip(-1))[0]
    best, place = joined.max(0)
    best_class = np.asarray(photo.class_ids, np.int64)[place.cpu().numpy()]
    histogram = count_best(photo.truth, best.cpu().numpy(), best_class, num_classes)
    return replace(make_empty_counts(num_classes), histogram=histogram, num_images=1)


def score_model(model_uri: str, photos: list[Photo], num_patches: int, num_classes: int) -> dict[str, EvaluationCounts]:
    """Confusion counts of all photos, by kind of class map."""
    model, bundle, _ = load_bundle(model_uri)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    counts: dict[str, EvaluationCounts] = defaultdict(lambda: make_empty_counts(num_classes))
    for photo in photos:
        height, width = photo.truth.shape
        rows, columns = choose_grid(height, width, num_patches)
        side = model.config.patch_size
        pixels = resize_rgb(photo.image_rgb, (rows * side, columns * side))
        images = normalise(
            torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(device), bundle.input_mean, bundle.input_std
        )
        for kind, maps in find_maps(model, images, photo.class_ids).items():
            counts[kind] = counts[kind].merge(count_photo(photo, maps, num_classes))
    return counts


def main() -> None:
    """Print a line per model, resolution and kind of class map, then the best of each model by class."""
    job = tyro.cli(Benchmark, description=__doc__)
    vocabulary = load_vocabulary(job.vocabulary)
    photos = list(read_photos(job, vocabulary))
    print(f"{len(photos)} photos, best mIoU over thresholds, torch {torch.__version__}")
    print(f"{'model':40} {'patches':>7} {'evidence':28} {'mIoU':>6} {'at':>5}")
    for model_uri in job.models:
        lines = []
        for num_patches in job.num_patches:
            for kind, counts in score_model(model_uri, photos, num_patches, len(vocabulary.classes)).items():
                curve = score_curve(counts)
                at = max(range(len(curve)), key=lambda index: curve[index].mean_iou)
                lines.append((curve[at], num_patches, kind))
                print(
                    f"{model_uri[-40:]:40} {num_patches:7} {kind:28} {100 * curve[at].mean_iou:6.1f} "
                    f"{at / len(curve):5.2f}"
                )
                sys.stdout.flush()
        best, num_patches, kind = max(lines, key=lambda line: line[0].mean_iou)
        by_class = ", ".join(
            f"{name} {100 * iou:.1f}" for name, iou in zip(("background", *vocabulary.classes), best.iou, strict=True)
        )
        print(f"{model_uri[-40:]:40} best: {kind} at {num_patches} patches, {100 * best.mean_iou:.1f}: {by_class}")


if __name__ == "__main__":
    main()

"""How many images must be looked at, worst first, to find 80 % of the bad masks? Uses true masks.

    python -m benchmarks.review_order --labels masks --truth truth

`--labels` is a run with `--maps.keep-maps` and one threshold (background equal to foreground). An image is bad if its
IoU (mean over the classes in mask or truth) is below 0.5. Orders that compete:

- quality, the column of the manifest;
- cleanlab's segmentation scores (`cleanlab.segmentation.rank.get_label_quality_scores`, both methods) of the masks as
  labels and of the kept class maps as `pred_probs`. Class maps are no probabilities, so two ways to make some of them
  are tried: the background is the threshold, or one minus the highest map; then all are divided by their sum;
- random order (its mean is exact) and the best order, which knows the truth.

In brackets: the 2.5 % and 97.5 % quantiles over images drawn again with replacement. Then follow the bad masks that
`quality` finds last, and what is wrong with their worst class.
"""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cleanlab
import numpy as np
import torch
import tyro
from cleanlab.segmentation.rank import get_label_quality_scores
from jaxtyping import Bool, Float, Int, UInt8

from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.evaluation.evaluate import evaluate_manifest
from pipeline.evaluation.quality_ranks import ScoredImage
from pipeline.evaluation.review_effort import BAD_IOU, FOUND_FRACTION, count_to_find, count_wanted
from pipeline.evaluation.truth import FindTruth, decode_truth, open_truth
from pipeline.images.masks import decode_class_maps, decode_mask
from pipeline.images.orientation import turn_upright
from pipeline.images.pixel_maps import resize_maps
from pipeline.run.records import IGNORE_LABEL
from pipeline.run.run_file import read_config, read_run

SIDE_PX = 128
"""Sides to which masks and maps are resized for cleanlab, which takes images of one size."""
NUM_DRAWS = 1000
METHODS = ("softmin", "num_pixel_issues")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Count the images to look at in several orders."""

    labels: str
    """Labelling run with kept maps."""
    truth: str
    """Folder or tar of true masks."""
    bad_iou: float = BAD_IOU
    """An image is bad if its IoU is below."""
    found_fraction: float = FOUND_FRACTION
    """Share of the bad images to find."""
    num_missed: int = 20
    """Bad images that quality finds last, to list."""


class Labels(NamedTuple):
    """Masks and class maps of all scored images, as cleanlab takes them."""

    masks: Int[np.ndarray, "n side side"]
    pred_probs: dict[str, Float[np.ndarray, "n c_plus_1 side side"]]
    """By the way in which they are made of class maps."""


def make_probabilities(
    maps: Float[np.ndarray, "k side side"], class_ids: list[int], num_classes: int, threshold: float
) -> dict[str, Float[np.ndarray, "c_plus_1 side side"]]:
    """Make probabilities of class maps in two ways; the untagged classes have none."""
    made = {}
    floor = np.full(maps.shape[1:], threshold, np.float32)
    for name, background in (("threshold", floor), ("rest", 1 - maps.max(0, initial=0))):
        shares = np.zeros((num_classes + 1, *maps.shape[1:]), np.float32)
        shares[0] = background
        shares[class_ids] = maps
        made[name] = shares / shares.sum(0, keepdims=True)
    return made


def read_labels(job: Benchmark, images: list[ScoredImage], num_classes: int) -> Labels:
    """Read masks and kept maps of images, resized to one size."""
    config = read_config(job.labels, read_run(job.labels)).maps
    if config.background_threshold != config.foreground_threshold:
        sys.exit("error: cleanlab knows no ignored pixels; label with equal background and foreground thresholds")
    places = {(image.manifest_uri, image.place): number for number, image in enumerate(images)}
    shape = (len(images), num_classes + 1, SIDE_PX, SIDE_PX)
    masks = np.zeros((len(images), SIDE_PX, SIDE_PX), np.int64)
    pred_probs = {name: np.zeros(shape, np.float32) for name in ("threshold", "rest")}
    columns = ["index", "mask", "class_ids", "class_maps", "exif_orientation"]
    for uri in list_manifests(job.labels):
        for row in open_manifest(uri).iterate_rows(columns):
            number = places.get((uri, row["index"]))
            if number is None:
                continue
            if row["class_maps"] is None:
                sys.exit(f"error: row {row['index']} of '{uri}' has no class maps; label with --maps.keep-maps")
            mask = turn_upright(decode_mask(row["mask"]["bytes"]), row["exif_orientation"])
            rows, cols = (np.linspace(0, side - 1, SIDE_PX).round().astype(int) for side in mask.shape)
            masks[number] = mask[np.ix_(rows, cols)]
            maps = torch.from_numpy(decode_class_maps(row["class_maps"]))[None]
            enlarged = resize_maps(maps, (SIDE_PX, SIDE_PX))[0].numpy().clip(0, 1)
            threshold = config.foreground_threshold
            for name, shares in make_probabilities(enlarged, row["class_ids"], num_classes, threshold).items():
                pred_probs[name][number] = shares
    return Labels(masks, pred_probs)


def list_orders(images: list[ScoredImage], labels: Labels) -> Iterator[tuple[str, Float[np.ndarray, " n"]]]:
    """List the orders by name: a value for each image, lowest first."""
    yield "quality", np.array([image.columns["quality"] for image in images], float)
    for way, probabilities in labels.pred_probs.items():
        for method in METHODS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores, _ = get_label_quality_scores(
                    labels.masks, probabilities, method=method, batch_size=100_000, n_jobs=1, verbose=False
                )
            yield f"cleanlab, {method}, background = {way}", np.asarray(scores, float)
    yield "random", np.zeros(len(images))
    yield "best possible", np.array([image.iou for image in images])


def draw_interval(
    values: Float[np.ndarray, " n"], is_bad: Bool[np.ndarray, " n"], found_fraction: float
) -> tuple[float, float]:
    """Bounds of the number to look at, over images drawn again with replacement."""
    rng = np.random.default_rng(0)
    numbers = []
    for _ in range(NUM_DRAWS):
        drawn = rng.integers(len(values), size=len(values))
        num_bad = int(is_bad[drawn].sum())
        if num_bad:
            numbers.append(count_to_find(values[drawn], is_bad[drawn], count_wanted(num_bad, found_fraction)))
    low, high = np.quantile(numbers, [0.025, 0.975])
    return float(low), float(high)


def describe_worst_class(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], class_names: list[str]
) -> str:
    """Describe the class of an image with the lowest IoU: its area, precision and recall."""
    counted = truth != IGNORE_LABEL
    found = []
    for class_id, name in enumerate(class_names, start=1):
        drawn, true = (mask == class_id) & counted, (truth == class_id) & counted
        if (drawn | true).any():
            hits = int((drawn & true).sum())
            parts = [f"{100 * true.sum() / counted.sum():.1f} % of the image"]
            parts += [f"precision {hits / drawn.sum():.2f}" if drawn.any() else "not drawn"]
            parts += [f"recall {hits / true.sum():.2f}" if true.any() else "not in the truth"]
            found.append(
                (hits / (drawn | true).sum(), f"{name}: IoU {hits / (drawn | true).sum():.2f}, {', '.join(parts)}")
            )
    return min(found)[1] + f" ({len(found)} classes)"


def print_missed(
    images: list[ScoredImage], order: Int[np.ndarray, " k"], find_truth: FindTruth, names: list[str]
) -> None:
    """Print a line for each of some images."""
    for number in order:
        image = images[number]
        row = next(row for row in open_manifest(image.manifest_uri).iterate_rows() if row["index"] == image.place)
        mask = decode_mask(row["mask"]["bytes"])
        payload = find_truth(image.key)
        assert payload is not None, "the image was scored with it"
        truth = decode_truth(payload, image.key, mask.shape, len(names))
        worst = describe_worst_class(truth, mask, names)
        print(f"  {image.key} quality {image.columns['quality']:.2f} IoU {image.iou:.2f}; {worst}")


def main() -> None:
    """Print a line for each order, then the bad images that quality finds last."""
    job = tyro.cli(Benchmark, description=__doc__)
    names = list(read_run(job.labels)["vocabulary"]["classes"])
    find_truth = open_truth(job.truth)
    images = [
        one for uri in list_manifests(job.labels) for one in evaluate_manifest(uri, find_truth, len(names)).images
    ]
    is_bad = np.array([image.iou < job.bad_iou for image in images])
    num_bad = int(is_bad.sum())
    if not num_bad:
        sys.exit(f"error: none of {len(images)} scored images has an IoU below {job.bad_iou}; raise --bad-iou")
    num_wanted = count_wanted(num_bad, job.found_fraction)
    print(f"{len(images)} images, {num_bad} with an IoU below {job.bad_iou}; {num_wanted} are to be found")
    print(f"cleanlab {cleanlab.__version__}")
    for name, values in list_orders(images, read_labels(job, images, len(names))):
        low, high = draw_interval(values, is_bad, job.found_fraction)
        number = count_to_find(values, is_bad, num_wanted)
        print(f"{name:48} {number:6.1f} images, {number / len(images):6.1%} of all [{low:.0f}, {high:.0f}]", flush=True)
    quality = np.array([image.columns["quality"] for image in images], float)
    order = np.argsort(quality, kind="stable")
    missed = order[is_bad[order]][num_wanted:]
    print(f"bad masks that quality finds last ({min(len(missed), job.num_missed)} of {len(missed)}):")
    print_missed(images, missed[::-1][: job.num_missed], find_truth, names)


if __name__ == "__main__":
    main()

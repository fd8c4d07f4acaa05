"""Do the masks serve? Train a segmentation network on them and score it on photos without tags.

    python -m benchmarks.train_on_masks --labels masks-train --eval-labels masks-eval --truth truth \
        --backbone-weights vit_tiny_patch16_224.safetensors

`--labels` and `--eval-labels` are runs of tagmask label; the photos of the second have true masks. Photos that have
one are never trained on outside of the folds. The same network is trained, for the same number of steps, on

- all: the masks of `--labels`;
- better-half: those whose `quality` is at least the median;
- better-half-by-tags: those at least at the median of the photos with the same classes;
- random-half: as many, drawn by the hash of their key;
- true-masks: the true masks of the photos that judge, in folds by the hash of their key: a photo is judged by the
  network that did not see it;
- same-photos: the masks of `--eval-labels` in the same folds: the same photos, with masks made of tags.

The network gets no tags. mIoU is over background and classes, in % and at the size of the photos. For comparison: the
masks of `--eval-labels` themselves, which know the tags of the photos.
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import UInt8

from benchmarks.train_on_masks_parts.network import Training, predict, train
from benchmarks.train_on_masks_parts.pairs import Photos, iterate_pairs, read_photos, shrink_mask
from pipeline.evaluation.scores import EvaluationCounts, count_pixels, make_empty_counts, score_masks
from pipeline.evaluation.truth import decode_truth, open_truth
from pipeline.images.orientation import turn_size, turn_upright
from pipeline.run.run_file import read_run

Masks = Literal["all", "better-half", "better-half-by-tags", "random-half", "true-masks", "same-photos"]
HALVES: tuple[Masks, ...] = ("better-half", "better-half-by-tags", "random-half")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Train on masks of tags and on true masks."""

    labels: str
    """Labelling run to train on."""
    eval_labels: str
    """Labelling run of the photos that judge."""
    truth: str
    """Folder or tar of their true masks."""
    masks: tuple[Masks, ...] = ("all", *HALVES, "true-masks", "same-photos")
    """What to train on."""
    num_folds: int = 3
    rng_seeds: tuple[int, ...] = (0,)
    """Random seeds; each trains everything again."""
    json: Path | None = None
    """Also append the result of each training to this file, a line each."""
    training: Annotated[Training, tyro.conf.OmitArgPrefixes] = field(default_factory=Training)


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Photos with true masks."""

    photos: Photos
    """With the masks of the run."""
    truths: list[UInt8[np.ndarray, "h w"]]
    """Upright, at the size of the photo."""
    counts: EvaluationCounts
    """Of the masks of the run."""


def read_judges(job: Benchmark, num_classes: int) -> Judges:
    """Read the photos that have a true mask."""
    find_truth = open_truth(job.truth)
    truths, has_truth = [], []
    counts = make_empty_counts(num_classes)
    for pair in iterate_pairs(job.eval_labels):
        payload = find_truth(pair.key)
        has_truth.append(payload is not None)
        if payload is not None:
            size = (pair.mask.shape[0], pair.mask.shape[1])
            stored = decode_truth(payload, pair.key, turn_size(size, pair.orientation), num_classes)
            truths.append(turn_upright(stored, pair.orientation))
            counts = replace(counts, confusion=counts.confusion + count_pixels(truths[-1], pair.mask, num_classes))
    if not truths:
        sys.exit(f"error: no photo of '{job.eval_labels}' has a true mask in '{job.truth}'; name them by their keys")
    return Judges(photos=read_photos(job.eval_labels).select(np.array(has_truth)), truths=truths, counts=counts)


def hash_key(key: str, salt: str) -> int:
    """Number that is a function of a key: equal on every machine."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{key}".encode()).digest()[:8], "big")


def choose_photos(masks: Masks, photos: Photos) -> Photos:
    """Choose the photos to train on."""
    if masks == "better-half":
        return photos.select(photos.qualities >= np.median(photos.qualities))
    if masks == "better-half-by-tags":
        limits = {
            ids: np.median([q for q, own in zip(photos.qualities, photos.class_ids, strict=True) if own == ids])
            for ids in set(photos.class_ids)
        }
        return photos.select(photos.qualities >= np.array([limits[ids] for ids in photos.class_ids]))
    if masks == "random-half":
        hashes = np.array([hash_key(key, "half") for key in photos.keys], np.uint64)
        return photos.select(hashes >= np.sort(hashes)[len(hashes) // 2])
    return photos


def train_and_judge(
    photos: Photos, judges: Judges, is_judge: np.ndarray, num_classes: int, job: Benchmark, rng_seed: int
) -> EvaluationCounts:
    """Train on photos, and count the pixels of some judges."""
    model = train(photos, num_classes + 1, job.training, rng_seed)
    counts = make_empty_counts(num_classes)
    for number in np.flatnonzero(is_judge):
        truth = judges.truths[number]
        image_rgb = judges.photos.images_rgb[number]
        mask = predict(model, image_rgb, (truth.shape[0], truth.shape[1]), job.training.image_size)
        confusion = counts.confusion + count_pixels(truth, mask, num_classes)
        counts = replace(counts, confusion=confusion, num_images=counts.num_images + 1)
    return counts


def run_masks(
    masks: Masks, photos: Photos, judges: Judges, num_classes: int, job: Benchmark, rng_seed: int
) -> tuple[EvaluationCounts, list[int]]:
    """Train on one kind of masks: counts over all judges, and the number of photos of each training."""
    if masks in ("all", *HALVES):
        chosen = choose_photos(masks, photos)
        everyone = np.ones(len(judges.truths), bool)
        return train_and_judge(chosen, judges, everyone, num_classes, job, rng_seed), [len(chosen.keys)]
    own = judges.photos
    if masks == "true-masks":
        own = replace(own, masks=np.stack([shrink_mask(truth) for truth in judges.truths]))
    folds = np.array([hash_key(key, "fold") % job.num_folds for key in own.keys])
    counts, numbers = make_empty_counts(num_classes), []
    for fold in range(job.num_folds):
        chosen = own.select(folds != fold)
        counts = counts.merge(train_and_judge(chosen, judges, folds == fold, num_classes, job, rng_seed))
        numbers.append(len(chosen.keys))
    return counts, numbers


def print_scores(name: str, counts: EvaluationCounts, numbers: list[int]) -> dict[str, Any]:
    """Print a line of scores, and return its figures."""
    scores = score_masks(counts)
    photos = "-".join(str(number) for number in sorted({min(numbers), max(numbers)})) if numbers else "-"
    ious = " ".join(f"{100 * iou:5.1f}" for iou in scores.iou)
    print(f"{name:24} {photos:>9} {100 * scores.mean_iou:6.1f}  {ious}", flush=True)
    return {"masks": name, "num_photos": numbers, "mean_iou": scores.mean_iou, "iou": scores.iou.tolist()}


def main() -> None:
    """Print a line for each kind of masks and random seed."""
    job = tyro.cli(Benchmark, description=__doc__)
    weights = job.training.backbone_weights
    if weights is not None and not Path(weights).is_file():
        sys.exit(f"error: --backbone-weights '{weights}' is no file; without it timm downloads the weights")
    names = list(read_run(job.labels)["vocabulary"]["classes"])
    if names != list(read_run(job.eval_labels)["vocabulary"]["classes"]):
        sys.exit("error: the runs have different classes; label both with one vocabulary")
    judges = read_judges(job, len(names))
    everything = read_photos(job.labels)
    known = set(judges.photos.keys)
    photos = everything.select(np.array([key not in known for key in everything.keys]))
    kinds: tuple[Masks, ...] = ("all", *HALVES)
    for kind in kinds:
        chosen = choose_photos(kind, photos)
        tagged = {name: sum(number in ids for ids in chosen.class_ids) for number, name in enumerate(names, start=1)}
        print(f"{kind}: mean quality {chosen.qualities.mean():.2f}, photos by tag: {tagged}")
    print(f"{len(everything.keys)} photos, {len(photos.keys)} of them no judges; {len(judges.truths)} judges")
    print(f"{job.training}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'masks':24} {'photos':>9} {'mIoU':>6}  {' '.join(['bg', *(name[:6] for name in names)])}")
    print_scores("(masks, with tags)", judges.counts, [])
    for rng_seed in job.rng_seeds:
        for masks in job.masks:
            started_s = time.monotonic()
            counts, numbers = run_masks(masks, photos, judges, len(names), job, rng_seed)
            figures = print_scores(f"{masks}, seed {rng_seed}", counts, numbers)
            if job.json is not None:
                figures |= {"rng_seed": rng_seed, "wall_s": time.monotonic() - started_s}
                with job.json.open("a") as file:
                    file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()

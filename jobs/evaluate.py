"""Score masks against the truth: IoU per class, at the threshold used and at all others.

    python -m jobs.evaluate --labels OUT --truth truth/ [--json scores.json]

The best threshold is found with the truth in hand, so its mIoU is what a perfect choice would give, and no
claim about new images. Exit code 0: scored; 2: the command or its inputs are wrong.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.console import EXIT_OK, parse, run_job
from pipeline.errors import LabellingError
from pipeline.evaluation import (
    NUM_THRESHOLDS,
    EvaluationCounts,
    Scores,
    evaluate_manifest,
    make_empty_counts,
    open_truth,
    score_curve,
    score_masks,
)
from pipeline.manifests import list_manifests
from pipeline.run import read_run
from pipeline.storage import put_atomic


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Score masks against the truth."""

    labels: str
    """Output folder or URI of jobs.label."""
    truth: str
    """Folder, URI or tar of true masks: PNGs named by key, pixels hold class ids, 255 is ignored."""
    json: str | None = None
    """Also write all figures, the whole curve among them, to this file or URI."""
    num_threads: int = 4
    """Manifests that are read at the same time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: evaluate(parse(EvaluateJob, __doc__, arguments)))


def evaluate(job: EvaluateJob) -> int:
    """Evaluate as the job says and return the exit code."""
    run = read_run(job.labels)
    class_names = list(run["vocabulary"]["classes"])
    counts = count_run(job, len(class_names), run["config"]["maps"].get("class_scales"))
    if not counts.num_images:
        raise LabellingError(
            f"no labelled image has a true mask in '{job.truth}' ({counts.num_without_truth} have none); "
            "name the masks by the keys of the manifests"
        )
    if not counts.confusion.any():
        raise LabellingError(f"the truth in '{job.truth}' ignores every pixel (255); give masks with class ids")
    used = score_masks(counts)
    curve = [] if counts.num_without_maps else score_curve(counts)
    print_scores(counts, class_names, used, curve)
    if job.json:
        put_atomic(job.json, json.dumps(describe_scores(counts, class_names, used, curve), indent=1).encode())
    return EXIT_OK


def count_run(job: EvaluateJob, num_classes: int, class_scales: Sequence[float] | None) -> EvaluationCounts:
    """Count all manifests of a run; the curve is over maps weighed by its `class_scales`."""
    find_truth = open_truth(job.truth)
    uris = list_manifests(job.labels)
    total = make_empty_counts(num_classes)
    with ThreadPoolExecutor(job.num_threads) as threads:
        counted = threads.map(lambda uri: evaluate_manifest(uri, find_truth, num_classes, class_scales), uris)
        for number, counts in enumerate(counted, start=1):
            total = total.merge(counts)
            print(f"{number}/{len(uris)} manifests, {total.num_images} images", file=sys.stderr, flush=True)
    return total


def print_scores(counts: EvaluationCounts, class_names: list[str], used: Scores, curve: list[Scores]) -> None:
    """Print a table: a line a class, a column for the masks as they are and one for the best threshold."""
    best = int(np.argmax([scores.mean_iou for scores in curve])) if curve else None
    columns = [("masks", used)] + ([] if best is None else [(f"best, t = {best / NUM_THRESHOLDS:.2f}", curve[best])])
    print(f"{'IoU in %':24s}" + "".join(f"{title:>18s}" for title, _ in columns))
    for index, name in enumerate(["background", *class_names]):
        values = [scores.iou[index] * 100 for _, scores in columns]
        print(f"{name:24s}" + "".join(f"{'-':>18s}" if np.isnan(value) else f"{value:18.2f}" for value in values))
    print(f"{'mean':24s}" + "".join(f"{scores.mean_iou * 100:18.2f}" for _, scores in columns))
    print(f"{'pixel accuracy':24s}" + "".join(f"{scores.pixel_accuracy * 100:18.2f}" for _, scores in columns))
    print(f"pixels that the masks leave open: {used.open_fraction:.1%}")
    print(f"{counts.num_images} images; {counts.num_without_truth} more without truth, {counts.num_rejected} rejected")
    left_out = [name for name, iou in zip(["background", *class_names], used.iou, strict=True) if np.isnan(iou)]
    if left_out:
        print(f"not in the mean, for they are in no mask and no truth: {', '.join(left_out)}")
    if best is None:
        print(f"no curve over thresholds: {counts.num_without_maps} images were labelled without --maps.keep-maps")
    else:
        print("the best threshold is an oracle, chosen with the truth in hand: no claim about new images")


def describe_scores(
    counts: EvaluationCounts, class_names: list[str], used: Scores, curve: list[Scores]
) -> dict[str, Any]:
    """Turn scores into plain values for JSON; a class without IoU is null."""

    def describe(scores: Scores) -> dict[str, Any]:
        names = ["background", *class_names]
        iou = {name: None if np.isnan(value) else float(value) for name, value in zip(names, scores.iou, strict=True)}
        return {"mean_iou": scores.mean_iou, "iou": iou, "pixel_accuracy": scores.pixel_accuracy}

    return {
        "masks": describe(used) | {"open_fraction": used.open_fraction},
        "curve": [{"threshold": index / NUM_THRESHOLDS, **describe(scores)} for index, scores in enumerate(curve)],
        "num_images": counts.num_images,
        "num_without_truth": counts.num_without_truth,
        "num_rejected": counts.num_rejected,
        "confusion": counts.confusion.tolist(),
    }


if __name__ == "__main__":
    sys.exit(main())

"""Score masks against the truth: count all manifests, print tables, write JSON and a page."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jobs.arguments.evaluate import EvaluateJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_FAILED, EXIT_OK, print_lines
from pipeline.commit.manifests import list_manifests
from pipeline.errors import LabellingError
from pipeline.evaluation.boundaries import score_boundaries
from pipeline.evaluation.corrected_truth import (
    REMARK,
    CorrectedTruth,
    Truth,
    bind_truth,
    choose_frame,
    open_any_truth,
)
from pipeline.evaluation.evaluate import MAX_COMPLAINTS, ManifestScores, evaluate_manifest
from pipeline.evaluation.findings import list_findings
from pipeline.evaluation.quality_ranks import ScoredImage, bin_by_quality, rank_columns
from pipeline.evaluation.review_effort import BAD_IOU, FOUND_FRACTION, measure_effort
from pipeline.evaluation.scores import (
    NUM_THRESHOLDS,
    EvaluationCounts,
    Scores,
    make_empty_counts,
    score_curve,
    score_masks,
)
from pipeline.evaluation.truth import FindTruth
from pipeline.evaluation.truth_frames import require_known_frames
from pipeline.reports.evaluation_report import (
    find_best,
    make_effort_table,
    make_image_table,
    make_rank_table,
    make_score_table,
    render_evaluation,
)
from pipeline.reports.page import Table
from pipeline.run.run_file import read_config, read_run
from pipeline.storage.writing import put_atomic


def evaluate(job: EvaluateJob) -> int:
    """Evaluate and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    run = read_run(job.labels)
    class_names = list(run["vocabulary"]["classes"])
    class_scales = read_config(job.labels, run).maps.class_scales
    true_masks = open_any_truth(job.truth, job.labels)
    counts, images, complaints = score_run(job, true_masks, len(class_names), class_scales)
    if not counts.num_images and counts.num_bad_truth:
        print_lines(f"error: {show_complaints(counts, complaints)}; none is left to score", to_stderr=True)
        return EXIT_FAILED
    _require_pixels(job, counts, true_masks)
    used = score_masks(counts)
    curve = [] if counts.num_without_maps else score_curve(counts)
    unused = true_masks.list_unused()
    remarks = list_findings(counts, class_names)
    remarks += [REMARK] if isinstance(true_masks, CorrectedTruth) else []
    remarks += [show_complaints(counts, complaints)] if complaints else []
    print_lines(*(f"warning: {remark}" for remark in remarks), to_stderr=True)
    print_scores(counts, class_names, used, curve, unused)
    print_trust(images)
    if job.json:
        plain = describe_scores(counts, class_names, used, curve) | describe_trust(images)
        plain |= {"num_truth_without_image": len(unused), "bad_truth": complaints, "warnings": remarks}
        put_atomic(job.json, json.dumps(plain, indent=1).encode())
    if job.html:
        tables = [make_image_table(counts, unused, remarks)]
        page = render_evaluation(
            job.labels, counts, images, used, curve, true_masks, tables, choose_frame(true_masks, job.truth_frame)
        )
        put_atomic(job.html, page.encode())
    return _judge(job, counts)


def score_run(
    job: EvaluateJob, truth: FindTruth | CorrectedTruth, num_classes: int, class_scales: Sequence[float] | None
) -> ManifestScores:
    """Count all manifests of a run, and score its images; the curve is over maps weighed by its `class_scales`."""
    uris, frame = list_manifests(job.labels), choose_frame(truth, job.truth_frame)
    if not isinstance(truth, CorrectedTruth):
        require_known_frames(uris, truth, frame)
    total, images, complaints = make_empty_counts(num_classes), list[ScoredImage](), list[str]()
    with ThreadPoolExecutor(job.num_threads) as threads:
        scored = threads.map(
            lambda uri: evaluate_manifest(uri, bind_truth(truth, uri), num_classes, class_scales, frame), uris
        )
        for number, scores in enumerate(scored, start=1):
            total = total.merge(scores.counts)
            images += scores.images
            complaints += scores.complaints[: MAX_COMPLAINTS - len(complaints)]
            print_lines(f"{number}/{len(uris)} manifests, {total.num_images} images", to_stderr=True)
    return ManifestScores(total, images, complaints)


def show_complaints(counts: EvaluationCounts, complaints: Sequence[str]) -> str:
    """One line for the true masks that cannot be used: how many, and what is wrong with the first of them."""
    num_more = counts.num_bad_truth - len(complaints)
    more = f"; and {num_more} more" if num_more else ""
    return (
        f"{counts.num_bad_truth} of {counts.num_images + counts.num_bad_truth} true masks cannot be used and are left "
        f"out: {'; '.join(complaints)}{more}"
    )


def _require_pixels(job: EvaluateJob, counts: EvaluationCounts, true_masks: Truth) -> None:
    if not counts.num_images:
        if isinstance(true_masks, CorrectedTruth):
            raise LabellingError(
                f"no labelled row of '{job.labels}' has a corrected mask: all belong to rejected rows, or to images "
                "that changed since; correct others and bring them back by tagmask import-masks"
            )
        raise LabellingError(
            f"no labelled image has a true mask in '{job.truth}' ({counts.num_without_truth} have none), which holds "
            f"'{true_masks.name_some()}.png'; name the masks by the keys of the manifests"
        )
    if not counts.confusion.any():
        raise LabellingError(f"the truth in '{job.truth}' ignores every pixel (255); give masks with class ids")


def _judge(job: EvaluateJob, counts: EvaluationCounts) -> int:
    """Exit code by the share of the true masks that cannot be used."""
    num_truth = counts.num_images + counts.num_bad_truth
    if counts.num_bad_truth <= job.max_bad_truth_fraction * num_truth:
        return EXIT_OK
    print_lines(
        f"error: {counts.num_bad_truth} of {num_truth} true masks cannot be used, more than "
        f"{job.max_bad_truth_fraction:.1%}; mend them or raise --max-bad-truth-fraction",
        to_stderr=True,
    )
    return EXIT_FAILED


def print_scores(
    counts: EvaluationCounts, class_names: list[str], used: Scores, curve: list[Scores], unused: Sequence[str]
) -> None:
    """Print a table: a line a class, columns for the masks as they are and one for the best threshold."""
    print_table(make_score_table(counts, class_names, used, curve))
    best = find_best(curve)
    print_lines(
        f"pixel accuracy: {used.pixel_accuracy:.1%}; pixels that the masks leave open: {used.open_fraction:.1%}"
    )
    print_lines(
        f"{counts.num_images} images; {counts.num_without_truth} more without truth, {counts.num_rejected} rejected"
        + (f", {counts.num_bad_truth} with a true mask that cannot be used" if counts.num_bad_truth else "")
    )
    if unused:
        print_lines(f"{len(unused)} true masks belong to no image of this run, such as '{unused[0]}'")
    left_out = [name for name, iou in zip(["background", *class_names], used.iou, strict=True) if np.isnan(iou)]
    if left_out:
        print_lines(f"not in the mean, for they are in no mask and no truth: {', '.join(left_out)}")
    if best is None:
        print_lines(
            f"no curve over thresholds: {counts.num_without_maps} images were labelled without --maps.keep-maps"
        )


def print_trust(images: Sequence[ScoredImage]) -> None:
    """Print how well the columns of the manifests tell good masks from bad ones."""
    table = make_rank_table(images)
    if table.rows:
        print_lines("")
        print_table(table)
    for place, one in enumerate(bin_by_quality(images), start=1):
        iou = f"IoU {100 * one.mean_iou:.1f}"
        print_lines(f"tenth {place:2d} by quality: {one.mean_quality:.2f}, {iou} ({one.num_images} images)")
    effort = make_effort_table(images)
    if effort is not None:
        print_lines("")
        print_table(effort)


def print_table(table: Table) -> None:
    """Print a table of text."""
    widths = [max(len(row[place]) for row in (table.header, *table.rows)) for place in range(len(table.header))]
    for row in (table.header, *table.rows):
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print_lines("  ".join([f"{row[0]:<{len(first)}}", *others]))
    if table.note:
        print_lines(table.note)


def describe_trust(images: Sequence[ScoredImage]) -> dict[str, Any]:
    """Turn what the columns are worth into plain values for JSON; a constant column has correlation null."""
    ranked = [score._asdict() for score in rank_columns(images)]
    effort = measure_effort(images)
    review = {"bad_iou": BAD_IOU, "found_fraction": FOUND_FRACTION} | effort._asdict() if effort else None
    return {
        "columns": [
            one | {"correlation": None if np.isnan(one["correlation"]) else one["correlation"]} for one in ranked
        ],
        "quality_tenths": [one._asdict() for one in bin_by_quality(images)],
        "review": review,
    }


def describe_scores(
    counts: EvaluationCounts, class_names: list[str], used: Scores, curve: list[Scores]
) -> dict[str, Any]:
    """Turn scores into plain values for JSON; a class without IoU is null."""

    def describe(scores: Scores) -> dict[str, Any]:
        names = ["background", *class_names]

        def by_name(values: np.ndarray) -> dict[str, float | None]:
            return {name: None if np.isnan(one) else one for name, one in zip(names, values.tolist(), strict=True)}

        return {
            "mean_iou": scores.mean_iou,
            "iou": by_name(scores.iou),
            "precision": by_name(scores.precision),
            "recall": by_name(scores.recall),
            "pixel_accuracy": scores.pixel_accuracy,
        }

    return {
        "masks": describe(used)
        | {"open_fraction": used.open_fraction, "boundary_f": describe_edges(counts, class_names)},
        "curve": [{"threshold": index / NUM_THRESHOLDS, **describe(scores)} for index, scores in enumerate(curve)],
        "num_images": counts.num_images,
        "num_without_truth": counts.num_without_truth,
        "num_rejected": counts.num_rejected,
        "num_bad_truth": counts.num_bad_truth,
        "num_tagged": counts.num_tagged,
        "num_tagged_without_true_class": counts.num_tagged_without_class,
        "num_tagged_with_other_true_classes": counts.num_tagged_other_class,
        "confusion": counts.confusion.tolist(),
    }


def describe_edges(counts: EvaluationCounts, class_names: list[str]) -> dict[str, float | None]:
    """Turn boundary F-scores into plain values for JSON; null for a class without edges."""
    scores = zip(class_names, score_boundaries(counts.boundaries).tolist(), strict=True)
    return {name: None if np.isnan(score) else score for name, score in scores}

"""Find thresholds: sample the kept class maps of a run, fit or choose, print how good they are, write the file."""

import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jobs.arguments.calibrate import CalibrateJob
from jobs.cluster.driving import print_next
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, print_lines
from pipeline.errors import LabellingError, TruthError
from pipeline.evaluation.corrected_truth import (
    REMARK,
    CorrectedTruth,
    bind_truth,
    choose_frame,
    open_any_truth,
)
from pipeline.evaluation.evaluate import MAX_COMPLAINTS
from pipeline.evaluation.sampling import take_evenly
from pipeline.evaluation.truth_frames import TruthFrame, require_known_frames
from pipeline.kept_maps.kept_run import KeptRun, open_kept_run
from pipeline.kept_maps.new_run import find_patch_size
from pipeline.published.decisions import Verdict, read_decisions
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from pipeline.thresholds.calibration import Calibration, describe_maps, encode_calibration
from pipeline.thresholds.choice import NUM_DEVIATIONS, choose_threshold, count_values, find_band
from pipeline.thresholds.fit import PixelTable, fit_by_class, fit_common, make_table, score_thresholds, to_scales
from pipeline.thresholds.samples import ImageSource, MapSample, read_samples

MIN_FITTED = 10
"""Smallest number of images for a fit."""


FAULTED = frozenset({Verdict.REFUSE, Verdict.WRONG_TAG})
"""Decisions about rows that are left out. A mask to be drawn by hand may have good maps; a missing tag has none."""


class Found(NamedTuple):
    """One threshold for scaled maps, and how it was found."""

    threshold: float
    class_scales: tuple[float, ...] | None
    method: str
    figures: dict[str, Any]


def calibrate(job: CalibrateJob) -> int:
    """Calibrate and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    kept = open_kept_run(job.labels)
    if not kept.config.maps.has_background:
        raise LabellingError(
            f"'{job.labels}' was made with has_background False, where thresholds decide nothing; calibrate a run with "
            "background, tagmask remask makes one of it"
        )
    samples = sample_run(job, kept)
    found = choose(samples) if job.truth is None else fit(job, kept, samples)
    band = (found.threshold, found.threshold)
    if job.min_stability < 1:
        histograms = [count_values(sample, found.class_scales) for sample in samples]
        band = find_band(histograms, found.threshold, job.min_stability)
    calibration = Calibration(
        background_threshold=band[0],
        foreground_threshold=band[1],
        class_scales=found.class_scales,
        maps=describe_maps(kept.model_digest, kept.vocabulary.classes, kept.config),
        method=found.method + (f"; band of stability {job.min_stability:g}" if job.min_stability < 1 else ""),
        uses_truth=job.truth is not None,
        figures=found.figures,
    )
    put_atomic(job.out, encode_calibration(calibration))
    _print_calibration(calibration, kept.vocabulary.classes)
    print_lines(f"written to {job.out}; use it with --calibration {job.out}")
    out = f"{job.labels.rstrip('/')}-calibrated"
    print_next(("remask", "--labels", job.labels, "--calibration", job.out, "--out", out))
    return EXIT_OK


def sample_run(job: CalibrateJob, kept: KeptRun) -> list[MapSample]:
    """Sample the images of a run.

    Raises:
        LabellingError: There are none; or pixels refine their maps, and the images or the model are not there.
    """
    truth = None if job.truth is None else open_any_truth(job.truth, job.labels)
    frame = TruthFrame(job.truth_frame) if truth is None else choose_frame(truth, job.truth_frame)
    if isinstance(truth, CorrectedTruth):
        print_lines(f"warning: {REMARK}", to_stderr=True)
    elif truth is not None:
        require_known_frames([manifest.uri for manifest in kept.source.manifests], truth, frame)
    patch_size = find_patch_size(kept, kept.config)
    pairs = list(zip(kept.source.manifests, kept.shards, strict=True))
    most, bad = sys.maxsize, list[TruthError]()
    if truth is None:
        pairs = take_evenly(pairs, job.max_images)
        most = -(-job.max_images // len(pairs))

    def read(pair: tuple[InputShard, InputShard]) -> list[MapSample]:
        manifest, shard = pair
        source = None
        if patch_size is not None:
            source = ImageSource(shard=shard, config=kept.config, patch_size=patch_size)
        return read_samples(
            manifest.uri,
            None if truth is None else bind_truth(truth, manifest.uri),
            len(kept.vocabulary.classes),
            most,
            source,
            bad.append,
            frame,
            left_out.get(shard.name, frozenset()),
        )

    # A refused mask that somebody corrected is truth; a wrong tag has maps of what is not there.
    verdicts = {Verdict.WRONG_TAG} if isinstance(truth, CorrectedTruth) else FAULTED
    left_out = _find_faulted(job.labels, verdicts)

    samples: list[MapSample] = []
    with ThreadPoolExecutor(job.num_threads) as threads:
        for number, found in enumerate(threads.map(read, pairs), start=1):
            samples += found
            print_lines(f"{number}/{len(pairs)} manifests, {len(samples)} images", to_stderr=True)
    if bad:
        some = "; ".join(str(error) for error in bad[:MAX_COMPLAINTS])
        more = f"; and {len(bad) - MAX_COMPLAINTS} more" if len(bad) > MAX_COMPLAINTS else ""
        print_lines(
            f"warning: {len(bad)} true masks cannot be used and are left out: {some}{more}",
            to_stderr=True,
        )
    if not samples:
        lack = "labelled image" if job.truth is None else f"labelled image with a true mask in '{job.truth}'"
        lack = "labelled image with a corrected mask" if isinstance(truth, CorrectedTruth) else lack
        raise LabellingError(f"'{job.labels}' has no {lack}; nothing can be calibrated on it")
    return samples


def _find_faulted(run_uri: str, verdicts: Collection[Verdict]) -> dict[str, frozenset[int]]:
    """Find the rows about which reviewers decided so, by shard: thresholds are not to fit them."""
    found: dict[str, set[int]] = defaultdict(set)
    for row_id, decision in read_decisions(run_uri).items():
        if decision.decision in verdicts:
            found[row_id.shard].add(row_id.place)
    if found:
        num = sum(map(len, found.values()))
        print_lines(f"{num} rows are left out, which reviewers refused or found wrongly tagged", to_stderr=True)
    return {shard: frozenset(places) for shard, places in found.items()}


def choose(samples: Sequence[MapSample]) -> Found:
    """Choose a threshold without truth.

    Raises:
        LabellingError: The maps say nothing.
    """
    threshold = choose_threshold(count_values(sample) for sample in samples)
    if threshold is None:
        raise LabellingError(f"the class maps of all {len(samples)} images are constant; look at the model")
    return Found(
        threshold,
        None,
        f"by a rule without truth: mean plus {NUM_DEVIATIONS} standard deviations of the best map, over the images",
        {"num_images": len(samples)},
    )


def fit(job: CalibrateJob, kept: KeptRun, samples: Sequence[MapSample]) -> Found:
    """Fit thresholds on a part of the images, and print and keep how good they are there and on the others.

    Raises:
        LabellingError: There are too few images.
    """
    num_classes = len(kept.vocabulary.classes)
    order = np.random.default_rng(job.rng_seed).permutation(len(samples))
    num_fitted = round(job.fit_share * len(samples))
    if num_fitted < MIN_FITTED:
        raise LabellingError(
            f"{num_fitted} images to fit thresholds on are too few, {MIN_FITTED} are needed; give more true masks or a "
            "higher --fit-share"
        )
    fitted, held_out = (
        make_table([samples[place] for place in places], num_classes) for places in np.split(order, [num_fitted])
    )
    before = kept.config.maps.foreground_threshold
    common = fit_common(fitted)
    chosen = fit_by_class(fitted, common) if job.by_class else common
    tried = {"one threshold, fitted": common} | ({"a threshold a class, fitted": chosen} if job.by_class else {})
    figures: dict[str, Any] = {
        "num_fitted": num_fitted,
        "num_held_out": len(samples) - num_fitted,
        "rng_seed": job.rng_seed,
    }
    figures |= {"mean_iou": _print_scores(fitted, held_out, tried, before=before, by_class=job.by_class)}
    threshold, scales = to_scales(chosen)
    return Found(threshold, scales, "fitted to true masks by mean IoU", figures)


def _print_scores(
    fitted: PixelTable, held_out: PixelTable, tried: dict[str, np.ndarray], *, before: float, by_class: bool
) -> dict[str, dict[str, float]]:
    """Print mean IoU on both parts, before and after; with oracles, which saw the truth of the part that judges."""
    tried = {f"{before:g} for all, as the run was made": np.full(fitted.num_classes, before), **tried}
    if len(held_out.truth):
        oracle = fit_common(held_out)
        tried["one threshold, oracle of the held-out"] = oracle
        if by_class:
            tried["a threshold a class, oracle of the held-out"] = fit_by_class(held_out, oracle)
    scores = {}
    print_lines(f"{'mIoU in %, sampled pixels':46s}{'fitted':>10s}{'held out':>10s}")
    for name, thresholds in tried.items():
        scores[name] = {"fitted": score_thresholds(fitted, thresholds)}
        shown = f"{name:46s}{scores[name]['fitted'] * 100:10.2f}"
        if len(held_out.truth):
            scores[name]["held_out"] = score_thresholds(held_out, thresholds)
            shown += f"{scores[name]['held_out'] * 100:10.2f}"
        print_lines(shown)
    return scores


def _print_calibration(calibration: Calibration, classes: Sequence[str]) -> None:
    low, high = calibration.background_threshold, calibration.foreground_threshold
    print_lines(f"{calibration.method}: background up to {low:g}, classes above {high:g}")
    if calibration.class_scales is not None:
        own = ", ".join(
            f"{name} {high / scale:.3f}" for name, scale in zip(classes, calibration.class_scales, strict=True)
        )
        print_lines(f"on their own maps, classes above: {own}")

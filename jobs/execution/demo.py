"""The demo: draw photos, train, label, score, and make a page."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from jobs.arguments.demo import DemoJob
from jobs.command_line.console import EXIT_OK, format_duration
from jobs.execution.demo_photos import write_collection
from models.mctformer import MCTformer
from pipeline.bundles import load_bundle, save_bundle
from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.evaluation.scores import EvaluationCounts, count_pixels, make_empty_counts, score_masks
from pipeline.evaluation.truth import open_truth
from pipeline.images.masks import decode_mask
from pipeline.reports.label_report import build_report
from pipeline.reports.page import Table
from pipeline.run.records import Status
from pipeline.storage.writing import put_atomic

NUM_TRAIN, NUM_VALIDATION, NUM_PHOTOS = 1024, 96, 128
BOX_SIDE_FRACTION = 0.5**0.5
"""The box in the middle has half the area of the picture."""


def run_demo(job: DemoJob) -> int:
    """Run the demo and return the exit code."""
    started_s = time.monotonic()
    photos, model, masks = job.out / "photos", job.out / "model", job.out / "masks"
    if job.photos_only:
        _draw_photos(photos)
        return EXIT_OK
    _empty(job.out)
    _draw_photos(photos)
    vocabulary = ["--vocabulary", f"{photos}/vocabulary.json"]
    epochs = [] if job.epochs is None else ["--epochs", str(job.epochs)]
    _run(
        *("train", "--recipe", "demo", "--shards", f"{photos}/train-*.tar", "--val-shards", f"{photos}/val-*.tar"),
        *(*vocabulary, "--workers", "2", "--gpus-per-worker", "0", *epochs, "--out", str(model)),
    )
    untrained = _make_untrained(model / "bundle", job.out / "untrained")
    for bundle, out in ((str(model / "bundle"), masks), (untrained, job.out / "untrained-masks")):
        _run(
            *("label", "--shards", f"{photos}/photos-*.tar", *vocabulary, "--model", bundle, "--out", str(out)),
            *("--gpus-per-worker", "0", "--views.num-patches", "324", "--maps.keep-maps"),
            # A ViT that saw a thousand pictures has no affinity worth following, and its maps are peaked: hence no
            # refinement and a low threshold, found on pictures of other random seeds.
            *("--maps.no-refine", "--maps.background-threshold", "0.2", "--maps.foreground-threshold", "0.2"),
        )
        scores = job.out / f"{out.name}.json"
        _run("evaluate", "--labels", str(out), "--truth", f"{photos}/truth", "--json", str(scores))
    figures = _compare(job.out, photos, masks)
    page = build_report(
        str(masks),
        find_truth=open_truth(f"{photos}/truth"),
        tables=[figures],
        title="tagmask demo: masks made from tags alone",
    )
    put_atomic(str(job.out / "report.html"), page.encode())
    _print_table(figures)
    print(f"\nlook at {job.out}/report.html ({format_duration(time.monotonic() - started_s)} in all)")
    return EXIT_OK


def _draw_photos(photos: Path) -> None:
    """Draw the collection in place of an earlier one."""
    shutil.rmtree(photos, ignore_errors=True)
    num_pictures = NUM_TRAIN + NUM_VALIDATION + NUM_PHOTOS
    print(f"drawing {num_pictures} tagged pictures into {photos}", flush=True)
    write_collection(photos, {"train": NUM_TRAIN, "val": NUM_VALIDATION, "photos": NUM_PHOTOS})


def _empty(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    for name in ("model", "untrained", "masks", "untrained-masks"):
        shutil.rmtree(out / name, ignore_errors=True)


def _run(job: str, *arguments: str) -> None:
    print(f"\n$ {shlex.join(['tagmask', job, *arguments])}", flush=True)
    done = subprocess.run([sys.executable, "-m", "tagmask", job, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _make_untrained(trained: Path, out: Path) -> str:
    """Write a bundle of the same architecture with random weights."""
    model, bundle, _ = load_bundle(str(trained))
    torch.manual_seed(0)
    save_bundle(str(out), MCTformer(model.config).eval(), bundle)
    return str(out)


def _compare(out: Path, photos: Path, masks: Path) -> Table:
    def read_scores(name: str) -> tuple[str, str]:
        scores = json.loads((out / f"{name}.json").read_text())
        best = max(point["mean_iou"] for point in scores["curve"])
        return f"{scores['masks']['mean_iou'] * 100:.1f}", f"{best * 100:.1f}"

    box = score_masks(_count_box(masks, photos / "truth")).mean_iou
    return Table(
        title=f"mIoU in % on {NUM_PHOTOS} pictures the model has not seen",
        header=("", "masks", "best threshold"),
        rows=(
            ("trained on tags", *read_scores("masks")),
            ("untrained model", *read_scores("untrained-masks")),
            ("one box in the middle", f"{box * 100:.1f}", "-"),
        ),
        note="Mean over background and classes. The best threshold is chosen with the truth in hand.",
    )


def _count_box(masks: Path, truth: Path) -> EvaluationCounts:
    """Count what a box in the middle scores that has the first tagged class."""
    find_truth = open_truth(str(truth))
    num_classes = len(json.loads((truth.parent / "vocabulary.json").read_text())["classes"])
    total = make_empty_counts(num_classes)
    for uri in list_manifests(str(masks)):
        for row in open_manifest(uri).iterate_rows(["key", "status", "class_ids"]):
            payload = find_truth(row["key"])
            if row["status"] != Status.LABELLED or payload is None:
                continue
            true_mask = decode_mask(payload)
            box = np.zeros_like(true_mask)
            margins = [round(side * (1 - BOX_SIDE_FRACTION) / 2) for side in box.shape]
            box[margins[0] : box.shape[0] - margins[0], margins[1] : box.shape[1] - margins[1]] = row["class_ids"][0]
            confusion = total.confusion + count_pixels(true_mask, box, num_classes)
            total = replace(total, confusion=confusion, num_images=total.num_images + 1)
    return total


def _print_table(table: Table) -> None:
    print(f"\n{table.title}")
    for row in (table.header, *table.rows):
        print(f"  {row[0]:24s}{row[1]:>8s}{row[2]:>16s}")

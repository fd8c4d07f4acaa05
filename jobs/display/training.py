"""What tagmask train prints: a survey of the shards, a table with a row an epoch, a summary."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.command_line.console import format_duration, print_lines
from pipeline.training.data.survey import Survey
from pipeline.training.driver.outcome import TrainingOutcome
from pipeline.training.events import EpochRecord, Event, RejectedImage, Resumed, StepRecord

MOST_UNKNOWN_TAGS = 10
MOST_REJECTIONS = 5
STEP_PERIOD_S = 10.0
CELL_WIDTH = 8
ROWS_PER_HEADING = 20
SUMMARY_LOSSES = ("total", "class_loss", "patch_loss", "contrast_loss", "seed_loss")


def print_surveys(surveys: Mapping[str, Survey], class_names: Sequence[str]) -> None:
    """Print what the shards of each split hold: images per class, unknown tags, unusable samples."""
    width = max(len(name) for name in (*class_names, "images"))
    print_lines(f"{'':{width}}" + "".join(f"{split:>12}" for split in surveys))
    print_lines(f"{'images':{width}}" + "".join(f"{survey.num_usable:12d}" for survey in surveys.values()))
    for class_id, name in enumerate(class_names, start=1):
        print_lines(f"{name:{width}}" + "".join(f"{s.images_per_class[class_id]:12d}" for s in surveys.values()))
    for split, survey in surveys.items():
        _print_exceptions(split, survey)
    for split, survey in surveys.items():
        unseen = [n for i, n in enumerate(class_names, start=1) if not survey.images_per_class[i]]
        if unseen and survey.num_samples:
            effect = "it will not be learned" if split == "train" else "it has no average precision"
            warn(f"no {split} image shows {', '.join(unseen)}: {effect}; check the vocabulary and the shards")
    train = surveys["train"]
    if train.num_shared:
        keys = ", ".join(f"'{key}'" for key in train.shared_keys)
        warn(
            f"{train.num_shared} training images have the key of a validation image ({keys} ..): "
            "validation will look better than it is; keep the splits apart"
        )
    print_lines("")


def warn(message: str) -> None:
    """Print a warning."""
    print_lines(f"warning: {message}", to_stderr=True)


def _print_exceptions(split: str, survey: Survey) -> None:
    if survey.unusable:
        reasons = ", ".join(f"{reason} {number}" for reason, number in survey.unusable.most_common())
        print_lines(f"{split}: {survey.unusable.total()} of {survey.num_samples} samples are not usable ({reasons})")
    if survey.num_truncated_shards:
        print_lines(f"{split}: {survey.num_truncated_shards} shards are truncated; their whole samples are used")
    if survey.unknown_tags:
        tags = ", ".join(f"{tag} {number}" for tag, number in survey.unknown_tags.most_common(MOST_UNKNOWN_TAGS))
        print_lines(f"{split}: {len(survey.unknown_tags)} unknown tags, most frequent: {tags}")


class EventPrinter:
    """Prints a row an epoch, the state of long epochs in between, and the first dropped images."""

    def __init__(self, num_epochs: int, class_names: Sequence[str]) -> None:
        """Print for a run of so many epochs."""
        self._num_epochs = num_epochs
        self._class_names = class_names
        self._started_s = self._told_s = time.monotonic()
        self._num_done = 0
        self._num_rejected = 0

    def __call__(self, event: Event) -> None:
        """Print an event."""
        if isinstance(event, RejectedImage):
            self._num_rejected += 1
            if self._num_rejected <= MOST_REJECTIONS:
                print_lines(f"  dropped '{event.key}': {event.error}")
        elif isinstance(event, Resumed):
            division = "; the rest of the epoch is resharded" if event.was_resharded else ""
            print_lines(
                f"  going on in epoch {event.epoch} after {event.step} steps, {event.num_workers} workers{division}",
            )
        elif isinstance(event, dict):
            if event["kind"] == "step":
                self._print_step(event)
            else:
                self._print_epoch(event)

    def _print_step(self, record: StepRecord) -> None:
        now = time.monotonic()
        if now - self._told_s < STEP_PERIOD_S:
            return
        self._told_s = now
        print_lines(
            f"  epoch {record['epoch']}: step {record['step']}/{record['num_steps']}, "
            f"loss {record['losses']['total']:.4f}, lr {record['learning_rate']:.2e}, "
            f"gradient {record['grad_norm']:.3g}, {record['images_per_s']:.1f} images/s, "
            f"waiting {record['wait_share']:.0%}",
        )

    def _print_epoch(self, record: EpochRecord) -> None:
        self._num_done += 1
        self._told_s = time.monotonic()
        seconds = (self._told_s - self._started_s) / self._num_done
        cells = list_cells(record, self._num_epochs)
        cells["left"] = format_duration(seconds * (self._num_epochs - record["epoch"]))
        if (self._num_done - 1) % ROWS_PER_HEADING == 0:
            print_lines("  ".join(name.rjust(CELL_WIDTH) for name in cells))
        print_lines("  ".join(cell.rjust(max(CELL_WIDTH, len(name))) for name, cell in cells.items()))
        if record["validation"] is not None:
            print_lines(f"    {format_precision(record['validation'])}")

    def print_summary(self, outcome: TrainingOutcome) -> None:
        """Print what the run came to."""
        history = outcome.history
        best = history[outcome.best_epoch - 1]
        seconds = time.monotonic() - self._started_s
        print_lines("", f"trained {len(history)} epochs ({self._num_done} now, in {format_duration(seconds)})")
        print_lines(f"saved epoch {outcome.best_epoch} ({outcome.rule}): {format_losses(best)}")
        if best["validation"] is not None:
            print_lines(f"validation: {format_validation(best)}")
            absent = best["validation"]["without_positives"]
            if absent:
                print_lines(f"not in the mean, as no validation image shows them: {', '.join(absent)}")
        if num_dropped := max((record["num_dropped"] for record in history), default=0):
            print_lines(f"{num_dropped} training images could not be decoded and were dropped in each epoch")


def format_losses(record: EpochRecord) -> str:
    """Write the losses of an epoch in one line."""
    losses = record["losses"]
    parts = [f"{name.removesuffix('_loss')} {losses[name]:.4f}" for name in SUMMARY_LOSSES[1:] if name in losses]
    return f"loss {losses['total']:.4f} ({', '.join(parts)})"


def list_cells(record: EpochRecord, num_epochs: int) -> dict[str, str]:
    """The cells of an epoch in the table, by the heading of the column."""
    losses, validation = record["losses"], record["validation"]
    cells = {"epoch": f"{record['epoch']}/{num_epochs}"}
    for name in SUMMARY_LOSSES:
        if name in losses:
            cells["loss" if name == "total" else name.removesuffix("_loss")] = f"{losses[name]:.4f}"
    cells |= {
        "lr": f"{record['learning_rate']:.2e}",
        "gradient": f"{record['grad_norm']:.3g}",
        "images/s": f"{record['num_images'] / max(record['train_s'], 1e-9):.1f}",
        "waiting": f"{record['wait_share']:.0%}",
        "dropped": str(record["num_dropped"]),
        "val loss": "-" if validation is None else f"{validation['losses']['total']:.4f}",
        "mAP": _format_mean(validation),
    }
    return cells | ({"patch mAP": _format_mean(record["patch_validation"])} if "patch_loss" in losses else {})


def format_validation(record: EpochRecord) -> str:
    """Write the validation of an epoch in one line: loss, and average precisions in percent."""
    validation, patch = record["validation"], record["patch_validation"]
    assert validation is not None
    loss = f"validation loss {validation['losses']['total']:.4f}"
    patch_part = f" (patch head {_format_mean(patch)})" if patch else ""
    return f"{loss}  mAP {_format_mean(validation)}{patch_part}  {format_precision(validation)}"


def format_precision(validation: Mapping[str, Any]) -> str:
    """Write the average precision of each class, in percent."""
    classes = [f"{name} {100 * value:.1f}" for name, value in validation["average_precision"].items()]
    return "average precision: " + ("  ".join(classes) or "no validation image shows any class")


def _format_mean(validation: Mapping[str, Any] | None) -> str:
    mean = None if validation is None else validation["mean_average_precision"]
    return "-" if mean is None else f"{100 * mean:.1f}"

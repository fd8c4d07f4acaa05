"""Figures of a training run beside its checkpoints: JSON lines, TensorBoard events, a page with curves.

The JSON lines are the source of the other two files. A run that resumes from a checkpoint repeats the steps after it;
their records replace the earlier ones.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired

from tensorboardX import SummaryWriter
from typing_extensions import TypedDict

from models.documents import DocumentError, check_fields, parse_json
from pipeline.errors import TrainingError
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from pipeline.training.driver.page import render_training_page

METRICS_FILE = "metrics.jsonl"
PAGE_FILE = "training.html"
EVENTS_FILE = "tensorboard/events.out.tfevents.0000000000.tagmask"
FLUSH_PERIOD_S = 30.0
MAX_DRAWING_SHARE = 0.005
"""Highest fraction of the time for drawing the page, which takes seconds on cores that the trainer may need."""

Record = dict[str, Any]
"""A StepRecord or EpochRecord with `time`, seconds since 1970."""


class _Place(TypedDict):
    """Fields that place a record in the run."""

    kind: Literal["step", "epoch"]
    epoch: int
    position: NotRequired[float]


class MetricLog:
    """Records of a run in order, written to files periodically."""

    def __init__(self, out_uri: str, title: str, num_images: int) -> None:
        """Read the records of earlier attempts.

        Args:
            out_uri: Output folder of the run.
            title: Of the page.
            num_images: Usable training images, the length of an epoch.
        """
        self._out_uri = out_uri
        self._title = title
        self._num_images = num_images
        self._written_s = time.monotonic()
        self._drawn_s = -math.inf
        self._drawing_s = 0.0
        self.records = read_records(out_uri)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record; drop the records from its place in the run on, as they are repeated."""
        place = find_place(record)
        self.records = [kept for kept in self.records if find_place(kept) < place]
        self.records.append({**record, "time": round(time.time(), 3)})
        now = time.monotonic()
        if record["kind"] == "epoch" or now - self._written_s > FLUSH_PERIOD_S:
            self._write_lines()
            if now - self._drawn_s > max(FLUSH_PERIOD_S, self._drawing_s / MAX_DRAWING_SHARE):
                self._write_charts()

    def go_back(self, position: float, records: Sequence[Mapping[str, Any]]) -> None:
        """Drop the records after a checkpoint; add those that only the checkpoint has.

        Args:
            position: Of the checkpoint, in epochs.
            records: Of the checkpoint.
        """
        kept = {find_place(record): record for record in self.records if find_place(record)[0] <= position}
        known = {find_place(record): {**record, "time": round(time.time(), 3)} for record in records}
        self.records = [record for _, record in sorted((known | kept).items(), key=lambda item: item[0])]

    def flush(self) -> None:
        """Write all three files.

        Raises:
            StorageError: The store refuses a file.
        """
        self._write_lines()
        self._write_charts()

    def _write_lines(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        put_atomic(join_uri(self._out_uri, METRICS_FILE), lines.encode())
        self._written_s = time.monotonic()

    def _write_charts(self) -> None:
        started_s = time.monotonic()
        put_atomic(join_uri(self._out_uri, EVENTS_FILE), encode_events(self.records, self._num_images))
        put_atomic(join_uri(self._out_uri, PAGE_FILE), render_training_page(self._title, self.records).encode())
        self._drawn_s = time.monotonic()
        self._drawing_s = self._drawn_s - started_s


def read_records(out_uri: str) -> list[Record]:
    """Read the records of a run; none without the file.

    Raises:
        TrainingError: A line is damaged.
    """
    uri = join_uri(out_uri, METRICS_FILE)
    try:
        # The figures of a run may be NaN.
        records = [parse_json(line, allow_non_finite=True) for line in read_bytes(uri).splitlines()]
        check_fields(list[_Place], records)
        return records
    except FileNotFoundError:
        return []
    except DocumentError as error:
        raise TrainingError(f"'{uri}' has a line that is not a record: {error}; delete that line") from error


def find_place(record: Mapping[str, Any]) -> tuple[float, int]:
    """Position of a record in the run, in epochs; an epoch's record follows that of its last step."""
    return (float(record["epoch"]), 1) if record["kind"] == "epoch" else (record["position"], 0)


def list_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """List the figures of a record by their names in TensorBoard."""
    if record["kind"] == "step":
        scalars = {f"train/{name}": value for name, value in record["losses"].items()}
        names = ("learning_rate", "grad_norm", "images_per_s", "wait_share")
        return scalars | {f"train/{name}": record[name] for name in names}
    scalars = {}
    for split, fields in (("validation", record["validation"]), ("validation_patches", record["patch_validation"])):
        for name, value in (fields or {}).get("losses", {}).items():
            scalars[f"{split}/{name}"] = value
        if fields and fields["mean_average_precision"] is not None:
            scalars[f"{split}/mean_average_precision"] = fields["mean_average_precision"]
            scalars |= {f"{split}_ap/{name}": value for name, value in fields["average_precision"].items()}
    return scalars


def encode_events(records: Sequence[Record], num_images: int) -> bytes:
    """Encode records as a TensorBoard event file; its steps count images since the start of the run."""
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder, write_to_disk=True)
        for record in records:
            step = round(find_place(record)[0] * num_images)
            for name, value in list_scalars(record).items():
                writer.add_scalar(name, value, step, walltime=record["time"])
        writer.close()
        (path,) = Path(folder).glob("events.out.tfevents.*")
        return path.read_bytes()

"""The figures of a run as lines, events and a page; what a resumed run writes again, it writes in place."""

import json
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from pipeline.storage.reading import read_bytes
from pipeline.training.driver.log import EVENTS_FILE, METRICS_FILE, PAGE_FILE, MetricLog, read_records


def make_step(epoch: Any, step: Any, loss: float = 1.0, num_steps: int = 4) -> dict[str, Any]:
    return {
        "kind": "step",
        "epoch": epoch,
        "step": step,
        "num_steps": num_steps,
        "position": epoch - 1 + step / num_steps,
        "losses": {"total": loss, "class_loss": loss},
        "learning_rate": 1e-3,
        "grad_norm": 2.0,
        "images_per_s": 10.0,
        "wait_share": 0.01,
    }


def make_epoch(epoch: Any, mean: float = 0.5) -> dict[str, Any]:
    validation = {
        "mean_average_precision": mean,
        "average_precision": {"cat": 0.25, "<dog>": 0.75},
        "without_positives": [],
        "num_images": 9,
        "losses": {"total": 0.7},
    }
    return {
        "kind": "epoch",
        "epoch": epoch,
        "losses": {"total": 1.0, "class_loss": 1.0},
        "learning_rate": 1e-3,
        "grad_norm": 2.0,
        "num_images": 40,
        "num_dropped": 3,
        "num_workers": 2,
        "train_s": 4.0,
        "wait_share": 0.02,
        "validation": validation,
        "patch_validation": None,
        "score": mean,
    }


def list_places(log: Any) -> list[tuple[Any, Any, Any]]:
    return [(record["kind"], record["epoch"], record.get("step")) for record in log.records]


def read_events(payload: bytes) -> Any:
    events, offset = [], 0
    while offset < len(payload):
        length = int.from_bytes(payload[offset : offset + 8], "little")
        events.append(Event.FromString(payload[offset + 12 : offset + 12 + length]))
        offset += 12 + length + 4
    return events


def test_log_survives_its_driver_and_replaces_repeated_records(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path), "run", 40)
    for record in (make_step(1, 2), make_step(1, 4), make_epoch(1), make_step(2, 2, loss=5.0)):
        log.add(record)
    log.flush()
    again = MetricLog(str(tmp_path), "run", 40)
    assert again.records == log.records
    again.add(make_step(2, 1))
    assert list_places(again) == [("step", 1, 2), ("step", 1, 4), ("epoch", 1, None), ("step", 2, 1)]


def test_log_of_a_resumed_run_has_exactly_the_records_of_the_checkpoint(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path), "run", 40)
    log.add(make_step(1, 2))
    log.add(make_step(2, 3, loss=9.0))
    log.go_back(1.5, [make_epoch(1), make_step(1, 2), make_step(1, 4), make_step(2, 2)])
    assert list_places(log) == [("step", 1, 2), ("step", 1, 4), ("epoch", 1, None), ("step", 2, 2)]


def test_lines_are_json_and_events_carry_every_figure(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path), "run", 40)
    log.add(make_step(1, 2, loss=3.5))
    log.add(make_epoch(1))
    log.flush()
    lines = read_bytes(str(tmp_path / METRICS_FILE)).splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["step", "epoch"]
    assert read_records(str(tmp_path)) == log.records
    scalars = {
        value.tag: (event.step, value.simple_value)
        for event in read_events(read_bytes(str(tmp_path / EVENTS_FILE)))
        for value in event.summary.value
    }
    assert scalars["train/total"] == (20, 3.5)
    assert scalars["validation/mean_average_precision"] == (40, 0.5)
    assert scalars["validation_ap/cat"] == (40, 0.25)


def test_page_shows_curves_and_a_row_an_epoch_and_escapes_names(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path), "a <run>", 40)
    for epoch in (1, 2):
        log.add(make_step(epoch, 4))
        log.add(make_epoch(epoch, mean=0.4 + epoch / 10))
    log.flush()
    page = read_bytes(str(tmp_path / PAGE_FILE)).decode()
    assert page.count("<svg") == 8
    assert "a &lt;run&gt;" in page
    assert "<dog>" not in page
    assert "<td>60.0%</td>" in page


def test_lines_are_written_after_each_epoch_and_the_page_less_often(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path), "run", 40)
    log.add(make_epoch(1))
    page = read_bytes(str(tmp_path / PAGE_FILE))
    log.add(make_epoch(2))
    assert len(read_records(str(tmp_path))) == 2
    assert read_bytes(str(tmp_path / PAGE_FILE)) == page
    log.flush()
    assert read_bytes(str(tmp_path / PAGE_FILE)) != page


def test_page_of_a_run_without_figures_states_that(tmp_path: Path) -> None:
    MetricLog(str(tmp_path), "run", 40).flush()
    assert "Nothing has been measured yet" in read_bytes(str(tmp_path / PAGE_FILE)).decode()

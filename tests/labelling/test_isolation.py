"""Labelling in a child process: real processes that really die."""

import os
import signal
import time
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ChunkError, LabellingError
from pipeline.labelling.isolation import MAX_CULPRITS, label_isolated
from pipeline.run.records import PART_SCHEMA, Sample
from pipeline.workers.watchdog import Watchdog


class FragileLabeler:
    """Labels by writing down how many samples it saw at once; some images kill or provoke it."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(1.0)

    def label(self, samples: Any) -> pa.Table:
        with self.watchdog.watch("samples"):
            for sample in samples:
                if sample.image == b"die":
                    signal.raise_signal(signal.SIGSEGV)
                if sample.image == b"hang":
                    time.sleep(1000)
                if sample.image == b"raise":
                    raise ZeroDivisionError("such an image")
        rows = [{"key": sample.key, "status": "labelled", "width": len(samples)} for sample in samples]
        return pa.Table.from_pylist(rows, schema=PART_SCHEMA)


class StillbornLabeler:
    """Dies before it has seen anything."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def label(*images: Any, make_labeler: Any = FragileLabeler) -> list[dict[str, Any]]:
    samples = [Sample(key=f"k{place}", image=image) for place, image in enumerate(images)]
    return label_isolated(make_labeler, samples).to_pylist()


def test_innocent_chunk_is_labelled_as_any_worker_would() -> None:
    rows = label(b"a", b"b", b"c")
    assert [(row["key"], row["status"], row["width"]) for row in rows] == [(f"k{i}", "labelled", 3) for i in range(3)]


@pytest.mark.parametrize(
    ("culprit", "error"), [(b"die", "died or hung"), (b"hang", "died or hung"), (b"raise", "such an image")]
)
def test_culprits_are_rejected_and_the_others_labelled_together(culprit: bytes, error: str) -> None:
    rows = label(b"a", culprit, b"c", b"d", culprit)
    assert [(row["key"], row["status"]) for row in rows] == [
        ("k0", "labelled"),
        ("k1", "rejected"),
        ("k2", "labelled"),
        ("k3", "labelled"),
        ("k4", "rejected"),
    ]
    assert [row["reason"] for row in rows] == [None, "crashed", None, None, "crashed"]
    assert error in rows[1]["error"]
    # As if they had been a chunk without the culprits.
    assert [row["width"] for row in rows if row["status"] == "labelled"] == [3, 3, 3]


def test_chunk_of_one_culprit_is_a_rejected_row() -> None:
    assert [row["reason"] for row in label(b"die")] == ["crashed"]


def test_machine_that_kills_every_image_is_not_blamed_on_them() -> None:
    with pytest.raises(ChunkError, match="every one of 2 images"):
        label(b"die", b"raise")


def test_after_many_culprits_in_a_row_the_rest_of_a_chunk_is_not_tried() -> None:
    with pytest.raises(ChunkError, match=f"every one of {MAX_CULPRITS} images from 'k0' on"):
        label(*[b"raise"] * MAX_CULPRITS, b"a", b"b")


def test_culprits_at_the_start_of_a_chunk_do_not_condemn_it() -> None:
    rows = label(*[b"raise"] * (MAX_CULPRITS - 1), b"a", b"raise")
    assert [row["status"] for row in rows] == ["rejected"] * (MAX_CULPRITS - 1) + ["labelled", "rejected"]


def test_child_that_cannot_start_is_an_error() -> None:
    with pytest.raises(LabellingError, match="cannot be started"):
        label(b"a", make_labeler=StillbornLabeler)

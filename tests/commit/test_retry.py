"""Labelling again what was rejected: only that, in place, and crashed at every write."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit.encoding import FOOTER_KEY
from pipeline.commit.retry import open_retry, parse_reasons
from pipeline.errors import RunConflictError
from pipeline.images.masks import decode_mask
from pipeline.label import label_run
from pipeline.run.config import MapConfig
from pipeline.run.run_file import Run
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.small_run import OPTIONS, read_all

OUT = "faulty://out"
LIMIT = 3000
"""Pixels. Six of the ten photos have more; one of these has no known tag either."""
NUM_WRITES = 14
"""A heartbeat and its end; two shards with a manifest each; five chunks that hold large photos, with a part and its
deletion each. Checked below."""
COLUMNS = ["key", "index", "status", "reason", "error", "width", "height", "image_sha256", "class_ids", "mask"]
LENIENT = replace(OPTIONS, max_rejected_fraction=1.0)


def label(run: Any, cluster: Any = None, reasons: str = "rejected:too_large") -> tuple[Any, Any]:
    run, order = open_retry(run, parse_reasons(reasons))
    cluster = cluster or SerialCluster()
    return label_run(run, LENIENT, retry=order, cluster=cluster), cluster


@pytest.fixture
def finished(open_small_run: Callable[..., Run], faulty_uri: str) -> dict[str, pa.Table]:
    """A finished run that rejected large photos."""
    label_run(open_small_run(OUT, max_image_pixels=LIMIT), LENIENT, cluster=SerialCluster())
    FaultyStore.heal()
    return {name: pq.read_table(io.BytesIO(data)) for name, data in read_all(OUT).items() if "labels" in name}


@pytest.fixture(scope="module")
def expected_rows(open_small_run: Callable[..., Run]) -> Any:
    """The rows of a run that had the high limit from the start."""
    FaultyStore.reset()
    label_run(open_small_run(OUT), LENIENT, cluster=SerialCluster())
    return read_rows()


def read_rows() -> list[Any]:
    """The rows without their statistics, whose last digits depend on which images shared a batch."""
    files = sorted((name, data) for name, data in read_all(OUT).items() if "labels" in name)
    tables = [pq.read_table(io.BytesIO(data), columns=COLUMNS) for _, data in files]
    return [row for table in tables for row in table.to_pylist()]


def assert_same_rows(rows: Any, expected_rows: Any) -> None:
    """Masks may differ by a pixel where two classes are all but equal: rounding depends on the batch."""
    masks, expected_masks = (
        [decode_mask(row["mask"]["bytes"]) if row["mask"] else None for row in table] for table in (rows, expected_rows)
    )
    assert [row | {"mask": None} for row in rows] == [row | {"mask": None} for row in expected_rows]
    for mask, expected in zip(masks, expected_masks, strict=True):
        assert (mask is None) == (expected is None)
        assert mask is None or (mask != expected).mean() < 2e-3


def test_retry_under_a_raised_limit_gives_the_rows_of_a_run_that_had_it(
    open_small_run: Callable[..., Run], finished: dict[str, pa.Table], expected_rows: Any
) -> None:
    before = read_rows()
    num_rejected = sum(row["reason"] == "too_large" for row in before)
    assert num_rejected == 5
    summary, _ = label(open_small_run(OUT, check=False))
    assert summary.counts.num_labelled == num_rejected
    assert_same_rows(read_rows(), expected_rows)
    assert sorted(read_all(OUT)) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]
    footer = json.loads(pq.read_schema(io.BytesIO(read_all(OUT)["/labels/photos-0.parquet"])).metadata[FOOTER_KEY])
    assert footer["counts"]["rejected_by_reason"] == {"no_known_tag": 1}
    assert [entry["reasons"] for entry in footer["retries"]] == [["too_large"]]


def test_chunks_without_such_rows_are_not_read(
    open_small_run: Callable[..., Run], finished: dict[str, pa.Table]
) -> None:
    _, cluster = label(open_small_run(OUT, check=False))
    # Chunk 1 of the first shard holds one large photo; its chunk 0 none, as the photo without a known tag is not one.
    assert cluster.labelled == ["photos-0/1", "photos-0/2", "photos-1/0", "photos-1/1", "photos-1/2"]


def test_retry_writes_what_the_protocol_says(open_small_run: Callable[..., Run], finished: dict[str, pa.Table]) -> None:
    label(open_small_run(OUT, check=False))
    assert len(FaultyStore.writes) == NUM_WRITES


def test_same_retry_again_does_nothing(open_small_run: Callable[..., Run], finished: dict[str, pa.Table]) -> None:
    label(open_small_run(OUT, check=False))
    once = read_all(OUT)
    summary, cluster = label(open_small_run(OUT, check=False))
    assert (cluster.labelled, summary.num_sealed) == ([], 0)
    assert read_all(OUT) == once


def test_retry_that_changes_more_than_a_limit_is_refused(
    open_small_run: Callable[..., Run], finished: dict[str, pa.Table]
) -> None:
    run = open_small_run(OUT, check=False)
    run = replace(run, config=replace(run.config, maps=MapConfig(refine=False)))
    with pytest.raises(RunConflictError, match="config.maps.refine was True, is False; a retry may only change"):
        label(run)


@pytest.mark.parametrize(
    "text", ["labelled", "rejected:nonsense", "rejected:duplicate_key", "rejected:dotted_name", "rejected:"]
)
def test_retry_of_what_labelling_cannot_mend_is_refused(text: str) -> None:
    if text == "rejected:":
        assert {"too_large", "not_found"} < set(parse_reasons(text))
        return
    with pytest.raises(ValueError, match="--retry"):
        parse_reasons(text)


@pytest.mark.parametrize("number", range(NUM_WRITES))
@pytest.mark.parametrize("moment", ["before_write", "after_write"])
@pytest.mark.parametrize("fault", [CrashError, ConnectionResetError])
def test_retry_resumes_after_a_fault_at_any_write(
    open_small_run: Callable[..., Run],
    finished: dict[str, pa.Table],
    expected_rows: Any,
    fault: type[BaseException] | type[Exception],
    moment: str,
    number: int,
) -> None:
    """The process dies, or the write fails, before it is done; or it is done and its reply is lost."""

    def disturb(count: Any, name: str) -> None:
        if count == number:
            raise fault(name)

    setattr(FaultyStore, moment, staticmethod(disturb))
    with contextlib.suppress(CrashError, OSError):
        label(open_small_run(OUT, check=False))
    FaultyStore.heal()
    label(open_small_run(OUT, check=False))
    assert_same_rows(read_rows(), expected_rows)
    assert sorted(read_all(OUT)) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]


@pytest.mark.parametrize("number", range(NUM_WRITES))
def test_two_drivers_of_a_retry_leave_what_one_leaves(
    open_small_run: Callable[..., Run], finished: dict[str, pa.Table], expected_rows: Any, number: int
) -> None:
    """The second driver does the whole retry between two writes of the first, wherever that is."""

    def let_the_other_run(count: Any, name: str) -> None:
        if count == number:
            FaultyStore.before_write = staticmethod(lambda count, name: None)
            label(open_small_run(OUT, check=False))

    FaultyStore.before_write = staticmethod(let_the_other_run)
    summary, _ = label(open_small_run(OUT, check=False))
    assert summary.failed_shards == {}
    label(open_small_run(OUT, check=False))
    assert_same_rows(read_rows(), expected_rows)
    assert sorted(read_all(OUT)) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]

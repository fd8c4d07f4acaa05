"""Reports as rows: whatever a worker reports, the driver reads."""

import dataclasses
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit.names import PartName
from pipeline.commit.worker_reports import (
    HEAD,
    REPORT_SCHEMA,
    ChunkId,
    ChunkReport,
    ShardEndReport,
    ShardFailure,
    make_row,
    read_head,
    read_report,
)
from pipeline.kept_maps.chunk_rows import KEPT_SCHEMA
from pipeline.labelling.chunk_rows import CHUNK_SCHEMA, SAMPLE
from pipeline.run.counts import LabelCounts
from pipeline.run.records import Sample, ShardEnd

NUMBERS = st.integers(0, 2**62)
NAMES = st.text(min_size=1).filter(lambda text: text.isprintable())
CHUNKS = st.builds(ChunkId, shard_name=NAMES, part=st.builds(PartName, chunk_index=NUMBERS, end_offset=NUMBERS))
ENDS = st.builds(ShardEnd, num_chunks=NUMBERS, truncated_at=st.none() | NUMBERS)
ENDINGS = st.builds(ShardEndReport, shard_name=NAMES, end=ENDS) | st.builds(
    ShardFailure, shard_name=NAMES, error=NAMES, is_store_error=st.booleans()
)


@st.composite
def counts(draw: Any) -> Any:
    rejected = draw(st.dictionaries(NAMES, st.integers(0, 1000), max_size=3))
    labelled, total = draw(st.integers(0, 1000)), sum(rejected.values())
    return LabelCounts(
        num_read=labelled + total, num_labelled=labelled, num_rejected=total, rejected_by_reason=rejected
    )


@given(st.builds(ChunkReport, chunk=CHUNKS, counts=counts()) | ENDINGS)
def test_report_is_read_as_it_was_made(report: ChunkReport | ShardFailure | ShardEndReport) -> None:
    assert read_report(make_row(report)) == report


@given(CHUNKS | ENDINGS, st.sampled_from([CHUNK_SCHEMA, KEPT_SCHEMA]))
def test_head_of_a_reader_row_is_read_as_it_was_made(
    head: ChunkId | ShardFailure | ShardEndReport, schema: pa.Schema
) -> None:
    assert read_head(make_row(head, schema)) == head


@given(ENDINGS, st.sampled_from([CHUNK_SCHEMA, KEPT_SCHEMA]))
def test_end_of_a_shard_passes_from_reader_to_driver(ending: ShardEndReport | ShardFailure, schema: pa.Schema) -> None:
    assert read_report(make_row(read_head(make_row(ending, schema)))) == ending


def test_table_without_rows_has_no_report() -> None:
    assert read_report(REPORT_SCHEMA.empty_table()) is None


def test_error_with_bytes_that_are_not_utf8_is_escaped() -> None:
    name = b"caf\xe9.tar".decode(errors="surrogateescape")
    failure = read_report(make_row(ShardFailure(shard_name="a", error=f"shard '{name}' is gone")))
    assert failure == ShardFailure(shard_name="a", error="shard 'caf\\udce9.tar' is gone")


def test_all_rows_start_with_the_same_columns() -> None:
    for schema in (REPORT_SCHEMA, CHUNK_SCHEMA, KEPT_SCHEMA):
        assert schema.names[: len(HEAD)] == [name for name, _ in HEAD]
        assert pa.schema(list(schema)[: len(HEAD)]) == pa.schema(HEAD)


def test_samples_travel_with_every_field_but_the_one_of_sealing() -> None:
    assert {*SAMPLE.names, "is_continuation"} == {field.name for field in dataclasses.fields(Sample)}

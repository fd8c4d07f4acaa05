"""The plan: what is left after any set of commits, from listings alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit.names import PartName, locate_manifest, locate_part
from pipeline.commit.plan import ShardWork, plan_run
from pipeline.errors import ManifestError
from pipeline.inputs.chunks import read_missing_chunks
from pipeline.inputs.shards import list_shards
from pipeline.labelling.estimate import estimate_rest
from pipeline.run.config import InputConfig, LabelConfig
from pipeline.run.records import Chunk, InputShard, ShardEnd
from pipeline.run.run_file import Run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.writing import put_atomic
from tests.factories import make_parquet, make_photo, make_rejected_row, make_tar
from tests.factories import make_run as publish_shards

SHARDS = tuple(InputShard(uri=f"in/{name}.tar", name=name, size_bytes=5000, etag="e") for name in "abc")


def make_run(out_uri: Any, shards: Any = SHARDS) -> Any:
    return Run(
        out_uri=str(out_uri),
        model_uri="model",
        model_digest="d",
        vocabulary=Vocabulary(classes=("cat",)),
        config=LabelConfig(),
        shards=shards,
        fingerprint="f",
    )


def put_part(out_uri: Any, shard_name: str, index: int, end_offset: Any) -> Any:
    part = PartName(chunk_index=index, end_offset=end_offset)
    put_atomic(locate_part(str(out_uri), shard_name, part), b"")
    return part


def test_plan_of_an_empty_output_is_everything(tmp_path: Path) -> None:
    plan = plan_run(make_run(tmp_path))
    assert [item.shard.name for item in plan.work] == ["a", "b", "c"]
    assert all(item.committed == () for item in plan.work)
    assert (plan.num_bytes, plan.num_bytes_done, plan.num_sealed) == (15_000, 0, 0)


def test_plan_leaves_out_sealed_shards_and_keeps_committed_parts(tmp_path: Path) -> None:
    put_atomic(locate_manifest(str(tmp_path), "b"), b"")
    parts = [put_part(tmp_path, "c", index, offset) for index, offset in [(0, 1000), (1, 2000), (3, 4000)]]
    plan = plan_run(make_run(tmp_path))
    assert [(item.shard.name, item.committed) for item in plan.work] == [("a", ()), ("c", tuple(parts))]
    assert plan.num_bytes_done == 5000 + 2000


def test_parts_left_behind_by_a_crash_after_the_seal_are_listed_for_removal(tmp_path: Path) -> None:
    put_atomic(locate_manifest(str(tmp_path), "a"), b"")
    part = put_part(tmp_path, "a", 0, 1000)
    assert plan_run(make_run(tmp_path)).leftover_parts == (locate_part(str(tmp_path), "a", part),)


def test_limit_plans_only_the_first_shards(tmp_path: Path) -> None:
    plan = plan_run(make_run(tmp_path), limit=2)
    assert [item.shard.name for item in plan.work] == ["a", "b"]
    assert plan.num_shards == 2


def test_two_parts_that_claim_one_chunk_are_refused(tmp_path: Path) -> None:
    put_part(tmp_path, "a", 0, 1000)
    put_part(tmp_path, "a", 0, 1536)
    with pytest.raises(ManifestError, match="two parts claim one chunk"):
        plan_run(make_run(tmp_path))


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("shards")
    samples = {f"photo{i:03d}": {"jpg": make_photo(i), "json": b'{"tags": ["cat"]}'} for i in range(23)}
    make_tar(folder / "a.tar", samples)
    return list_shards([str(folder / "a.tar")])[0]


@given(committed=st.sets(st.integers(0, 7)))
def test_missing_chunks_are_read_whatever_is_committed(shard: Any, committed: set[int]) -> None:
    config = InputConfig(max_chunk_samples=3)
    whole = list(read_missing_chunks(shard, config, {}))
    parts = tuple(
        PartName(chunk_index=piece.index, end_offset=piece.end_offset)
        for piece in whole
        if isinstance(piece, Chunk) and piece.index in committed
    )
    left = list(read_missing_chunks(shard, config, ShardWork(shard=shard, committed=parts).end_offsets))
    assert left[:-1] == [piece for piece in whole[:-1] if piece.index not in committed]
    assert isinstance(left[-1], ShardEnd)
    assert left[-1].num_chunks == whole[-1].num_chunks == 8


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_estimate_of_an_empty_output_is_made_from_the_first_chunks(tmp_path: Path, suffix: str) -> None:
    photos = [make_photo(i, size=(64, 64)) for i in range(40)]
    for number in range(5):
        if suffix == "tar":
            samples = {f"{i}": {"jpg": photo, "json": b'{"tags": ["cat"]}'} for i, photo in enumerate(photos)}
            make_tar(tmp_path / "in" / f"{number}.tar", samples)
        else:
            make_parquet(tmp_path / "in" / f"{number}.parquet", {"image": photos, "tags": [["cat"]] * 40})
    # A shard that cannot be read does not affect the estimate.
    (tmp_path / "in" / f"0.{suffix}").write_bytes(b"")
    config = LabelConfig(inputs=InputConfig(max_chunk_samples=8))
    run = replace(make_run(tmp_path / "out", list_shards([str(tmp_path / "in")])), config=config)
    estimate = estimate_rest(run, plan_run(run))
    assert (estimate.num_sampled, estimate.basis) == (2, "shards whose first chunk was read")
    assert abs(estimate.num_rows - 4 * 40) <= 16
    assert abs(estimate.num_chunks - 4 * 5) <= 2


def test_estimate_of_unreadable_inputs_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    run = make_run(tmp_path / "out", list_shards([str(tmp_path / "a.tar")]))
    assert estimate_rest(run, plan_run(run)) is None


@pytest.fixture
def photo_shards(tmp_path: Path) -> tuple[InputShard, ...]:
    """Four shards of five photos each."""
    for name in "abcd":
        samples = {f"{i}": {"jpg": make_photo(i), "json": b'{"tags": ["cat"]}'} for i in range(5)}
        make_tar(tmp_path / "in" / f"{name}.tar", samples)
    return list_shards([str(tmp_path / "in")])


def test_estimate_under_a_limit_needs_nothing_of_the_shards_beyond_it(
    tmp_path: Path, photo_shards: list[InputShard]
) -> None:
    run = make_run(tmp_path / "out", photo_shards)
    estimate = estimate_rest(run, plan_run(run, limit=2))
    assert (estimate.num_sampled, estimate.basis) == (2, "shards whose first chunk was read")
    assert abs(estimate.num_rows - 2 * 5) <= 5


def test_estimate_under_a_limit_is_made_of_the_published_shards_within_it(
    tmp_path: Path, photo_shards: list[InputShard]
) -> None:
    # The fourth is published too, by a run without the limit: it is no part of this plan.
    published = {shard: [make_rejected_row(f"{i}") for i in range(5)] for shard in (photo_shards[0], photo_shards[3])}
    publish_shards(str(tmp_path / "out"), ["cat"], published)
    run = make_run(tmp_path / "out", photo_shards)
    plan = plan_run(run, limit=2)
    assert (plan.num_shards, plan.num_sealed) == (2, 1)
    estimate = estimate_rest(run, plan)
    assert (estimate.num_sampled, estimate.basis) == (1, "published shards")
    assert (estimate.num_rows, estimate.num_chunks) == (5, 1)

"""New masks of a run that grew: the shards published since are added to the run of new masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.remask import main
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.errors import RunConflictError
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.run_file import Run
from tests.fakes import SerialCluster
from tests.small_run import NUM_PER_SHARD, OPTIONS, read_all


@pytest.fixture
def grown(open_small_run: Callable[..., Run], tmp_path: Path) -> Path:
    """Folder of a labelling run `kept` that grew after the new masks `out` were made of its maps."""
    kept_uri = str(tmp_path / "kept")
    label_run(open_small_run(kept_uri, keep_maps=True, pattern="photos-1.tar"), OPTIONS, cluster=SerialCluster())
    remask(tmp_path)
    label_run(open_small_run(kept_uri, keep_maps=True, extend=True), OPTIONS, cluster=SerialCluster())
    return tmp_path


def remask(folder: Path, **options: Any) -> Any:
    kept = open_kept_run(str(folder / "kept"))
    run = open_remask(str(folder / "out"), kept, kept.config.maps, **options)
    return remask_run(run, cluster=SerialCluster())


def test_shards_published_since_are_refused_without_the_option(grown: Path) -> None:
    with pytest.raises(RunConflictError, match=r"has 1 shards and lacks 1 .* such as '.*photos-0.tar'; add --extend"):
        remask(grown)


def test_shards_published_since_are_added_with_the_option(grown: Path) -> None:
    before = read_all(str(grown / "out"))
    assert remask(grown, extend=True).num_sealed == 1
    after = read_all(str(grown / "out"))
    assert sorted(after.keys() - before.keys()) == ["/extensions/000001.json", "/labels/photos-0.parquet"]
    assert {name: after[name] for name in before} == before
    verdict = verify_run(list_run(str(grown / "out")), FULL)
    assert (verdict.findings, verdict.counts.num_read) == ({}, 2 * NUM_PER_SHARD)
    for options in ({"extend": True}, {}):
        assert remask(grown, **options).num_chunks == 0


def test_manifest_of_an_added_shard_that_changed_since_is_refused(grown: Path) -> None:
    remask(grown, extend=True)
    manifest = grown / "kept" / "labels" / "photos-0.parquet"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(RunConflictError, match="shard 'labels/photos-0.parquet' changed"):
        remask(grown, extend=True)


def test_shard_whose_manifest_is_gone_is_refused_with_the_option_too(grown: Path) -> None:
    (grown / "kept" / "labels" / "photos-1.parquet").unlink()
    with pytest.raises(RunConflictError, match=r"photos-1.tar' is no longer among the inputs"):
        remask(grown, extend=True)


def test_dry_run_of_an_extension_says_what_it_would_add(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_all(str(grown / "out"))
    assert main(["--labels", f"{grown}/kept", "--out", f"{grown}/out", "--extend", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "--extend would add 1 shards to the 1 of the run" in printed
    assert "2 shards: 1 published, 1 to do" in printed
    assert read_all(str(grown / "out")) == before

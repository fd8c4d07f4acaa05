"""Which rows are taken."""

from pathlib import Path

import pytest

from pipeline.export.job.best_rows import find_levels
from pipeline.export.job.finish import find_rare_classes
from pipeline.export.job.selection import Selection, find_level
from pipeline.published.run import open_published
from tests.export.runs import export_all, list_shard, make_rows, make_scene, open_export
from tests.factories import make_parquet, make_run


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Ten easy photos of cats, and four hard ones of dogs."""
    scenes = [make_scene(0)] * 10 + [make_scene(1)] * 4
    keys = [f"k{number}" for number in range(14)]
    path = make_parquet(tmp_path / "a.parquet", {"image": [one.photo for one in scenes], "tags": [["cat"]] * 14})
    qualities = [0.6 + 0.03 * place for place in range(10)] + [0.1, 0.2, 0.3, 0.3]
    rows = [row | {"quality": quality} for row, quality in zip(make_rows(keys, scenes), qualities, strict=True)]
    make_run(f"{tmp_path}/run", ("cat", "dog"), {list_shard(path): rows})
    return f"{tmp_path}/run"


def list_names(out: Path) -> list[str]:
    return (out / "ImageSets" / "Segmentation" / "train.txt").read_text().split()


def test_best_fraction_keeps_a_share_of_each_set_of_classes(run_uri: str, tmp_path: Path) -> None:
    levels = find_levels(open_published(run_uri), 0.5)
    summary = export_all(run_uri, f"{tmp_path}/out", best_fraction=0.5, levels=levels)
    assert summary.counts is not None
    assert summary.counts.exported_of_class == {1: 5, 2: 2}
    assert summary.counts.left_out == {"best-fraction": 7}
    assert {"k9-0-9", "k12-0-12", "k13-0-13"} <= set(list_names(tmp_path / "out"))
    assert "k4-0-4" not in list_names(tmp_path / "out")


def test_limit_of_quality_names_the_class_that_it_removes(run_uri: str, tmp_path: Path) -> None:
    export = open_export(run_uri, f"{tmp_path}/out", min_quality=0.6)
    summary = export_all(run_uri, f"{tmp_path}/out", min_quality=0.6)
    assert summary.counts is not None
    (rare,) = find_rare_classes(export, summary.counts)
    assert (rare.name, rare.num_exported, rare.num_labelled) == ("dog", 0, 4)
    # 0.6 is no number of 32 bits, and is not below itself.
    assert summary.counts.num_exported == 10


def test_rows_of_other_classes_and_keys_are_left_out(run_uri: str, tmp_path: Path) -> None:
    summary = export_all(run_uri, f"{tmp_path}/dogs", class_ids=frozenset({2}))
    assert summary.counts is not None
    assert (summary.counts.num_exported, summary.counts.left_out) == (4, {"classes": 10})
    summary = export_all(run_uri, f"{tmp_path}/keys", keys=frozenset({"k1", "k13", "else"}))
    assert list_names(tmp_path / "keys") == ["k1-0-1", "k13-0-13"]


@pytest.mark.parametrize(("fraction", "level"), [(0.1, 900), (0.25, 900), (0.5, 500), (0.75, 100), (1.0, 100)])
def test_level_keeps_at_least_the_share(fraction: float, level: int) -> None:
    assert find_level({100: 2, 500: 1, 900: 1}, fraction) == level


def test_shares_and_limits_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="need --min-quality between 0 and 1, got 2.0"):
        Selection(min_quality=2.0)
    with pytest.raises(ValueError, match="need --best-fraction above 0 and at most 1, got 0.0"):
        Selection(best_fraction=0.0)

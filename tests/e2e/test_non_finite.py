"""`python -m jobs.label` with a model that overflows on some images: those are rejected, and the run ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles import save_bundle
from tests.e2e.test_label_job import inputs, read_rows, run_label  # noqa: F401 (fixtures)
from tests.factories import make_black_photo, make_overflowing_model, make_photo, make_tar

pytestmark = pytest.mark.ray


def test_images_that_give_no_finite_values_are_rejected_and_the_run_ends(
    run_label: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    photos = [make_photo(i) if i % 2 or i < 8 else make_black_photo() for i in range(12)]
    tags = json.dumps({"tags": ["cat"]}).encode()
    shard = make_tar(tmp_path / "in.tar", {f"k{i:02d}": {"png": photo, "json": tags} for i, photo in enumerate(photos)})
    save_bundle(str(tmp_path / "model"), *make_overflowing_model())
    out = tmp_path / "out"
    flags = ("--shards", str(shard), "--model", str(tmp_path / "model"), "--max-rejected-fraction", "1")
    printed = run_label(out, *flags, "--inputs.max-chunk-samples", "2")
    assert "rejected, not_finite: 10" in printed
    rows = read_rows(out)
    assert [row["key"] for row in rows] == [f"k{i:02d}" for i in range(12)]
    assert [row["key"] for row in rows if row["status"] == "labelled"] == ["k08", "k10"]
    assert {row["reason"] for row in rows} == {"not_finite", None}

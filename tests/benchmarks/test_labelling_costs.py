"""Counts that the benchmark of labelling states for an earlier commit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.labelling_costs import COUNTED_COMMIT, COUNTED_SHAPE, STATED, find_stated
from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.bundles import save_bundle


def save_model(folder: Path, **changes: Any) -> str:
    config = replace(COUNTED_SHAPE, **changes)
    names = tuple(f"class {number}" for number in range(config.num_classes))
    bundle = ModelBundle(config=config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    save_bundle(str(folder), MCTformer(config), bundle)
    return str(folder)


def test_counts_of_a_model_of_another_shape_or_of_another_baseline_are_not_stated(tmp_path: Path) -> None:
    model, shallow = save_model(tmp_path / "model"), save_model(tmp_path / "shallow", depth=6)
    assert find_stated(COUNTED_COMMIT, shallow) is None
    assert find_stated("HEAD", model) is None
    assert find_stated(str(tmp_path), model) is None
    stated = find_stated(COUNTED_COMMIT, model)
    if stated is None:
        pytest.skip("needs the history of the repository")
    assert stated == STATED

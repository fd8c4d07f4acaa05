"""Images that kill the processes that augment them, in real child processes."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.training.config import ModelConfig, TrainConfig
from pipeline.training.data.augmentation import augment_samples
from pipeline.training.data.stream import augment_guarded
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter
from tests.factories import make_photo

CONFIG = TrainConfig(model=ModelConfig(image_size=32))
ROOT = Path(__file__).parents[3]

HOSTILE_DECODER = """
import os, signal
import PIL.Image

open_image = PIL.Image.open

def open_hostile_image(source, *arguments, **options):
    if bytes(source.getbuffer()).endswith(b"POISON"):
        signal.raise_signal(signal.SIGSEGV)
    return open_image(source, *arguments, **options)

PIL.Image.open = open_hostile_image
"""
"""Module that Python imports when the child process starts."""


def test_image_that_kills_its_processes_is_dropped_and_the_others_are_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOSTILE_DECODER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    rejections = []
    images = [make_photo(0), make_photo(1) + b"POISON", b"no image", make_photo(3)]
    batch = {
        "key": np.array(["a", "b", "c", "d"], dtype=object),
        "epoch": np.zeros(4, np.int32),
        "image": np.array(images, dtype=object),
        "class_ids": np.array([np.array([n]) for n in (1, 2, 1, 2)], dtype=object),
    }
    attempts = AttemptCounter()
    for _ in range(MAX_DEATHS):
        attempts.begin("augment 0 a d")
    found = augment_guarded(batch, CONFIG, 2, lambda key, reason: rejections.append((key, reason)), attempts)
    # The decoder of this process is not replaced.
    expected = augment_samples(batch, CONFIG, 2, lambda key, reason: None)
    assert found["key"].tolist() == ["a", "b", "c", "d"]
    assert found["is_valid"].tolist() == [True, False, False, True]
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        assert np.array_equal(found[name][[0, 2, 3]], column[[0, 2, 3]])
    assert not found["image"][1].any()
    assert [key for key, _ in rejections] == ["b", "c"]
    assert rejections[0][1].startswith("crashed: ")


def test_batch_that_is_augmented_counts_no_death() -> None:
    attempts = AttemptCounter()
    batch = {
        "key": np.array(["a"], dtype=object),
        "epoch": np.zeros(1, np.int32),
        "image": np.array([make_photo(0)], dtype=object),
        "class_ids": np.array([[1]]),
    }
    augment_guarded(batch, CONFIG, 2, lambda key, reason: None, attempts)
    assert attempts.begin("augment 0 a a") == 0

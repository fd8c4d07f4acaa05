"""Settings added after outputs were published: older runs keep their identity."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RunConflictError
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, describe_config, parse_config
from pipeline.run.fingerprint import compute_fingerprint
from pipeline.run.records import InputShard
from pipeline.run.run_file import describe_identity, read_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import TrainConfig, describe_train_config
from tests.factories import start_run

VOCABULARY = Vocabulary(classes=("cat", "dog"), aliases=(("kitty",), ()))
SHARDS = [InputShard(uri="s3://bucket/a.tar", name="a", size_bytes=10240, etag="e1")]
SMALL = LabelConfig(
    inputs=InputConfig(max_chunk_samples=7, max_image_pixels=10**6),
    maps=MapConfig(keep_maps=True, background_threshold=0.3),
)


# Computed before any setting was added later; again at format version 5.
@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (LabelConfig(), "0bc78ea6ad6af89540b1dcfc2463710913b2bda2f15e6a7270670ca63b9e038c"),
        (SMALL, "7dbb25095f5c75aa6247b343244354f7e3916b846fb8b193fa449b460d75d1c8"),
    ],
)
def test_labelling_run_without_later_settings_keeps_its_fingerprint(config: Any, fingerprint: str) -> None:
    identity = describe_identity(config, VOCABULARY, "d" * 64, SHARDS)
    assert compute_fingerprint(identity) == fingerprint
    assert parse_config(identity["config"]) == config


def test_training_run_without_later_settings_keeps_its_fingerprint() -> None:
    described = describe_train_config(TrainConfig())
    assert compute_fingerprint(described) == "d9c8e434cda91de69c37902cb467063a4d9e8f92647443d310e64dbf01a48932"


def test_later_setting_is_described_and_parsed_and_makes_another_run(tmp_path: Path) -> None:
    config = LabelConfig(inputs=InputConfig(max_image_bytes=1000))
    assert describe_config(config)["inputs"]["max_image_bytes"] == 1000
    start_run(tmp_path, SHARDS, config=config)
    assert parse_config(read_run(str(tmp_path))["config"]) == config
    message = f"config.inputs.max_image_bytes was 1000, is {256 * 2**20};"
    with pytest.raises(RunConflictError, match=message):
        start_run(tmp_path, SHARDS)


def test_image_bytes_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="need max_image_bytes >= 1, got 0"):
        InputConfig(max_image_bytes=0)

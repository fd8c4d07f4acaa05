import asyncio
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from pipeline.errors import TrainingError
from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete, put_atomic
from pipeline.training.driver.checkpoints import SNAPSHOT_FILE, drop_damaged, read_place
from pipeline.training.worker.state import CHECKPOINT_FOLDER, STATE_FILE, load_state
from tests.training.worker.test_state import assert_equal, make_state, put_state

BEST, NEWEST = "epoch-0002", "epoch-0003-000010"


def start_run(out: str) -> None:
    """Write two checkpoints and Ray Train's record of them."""
    filesystem, folder = open_for_ray(out)

    async def register() -> None:
        context = StorageContext(folder, CHECKPOINT_FOLDER, filesystem)
        manager = CheckpointManager(keep(num_to_keep=1), context)
        for epoch, step, score in ((1, 0, float("nan")), (2, 0, 0.5), (3, 1, -2e9)):
            checkpoint = put_state(out, make_state(epoch, step))
            metrics = {"epoch": epoch, "step": step, "score": score}
            manager.register_checkpoint(_TrainingReport(checkpoint, metrics, validation=False))

    asyncio.run(register())


def keep(**options: Any) -> ray.train.CheckpointConfig:
    return ray.train.CheckpointConfig(checkpoint_score_attribute="score", **options)


def read_latest(out: str) -> Any:
    """The checkpoint that Ray Train resumes from, as Ray Train reads its record."""
    filesystem, folder = open_for_ray(out)
    return ray.train.Result.from_path(f"{folder}{CHECKPOINT_FOLDER}", filesystem)


def get_state_uri(out: str, name: str) -> str:
    return join_uri(out, CHECKPOINT_FOLDER, name, STATE_FILE)


def truncate(uri: str) -> None:
    put_atomic(uri, read_bytes(uri)[:100_000])


def test_run_whose_newest_checkpoint_is_truncated_resumes_from_the_one_before_with_a_warning(folder_uri: str) -> None:
    start_run(folder_uri)
    assert drop_damaged(folder_uri) == []
    assert read_place(folder_uri) == (3, 10)
    truncate(get_state_uri(folder_uri, NEWEST))
    (warning,) = drop_damaged(folder_uri)
    assert warning.startswith(f"checkpoint '{NEWEST}' is damaged: state.pt is truncated or altered")
    assert warning.endswith("; it is passed over")
    assert read_place(folder_uri) == (2, 0)
    assert_equal(load_state(read_latest(folder_uri).checkpoint, "cpu"), make_state(2))
    assert drop_damaged(folder_uri) == []


def test_checkpoint_of_the_best_epoch_that_is_missing_is_passed_over_and_the_newest_stays(tmp_path: Path) -> None:
    out = str(tmp_path)
    start_run(out)
    delete([get_state_uri(out, BEST)])
    assert drop_damaged(out) == [f"checkpoint '{BEST}' is damaged: state.pt is missing; it is passed over"]
    assert read_place(out) == (3, 10)
    (kept,) = read_latest(out).best_checkpoints
    assert kept[1]["epoch"] == 3


def test_run_without_a_whole_checkpoint_is_refused_with_their_names_and_its_record_stays(tmp_path: Path) -> None:
    out = str(tmp_path)
    start_run(out)
    record = read_bytes(join_uri(out, CHECKPOINT_FOLDER, SNAPSHOT_FILE))
    delete([get_state_uri(out, BEST)])
    truncate(get_state_uri(out, NEWEST))
    with pytest.raises(TrainingError, match=f"no whole checkpoint.*'{NEWEST}' is damaged.*'{BEST}' is damaged.*delete"):
        drop_damaged(out)
    assert read_bytes(join_uri(out, CHECKPOINT_FOLDER, SNAPSHOT_FILE)) == record


def test_run_before_its_first_checkpoint_has_none_to_pass_over(tmp_path: Path) -> None:
    assert drop_damaged(str(tmp_path)) == []


def test_record_of_another_format_is_refused(tmp_path: Path) -> None:
    put_atomic(join_uri(str(tmp_path), CHECKPOINT_FOLDER, SNAPSHOT_FILE), b'{"checkpoint_results": [1]}')
    with pytest.raises(TrainingError, match="is not Ray Train's record of checkpoints"):
        drop_damaged(str(tmp_path))

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from pipeline.errors import TrainingError
from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.training.data.epoch_order import EpochPlan
from pipeline.training.worker.state import (
    CHECKPOINT_FOLDER,
    STATE_FILE,
    Progress,
    TrainingState,
    load_state,
    name_checkpoint,
    write_state,
)

NUM_TENSORS = 60


def make_state(num_epochs: int = 1, step: int = 0) -> TrainingState:
    plan = EpochPlan(epoch=num_epochs, shares=(((0, 40),),), num_steps=4)
    generator = torch.Generator().manual_seed(num_epochs)
    return TrainingState(
        network={f"layer.{index}": torch.rand(2000, generator=generator) for index in range(NUM_TENSORS)},
        average=None,
        num_averaged=0,
        optimizer={},
        progress=Progress(plan, next_step=step),
    )


def put_state(out: str, state: TrainingState) -> ray.train.Checkpoint:
    """Write a checkpoint to the folder of a run as Ray Train's workers do; return it as Ray Train does."""
    filesystem, folder = open_for_ray(out)
    plan = state.progress.plan
    name = name_checkpoint(plan.epoch, plan.count_seen(state.progress.next_step))
    path = f"{folder}{CHECKPOINT_FOLDER}/{name}"
    with write_state(state) as checkpoint, filesystem.open_output_stream(f"{path}/{STATE_FILE}") as stream:
        stream.write(Path(checkpoint.path, STATE_FILE).read_bytes())
    return ray.train.Checkpoint(path, filesystem)


def assert_equal(state: TrainingState, expected: TrainingState) -> None:
    assert state.progress == expected.progress
    assert state.network.keys() == expected.network.keys()
    assert all(torch.equal(state.network[name], expected.network[name]) for name in expected.network)


def test_state_survives_a_checkpoint(folder_uri: str) -> None:
    state = make_state(step=2)
    assert_equal(load_state(put_state(folder_uri, state), "cpu"), state)


def test_workers_of_one_node_that_resume_at_once_all_load_the_state(tmp_path: Path) -> None:
    """Ray Train's own reader rewrites its copy of a checkpoint in place while another worker reads that copy."""
    checkpoint, expected = put_state(str(tmp_path), make_state()), make_state()
    num_workers = 4
    start = threading.Barrier(num_workers)

    def resume(_: int) -> list[TrainingState]:
        states = []
        try:
            for _ in range(25):
                start.wait()
                states.append(load_state(checkpoint, "cpu"))
        except BaseException:
            start.abort()
            raise
        return states

    with ThreadPoolExecutor(num_workers) as workers:
        for states in workers.map(resume, range(num_workers)):
            for state in states:
                assert_equal(state, expected)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "state.pt is missing"),
        (lambda path: path.write_bytes(b""), "state.pt is truncated or altered"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "state.pt is truncated or altered"),
        (lambda path: path.write_bytes(path.read_bytes()[:200_000]), "state.pt is truncated or altered"),
        (lambda path: flip_byte(path, 200_000), r"state.pt is altered at \w+/data/\d+"),
    ],
)
def test_damaged_state_is_refused_by_the_name_of_its_checkpoint(tmp_path: Path, damage: Any, complaint: str) -> None:
    checkpoint = put_state(str(tmp_path), make_state(3, step=1))
    damage(tmp_path / CHECKPOINT_FOLDER / "epoch-0003-000010" / STATE_FILE)
    with pytest.raises(TrainingError, match=f"checkpoint 'epoch-0003-000010' is damaged: {complaint}.*; run the same"):
        load_state(checkpoint, "cpu")


def flip_byte(path: Path, offset: int) -> None:
    payload = bytearray(path.read_bytes())
    payload[offset] ^= 0xFF
    path.write_bytes(payload)


def test_state_with_any_altered_byte_is_refused_or_unharmed(tmp_path: Path) -> None:
    expected = make_state()
    checkpoint = put_state(str(tmp_path), expected)
    path = tmp_path / CHECKPOINT_FOLDER / "epoch-0001" / STATE_FILE
    size = path.stat().st_size
    num_refused = 0
    # The directory of the archive, at its end, is denser in meaning than the weights.
    for offset in [*range(0, size, size // 60), *range(size - 9000, size, 41)]:
        flip_byte(path, offset)
        try:
            assert_equal(load_state(checkpoint, "cpu"), expected)
        except TrainingError:
            num_refused += 1
        flip_byte(path, offset)
    assert num_refused > 60

"""Data loaders of PyTorch: workers of both kinds, ranks of a real group, epochs that reach living workers."""

import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader

import tagmask
from pipeline.inputs.shards import list_shards
from pipeline.library.samples import MaskSample
from pipeline.storage.writing import put_atomic
from tests.library.published import NUM_PHOTOS, NUMBERS, make_masks


@pytest.fixture(scope="module")
def masks_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_masks(tmp_path_factory.mktemp("masks"))


def take_key(sample: MaskSample) -> str:
    """Picklable, for spawned workers."""
    assert sample.mask.shape == sample.image.size[::-1]
    return sample.row.key


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_divide_the_samples(masks_uri: str, method: str) -> None:
    found = tagmask.open(masks_uri, transform=take_key)
    # The parent has read already, so that what it holds must not disturb its children.
    assert next(iter(found)) == "k0"
    loader: DataLoader[Any] = DataLoader(
        found, batch_size=4, num_workers=2, multiprocessing_context=method, collate_fn=list
    )
    assert Counter(key for batch in loader for key in batch) == Counter(list(NUMBERS))


def test_forked_workers_read_from_s3(s3_folder: str, tmp_path: Path) -> None:
    make_masks(tmp_path)
    for name in ("a", "b"):
        put_atomic(f"{s3_folder}/photos/{name}.tar", (tmp_path / f"{name}.tar").read_bytes())
    shards = list_shards([f"{s3_folder}/photos/*.tar"])
    found = tagmask.open(make_masks(tmp_path / "s3", shards=shards, out_uri=f"{s3_folder}/masks"), transform=take_key)
    assert len(list(found)) == NUM_PHOTOS
    loader: DataLoader[Any] = DataLoader(found, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert Counter(loader) == Counter(list(NUMBERS))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_epoch_reaches_workers_that_live_on(masks_uri: str, method: str) -> None:
    found = tagmask.open(masks_uri, transform=take_key, shuffle=True)
    loader: DataLoader[Any] = DataLoader(
        found, batch_size=None, num_workers=1, multiprocessing_context=method, persistent_workers=True
    )
    orders = []
    for epoch in (0, 1, 0):
        found.set_epoch(epoch)
        orders.append(list(loader))
    assert orders[0] == orders[2] != orders[1]
    found.set_epoch(1)
    assert orders[1] == list(found)


def test_shard_is_a_map_style_data_set_with_a_sampler(masks_uri: str) -> None:
    found = tagmask.open(masks_uri, transform=tagmask.ToTensors(16))
    loader: DataLoader[Any] = DataLoader(
        found.shard("b"), batch_size=3, shuffle=True, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(3, 3, 16, 16)] * 3
    assert all(masks.dtype == torch.int64 and set(masks.unique().tolist()) == {0, 1} for _, masks in batches)


def train(rank: int, address: str, masks_uri: str, method: str, options: dict[str, Any], answers: Any) -> None:
    """What a rank does: iterate with workers, and meet the other rank at every batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = tagmask.open(masks_uri, transform=take_key, **options)
    loader: DataLoader[Any] = DataLoader(
        found, batch_size=2, num_workers=2, multiprocessing_context=method, collate_fn=list
    )
    keys, num_batches = [], 0
    for batch in loader:
        if found.uneven_ranks != "exact":
            torch.distributed.all_reduce(torch.ones(1))
        keys += batch
        num_batches += 1
    answers.put((rank, keys, num_batches, len(found)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("method", "options", "nums", "most"),
    [
        # 17 samples for two ranks. Spawned workers have no group to ask for their rank.
        ("spawn", {"uneven_ranks": "repeat"}, [9, 9], 2),
        ("fork", {"uneven_ranks": "drop"}, [8, 8], 1),
        ("fork", {"uneven_ranks": "exact"}, [8, 9], 1),
    ],
)
def test_ranks_of_a_group_divide_the_samples_and_none_waits_for_ever(
    masks_uri: str, tmp_path: Path, method: str, options: dict[str, Any], nums: list[int], most: int
) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    keys = [key for key in NUMBERS if key != "k0"]
    address = f"file://{tmp_path}/rendezvous"
    ranks = [
        context.Process(target=train, args=(rank, address, masks_uri, method, options | {"keys": keys}, answers))
        for rank in range(2)
    ]
    for one in ranks:
        one.start()
    end_s = time.monotonic() + 200
    for one in ranks:
        one.join(max(1.0, end_s - time.monotonic()))
    stuck = [one for one in ranks if one.is_alive()]
    for one in stuck:
        one.kill()
    assert not stuck
    assert [one.exitcode for one in ranks] == [0, 0]
    found = sorted(answers.get() for _ in ranks)
    assert [len(read) for _, read, _, _ in found] == nums == [length for _, _, _, length in found]
    counted = Counter(key for _, read, _, _ in found for key in read)
    assert max(counted.values()) == most
    assert set(counted) == set(keys) if options["uneven_ranks"] != "drop" else set(counted) < set(keys)

"""Order of an epoch: each sample is seen once, with any number of workers."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.records import InputShard
from pipeline.training.data.epoch_order import EpochPlan, count_places, group_shards, list_pieces, plan_epoch

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def make_shards(sizes: Any) -> tuple[list[InputShard], dict[str, Any]]:
    shards = [InputShard(uri=f"{n}.tar", name=f"{n}", size_bytes=1, etag="") for n in range(len(sizes))]
    return shards, {shard.name: size for shard, size in zip(shards, sizes, strict=True)}


def list_places(runs: Any) -> list[Any]:
    return [place for start, stop in runs for place in range(start, stop)]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 70))
def test_workers_share_an_epoch_evenly_in_the_fewest_steps(num_samples: int, num_workers: int, batch_size: int) -> None:
    plan = plan_epoch(0, [(0, num_samples)], num_workers=num_workers, batch_size=batch_size)
    seen = [place for share in plan.shares for place in list_places(share)]
    assert seen == list(range(num_samples))
    counts = [count_places(share) for share in plan.shares]
    assert max(counts) - min(counts) <= 1
    sizes = [plan.list_batch_sizes(rank) for rank in range(num_workers)]
    per_worker = max(1, batch_size // num_workers)
    assert all(len(own) == plan.num_steps and sum(own) == count for own, count in zip(sizes, counts, strict=True))
    assert all(size <= per_worker for own in sizes for size in own)
    assert plan.num_steps == -(-max(counts) // per_worker)


@given(st.integers(1, 200), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=5))
def test_samples_are_seen_once_after_any_changes_of_the_number_of_workers(
    num_samples: int, attempts: list[tuple[int, int]]
) -> None:
    seen: list[int] = []
    left, num_seen = [(0, num_samples)], 0
    for num_workers, num_steps in attempts:
        plan = plan_epoch(2, left, num_workers=num_workers, batch_size=16, num_seen=num_seen)
        step = min(num_steps, plan.num_steps)
        after = plan.list_left(step)
        seen += set(list_places(left)) - set(list_places(after))
        left, num_seen = after, plan.count_seen(step)
        assert num_seen == len(seen)
    assert sorted([*seen, *list_places(left)]) == list(range(num_samples))


@given(st.integers(0, 100), st.integers(1, 4))
def test_plan_survives_a_checkpoint(num_samples: int, num_workers: int) -> None:
    plan = plan_epoch(3, [(0, num_samples)], num_workers=num_workers, batch_size=8, num_seen=5)
    assert EpochPlan.restore(plan.describe()) == plan


@given(SIZES, st.integers(1, 100), st.integers(0, 5))
def test_groups_hold_every_shard_with_samples_and_fill_the_window(sizes: Any, window: int, epoch: int) -> None:
    shards, usable = make_shards(sizes)
    groups = group_shards(shards, usable, window=window, rng_seed=1, epoch=epoch)
    held = [shard.name for group in groups for shard in group.shards]
    assert len(held) == len(set(held))
    assert {name for name, size in usable.items() if size} <= set(held)
    assert [group.first for group in groups] == [sum(g.num_samples for g in groups[:n]) for n in range(len(groups))]
    assert all(group.num_samples >= window for group in groups[:-1])
    assert sum(group.num_samples for group in groups) == sum(sizes)


@given(SIZES, st.integers(1, 100), st.integers(1, 5), st.data())
def test_pieces_of_a_share_are_the_places_of_the_share(
    sizes: Any, window: int, num_workers: int, data: st.DataObject
) -> None:
    shards, usable = make_shards(sizes)
    groups = group_shards(shards, usable, window=window, rng_seed=1, epoch=0)
    plan = plan_epoch(0, [(0, sum(sizes))], num_workers=num_workers, batch_size=8)
    rank = data.draw(st.integers(0, num_workers - 1))
    skipped = data.draw(st.integers(0, count_places(plan.shares[rank])))
    pieces = list_pieces(groups, plan.shares[rank], 0, skipped)
    places = [p.group.first + offset for p in pieces for offset in range(p.start, p.stop)]
    assert places == list_places(plan.shares[rank])[skipped:]

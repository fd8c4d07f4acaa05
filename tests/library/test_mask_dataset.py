"""Published masks as a data set: which samples, in which frame, from where, and in which order."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import tagmask
from pipeline.errors import ManifestError, ShardError, VocabularyError
from pipeline.inputs.shards import list_shards
from pipeline.library.shares import Process, cut_share, find_share, order_blocks
from pipeline.published.splits import parse_splits
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from tests.factories import make_labelled_row, make_parquet, make_run, make_tar
from tests.library.published import HOSTILE_KEYS, NUMBERS, encode_photo, find_orientation, make_masks, read_pixels


@pytest.fixture(scope="module")
def masks_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_masks(tmp_path_factory.mktemp("masks"))


@pytest.mark.parametrize("upright", [True, False])
def test_samples_are_image_mask_and_row_in_one_frame(masks_uri: str, upright: bool) -> None:
    found = tagmask.open(masks_uri, upright=upright)
    num_turned = 0
    for image, mask, row in found:
        assert image.mode == "RGB"
        assert mask.dtype == np.uint8
        assert (
            mask.shape
            == image.size[::-1]
            == read_pixels(row.key).shape[:2][:: -1 if upright and row.orientation > 4 else 1]
        )
        # The photos are bright where their mask is 1.
        assert ((np.asarray(image)[..., 0] > 128) == (mask == 1)).all()
        num_turned += row.orientation != 1
    assert num_turned == 14
    assert len(found) == 18
    assert found.class_names == ("background", "cat", "dog")
    assert "2 classes" in repr(found)


def test_images_are_those_that_pillow_turns_upright(masks_uri: str) -> None:
    for image, _, row in tagmask.open(masks_uri):
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(encode_photo(row.key))))
        assert (np.asarray(image) == np.asarray(wanted)).all()


@pytest.mark.parametrize(
    ("options", "num"),
    [
        ({}, 18),
        ({"min_quality": 0.8}, 0),
        ({"max_quality": 0.75, "min_quality": 0.75}, 18),
        ({"classes": ["dog"]}, 2),
        ({"classes": "dog"}, 2),
        ({"classes": ("cat", "dog")}, 18),
        ({"keys": HOSTILE_KEYS}, len(HOSTILE_KEYS)),
        ({"keys": []}, 0),
        ({"shards": ["b"]}, 9),
        ({"shards": ["b", "b"]}, 9),
        ({"shards": "b", "columns": "quality"}, 9),
        ({"split": "train", "splits": "train=1"}, 18),
    ],
)
def test_filters_choose_samples(masks_uri: str, options: dict[str, Any], num: int) -> None:
    found = tagmask.open(masks_uri, **options)
    assert len(list(found)) == len(found) == len(list(found.rows())) == num


def test_splits_divide_the_samples_by_their_keys(masks_uri: str) -> None:
    splits = "train=0.6,val=0.2,test=0.2"
    by_split = {
        name: [row.key for _, _, row in tagmask.open(masks_uri, splits=splits, split=name)]
        for name in ("train", "val", "test")
    }
    both = [row.key for _, _, row in tagmask.open(masks_uri, splits=parse_splits(splits), split=("val", "test"))]
    everything = [row.key for _, _, row in tagmask.open(masks_uri)]
    assert sorted(key for keys in by_split.values() for key in keys) == sorted(everything)
    assert sorted(by_split["val"] + by_split["test"]) == sorted(both)
    assert all(parse_splits(splits).choose(key) == name for name, keys in by_split.items() for key in keys)
    assert all(by_split.values())


def test_rejected_rows_are_rows_and_no_samples(masks_uri: str) -> None:
    rejected = tagmask.open(masks_uri, statuses="rejected")
    assert [(row.key, row.get("reason")) for row in rejected.rows()] == [("bad", "undecodable")]
    for use in (lambda: next(iter(rejected)), lambda: rejected.shard("a"), lambda: rejected.worst(1)):
        with pytest.raises(ValueError, match=r"rejected rows have no mask; iterate over rows\(\) instead"):
            use()
    assert len(list(tagmask.open(masks_uri, statuses=()).rows())) == 19
    assert len(list(tagmask.open(masks_uri, reasons=["undecodable"], statuses=()).rows())) == 1
    (row,) = rejected.rows()
    with pytest.raises(ShardError, match="bad"):
        rejected.read_image(row)


def test_columns_choose_what_rows_have(masks_uri: str) -> None:
    sample = next(iter(tagmask.open(masks_uri, columns=("quality",))))
    assert sample.row.quality == 0.75
    with pytest.raises(ValueError, match="column 'error' of row .* was not read"):
        sample.row.get("error")
    with pytest.raises(ValueError, match=r"manifests have no column 'qualty'; did you mean 'quality'\?"):
        tagmask.open(masks_uri, columns=("qualty",))
    assert set(next(tagmask.open(masks_uri).rows(("quality",))).values) == {"key", "index", "quality"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classes": ["cow"]}, VocabularyError, "has no class 'cow'"),
        ({"split": "val"}, ValueError, "split 'val' needs the shares of all splits"),
        ({"split": "vla", "splits": "train=0.5,val=0.5"}, ValueError, "need split_names from train, val; got 'vla'"),
        ({"splits": "train=2"}, ValueError, "need a share"),
        ({"shards": ["z"]}, ManifestError, "no published shard 'z'; it has 'a', 'b'"),
        ({"min_quality": 7}, ValueError, "need min_quality between 0 and 1"),
        ({"statuses": "fine"}, ValueError, "need statuses from labelled, rejected: 'fine' is not"),
        ({"uneven_ranks": "pad"}, ValueError, "need uneven_ranks repeat, drop or exact, got 'pad'"),
        ({"seed": -1}, ValueError, "need rng_seed >= 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused_when_the_run_is_opened(
    masks_uri: str, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        tagmask.open(masks_uri, **options)


def test_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=str(tmp_path)):
        tagmask.open(tmp_path)


def test_shard_gives_any_sample(masks_uri: str) -> None:
    found = tagmask.open(masks_uri)
    shard = found.shard("b")
    wanted = [sample for sample in found if sample.row.shard_name == "b"]
    assert (len(shard), shard.name, shard.class_names) == (9, "b", found.class_names)
    for place in (8, 0, -1, 3, np.int64(5), -9):
        assert shard[place].row.key == wanted[place].row.key
        assert (shard[place].mask == wanted[place].mask).all()
        assert (np.asarray(shard[place].image) == np.asarray(wanted[place].image)).all()
    assert [sample.row.key for sample in shard] == [sample.row.key for sample in wanted]
    for wrong in (9, -10):
        with pytest.raises(IndexError, match="has 9 kept rows"):
            shard[wrong]
    with pytest.raises(TypeError):
        shard["0"]  # type: ignore[index]
    with pytest.raises(ManifestError, match="has no shard 'c' here; it has a, b"):
        found.shard("c")
    assert len(tagmask.open(masks_uri, classes="dog").shard("b")) == 1


def test_data_set_and_shard_are_the_same_after_a_pickle(masks_uri: str) -> None:
    found = tagmask.open(masks_uri, classes="dog", shuffle=True, seed=5)
    found.set_epoch(3)
    again = pickle.loads(pickle.dumps(found))
    assert [row.key for _, _, row in again] == [row.key for _, _, row in found]
    shard = found.shard("b")
    shard[0]
    assert pickle.loads(pickle.dumps(shard))[0].row.key == shard[0].row.key


def test_worst_samples_come_first(tmp_path: Path) -> None:
    uri = make_masks(tmp_path, qualities=(0.5, 0.1, 0.9, 0.3))
    found = tagmask.open(uri, transform=lambda sample: 1 / 0)
    worst = found.worst(5)
    qualities = sorted(row.quality or 0 for row in found.rows())
    assert [sample.row.quality for sample in worst] == qualities[:5]
    picture = found.draw(worst[0])
    assert picture.size == (2 * worst[0].image.width, worst[0].image.height)


def test_transform_gets_samples_and_its_result_comes_out(masks_uri: str) -> None:
    assert list(tagmask.open(masks_uri, keys=["k1"], transform=lambda sample: sample.row.key)) == ["k1"]
    image, mask = next(iter(tagmask.open(masks_uri, transform=tagmask.ToTensors((8, 16)))))
    assert (image.shape, mask.shape, str(image.dtype), str(mask.dtype)) == (
        (3, 8, 16),
        (8, 16),
        "torch.float32",
        "torch.int64",
    )
    assert 0 <= image.min() <= image.max() <= 1
    with pytest.raises(ValueError, match="need a size of at least one pixel"):
        tagmask.ToTensors(0)


def test_orders_of_epochs_differ_and_are_the_same_again(masks_uri: str) -> None:
    found = tagmask.open(masks_uri, shuffle=True, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        found.set_epoch(epoch)
        orders.append([row.key + row.shard_name for _, _, row in found])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    other = [row.key + row.shard_name for _, _, row in tagmask.open(masks_uri, shuffle=True, seed=2)]
    assert other != orders[0]
    with pytest.raises(ValueError, match="need epoch >= 0"):
        found.set_epoch(-1)


def test_photo_that_is_gone_or_changed_is_named(tmp_path: Path) -> None:
    uri = make_masks(tmp_path)
    found = tagmask.open(uri)
    (tmp_path / "b.tar").write_bytes(bytes(20000))
    with pytest.raises(ShardError, match=r"b.tar' changed since it was listed"):
        list(found)


def test_manifest_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    uri = make_masks(tmp_path)
    found = tagmask.open(uri, classes="dog")
    shard = found.shard("a")
    other = make_masks(tmp_path / "other", dogs=())
    put_atomic(found.run.manifest_uris[0], Path(tagmask.open(other).run.manifest_uris[0]).read_bytes())
    with pytest.raises(ManifestError, match="another run|has changed since the run was opened"):
        shard[0]


def test_run_and_photos_are_read_from_s3(s3_folder: str, tmp_path: Path) -> None:
    make_masks(tmp_path / "photos")
    for name in ("a", "b"):
        put_atomic(f"{s3_folder}/photos/{name}.tar", (tmp_path / "photos" / f"{name}.tar").read_bytes())
    uri = make_masks(
        tmp_path / "again", shards=list_shards([f"{s3_folder}/photos/*.tar"]), out_uri=f"{s3_folder}/masks"
    )
    found = tagmask.open(uri)
    assert [row.key for _, _, row in found] == [
        row.key for _, _, row in tagmask.open(str(tmp_path / "photos" / "masks"))
    ]
    assert found.shard("b")[-1].row.key == "k17"


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_rows_of_a_manifest_without_places_of_photos_are_read(tmp_path: Path, is_shuffled: bool) -> None:
    uri = make_masks(tmp_path)
    for manifest_uri in tagmask.open(uri).run.manifest_uris:
        table = pq.read_table(manifest_uri)
        # As versions before 5 wrote them.
        pq.write_table(table.drop_columns(["shard", "image_offset", "image_bytes", "image_uri"]), manifest_uri)
    found = tagmask.open(uri, shuffle=is_shuffled)
    samples = list(found)
    assert sorted(sample.row.key for sample in samples) == sorted(NUMBERS)
    assert all(((np.asarray(image)[..., 0] > 128) == (mask == 1)).all() for image, mask, _ in samples)
    assert found.shard("a")[4].row.get("image_offset") is None


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_photos_in_parquet_are_read_in_any_order(tmp_path: Path, is_shuffled: bool) -> None:
    payloads = [encode_photo(key) for key in NUMBERS]
    make_parquet(tmp_path / "p.parquet", {"key": list(NUMBERS), "image": payloads}, row_group_size=5)
    (shard,) = list_shards([str(tmp_path / "p.parquet")])
    rows = [
        make_labelled_row(key, read_pixels(key), [1], photo=payload, exif_orientation=find_orientation(key))
        for key, payload in zip(NUMBERS, payloads, strict=True)
    ]
    make_run(str(tmp_path / "masks"), ("cat", "dog"), {shard: rows})
    found = tagmask.open(tmp_path / "masks", shuffle=is_shuffled)
    keys = []
    for image, mask, row in found:
        assert ((np.asarray(image)[..., 0] > 128) == (mask == 1)).all()
        keys.append(row.key)
    assert sorted(keys) == sorted(NUMBERS)
    assert (keys == list(NUMBERS)) == (not is_shuffled)
    assert found.shard("p")[-1].row.key == list(NUMBERS)[-1]


def test_shards_without_rows_are_passed(tmp_path: Path) -> None:
    make_tar(tmp_path / "empty.tar", {})
    (shard,) = list_shards([str(tmp_path / "empty.tar")])
    make_run(str(tmp_path / "masks"), ("cat",), {shard: []})
    found = tagmask.open(str(tmp_path / "masks"))
    assert (list(found), len(found), list(found.rows()), found.worst(3), len(found.shard("empty"))) == (
        [],
        0,
        [],
        [],
        0,
    )
    assert isinstance(found.shards[0], InputShard)


COUNTS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=4)


@given(counts=COUNTS, num_ranks=st.integers(1, 4), num_workers=st.integers(1, 4), is_shuffled=st.booleans())
def test_processes_divide_rows_without_loss_or_overlap(
    counts: list[list[int]], num_ranks: int, num_workers: int, is_shuffled: bool
) -> None:
    num_rows = sum(map(sum, counts))
    blocks = order_blocks(counts, np.random.default_rng((1, 2)) if is_shuffled else None)
    rng_seed = (1, 2) if is_shuffled else None
    everything = {(block, place) for block in blocks for place in range(block.num_rows)}
    assert len(everything) == num_rows
    for uneven in ("exact", "repeat", "drop"):
        by_rank = []
        for rank in range(num_ranks):
            shares = [
                find_share(num_rows, Process(rank, num_ranks, worker, num_workers), uneven)
                for worker in range(num_workers)
            ]
            by_rank.append(
                [[(b, p) for b, places in cut_share(blocks, share, rng_seed) for p in places] for share in shares]
            )
        rows = [row for workers in by_rank for some in workers for row in some]
        sizes = [[len(some) for some in workers] for workers in by_rank]
        if uneven == "exact":
            assert sorted(rows) == sorted(everything)
            assert max(map(sum, sizes)) - min(map(sum, sizes)) <= 1
        else:
            # Equal counts by worker give equal numbers of batches.
            assert all(one == sizes[0] for one in sizes)
            assert set(rows) == everything if uneven == "repeat" else len(set(rows)) == len(rows)
            assert abs(len(rows) - num_rows) < num_ranks

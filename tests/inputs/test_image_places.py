"""Samples state where their encoded image is: the bytes at that place are the image."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.path_reader import INDEX_SCHEMA
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import to_row, to_samples
from pipeline.run.config import InputConfig, KeyRule
from pipeline.run.records import INDEX_PREFIX, Chunk, InputShard, Sample
from tests.factories import make_parquet, make_photo, make_tar

PHOTOS = [make_photo(number) for number in range(4)]
NOWHERE = {"image_offset": None, "image_bytes": None, "image_uri": None}


def read_samples(shard: InputShard, start: tuple[int, int] = (0, 0), **inputs: Any) -> list[Sample]:
    """Read the samples of a shard as workers get them, from a chunk and its offset on."""
    config = InputConfig(**{"max_chunk_samples": 1} | inputs)
    pieces = list(read_chunks(shard, config, first_chunk=start[0], start_offset=start[1]))
    return [one for piece in pieces if isinstance(piece, Chunk) for one in to_samples(to_row("a", piece))]


def add(archive: tarfile.TarFile, name: str, payload: bytes = b"", link: str = "") -> None:
    header = tarfile.TarInfo(name)
    header.size = len(payload)
    if link:
        header.type, header.linkname = tarfile.LNKTYPE, link
    archive.addfile(header, io.BytesIO(payload))


@pytest.fixture
def tar(tmp_path: Path) -> InputShard:
    """Long names, links, an image of another suffix after the first, a broken link, and an appended archive."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, f"{'deep/' * 40}a.jpg", PHOTOS[0])
        add(archive, "b.json", b"{}")
        add(archive, "b.jpg", PHOTOS[1])
        add(archive, "b.png", PHOTOS[2])
        add(archive, "c.jpg", link="b.jpg")
        add(archive, "c2.jpg", link="c.jpg")
        add(archive, "d.jpg", link="nothing.jpg")
        add(archive, "e.json", b"{}")
        add(archive, "f.0.jpg", PHOTOS[3])
    with path.open("ab") as file, tarfile.open(fileobj=file, mode="w") as archive:
        add(archive, "g.jpg", PHOTOS[3])
    return list_shards([str(path)])[0]


def test_bytes_at_the_offset_of_a_sample_are_its_image(tar: InputShard) -> None:
    content = Path(tar.uri).read_bytes()
    samples = read_samples(tar)
    assert [sample.key[-2:] for sample in samples] == ["/a", "b", "c", "c2", "d", "e", ".0", "g"]
    for sample in samples:
        place = sample.locate_image()
        if sample.image is None:
            assert place == NOWHERE
        else:
            start = place["image_offset"]
            assert content[start : start + place["image_bytes"]] == sample.image
    assert [sample.image for sample in samples] == [*PHOTOS[:2], PHOTOS[1], PHOTOS[1], None, None, None, PHOTOS[3]]


def test_offsets_do_not_depend_on_where_a_reading_starts(tar: InputShard) -> None:
    pieces = [piece for piece in read_chunks(tar, InputConfig(max_chunk_samples=1)) if isinstance(piece, Chunk)]
    places = [sample.locate_image() for sample in read_samples(tar)]
    for piece in pieces[:-1]:
        later = read_samples(tar, (piece.index + 1, piece.end_offset))
        assert [sample.locate_image() for sample in later] == places[piece.index + 1 :]


def test_image_above_the_limit_is_not_read_and_has_a_place(tar: InputShard) -> None:
    first = read_samples(tar, max_image_bytes=10)[0]
    assert first.image is None
    start, size = (first.locate_image()[name] for name in ("image_offset", "image_bytes"))
    assert Path(tar.uri).read_bytes()[start : start + size] == PHOTOS[0]


def test_images_with_dotted_names_have_places_where_the_last_dot_separates(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"f.0": {"jpg": PHOTOS[0]}, "f.1": {"jpg": PHOTOS[1]}})
    samples = read_samples(list_shards([str(path)])[0], key=KeyRule.LAST_DOT)
    content = path.read_bytes()
    assert [content[one.image_offset :][: one.image_bytes] for one in samples] == PHOTOS[:2]


def test_offset_in_a_parquet_file_is_the_row_also_behind_other_row_groups(tmp_path: Path) -> None:
    images = [PHOTOS[0], None, *PHOTOS[1:]]
    path = make_parquet(tmp_path / "a.parquet", {"image": images, "tags": [["cat"]] * 5}, row_group_size=2)
    shard = list_shards([str(path)])[0]
    for start in (0, 3):
        for number, sample in enumerate(read_samples(shard, (start, start)), start):
            image = images[number]
            wanted = NOWHERE if image is None else NOWHERE | {"image_offset": number, "image_bytes": len(image)}
            assert sample.locate_image() == wanted


def test_image_of_its_own_has_its_uri_unless_that_holds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOS[0])
    uris = [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg"), "http://127.0.0.1:9/a.jpg?token=secret", None]
    rows: list[dict[str, Any]] = [
        {"key": f"k{number}", "path": "a.jpg", "uri": uri, "problem": None if uri else "its row names no path"}
        for number, uri in enumerate(uris)
    ]
    # Above the limit, so that nothing is requested.
    rows[2]["size_bytes"] = 2**40
    path = tmp_path / f"{INDEX_PREFIX}0.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), path)
    shard = InputShard(uri=str(path), name=f"{INDEX_PREFIX}0", size_bytes=path.stat().st_size, etag="1")
    places = [sample.locate_image() for sample in read_samples(shard)]
    assert places == [
        {"image_offset": None, "image_bytes": len(PHOTOS[0]), "image_uri": uris[0]},
        NOWHERE | {"image_uri": uris[1]},
        NOWHERE,
        NOWHERE,
    ]

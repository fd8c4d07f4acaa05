"""Listing a folder of a million images with its table, and reading small images by an index or from a tar.

    python -m benchmarks.image_folders list --folder million
    python -m benchmarks.image_folders audit --folder million
    python -m benchmarks.image_folders read --folder small [--store s3://bucket/small]

`list` writes the files first if the folder is empty: one byte each, 1,000 a sub-folder, and metadata.csv with file_name
and tags. `audit` compares its index with it, as tagmask verify does. `read` reads 5,000 images of 100 kB as the
labelling job reads them: an index shard (images fetched ahead by threads), and the same samples as a tar.
"""

import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from benchmarks.peak_memory import read_peak_bytes
from pipeline.audit.collections.judge import judge_collections
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.collections.index import list_index_shards
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete_folder, put_atomic

FILES_PER_FOLDER = 1000
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class ListJob:
    """List a folder of many images with its table."""

    folder: Path
    """Folder of the images; written if it does not exist."""
    num_images: int = 1_000_000

    def run(self) -> None:
        """Measure seconds and the peak of memory."""
        images = self.folder / "images"
        if not images.exists():
            self._write(images)
        index_uri = str(self.folder / "index")
        delete_folder(index_uri)
        before = read_peak_bytes()
        index = IndexPlace(index_uri, is_begun=False)
        shards = _measure("list", lambda: find_inputs([str(images)], InputConfig(), index, print, print))
        print(f"{len(shards)} index shards; peak {read_peak_bytes() / 2**20:.0f} MiB, {before / 2**20:.0f} before")
        begun = IndexPlace(index_uri, is_begun=True, recorded=tuple(shard.uri.rpartition("/")[2] for shard in shards))
        _measure(
            "list again to extend", lambda: find_inputs([str(images)], InputConfig(), begun, print, print, extend=True)
        )
        print(f"peak {read_peak_bytes() / 2**20:.0f} MiB")

    def _write(self, images: Path) -> None:
        images.mkdir(parents=True)
        with (images / "metadata.csv").open("w") as table:
            table.write("file_name,tags\n")
            for number in range(self.num_images):
                folder = f"{number // FILES_PER_FOLDER:04d}"
                if number % FILES_PER_FOLDER == 0:
                    (images / folder).mkdir()
                name = f"{folder}/{number:09d}.jpg"
                (images / name).write_bytes(b"x")
                table.write(f'{name},"dog, cat"\n')


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """Compare the index that `list` wrote with its folder."""

    folder: Path
    """Folder of `list`."""

    def run(self) -> None:
        """Measure seconds and the peak of memory."""
        uri = str(self.folder / "index")
        shards = list_index_shards(uri, json.loads((self.folder / "index/index.json").read_text())["shards"])
        before = read_peak_bytes()
        found = _measure("audit", lambda: judge_collections(shards, has_tags_table=False))
        print(f"{found.num_rows} rows, {found.verdict.findings}, {found.obstacles}")
        print(f"peak {read_peak_bytes() / 2**20:.0f} MiB, {before / 2**20:.0f} before")


@dataclass(frozen=True, kw_only=True)
class ReadJob:
    """Read small images by an index and from a tar."""

    folder: Path
    """Folder for the index, and for the images if there is no store."""
    store: str | None = None
    """Folder of an object store for the images."""
    num_images: int = 5000
    image_bytes: int = 100_000

    def run(self) -> None:
        """Measure samples a second."""
        root = self.store or str(self.folder / "images")
        if not exists(join_uri(root, "tags.jsonl")):
            self._write(root)
        index_uri = str(self.folder / "index")
        delete_folder(index_uri)
        table = join_uri(root, "tags.jsonl")
        index = IndexPlace(index_uri, is_begun=False)
        shards = _measure("list", lambda: find_inputs([table], InputConfig(), index, print, print))
        for name, found in (("index", shards), ("tar", list_shards([join_uri(root, "photos.tar")]))):
            seconds = _time(lambda found=found: self._read(found))  # type: ignore[misc]
            print(f"{name}: {self.num_images / seconds:.0f} samples/s")

    def _read(self, shards: tuple[InputShard, ...]) -> None:
        pieces = [piece for shard in shards for piece in read_chunks(shard, InputConfig())]
        num_images = sum(
            sample.image is not None for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples
        )
        assert num_images == self.num_images, num_images

    def _write(self, root: str) -> None:
        buffer = BytesIO()
        lines = []
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(self.num_images):
                name, payload = f"{number:06d}.jpg", os.urandom(self.image_bytes)
                put_atomic(join_uri(root, name), payload)
                for member, content in ((name, payload), (f"{number:06d}.txt", b"dog")):
                    header = tarfile.TarInfo(member)
                    header.size = len(content)
                    archive.addfile(header, BytesIO(content))
                lines.append(json.dumps({"file_name": name, "tags": ["dog"]}))
        put_atomic(join_uri(root, "photos.tar"), buffer.getvalue())
        put_atomic(join_uri(root, "tags.jsonl"), "\n".join(lines).encode())


def _measure(what: str, act: Callable[[], Found]) -> Found:
    start = time.perf_counter()
    found = act()
    print(f"{what}: {time.perf_counter() - start:.1f} s")
    return found


def _time(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(
        Annotated[ListJob, tyro.conf.subcommand("list")]
        | Annotated[AuditJob, tyro.conf.subcommand("audit")]
        | Annotated[ReadJob, tyro.conf.subcommand("read")]
    ).run()

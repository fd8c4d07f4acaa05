"""Reading of shards on one core, beside other readers of the same files in the same run.

    pip install webdataset
    python -m benchmarks.reading

Each reader gets the key, the tags and the encoded image of each sample; nobody decodes. One round runs every reader
once, in CPU time of the process; a reader's time and its ratio to tagmask are medians over the rounds.

tagmask makes chunks of samples, as a run does. webdataset makes dicts of bytes, and the `.json` is parsed; `tarfile`
reads every member. pyarrow makes Python objects of batches of 16 rows by `to_pylist`: one reader drops each batch, the
other keeps 1,000 rows, as a chunk keeps its samples. The last reader converts nothing: it drops Arrow's batches.
"""

import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk


def main(num_samples: int = 4000, image_kb: int = 54, rounds: int = 9) -> None:
    """Write both files and print the table.

    Args:
        num_samples: Samples of each file.
        image_kb: Size of an image; web images are about 54 kB.
        rounds: Repetitions of each reader.
    """
    rng = np.random.default_rng(0)
    images = [rng.bytes(int(image_kb * 1000 * rng.uniform(0.5, 1.5))) for _ in range(num_samples)]
    num_bytes = sum(map(len, images))
    with tempfile.TemporaryDirectory() as folder:
        tar, table = Path(folder, "shard.tar"), Path(folder, "shard.parquet")
        _write_tar(tar, images)
        keys = [f"{number:09d}" for number in range(num_samples)]
        columns = {"key": keys, "image": images, "tags": [["dog", "cat"]] * num_samples}
        pq.write_table(pa.table(columns), table, row_group_size=1000, compression="none")
        readers: dict[str, Callable[[], int]] = {
            "tar, tagmask": lambda: _read_ours(tar),
            "tar, webdataset": lambda: _read_webdataset(tar),
            "tar, tarfile": lambda: _read_tarfile(tar),
            "Parquet, tagmask": lambda: _read_ours(table),
            "Parquet, pyarrow, rows dropped at once": lambda: _read_pyarrow(table, 1),
            "Parquet, pyarrow, 1,000 rows kept": lambda: _read_pyarrow(table, 1000),
            "Parquet, pyarrow, nothing converted": lambda: _read_arrays(table),
        }
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                start = time.process_time()
                found = read()
                seconds[name].append(time.process_time() - start)
                assert found == num_samples, f"{name}: {found} samples"
    for name, found_seconds in seconds.items():
        ours, median = seconds[f"{name.split(',')[0]}, tagmask"], statistics.median(found_seconds)
        ratio = statistics.median(theirs / own for theirs, own in zip(found_seconds, ours, strict=True))
        print(
            f"{name:40} {num_bytes / median / 1e6:7.0f} MB/s {num_samples / median:8.0f} samples/s, "
            f"tagmask's speed is {ratio:.2f} of it"
        )


def _write_tar(path: Path, images: list[bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, image in enumerate(images):
            for suffix, payload in (("jpg", image), ("json", json.dumps({"tags": ["dog", "cat"]}).encode())):
                header = tarfile.TarInfo(f"{number:09d}.{suffix}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))


def _read_ours(path: Path) -> int:
    pieces = read_chunks(list_shards([str(path)])[0], InputConfig())
    return sum(len(piece.samples) for piece in pieces if isinstance(piece, Chunk))


def _read_webdataset(path: Path) -> int:
    import webdataset

    dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    return sum(bool(sample["jpg"] and json.loads(sample["json"])["tags"]) for sample in dataset)


def _read_tarfile(path: Path) -> int:
    number = 0
    with tarfile.open(path, "r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            payload = file.read()
            number += bool(member.name.endswith(".json") and json.loads(payload)["tags"])
            archive.members = []  # type: ignore[attr-defined]
    return number


def _read_arrays(path: Path) -> int:
    file = pq.ParquetFile(path, pre_buffer=False)
    return sum(batch.num_rows for batch in file.iter_batches(16, use_threads=False))


def _read_pyarrow(path: Path, num_kept: int) -> int:
    file = pq.ParquetFile(path, pre_buffer=False)
    number = 0
    kept: list[dict[str, Any]] = []
    for batch in file.iter_batches(16, columns=["key", "image", "tags"], use_threads=False):
        rows = batch.to_pylist()
        number += sum(bool(row["image"] and row["tags"]) for row in rows)
        # A chunk keeps its samples, so that memory is new for each of them.
        kept = [*kept, *rows] if len(kept) < num_kept else rows
    return number


if __name__ == "__main__":
    tyro.cli(main)

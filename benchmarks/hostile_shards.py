"""What happens to damaged shards? Mutates valid shards at random, reads each as a read task does, decodes its images.

    python -m benchmarks.hostile_shards --num-shards 3000

The mutations change bytes and runs of bytes in tars of three formats and in Parquet files of several encodings, and
copy, cut and repeat pieces of the files. Mutated tar headers get valid checksums, so that the reader goes past them.
Images are mutated inside their tar members. A child process reads each shard with `read_rows` and decodes each image.
The table counts how the shards ended: all rows read, truncated, or failed with the name of the shard. An exception, the
death of the process or a timeout is a defect of the reader.
"""

import io
import json
import multiprocessing
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image

from benchmarks.peak_memory import read_peak_bytes
from pipeline.commit.plan import ShardWork
from pipeline.images.decode import ImageRejection, decode_image
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.run.config import InputConfig
from pipeline.workers.pulse import MemoryBoard, Reporting

TAR_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PARQUET_OPTIONS: dict[str, dict] = {
    "snappy": {},
    "zstd-v2": {"compression": "zstd", "data_page_version": "2.0"},
    "plain": {"compression": "none", "use_dictionary": False},
    "delta": {"use_dictionary": False, "column_encoding": {"tags.list.element": "DELTA_BYTE_ARRAY"}},
    "checksum": {"write_page_checksum": True},
}
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
KINDS = (*(f"tar-{name}" for name in TAR_FORMATS), *(f"parquet-{name}" for name in PARQUET_OPTIONS), "images")


@dataclass(frozen=True)
class Benchmark:
    """Read mutated shards and count how each ends."""

    num_shards: int = 3000
    """Mutated shards, of all kinds in turn."""
    rng_seed: int = 0
    """Random seed of the first shard; each further shard adds one."""
    timeout_s: float = 60.0
    """Seconds for a shard; a longer read counts as a timeout."""
    keep: str | None = None
    """Folder for the shards that ended in an exception, a death or a timeout."""


REPORTING = Reporting(board=MemoryBoard(), store_outage_s=0.0)


def make_image(rng: random.Random, image_format: str) -> bytes:
    """Encode a small random picture."""
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    options = {"progressive": True} if image_format == "JPEG" and rng.random() < 0.5 else {}
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def make_samples(rng: random.Random, number: int = 5) -> list[tuple[str, bytes, list[str]]]:
    """Make samples: key, image and tags."""
    return [
        (f"folder/{'long' * rng.choice([1, 40])}{n}", make_image(rng, rng.choice(IMAGE_FORMATS)), ["cat", "dog" * n])
        for n in range(number)
    ]


def make_tar(rng: random.Random, tar_format: int, samples: list[tuple[str, bytes, list[str]]]) -> bytes:
    """Make a tar; long names take additional headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for key, image, tags in samples:
            for suffix, payload in (("jpg", image), ("json", json.dumps({"tags": tags}).encode())):
                member = tarfile.TarInfo((key if tar_format != tarfile.USTAR_FORMAT else key[-60:]) + "." + suffix)
                member.size = len(payload)
                if tar_format == tarfile.PAX_FORMAT and rng.random() < 0.5:
                    member.pax_headers = {"comment": "x" * rng.randrange(100)}
                archive.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def make_parquet(options: dict, samples: list[tuple[str, bytes, list[str]]]) -> bytes:
    """Make a Parquet file of two row groups."""
    keys, images, tags = (list(column) for column in zip(*samples, strict=True))
    table = pa.table({"key": keys, "image": pa.array(images, pa.binary()), "tags": tags})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=3, **options)
    return buffer.getvalue()


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Change some bytes at random."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place, length = rng.randrange(len(changed)), min(rng.choice([1, 1, 2, 4, 8, 64, 512]), len(changed))
        what = rng.randrange(8)
        if what == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif what == 1:
            changed[place : place + length] = rng.choice([b"\xff", b"\0", b"\x80", b"\x7f", b"9"]) * length
        elif what == 2:
            changed[place : place + length] = rng.randbytes(length)
        elif what == 3:
            del changed[place : place + length]
        elif what == 4:
            other = rng.randrange(len(changed))
            changed[place:place] = changed[other : other + length] * rng.choice([1, 2, 50])
        elif what == 5:
            other = rng.randrange(len(changed))
            changed[place : place + length] = changed[other : other + length]
        elif what == 6 and rng.random() < 0.2:
            del changed[place:]
        else:
            changed[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        if not changed:
            return b""
    return bytes(changed)


def mend_headers(rng: random.Random, archive: bytes) -> bytes:
    """Mutate fields of tar headers and write valid checksums."""
    changed = bytearray(archive)
    headers = [place for place in range(0, len(changed), 512) if changed[place + 257 : place + 262] == b"ustar"]
    for place in rng.sample(headers, min(len(headers), rng.choice([1, 2, 5]))):
        start, length = rng.choice(
            [(0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155)]
        )
        field = changed[place + start : place + start + length]
        changed[place + start : place + start + length] = (mutate(rng, bytes(field)) + bytes(length))[:length]
        if start == 156:
            changed[place + 156] = ord(rng.choice("0123456789xgLKSVDM\0A"))
        changed[place + 148 : place + 156] = b" " * 8
        changed[place + 148 : place + 156] = b"%06o\0 " % sum(changed[place : place + 512])
    return bytes(changed)


def make_mutant(kind: str, rng_seed: int) -> tuple[str, bytes]:
    """Make a damaged shard; return its suffix and content."""
    rng = random.Random(f"{kind}/{rng_seed}")
    samples = make_samples(rng)
    if kind == "images":
        return "tar", make_tar(
            rng, tarfile.GNU_FORMAT, [(key, mutate(rng, image), tags) for key, image, tags in samples]
        )
    name = kind.partition("-")[2]
    if kind.startswith("tar"):
        archive = make_tar(rng, TAR_FORMATS[name], samples)
        return "tar", mend_headers(rng, archive) if rng.random() < 0.6 else mutate(rng, archive)
    table = make_parquet(PARQUET_OPTIONS[name], samples)
    if rng.random() < 0.4:
        footer = int.from_bytes(table[-8:-4], "little") + 8
        changed = mutate(rng, table[-footer:-8])
        return "parquet", table[:-footer] + changed + len(changed).to_bytes(4, "little") + table[-4:]
    return "parquet", mutate(rng, table)


def read_shard(path: Path) -> tuple[str, Counter[str]]:
    """Read a shard as a read task does; return how it ended, and counts of its decoded and rejected images."""
    images: Counter[str] = Counter()
    end = "no end"
    work = [ShardWork(shard=list_shards([str(path)])[0])]
    for row in read_rows(work, InputConfig(max_chunk_samples=2), REPORTING):
        fields = row.to_pylist()[0]
        for sample in fields["samples"] or ():
            if sample["image"] is not None:
                decoded = decode_image(sample["image"], max_pixels=10**7, min_short_side_px=16)
                images[str(decoded.reason) if isinstance(decoded, ImageRejection) else "decoded"] += 1
        if fields["is_end"]:
            end = (
                "failed with its name"
                if fields["error"]
                else "truncated"
                if fields["truncated_at"] is not None
                else "rows"
            )
            if fields["error"] and str(path) not in fields["error"]:
                end = "failed without its name"
    return end, images


def serve(connection: Connection, folder: str) -> None:
    """Read shards by kind and random seed; runs in the child process."""
    while True:
        kind, rng_seed = connection.recv()
        suffix, content = make_mutant(kind, rng_seed)
        path = Path(folder) / f"mutant.{suffix}"
        path.write_bytes(content)
        started_s = time.monotonic()
        try:
            end, images = read_shard(path)
        except Exception as error:  # noqa: BLE001 (the benchmark looks for exceptions)
            end, images = f"exception {type(error).__name__}", Counter()
        peak_bytes = read_peak_bytes()
        connection.send((end, images, time.monotonic() - started_s, peak_bytes))


class Reader:
    """A child process that reads shards; restarted when it dies."""

    def __init__(self, folder: str) -> None:
        """Start the first process."""
        self._folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, self._folder), daemon=True)
        self._process.start()
        other.close()

    def read(self, kind: str, rng_seed: int, timeout_s: float) -> tuple[str, Counter[str], float, int]:
        """Read a shard in the child; return how it ended, counts of its images, seconds and peak bytes."""
        self._connection.send((kind, rng_seed))
        try:
            if self._connection.poll(timeout_s):
                return self._connection.recv()
            end = "timeout"
        except EOFError:
            self._process.join()
            end = f"death {self._process.exitcode}"
        self.close()
        self._start()
        return end, Counter(), timeout_s, 0

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def is_harmless(end: str) -> bool:
    """Whether a shard ended without a defect of the reader."""
    return end in ("rows", "truncated", "failed with its name")


def measure(settings: Benchmark, keep: Callable[[str, int], None]) -> bool:
    """Read the mutants and print how they ended; return whether all ended without a defect."""
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    images: Counter[str] = Counter()
    slowest_s, peak_bytes = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(folder)
        for number in range(settings.num_shards):
            kind, rng_seed = KINDS[number % len(KINDS)], settings.rng_seed + number
            end, decoded, seconds, peak = reader.read(kind, rng_seed, settings.timeout_s)
            ends[kind][end] += 1
            images += decoded
            slowest_s, peak_bytes = max(slowest_s, seconds), max(peak_bytes, peak)
            if not is_harmless(end):
                print(f"{kind} {rng_seed}: {end}", flush=True)
                keep(kind, rng_seed)
        reader.close()
    for kind, counts in ends.items():
        print(f"{kind:18} {dict(counts.most_common())}")
    print(f"images             {dict(images.most_common())}")
    print(f"slowest shard {slowest_s:.2f} s, peak memory of the process {peak_bytes / 2**20:.0f} MiB")
    return all(is_harmless(end) for counts in ends.values() for end in counts)


def main() -> int:
    """Run the benchmark and return an exit code."""
    settings = tyro.cli(Benchmark, description=__doc__)

    def keep(kind: str, rng_seed: int) -> None:
        if settings.keep is not None:
            suffix, content = make_mutant(kind, rng_seed)
            Path(settings.keep).mkdir(parents=True, exist_ok=True)
            (Path(settings.keep) / f"{kind}-{rng_seed}.{suffix}").write_bytes(content)

    return 0 if measure(settings, keep) else 1


if __name__ == "__main__":
    sys.exit(main())

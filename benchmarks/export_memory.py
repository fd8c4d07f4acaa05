"""Does memory grow with an export? Peak memory of a process that exports one shard of many rows.

    python -m benchmarks.export_memory --num-rows 2000 --factor 4

Each format and size runs in a separate process, which writes the files of the shard and then the joint files, as the
worker and the driver do. Beside the peak stands the memory before the first row.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tyro
from PIL import Image

from benchmarks.peak_memory import read_peak_bytes
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part, encode_part
from pipeline.commit.seal import CompleteShard, seal_shard
from pipeline.export.formats.catalogue import FORMAT_NAMES, Formats
from pipeline.export.job.finish import finish_export
from pipeline.export.job.identity import Export, claim_folder
from pipeline.export.job.records import list_items
from pipeline.export.job.selection import Selection
from pipeline.export.job.shard_task import write_shard
from pipeline.images.class_texts import describe_classes
from pipeline.inputs.shards import list_shards
from pipeline.published.run import open_published
from pipeline.run.config import InputConfig
from pipeline.run.records import PART_SCHEMA

CHUNK_ROWS = 100
SIZE = (96, 128)
"""Height and width of the photos."""


@dataclass(frozen=True)
class Benchmark:
    """Measure the peak memory of exports."""

    formats: tuple[str, ...] = FORMAT_NAMES
    """Formats to measure."""
    num_rows: int = 2000
    """Rows of the smaller shard."""
    factor: int = 4
    """How many times as many rows the larger shard has."""
    folder: str | None = None
    """Folder of the run; set only in the process of a measurement."""


def make_noise() -> bytes:
    """Encode a noisy photo, which JPEG hardly compresses."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def make_large_run(folder: Path, num_rows: int) -> None:
    """Publish a run of one tar, in chunks of `CHUNK_ROWS` rows."""
    # Models and PyTorch, which it brings, are no part of the processes that are measured.
    from tests.factories import make_labelled_row, place_images, start_run

    photo, mask = make_noise(), np.zeros(SIZE, np.uint8)
    mask[10:60, 20:90], mask[70:90, 5:40] = 1, 2
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for place in range(num_rows):
            header = tarfile.TarInfo(f"{place:07d}.jpg")
            header.size = len(photo)
            archive.addfile(header, io.BytesIO(photo))
    (shard,) = list_shards([str(folder / "photos.tar")])
    run = start_run(folder / "run", [shard])
    one = make_labelled_row("", mask, [1, 2], photo=photo)
    rows = place_images(shard, [one | {"key": f"{place:07d}"} for place in range(num_rows)], InputConfig())
    parts = []
    for start in range(0, num_rows, CHUNK_ROWS):
        parts.append(PartName(chunk_index=start // CHUNK_ROWS, end_offset=512 * (start + CHUNK_ROWS)))
        table = pa.Table.from_pylist(rows[start : start + CHUNK_ROWS], schema=PART_SCHEMA)
        payload = encode_part(table, run.fingerprint, shard.name, start // CHUNK_ROWS, None)
        commit_part(run.out_uri, shard.name, parts[-1], payload)
    seal_shard(
        CompleteShard(shard=shard, parts=tuple(parts)),
        out_uri=run.out_uri,
        fingerprint=run.fingerprint,
        max_rejected_fraction=1.0,
        class_texts=describe_classes(run.vocabulary),
    )


def export_shard(folder: Path, format_name: str) -> None:
    """Export the run in this process and print its peak memory in MiB."""
    export = Export(
        run=open_published(f"{folder}/run"),
        out_uri=f"{folder}/{format_name}",
        format_name=format_name,
        format=Formats().choose(format_name),
        selection=Selection(),
    )
    claim_folder(export)
    items = list_items(export)
    before = read_peak_bytes()
    for item in items:
        write_shard(export, item)
    written = read_peak_bytes()
    finish_export(export, items)
    print(json.dumps([round(peak / 2**20) for peak in (before, written, read_peak_bytes())]))


def measure(folder: Path, format_name: str) -> list[int]:
    """Export in a process of its own; return its memory before, after the shard, and at the end."""
    command = [sys.executable, "-m", "benchmarks.export_memory", "--folder", str(folder), "--formats", format_name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure each format in both sizes."""
    job = tyro.cli(Benchmark, description=__doc__)
    if job.folder is not None:
        export_shard(Path(job.folder), job.formats[0])
        return
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        sizes = {Path(small): job.num_rows, Path(large): job.factor * job.num_rows}
        for folder, num_rows in sizes.items():
            make_large_run(folder, num_rows)
        print("format          rows  before  shard   end  MiB")
        for name in job.formats:
            peaks = []
            for folder, num_rows in sizes.items():
                before, written, end = measure(folder, name)
                print(f"{name:13s} {num_rows:>6}  {before:>6}  {written:>5}  {end:>4}", flush=True)
                peaks.append(end - before)
            per_row = 1024 * (peaks[1] - peaks[0]) / (job.num_rows * (job.factor - 1))
            print(f"{name:13s} grows by {per_row:.2f} KiB a row, ratio {peaks[1] / max(peaks[0], 1):.2f}", flush=True)


if __name__ == "__main__":
    main()

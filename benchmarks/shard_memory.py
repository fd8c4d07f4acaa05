"""Does memory grow with a shard? Peak memory of a process that reads, labels and commits shards of large images.

    python -m benchmarks.shard_memory --num-images 50 200 800

Each size runs in a separate process, which takes the steps of a read task and of a labelling actor in turn, on a tar of
JPEGs of about 5 MB each. A chunk has at most 64 MiB of images, so peak memory should not grow with their number.
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
import tyro
from PIL import Image

from benchmarks.chaos import Benchmark as Inputs
from benchmarks.chaos import make_inputs
from benchmarks.peak_memory import read_peak_bytes
from pipeline.bundles import load_bundle
from pipeline.commit.plan import ShardWork
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.labelling.label_actor import LabelChunks
from pipeline.run.config import LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from pipeline.workers.attempts import AttemptCounter
from pipeline.workers.pulse import MemoryBoard, Reporting


@dataclass(frozen=True)
class Benchmark:
    """Measure the peak memory of labelling shards of large images."""

    num_images: tuple[int, ...] = (50, 200, 800)
    """Numbers of images in the shard."""
    image_bytes: int = 5_000_000
    """Approximate size of an encoded image."""
    folder: str | None = None
    """Folder of the shard; set only in the process of a measurement."""


def write_shard(path: Path, num_images: int, image_bytes: int) -> None:
    """Write a tar of noisy images, which JPEG hardly compresses."""
    side = int((image_bytes / 0.605) ** 0.5)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
    payload = buffer.getvalue()
    print(f"images of {side} x {side} pixels and {len(payload) / 1e6:.1f} MB", flush=True)
    with tarfile.open(path, "w") as archive:
        for place in range(num_images):
            for suffix, content in (("jpg", payload), ("json", b'{"tags": ["cat"]}')):
                header = tarfile.TarInfo(f"{place:06d}.{suffix}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def label_shard(folder: Path) -> None:
    """Label the shard in this process and print its peak memory."""
    model = str(folder / "model")
    run = open_run(
        out_uri=str(folder / "out"),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(folder / "vocabulary.json")),
        config=LabelConfig(views=ViewConfig(num_patches=16)),
        shards=list_shards([str(folder / "large.tar")]),
    )
    reporting = Reporting(board=MemoryBoard(), store_outage_s=0.0)
    actor = LabelChunks(run, LabelOptions(gpus_per_actor=0.0), AttemptCounter(), reporting)
    before = get_peak_mib()
    num_chunks = 0
    for row in read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, reporting):
        actor(row)
        num_chunks += 1
    print(json.dumps({"before": before, "peak": get_peak_mib(), "num_chunks": num_chunks - 1}))


def get_peak_mib() -> float:
    """Peak memory of this process, in MiB."""
    return read_peak_bytes() / 2**20


def main() -> None:
    """Measure each size in a separate process."""
    job = tyro.cli(Benchmark, description=__doc__)
    if job.folder is not None:
        label_shard(Path(job.folder))
        return
    print("images  shard    chunks  before   peak")
    for number in job.num_images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_inputs(folder, Inputs(num_shards=1, num_images=1))
            write_shard(folder / "large.tar", number, job.image_bytes)
            command = [sys.executable, "-m", "benchmarks.shard_memory", "--folder", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            size = (folder / "large.tar").stat().st_size / 2**30
            print(
                f"{number:>6}  {size:.1f} GiB  {found['num_chunks']:>6}  "
                f"{found['before']:.0f} MiB  {found['peak']:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()

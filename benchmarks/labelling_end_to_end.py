"""What does Ray cost? `tagmask label` against a plain loop over the same functions, side by side in one run.

    python -m benchmarks.labelling_end_to_end --model MODEL --shards 'photos-*.tar' --vocabulary vocabulary.json

Both label the same shards with the same model on CPUs. The loop is one process with `--num-cpus` threads of PyTorch
that calls `read_chunks`, `ChunkLabeler.label_chunk`, `encode_part` and `commit_part`. `tagmask label` runs `--num-cpus`
workers of one thread each. Its warm speed counts from the first report of the driver to the last one at which all
workers are busy. Its speed over the whole run, with the start of the workers, is printed too.

With `--stub-model` the model costs nothing: what it finds in each image is kept from a first pass. The plain loop
labels the images again on one core and on `--num-cpus` cores, with its workers as threads and as processes.
"""

import itertools
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
import tyro

from benchmarks.recalling_mapper import RecallingLabeler
from jobs.cluster.connection import connect
from pipeline.bundles import load_bundle
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part, encode_part
from pipeline.driver.ledger import Progress
from pipeline.driver.waves import Hooks
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.labelling.batches import limit_batch_size
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import InputConfig, LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.records import Chunk
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import load_vocabulary


@dataclass(frozen=True)
class Benchmark:
    """Compare `tagmask label` with a plain loop."""

    model: str
    """Model bundle."""
    vocabulary: str
    """Vocabulary of the model."""
    shards: tuple[str, ...]
    """Shards to label."""
    num_cpus: int = os.cpu_count() or 1
    """CPUs for labelling, the same number for both."""
    chunk_samples: int = 16
    """Samples per chunk; small, so that there are many chunks."""
    batch_size: int = 8
    """Images in a forward pass."""
    stub_model: bool = False
    """Measure a plain loop with a model that costs nothing."""


def open_benchmark_run(job: Benchmark, out: Path) -> Run:
    """Open a run in an empty folder."""
    _, _, digest = load_bundle(job.model)
    return open_run(
        out_uri=str(out),
        model_uri=job.model,
        model_digest=digest,
        vocabulary=load_vocabulary(job.vocabulary),
        config=LabelConfig(inputs=InputConfig(max_chunk_samples=job.chunk_samples), views=ViewConfig(num_patches=784)),
        shards=list_shards(job.shards),
    )


def label_shards(labeler: ChunkLabeler, run: Run) -> tuple[int, float]:
    """Label the shards of a run chunk by chunk; return the number of images and the seconds."""
    num_images, started_s = 0, time.perf_counter()
    for shard in run.shards:
        for piece in read_chunks(shard, run.config.inputs):
            if isinstance(piece, Chunk):
                payload = encode_part(labeler.label_chunk(piece.samples), run.fingerprint, shard.name, piece.index)
                part = PartName(chunk_index=piece.index, end_offset=piece.end_offset)
                commit_part(run.out_uri, shard.name, part, payload)
                num_images += len(piece.samples)
    return num_images, time.perf_counter() - started_s


def run_loop(job: Benchmark, run: Run) -> tuple[int, float]:
    """Label without Ray; return the number of images and the seconds."""
    torch.set_num_threads(job.num_cpus)
    model, bundle, _ = load_bundle(run.model_uri)
    labeler = ChunkLabeler(
        model=model,
        bundle=bundle,
        vocabulary=run.vocabulary,
        config=run.config,
        device=torch.device("cpu"),
        batch_size=limit_batch_size(job.batch_size, torch.device("cpu")),
        num_workers=job.num_cpus + 1,
        use_bf16=False,
    )
    return label_shards(labeler, run)


def run_stub(job: Benchmark, out: Path, num_cpus: int, use_processes: bool) -> float:
    """Images per second of a plain loop on some cores with a model that costs nothing."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cpus])
    torch.set_num_threads(1)
    run = open_benchmark_run(job, out)
    model, bundle, _ = load_bundle(run.model_uri)
    labeler = RecallingLabeler(
        model=model,
        bundle=bundle,
        vocabulary=run.vocabulary,
        config=run.config,
        device=torch.device("cpu"),
        batch_size=job.batch_size,
        num_workers=num_cpus,
        use_bf16=False,
        use_processes=use_processes,
    )
    # The model finds what is in the images in the first pass.
    label_shards(labeler, run)
    num_images, seconds = label_shards(labeler, run)
    labeler.close()
    return num_images / seconds


def compare_cores(job: Benchmark, folder: Path) -> None:
    """Print the speeds of a model that costs nothing, each measured in a process of its own."""
    first_speed = 0.0
    # Spawned: cores and threads of PyTorch are those of the whole process.
    context = multiprocessing.get_context("spawn")
    for num_cpus, use_processes in ((1, False), (job.num_cpus, False), (job.num_cpus, True)):
        kind = "processes" if use_processes else "threads"
        with ProcessPoolExecutor(1, context) as pool:
            speed = pool.submit(run_stub, job, folder / f"{num_cpus}-{kind}", num_cpus, use_processes).result()
        first_speed = first_speed or speed
        print(f"{num_cpus} CPUs, {kind:10s}{speed:8.1f} images/s   {speed / first_speed:.2f}", flush=True)


def run_job(job: Benchmark, run: Run) -> tuple[int, float, float]:
    """Label with Ray; return the number of images, the warm images per second and the seconds of the whole run."""
    seen: list[Progress] = []
    options = LabelOptions(gpus_per_actor=0, num_actors=job.num_cpus, batch_size=job.batch_size)
    summary = label_run(run, options, hooks=Hooks(on_progress=seen.append))
    # At the end fewer and fewer workers are busy. A run of hours spends no time there, so the count stops before it.
    chunks = [state for before, state in itertools.pairwise(seen) if state.counts != before.counts]
    last = chunks[-1 - job.num_cpus]
    num_images = last.counts.num_read - seen[0].counts.num_read
    return summary.counts.num_read, num_images / (last.elapsed_s - seen[0].elapsed_s), summary.elapsed_s


def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        if job.stub_model:
            compare_cores(job, Path(folder))
            return
        connect(None, num_cpus=job.num_cpus + 1)
        num_ray, warm_speed, ray_s = run_job(job, open_benchmark_run(job, Path(folder) / "ray"))
        ray.shutdown()
        num_loop, loop_s = run_loop(job, open_benchmark_run(job, Path(folder) / "loop"))
    assert num_ray == num_loop
    loop_speed = num_loop / loop_s
    print(
        f"{num_ray} images, {job.num_cpus} CPUs of {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}, ray {ray.__version__}"
    )
    print(f"plain loop           {loop_speed:8.2f} images/s   1.00")
    print(f"tagmask label, warm  {warm_speed:8.2f} images/s   {warm_speed / loop_speed:.2f}")
    whole_speed = num_ray / ray_s
    print(f"tagmask label, whole {whole_speed:8.2f} images/s   {whole_speed / loop_speed:.2f}  (with start-up)")


if __name__ == "__main__":
    main()

"""How fast are new masks from kept maps, and does `tagmask remask` gain from more cores?

    python -m benchmarks.remask --labels masks --num-repeats 8 --num-cores 1 2

The shards of a labelling run with kept maps are first published several times under other names, so that there are
enough chunks. Then masks are made from all of them on each number of cores. Each time a local Ray starts with one CPU
slot per core and one more, as in `tagmask remask`. Images per second count from the first to the last chunk, so without
the start of Ray and of its workers. If the run refines its maps by pixels, images are read from its shards.
"""

import itertools
import os
import platform
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import tyro

from jobs.cluster.connection import connect
from pipeline.commit.manifests import stream_manifest
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part, encode_part
from pipeline.commit.seal import CompleteShard, seal_shard
from pipeline.driver.ledger import Progress
from pipeline.driver.waves import Hooks
from pipeline.images.class_texts import describe_classes
from pipeline.kept_maps.kept_run import KeptRun, open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.remask import remask_run
from pipeline.run.records import PART_SCHEMA
from pipeline.run.run_file import open_run


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure `tagmask remask` on several numbers of cores."""

    labels: str
    """Output of `tagmask label --maps.keep-maps`."""
    num_repeats: int = 8
    """How often each of its shards is published."""
    num_cores: tuple[int, ...] = (1, 2)
    """Numbers of cores, one after the other; processes are pinned to them."""


def repeat_run(kept: KeptRun, out_uri: str, num_repeats: int) -> KeptRun:
    """Publish the shards of a run several times, each time under another name, with the same rows and chunks."""
    pairs = list(zip(kept.shards, kept.source.manifests, strict=True))
    copies = [
        (replace(shard, name=f"{shard.name}-{number}"), manifest)
        for number in range(num_repeats)
        for shard, manifest in pairs
    ]
    run = open_run(
        out_uri=out_uri,
        model_uri=kept.model_uri,
        model_digest=kept.model_digest,
        vocabulary=kept.vocabulary,
        config=kept.config,
        shards=[shard for shard, _ in copies],
    )
    for shard, listed in copies:
        parts = []
        with stream_manifest(listed.uri) as manifest:
            for index, (_, end_offset) in enumerate(manifest.footer["chunks"]):
                rows = manifest.file.read_row_group(index, columns=PART_SCHEMA.names)
                parts.append(PartName(chunk_index=index, end_offset=end_offset))
                payload = encode_part(rows, run.fingerprint, shard.name, index)
                commit_part(out_uri, shard.name, parts[-1], payload)
        complete = CompleteShard(shard=shard, parts=tuple(parts))
        seal_shard(
            complete,
            out_uri=out_uri,
            fingerprint=run.fingerprint,
            max_rejected_fraction=1.0,
            class_texts=describe_classes(run.vocabulary),
        )
    return open_kept_run(out_uri)


def measure(kept: KeptRun, out_uri: str, num_cores: int) -> tuple[int, float]:
    """Make the masks on some cores; return the number of images and images per second."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    connect(None, num_cpus=num_cores + 1)
    seen: list[Progress] = []
    maps = replace(kept.config.maps, background_threshold=0.5, foreground_threshold=0.5)
    summary = remask_run(open_remask(out_uri, kept, maps), hooks=Hooks(on_progress=seen.append))
    ray.shutdown()
    chunks = [state for before, state in itertools.pairwise(seen) if state.counts != before.counts]
    num_images = chunks[-1].counts.num_read - chunks[0].counts.num_read
    return summary.counts.num_read, num_images / (chunks[-1].elapsed_s - chunks[0].elapsed_s)


def main() -> None:
    """Print the speeds."""
    job = tyro.cli(Benchmark, description=__doc__)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        kept = repeat_run(open_kept_run(job.labels), f"{folder}/kept", job.num_repeats)
        print(f"{platform.processor() or platform.machine()}, ray {ray.__version__}")
        for num_cores in job.num_cores:
            os.sched_setaffinity(0, cores)
            num_images, speed = measure(kept, str(Path(folder) / str(num_cores)), num_cores)
            print(f"{num_cores} cores: {num_images} images, {speed:.1f} images/s", flush=True)


if __name__ == "__main__":
    main()

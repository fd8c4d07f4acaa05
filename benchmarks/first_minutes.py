"""How long does a new user wait? From Enter to the first masks of a dozen photos, without Ray and with it.

    python -m benchmarks.first_minutes --model MODEL --vocabulary vocabulary.json --shards photos.tar

Each turn runs `tagmask label` with `--cluster local` and with `--cluster ray`, one after the other, each into an empty
folder, and then the same command again, which has nothing left to do. Prints the seconds from the start of the process
until the first committed chunk, the first manifest and the end of the command; medians, and their ratios. Without
`--shards` it draws a dozen photos of 500 x 375 pixels; without `--model` it makes an untrained MCTformer V2 on
ViT-Tiny, which costs what a trained one costs.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
POLL_S = 0.05
MOMENTS = ("first chunk", "first manifest", "end", "end of the repetition")


@dataclass(frozen=True)
class Benchmark:
    """Measure the first minutes."""

    shards: str = ""
    """Shards of photos; empty: a dozen drawn ones."""
    vocabulary: str = ""
    """Vocabulary of the model; empty: that of the drawn photos."""
    model: str = ""
    """Model bundle; empty: an untrained one."""
    num_turns: int = 3
    """Runs with each kind of cluster."""
    num_photos: int = 12
    """Number of drawn photos."""


def make_inputs(job: Benchmark, folder: Path) -> tuple[str, str, str]:
    """Make what is not given; return shards, vocabulary and model."""
    if job.shards and job.vocabulary and job.model:
        return job.shards, job.vocabulary, job.model
    # In a process of its own: what it imports and caches does not help the commands.
    program = (
        "import sys; from benchmarks.first_minutes import draw_photos, save_untrained; from pathlib import Path; "
        "draw_photos(Path(sys.argv[1]), int(sys.argv[2])); save_untrained(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, str(folder), str(job.num_photos)], cwd=ROOT, check=True)
    return (
        job.shards or str(folder / "photos.tar"),
        job.vocabulary or str(folder / "vocabulary.json"),
        job.model or str(folder / "model"),
    )


def draw_photos(folder: Path, num_photos: int) -> None:
    """Write a shard of noisy photos and a vocabulary of four classes."""
    import io
    import json
    import tarfile

    import numpy as np
    from PIL import Image

    rng, classes = np.random.default_rng(0), ["bird", "cat", "dog", "person"]
    (folder / "vocabulary.json").write_text(json.dumps({"classes": classes}))
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for number in range(num_photos):
            small = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
            photo = io.BytesIO()
            small.resize((500, 375), Image.Resampling.BICUBIC).save(photo, "jpeg", quality=90)
            tags = json.dumps({"tags": [classes[number % 4]]}).encode()
            for suffix, payload in (("jpg", photo.getvalue()), ("json", tags)):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(payload)
                archive.addfile(member, io.BytesIO(payload))


def save_untrained(folder: Path) -> None:
    """Save a model of random weights for the classes of the vocabulary."""
    import torch

    from models.bundle import ModelBundle
    from models.mctformer import MCTformer, MCTformerConfig, Variant
    from pipeline.bundles import save_bundle
    from pipeline.run.vocabulary import load_vocabulary

    torch.manual_seed(0)
    names = tuple(load_vocabulary(str(folder / "vocabulary.json")).classes)
    config = MCTformerConfig(variant=Variant.V2, num_classes=len(names))
    bundle = ModelBundle(config=config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    save_bundle(str(folder / "model"), MCTformer(config).eval(), bundle)


def measure(command: list[str], out: Path, cluster: str) -> dict[str, float]:
    """Run the command twice; return the seconds of each moment."""
    seconds: dict[str, float] = {}
    with out.with_suffix(".log").open("wb") as log:
        started_s = time.monotonic()
        running = subprocess.Popen(
            [*command, "--out", str(out), "--cluster", cluster], cwd=ROOT, stdout=log, stderr=log
        )
        while running.poll() is None:
            for moment, pattern in (("first chunk", "parts/*/*"), ("first manifest", "labels/*.parquet")):
                if moment not in seconds and any(out.glob(pattern)):
                    seconds[moment] = time.monotonic() - started_s
            time.sleep(POLL_S)
        seconds["end"] = time.monotonic() - started_s
        require_success(running.returncode, out.with_suffix(".log"))
        # A chunk may be gone before it is seen: its shard is published at once.
        seconds.setdefault("first manifest", seconds["end"])
        seconds.setdefault("first chunk", seconds["first manifest"])
        started_s = time.monotonic()
        again = subprocess.run([*command, "--out", str(out), "--cluster", cluster], cwd=ROOT, stdout=log, stderr=log)
        seconds["end of the repetition"] = time.monotonic() - started_s
        require_success(again.returncode, out.with_suffix(".log"))
    return seconds


def require_success(code: int, log: Path) -> None:
    """End the benchmark with the log of a command that failed."""
    if code:
        sys.exit(f"the command ended with exit code {code}:\n{log.read_text(errors='replace')[-4000:]}")


def print_table(found: Mapping[str, list[dict[str, float]]]) -> None:
    """Print the median of each moment, and the ratios."""
    print(f"{'seconds after Enter':24}{'without Ray':>14}{'with Ray':>12}{'ratio':>8}")
    for moment in MOMENTS:
        local, ray = (statistics.median(turn[moment] for turn in found[cluster]) for cluster in ("local", "ray"))
        print(f"{moment:24}{local:>14.1f}{ray:>12.1f}{ray / local:>8.1f}")


def main() -> None:
    """Measure and print."""
    job = tyro.cli(Benchmark)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards, vocabulary, model = make_inputs(job, folder)
        command = [sys.executable, "-m", "jobs.label", "--shards", shards, "--vocabulary", vocabulary, "--model", model]
        found: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
        for turn in range(job.num_turns):
            for cluster, turns in found.items():
                turns.append(measure(command, folder / f"{cluster}-{turn}", cluster))
                print(cluster, {name: round(one, 1) for name, one in turns[-1].items()}, flush=True)
    print(f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print_table(found)


if __name__ == "__main__":
    main()

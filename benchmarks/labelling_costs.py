"""What does labelling cost beside the model? The present code and that of commit b75fd66, side by side in one run.

    python -m benchmarks.labelling_costs --shards 'eval-*.tar' --vocabulary vocabulary.json --model MODEL

Counts of the present code come from a pretended GPU. Those of the baseline are constants, counted in the same way at
commit b75fd66 with a V2 of ViT-Tiny's size for six classes. They are printed if the baseline is that commit and the
model has this shape, else "-".
Times are CPU times of one process, the least of three passes. Both codes run in processes of their own and take turns;
each figure is the median over the turns, and the gain is the median of the ratios of a turn. The model costs nothing
there: what it finds in each photo is kept from a first pass. The process of the device has two workers, threads at
b75fd66 and processes now. The lock of its interpreter is held for at most its CPU time.

End to end each code runs its own `benchmarks.labelling_end_to_end` with the real model.
"""

import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image

from benchmarks.costs_parts.counts import count_work
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.bundles import load_bundle, save_bundle
from pipeline.run.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[1]
LARGE_SIZE = (2000, 1500)
SIDES = ("baseline", "present")
COUNTED_COMMIT = "b75fd66"
COUNTED_SHAPE = MCTformerConfig(variant=Variant.V2, num_classes=6)
"""Commit and shape of the model for which `STATED` holds."""
STATED = {
    "launches": 1662,
    "launches_by_image": 63,
    "waits": 258,
    "uploads": 82,
    "bytes_back": 1_376_000,
    "refined_bytes_back": 1_376_000,
    "bytes_ratio": 15,
    "affinity_launches": 246,
}
"""Counts of the baseline. With PAR it copied as many bytes, at image size."""
NAMES = {
    "launches": "launches a batch of 16, beside the model",
    "launches_by_image": "launches that each image adds",
    "waits": "waits a batch of 16",
    "uploads": "copies to the device a batch of 16",
    "bytes_back": "bytes back an image",
    "refined_bytes_back": "bytes back an image with PAR (now: and class)",
    "bytes_ratio": "bytes back at 2000 x 1500 over 500 x 375",
    "affinity_launches": "launches of the affinity, a view",
}
WANTED = {
    "launches": 170,
    "launches_by_image": 0,
    "waits": 1,
    "uploads": 2,
    "bytes_back": 4_000,
    "refined_bytes_back": 100_000,
    "bytes_ratio": 1,
    "affinity_launches": 20,
}
WARM = re.compile(r"warm\s+([\d.]+) images/s\s+([\d.]+)")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure what labelling costs beside the model, against an earlier commit."""

    shards: tuple[str, ...]
    """Tars of photos with tags."""
    vocabulary: str
    """Vocabulary of the tags."""
    model: str | None = None
    """Model bundle of that vocabulary; left out: ViT-Tiny with random weights."""
    baseline: str = "b75fd66"
    """Commit of the baseline, or the path of its checkout."""
    num_photos: int = 40
    """Photos that are measured; a quarter of them also at 3 megapixels."""
    num_turns: int = 5
    """Turns of the two codes."""
    num_end_to_end: int = 1
    """Turns of the two codes with Ray and the model, minutes each."""
    num_cpus: int = 2
    """CPUs with Ray."""


def main() -> None:
    """Print the table."""
    job = tyro.cli(Benchmark, description=__doc__)
    with tempfile.TemporaryDirectory() as folder, checkout(job.baseline) as baseline:
        where = Path(folder)
        model = job.model or make_random_bundle(job, where / "model")
        photos, large_photos = write_photos(job, where)
        print(f"{os.cpu_count()} CPUs of {platform.processor() or platform.machine()}, torch {torch.__version__}")
        print_row("", "baseline", "now", "gain", "wanted")
        counted = count_work(model, job.vocabulary, str(photos))._asdict()
        stated = find_stated(job.baseline, model)
        for name, title in NAMES.items():
            before = f"{stated[name]:,} *" if stated else "-"
            print_row(title, before, f"{counted[name]:,.4g}", "", f"{WANTED[name]:,}")
        settings = {"model": model, "vocabulary": job.vocabulary, "photos": str(photos)}
        print_times(measure_sides(job, baseline, where, settings | {"large_photos": str(large_photos)}))
        for _ in range(job.num_end_to_end):
            found = [run_end_to_end(job, model, where) for where in (baseline, ROOT)]
            print_row(
                f"tagmask label over a plain loop, {job.num_cpus} CPUs",
                *(f"{ratio:.2f}" for _, ratio in found),
                "",
                1.2,
            )
            speeds = [speed for speed, _ in found]
            gain = speeds[1] / speeds[0]
            print_row("tagmask label, images/s with the model", *(f"{one:.2f}" for one in speeds), f"{gain:.2f}x", "")
        print(
            f"* counted at {COUNTED_COMMIT}" if stated else f"- counted at {COUNTED_COMMIT} for {COUNTED_SHAPE} alone"
        )


def find_stated(baseline: str, model: str) -> dict[str, int] | None:
    """Counts of the baseline; None if it is another commit, or a folder, or the model has another shape."""
    command = ["git", "rev-parse", "--verify", f"{baseline}^{{commit}}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    _, bundle, _ = load_bundle(model)
    shape = replace(bundle.config, drop_path=COUNTED_SHAPE.drop_path)
    is_counted = found.stdout.startswith(COUNTED_COMMIT) and not Path(baseline).is_dir()
    return STATED if is_counted and shape == COUNTED_SHAPE else None


def print_row(title: str, *cells: object) -> None:
    """Print a row of the table."""
    print(f"{title:52s}" + "".join(f"{cell!s:>14s}" for cell in cells), flush=True)


def print_times(found: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print the rows of times; `found` holds the figures of each turn by step and side."""

    def show(title: str, ratios: Sequence[tuple[float, float]], wanted: str, unit: str = "") -> None:
        old, new = (statistics.median(values) for values in zip(*ratios, strict=True))
        gain = statistics.median(one / other for one, other in ratios)
        print_row(title, f"{old:.2f}{unit}", f"{new:.2f}{unit}", f"{gain:.1f}x", wanted)

    def pair(step: str, name: str = "ms") -> list[tuple[float, float]]:
        return [(turn["baseline"][name], turn["present"][name]) for turn in found[step]]

    pillow = pair("pillow")
    beside = pair("beside")
    multiples = [(old / a, new / b) for (old, new), (a, b) in zip(beside, pillow, strict=True)]
    show("CPU beside the model over decoding with Pillow", multiples, "2x", "x")
    show("CPU ms an image beside the model", beside, "")
    show("CPU ms of Pillow decoding it", pillow, "")
    show("finish, CPU ms", pair("finish"), "")
    show("finish at 3 megapixels, CPU ms", pair("finish_large"), "8")
    show("CPU ms an image in the process of the device", pair("device_process"), "0.3")
    speeds = [(1e3 / old, 1e3 / new) for old, new in pair("remask")]
    old, new = (statistics.median(values) for values in zip(*speeds, strict=True))
    gain = statistics.median(new / old for old, new in speeds)
    print_row("new masks, images/s a core", f"{old:.0f}", f"{new:.0f}", f"{gain:.1f}x", "800")


def measure_sides(
    job: Benchmark, baseline: Path, folder: Path, settings: dict[str, str]
) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Let both sides measure each step in turn; the figures of each turn, by step and side."""
    steps = ("pillow", "beside", "finish", "finish_large", "remask", "device_process")
    found: dict[str, list[dict[str, dict[str, float]]]] = {step: [] for step in steps}
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(open_side(side, path, settings | {"out": str(folder / side)}))
            for side, path in zip(SIDES, (baseline, ROOT), strict=True)
        }
        for _ in range(job.num_turns):
            for step in steps:
                found[step].append({side: ask(process, step) for side, process in sides.items()})
    return found


@contextmanager
def open_side(name: str, path: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Process that measures the code of a checkout."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "costs_parts" / "side.py"), name, json.dumps(settings)],
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def ask(process: "subprocess.Popen[str]", step: str) -> dict[str, float]:
    """Let a side measure a step."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(step, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process that measures {step} ended; see its traceback above")
    figures: dict[str, float] = json.loads(line)
    return figures


def run_end_to_end(job: Benchmark, model: str, path: Path) -> tuple[float, float]:
    """Images a second of a checkout with Ray, and their ratio to those of its plain loop."""
    command = [sys.executable, "-m", "benchmarks.labelling_end_to_end", "--model", model]
    command += ["--vocabulary", job.vocabulary, "--num-cpus", str(job.num_cpus), "--shards", *job.shards]
    done = subprocess.run(
        command, cwd=path, env=os.environ | {"PYTHONPATH": str(path)}, check=True, stdout=subprocess.PIPE, text=True
    )
    found = WARM.search(done.stdout)
    assert found is not None, done.stdout
    return float(found[1]), float(found[2])


@contextmanager
def checkout(baseline: str) -> Iterator[Path]:
    """Folder of the baseline: itself, or the files of a commit in a temporary one."""
    if Path(baseline).is_dir():
        yield Path(baseline).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", baseline], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def make_random_bundle(job: Benchmark, folder: Path) -> str:
    """ViT-Tiny with random weights for the classes of the vocabulary."""
    torch.manual_seed(0)
    names = tuple(load_vocabulary(job.vocabulary).classes)
    config = MCTformerConfig(variant=Variant.V2, num_classes=len(names))
    bundle = ModelBundle(config=config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    save_bundle(str(folder), MCTformer(config).eval(), bundle)
    return str(folder)


def write_photos(job: Benchmark, folder: Path) -> tuple[Path, Path]:
    """Write a tar of the first photos of the shards, and one of a quarter of them enlarged to 3 megapixels."""
    small, large = folder / "photos.tar", folder / "large.tar"
    with tarfile.open(small, "w") as few, tarfile.open(large, "w") as enlarged:
        for number, members in zip(range(job.num_photos), read_members(job.shards), strict=False):
            for name, content in members.items():
                add_member(few, name, content)
                if number % 4 == 0:
                    add_member(enlarged, name, enlarge(content) if name.endswith(".jpg") else content)
    return small, large


def read_members(shards: Sequence[str]) -> Iterator[dict[str, bytes]]:
    """Members of each sample of some tars, by name."""
    paths = sorted(path for shard in shards for path in Path(shard).parent.glob(Path(shard).name))
    for path in paths:
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    members.setdefault(member.name.split(".")[0], {})[member.name] = file.read()
        yield from members.values()


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def enlarge(photo: bytes) -> bytes:
    """Enlarge a photo to 3 megapixels, on its side if it is tall."""
    image: Any = Image.open(io.BytesIO(photo)).convert("RGB")
    width, height = LARGE_SIZE if image.width >= image.height else LARGE_SIZE[::-1]
    payload = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(payload, "JPEG", quality=88)
    return payload.getvalue()


if __name__ == "__main__":
    main()

"""Preparing and finishing images in processes beside the device."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.images.masks import build_palette
from pipeline.labelling.host_processes import ProcessWorkers
from pipeline.labelling.host_work import HostJobs
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.labelling.prepare import ReadyImage, SamplePreparer
from pipeline.labelling.shared_pixels import SharedPixels
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement, Resolution, ViewConfig, settle_config
from pipeline.run.records import Sample
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_overflowing_model, make_photo

VIEWS = ViewConfig(num_patches=16)
CONFIGS = {
    "buckets": LabelConfig(views=VIEWS, maps=MapConfig(keep_maps=True)),
    "native": LabelConfig(views=replace(VIEWS, resolution=Resolution.NATIVE)),
    "refined": LabelConfig(
        views=VIEWS, maps=MapConfig(pixel_refinement=PixelRefinement.PAR, pixel_side_px=96, pixel_iterations=2)
    ),
}


def make_labeler(
    config: LabelConfig, kind: type[Vocabulary] = Vocabulary, *, use_processes: bool = True
) -> ChunkLabeler:
    model, bundle = make_overflowing_model()
    return ChunkLabeler(
        model=model,
        bundle=bundle,
        vocabulary=kind(classes=bundle.class_names),
        config=config,
        device=torch.device("cpu"),
        batch_size=1,
        num_workers=2,
        use_bf16=False,
        use_processes=use_processes,
    )


@pytest.fixture
def open_labeler() -> Iterator[Callable[..., ChunkLabeler]]:
    """Opens labelers with processes, which end with the test."""
    opened = []

    def open_one(*arguments: Any) -> ChunkLabeler:
        opened.append(make_labeler(*arguments))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def make_samples(num: int = 9) -> list[Sample]:
    tags = [name_class(index) for index in range(num)]
    samples = [
        Sample(key=f"photo {index}", image=make_photo(index, size=(90 + 7 * index, 70)), tags=(tag,))
        for index, tag in enumerate(tags)
    ]
    return [*samples, Sample(key="broken", image=b"no image", tags=(tags[0],)), Sample(key="none", tags=())]


def name_class(index: int) -> str:
    _, bundle = make_overflowing_model()
    return bundle.class_names[index % len(bundle.class_names)]


@pytest.mark.parametrize("name", CONFIGS)
def test_processes_and_threads_give_equal_rows(name: str, open_labeler: Any) -> None:
    config = CONFIGS[name]
    samples = make_samples()
    expected = make_labeler(config, use_processes=False).label_chunk(samples)
    assert open_labeler(config).label_chunk(samples).equals(expected)


class DeadlyVocabulary(Vocabulary):
    """Ends the process that matches the tag `die`, as a decoder may do that writes where it must not."""

    def match(self, tags: Any, *numbers: Any, **options: Any) -> Any:
        if "die" in tags:
            os._exit(9)
        return super().match(tags, *numbers, **options)


def test_chunk_whose_process_dies_fails_and_the_next_one_is_labelled(open_labeler: Any) -> None:
    config, samples = CONFIGS["buckets"], make_samples()
    labeler = open_labeler(config, DeadlyVocabulary)
    expected = labeler.label_chunk(samples)
    for _ in range(2):
        with pytest.raises(BrokenProcessPool):
            labeler.label_chunk([*samples, replace(samples[0], tags=("die",)), *samples])
        assert labeler.label_chunk(samples).equals(expected)


def list_children(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *list_children(child)]
    return found


class HangingVocabulary(Vocabulary):
    """Never comes back from the tag `hang`, and never gives up the lock of the interpreter."""

    def match(self, tags: Any, *numbers: Any, **options: Any) -> Any:
        if "hang" in tags:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            re.match("(a+)+$", "a" * 60 + "b")
        return super().match(tags, *numbers, **options)


IDLE = """
import sys
from tests.labelling.test_host_processes import CONFIGS, make_labeler, make_samples
labeler = make_labeler(CONFIGS["buckets"])
labeler.label_chunk(make_samples())
print("ready", flush=True)
sys.stdin.read()
"""
HANGING = """
from dataclasses import replace
from tests.labelling.test_host_processes import CONFIGS, HangingVocabulary, make_labeler, make_samples
samples = make_samples()
make_labeler(CONFIGS["buckets"], HangingVocabulary).label_chunk([*samples, replace(samples[0], tags=("hang",))])
"""


@pytest.mark.parametrize("program", [IDLE, HANGING])
def test_processes_end_with_a_parent_that_is_killed(program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = list_children(parent.pid)
        assert len(children) >= 3
        parent.kill()
        parent.wait()
    ends_s = time.monotonic() + 60
    while remaining := [pid for pid in children if is_running(pid)]:
        assert time.monotonic() < ends_s, f"{remaining} outlive their parent"
        time.sleep(0.05)


def test_pixels_come_through_pipes_where_memory_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    config = settle_config(CONFIGS["buckets"], 4)
    _, bundle = make_overflowing_model()
    vocabulary = Vocabulary(classes=bundle.class_names)
    jobs = HostJobs(
        preparer=SamplePreparer(config=config, vocabulary=vocabulary, patch_size=16),
        config=config,
        palette=build_palette(None, vocabulary.classes),
    )
    workers = ProcessWorkers(jobs, 1, max_pending=4, max_image_bytes=2**50)
    numbered = list(enumerate(make_samples(3)))
    found = workers.prepare(numbered)()
    workers.close()
    assert "pixels come through pipes" in caplog.text
    for one, expected in zip(found, jobs.prepare(numbered), strict=True):
        if isinstance(expected, ReadyImage):
            assert isinstance(one, ReadyImage)
            assert (one.frame == expected.frame).all()
        else:
            assert one == expected


WRITER = """
import sys
from pipeline.labelling.shared_pixels import SharedPixels
SharedPixels.open(sys.argv[1]).view(100, (2, 3))[:] = [[1, 2, 3], [4, 5, 6]]
"""


def test_memory_is_shared_with_a_process_that_knows_its_path_until_it_is_closed() -> None:
    memory = SharedPixels.create(10_000)
    assert not memory.view(0, (10_000,)).any()
    subprocess.run([sys.executable, "-c", WRITER, memory.path], check=True)
    assert memory.view(100, (6,)).tolist() == [1, 2, 3, 4, 5, 6]
    memory.close()
    assert SharedPixels.open(memory.path) is None


def is_running(pid: int) -> bool:
    """Whether a process exists that is not a zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

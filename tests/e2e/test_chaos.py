"""Everything that can die dies once, on a real Ray cluster of three nodes. `benchmarks.chaos` runs random schedules."""

import pytest

from benchmarks.chaos import Benchmark, count_in_flight, make_inputs, read_manifests, run_schedule
from jobs import verify
from pipeline.bundles import load_bundle
from pipeline.config import InputConfig, LabelConfig, ViewConfig
from pipeline.label import label_run
from pipeline.label_actor import LabelOptions
from pipeline.run import open_run
from pipeline.shards import list_shards
from pipeline.vocabulary import load_vocabulary
from tests.fakes import SerialEngine

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

VICTIMS = ("worker", "node", "driver", "everything")
JOB = Benchmark(num_shards=4, num_images=30, mean_wait_s=8.0, max_kills=len(VICTIMS), limit_s=800.0)


def label_calmly(inputs, out):
    model = str(inputs / "model")
    run = open_run(
        out_uri=str(out),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(inputs / "vocabulary.json")),
        config=LabelConfig(inputs=InputConfig(max_chunk_samples=JOB.chunk_samples), views=ViewConfig(num_patches=16)),
        shards=list_shards([f"{inputs}/photos-*.tar"]),
    )
    label_run(run, LabelOptions(gpus_per_actor=0.0), engine=SerialEngine())


def test_run_whose_every_part_dies_ends_with_the_bytes_of_a_calm_one(tmp_path, capsys):
    make_inputs(tmp_path, JOB)
    label_calmly(tmp_path, tmp_path / "calm")
    outcome = run_schedule(JOB, tmp_path, tmp_path / "out", 0, VICTIMS)
    assert not outcome.error
    assert set(outcome.kills) <= set(VICTIMS)
    assert outcome.num_invocations >= 2
    assert read_manifests(tmp_path / "out") == read_manifests(tmp_path / "calm")
    assert verify.main(["--out", str(tmp_path / "out")]) == 0
    redone = outcome.num_labelled - JOB.num_chunks
    assert 0 <= redone <= count_in_flight(outcome)

"""New masks of kept maps, crashed at every write: the same command goes on and leaves the bytes of a clean run."""

import contextlib
from dataclasses import replace

import pytest

from pipeline.kept_maps import open_kept_run
from pipeline.label import label_run
from pipeline.remask import open_remask
from tests.fakes import CrashError, FaultyStore, SerialEngine
from tests.faults.conftest import OPTIONS, read_all

OUT = "faulty://out"
NUM_WRITES = 17
"""As labelling: run.json, a sign of life and its end; two shards with 3 parts, 3 deletions and a manifest each."""


@pytest.fixture(scope="module")
def kept_uri(open_small_run, tmp_path_factory):
    """A finished run that keeps its maps."""
    out_uri = str(tmp_path_factory.mktemp("kept"))
    label_run(open_small_run(out_uri, keep_maps=True), OPTIONS, engine=SerialEngine())
    return out_uri


def remask(kept_uri):
    """Make masks with a lower threshold; gives the chunks made."""
    kept = open_kept_run(kept_uri)
    maps = replace(kept.config.maps, background_threshold=0.2, foreground_threshold=0.3)
    engine = SerialEngine()
    # What was made up to a crash is wanted, too.
    with contextlib.suppress(CrashError):
        label_run(open_remask(OUT, kept, maps), OPTIONS, engine=engine)
    return engine.labelled


@pytest.fixture(scope="module")
def expected(kept_uri):
    """What a run leaves behind that nothing disturbs."""
    FaultyStore.reset()
    assert len(remask(kept_uri)) == 6
    assert len(FaultyStore.writes) == NUM_WRITES
    return read_all(OUT)


@pytest.mark.parametrize("number", range(NUM_WRITES))
@pytest.mark.parametrize("moment", ["before_write", "after_write"])
def test_remask_resumes_after_a_crash_at_any_write_with_the_same_bytes(kept_uri, expected, faulty_uri, moment, number):
    def crash(count, name):
        if count == number:
            raise CrashError(name)

    setattr(FaultyStore, moment, staticmethod(crash))
    first = remask(kept_uri)
    FaultyStore.heal()
    second = remask(kept_uri)
    assert read_all(OUT) == expected
    assert sorted(expected) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]
    assert len(first) + len(second) <= 6 + 1

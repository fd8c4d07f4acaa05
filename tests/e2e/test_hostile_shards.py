"""Shards whose bytes provoke or kill what reads them, beside good ones, on a real Ray: they fail by name, alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_label_job import ROOT, inputs, list_arguments, read_rows  # noqa: F401 (a fixture)
from tests.factories import make_photo, make_tar
from tests.hostile_files import make_pax_chain

pytestmark = pytest.mark.ray

HOSTILE_READER = """
import os, signal, tarfile

make = tarfile.TarInfo.__init__

def make_hostile(member, name=""):
    if name.startswith("POISON"):
        signal.raise_signal(signal.SIGSEGV)
    make(member, name)

tarfile.TarInfo.__init__ = make_hostile
"""
"""What Python runs when it starts: a reader that really kills its process at a marked member."""

SURVEY = """
import sys
import ray
from pipeline.run.config import InputConfig
from pipeline.inputs.shards import list_shards
from pipeline.errors import ShardError
from pipeline.training.data.survey import survey_splits
from pipeline.run.vocabulary import Vocabulary

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    survey_splits(list_shards([sys.argv[1]]), [], Vocabulary(classes=("cat",)), InputConfig())
except ShardError as error:
    print("ShardError:", error)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of processes, and of all that they start, whose reader is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "sitecustomize.py").write_text(HOSTILE_READER)
    return os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good shards; one that kills its reader in its second chunk, and one that exhausts Python's stack."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(5):
        samples = {
            f"s{shard}-{place}": {"jpg": make_photo(place), "json": json.dumps({"tags": ["cat"]}).encode()}
            for place in range(8)
        }
        if shard == 1:
            samples = {key if place != 7 else "POISON": members for place, (key, members) in enumerate(samples.items())}
        make_tar(folder / f"photos-{shard}.tar", samples)
    chain = folder / "photos-3.tar"
    chain.write_bytes(make_pax_chain(chain.read_bytes(), 400))
    return folder


def run_python(arguments: Any, environment: Any) -> Any:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("cluster", ["ray", "local"])
def test_shards_that_kill_or_provoke_their_readers_fail_by_name_and_the_others_are_published(
    inputs: Any,  # noqa: F811
    environment: dict[str, str],
    shards: Path,
    tmp_path: Path,
    cluster: str,
) -> None:
    arguments = list_arguments(inputs, tmp_path / "out", "--shards", str(shards), "--cluster", cluster)
    done = run_python(["-m", "jobs.label", *arguments], environment)
    assert done.returncode == 1, done.stdout + done.stderr
    published = sorted(path.name for path in Path(tmp_path / "out" / "labels").iterdir())
    assert published == ["photos-0.parquet", "photos-2.parquet", "photos-4.parquet"]
    assert len(read_rows(tmp_path / "out")) == 24
    assert f"shard '{shards}/photos-1.tar' cannot be read: it ends the processes that read it (signal SIGSEGV)" in (
        done.stderr
    )
    assert f"shard '{shards}/photos-3.tar' cannot be read: " in done.stderr
    # What was read before the death was labelled and committed.
    assert [path.name[:6] for path in (tmp_path / "out" / "parts" / "photos-1").iterdir()] == ["000000"]


def test_survey_of_training_names_the_shard_that_kills_its_readers(environment: dict[str, str], shards: Path) -> None:
    done = run_python(["-c", SURVEY, str(shards / "photos-1.tar")], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ShardError: shard '{shards}/photos-1.tar' cannot be read: it ends the processes" in done.stdout

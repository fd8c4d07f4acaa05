"""A small run whose every byte is known: two shards, a few chunks, a model of two blocks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles import load_bundle
from pipeline.driver.totals import RunSummary
from pipeline.driver.waves import Hooks
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.writing import put_atomic
from tests.factories import make_photo, make_tar, save_small_model
from tests.fakes import FaultyStore, SerialCluster

NUM_PER_SHARD = 5
CHUNK_SAMPLES = 2
OPTIONS = LabelOptions(gpus_per_actor=0.0, device="cpu")


@pytest.fixture(scope="session")
def small_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of five photos, one without a known tag, and a model bundle."""
    folder = tmp_path_factory.mktemp("small")
    for shard in range(2):
        tags = [["dog"] if index == 3 else ["Kitty"] for index in range(NUM_PER_SHARD)]
        tags[1] = ["sunset"]
        samples = {
            f"s{shard}-{index}": {
                "jpg": make_photo(10 * shard + index),
                "json": json.dumps({"tags": tags[index]}).encode(),
            }
            for index in range(NUM_PER_SHARD)
        }
        make_tar(folder / f"photos-{shard}.tar", samples)
    save_small_model(str(folder / "model"))
    return folder


@pytest.fixture(scope="session")
def open_small_run(small_inputs: Path) -> Callable[..., Run]:
    """Open the run under an output folder, as the job does."""

    def open_it(
        out_uri: str,
        check: bool = True,
        keep_maps: bool = False,
        inputs_uri: str | None = None,
        pattern: str = "photos-*.tar",
        extend: bool = False,
        **inputs: Any,
    ) -> Run:
        """Open the run; with `check=False` it is not compared with the run that the folder holds."""
        _, _, digest = load_bundle(str(small_inputs / "model"))
        arguments: dict[str, Any] = {
            "out_uri": out_uri,
            "model_uri": str(small_inputs / "model"),
            "model_digest": digest,
            "vocabulary": Vocabulary(classes=("cat", "dog"), aliases=(("kitty",), ())),
            "config": LabelConfig(
                inputs=InputConfig(max_chunk_samples=CHUNK_SAMPLES, **inputs),
                views=ViewConfig(num_patches=16),
                maps=MapConfig(keep_maps=keep_maps),
            ),
            "shards": list_shards([f"{inputs_uri or small_inputs}/{pattern}"]),
        }
        return open_run(**arguments, extend=extend) if check else Run(**arguments, fingerprint="")

    return open_it


@pytest.fixture(scope="session")
def label_small_run(open_small_run: Callable[..., Run]) -> Callable[..., RunSummary]:
    """Open and label the run without a cluster."""

    def label(out_uri: str, cluster: SerialCluster | None = None, **hooks: Any) -> RunSummary:
        return label_run(open_small_run(out_uri), OPTIONS, cluster=cluster or SerialCluster(), hooks=Hooks(**hooks))

    return label


@pytest.fixture
def faulty_uri() -> Iterator[str]:
    """URI of an empty folder in the store that fails on command."""
    FaultyStore.reset()
    yield "faulty://out"
    FaultyStore.reset()


@pytest.fixture
def faulty_inputs(small_inputs: Path, faulty_uri: str) -> str:
    """URI of a copy of the two shards in the store that fails on command."""
    for path in small_inputs.glob("*.tar"):
        put_atomic(f"faulty://in/{path.name}", path.read_bytes())
    FaultyStore.heal()
    return "faulty://in"


def read_all(folder_uri: str) -> dict[str, bytes]:
    """Read everything below a folder, by name; not what drivers say of themselves, with times."""
    names = {item.uri.removeprefix(folder_uri): item.uri for item in list_objects(folder_uri)}
    return {name: read_bytes(uri) for name, uri in names.items() if name not in ("/driver.json", "/progress.json")}

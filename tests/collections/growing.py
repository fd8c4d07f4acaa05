"""Drivers of one collection that grows, without Ray."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.execution.inputs import open_listed_run
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.commit.manifests import open_manifest
from pipeline.commit.names import locate_manifest
from pipeline.label import label_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, ViewConfig
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run, open_run, read_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from tests.factories import make_photo
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

INPUTS = InputConfig(max_chunk_samples=2)


@dataclass
class Driver:
    """A command on one collection, as the job carries it out."""

    patterns: Sequence[Path | str]
    out_uri: str
    model: str
    said: list[str] = field(default_factory=list)
    keep_maps: bool = False

    def find(self, extend: bool = True) -> tuple[InputShard, ...]:
        """List the inputs."""
        is_begun = exists(join_uri(self.out_uri, "run.json"))
        recorded = read_run(self.out_uri)["inputs"] if is_begun else []
        index = IndexPlace(
            join_uri(self.out_uri, "inputs"),
            is_begun=is_begun,
            recorded=tuple(uri.rpartition("/")[2] for uri, *_ in recorded),
        )
        patterns = [str(pattern) for pattern in self.patterns]
        return find_inputs(patterns, INPUTS, index, self.said.append, self.said.append, extend=extend)

    def describe(self, shards: tuple[InputShard, ...]) -> dict[str, Any]:
        """Arguments of the run."""
        return {
            "out_uri": self.out_uri,
            "model_uri": self.model,
            "model_digest": load_bundle(self.model)[2],
            "vocabulary": Vocabulary(classes=("cat", "dog"), aliases=((), ())),
            "config": LabelConfig(
                inputs=INPUTS, views=ViewConfig(num_patches=16), maps=MapConfig(keep_maps=self.keep_maps)
            ),
            "shards": shards,
        }

    def open(self, extend: bool = True) -> Run:
        """Open the run."""

        def open_with(shards: tuple[InputShard, ...]) -> Run:
            return open_run(**self.describe(shards), extend=extend)

        return open_listed_run(self.find(extend), lambda: self.find(extend), open_with, self.said.append)[0]

    def label(self, extend: bool = True) -> Run:
        """Open the run, and label what is left of it."""
        run = self.open(extend)
        label_run(run, OPTIONS, cluster=SerialCluster())
        return run


StartDriver = Callable[..., Driver]


def add_photos(folder: Path, *names: str) -> None:
    """Write photos by their paths, each with other pixels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_photo(sum(name.encode())))


def write_table(path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("file_name", "tags")) -> Path:
    """Write a table by Python's writer."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def list_keys(run_uri: str) -> list[list[str]]:
    """Keys of each manifest, in the order of the run."""
    names = [entry[1] for entry in read_run(run_uri)["inputs"]]
    return [[row["key"] for row in open_manifest(locate_manifest(run_uri, name)).iterate_rows()] for name in names]


def check_books(run_uri: str) -> None:
    """Audit a run in full."""
    assert verify_run(list_run(run_uri), FULL).findings == {}

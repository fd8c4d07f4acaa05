"""Random archives of an independent writer: labelled, and every member is in a row or among those passed over."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audit.verify import FOOTERS, FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import InputConfig, KeyRule, LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_photo, save_small_model
from tests.fakes import SerialCluster

PHOTO = make_photo(1, size=(16, 16))
OPTIONS = LabelOptions(gpus_per_actor=0.0, device="cpu", max_rejected_fraction=1.0)
STEMS = ("a", "b", "d/c", "./d/c", "e.f", "2020.01", ".hidden", ".git/k", "__MACOSX/l", "__m__", "README", "d")
SUFFIXES = ("jpg", "jpg", "json", "json", "JPEG", "png", "txt", "seg.png", "0.jpg", "csv", "")
TYPES = (*[tarfile.REGTYPE] * 8, *[tarfile.LNKTYPE] * 2, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)


class Member(NamedTuple):
    """Member of an archive to write."""

    name: str
    kind: bytes
    target: str


STEM_GROUPS = st.tuples(st.sampled_from(STEMS), st.lists(st.sampled_from(SUFFIXES), min_size=1, max_size=5))
NAMES = st.lists(STEM_GROUPS, max_size=5).map(
    lambda groups: [f"{stem}.{suffix}" if suffix else stem for stem, suffixes in groups for suffix in suffixes]
)


@st.composite
def draw_members(draw: st.DrawFn) -> list[Member]:
    """Draw members in any order, with repeated names and links to names that may be there."""
    names = draw(NAMES)
    if draw(st.booleans()):
        names = draw(st.permutations(names))
    targets = st.sampled_from([*names, "nowhere.jpg"])
    return [Member(name, draw(st.sampled_from(TYPES)), draw(targets)) for name in names]


def write_archive(path: Path, members: Sequence[Member]) -> int:
    """Write an archive of members; return how many a plain listing of `tarfile` has."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            header = tarfile.TarInfo(member.name)
            header.type = member.kind
            header.linkname = member.target if member.kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            is_image = member.name.lower().endswith(("jpg", "jpeg", "png"))
            payload = PHOTO if is_image else json.dumps({"tags": ["cat"]}).encode()
            header.size = len(payload) if member.kind == tarfile.REGTYPE else 0
            archive.addfile(header, io.BytesIO(payload))
    with tarfile.open(path) as archive:
        return sum(1 for _ in archive)


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bundle of a small model."""
    uri = str(tmp_path_factory.mktemp("model"))
    save_small_model(uri)
    return uri


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(members=draw_members(), key=st.sampled_from(KeyRule), max_chunk_samples=st.integers(1, 3))
def test_rows_and_members_passed_over_are_all_members_of_a_random_archive(
    tmp_path_factory: pytest.TempPathFactory,
    model_uri: str,
    members: list[Member],
    key: KeyRule,
    max_chunk_samples: int,
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    num_members = write_archive(folder / "a.tar", members)
    run = open_run(
        out_uri=str(folder / "out"),
        model_uri=model_uri,
        model_digest=load_bundle(model_uri)[2],
        vocabulary=Vocabulary(classes=("cat", "dog")),
        config=LabelConfig(
            inputs=InputConfig(key=key, max_chunk_samples=max_chunk_samples), views=ViewConfig(num_patches=16)
        ),
        shards=list_shards([str(folder / "a.tar")]),
    )
    label_run(run, OPTIONS, cluster=SerialCluster())
    schema = pq.read_schema(folder / "out" / "labels" / "a.parquet")
    stated = json.loads(schema.metadata[b"tagmask"])["members"]
    assert stated["num"] == num_members
    for depth in (FULL, FOOTERS):
        verdict = verify_run(list_run(run.out_uri), depth)
        assert verdict.findings == {}
        assert verdict.members.num == num_members
        assert verdict.members.num_in_rows + verdict.members.num_passed_over == num_members
        assert verdict.members.to_dict()["passed_over"] == stated["passed_over"]

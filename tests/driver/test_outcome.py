"""What a run tells of its shards: members that were passed over, and shards of which nothing was labelled."""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.driving import conclude, warn_of_nothing_labelled
from pipeline.commit.manifests import open_manifest, read_members
from pipeline.commit.outcome import Outcome, read_outcomes
from pipeline.driver.totals import RunSummary
from pipeline.label import label_run
from pipeline.run.options import LabelOptions
from pipeline.run.records import MemberCounts, Reason
from pipeline.run.run_file import Run
from pipeline.storage.writing import put_atomic
from tests.factories import make_photo
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.small_run import OPTIONS, read_all

OpenRun = Callable[..., Run]


def tags(*names: str) -> bytes:
    return json.dumps({"tags": names}).encode()


def make_archive(members: Any) -> bytes:
    """An archive of (name, content) pairs; a text is the target of a hard link, None stands for a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
                continue
            header.type, header.linkname = (tarfile.DIRTYPE, "") if content is None else (tarfile.LNKTYPE, content)
            archive.addfile(header)
    return buffer.getvalue()


def list_mixed_members() -> list[tuple[str, Any]]:
    photo = make_photo(1)
    members: list[tuple[str, Any]] = [("d", None), (".hidden", b"1")]
    for key in ("a", "b", "k", "k", "IMG_1.0", "IMG_1.1", "z"):
        members += [(f"d/{key}.jpg", photo), (f"d/{key}.json", tags("cat")), (f"d/{key}.npy", b"1"), ("d/README", b"1")]
    return [*members, ("last.jpg", "d/a.jpg"), ("last.json", "d/a.json"), ("last.json", "d/a.json")]


MIXED = {"hidden_file": 1, "directory": 1, "no_suffix": 7, "unused_suffix": 9, "second_member": 1}


def label(run: Run, cluster: SerialCluster | None = None, **options: Any) -> RunSummary:
    return label_run(run, LabelOptions(**vars(OPTIONS) | options), cluster=cluster or SerialCluster())


def count_by_kind(counts: MemberCounts | None) -> dict[str, int]:
    assert counts is not None
    return {str(kind): count.num for kind, count in counts.passed_over.items()}


def test_members_passed_over_are_in_manifest_and_summary(open_small_run: OpenRun, tmp_path: Path) -> None:
    members = list_mixed_members()
    (tmp_path / "photos-0.tar").write_bytes(make_archive(members))
    out = str(tmp_path / "out")
    summary = label(open_small_run(out, inputs_uri=str(tmp_path)))
    written = read_members(open_manifest(f"{out}/labels/photos-0.parquet"))
    assert written == summary.outcome.members
    assert (written.num if written else 0, count_by_kind(written)) == (len(members), MIXED)
    assert summary.outcome.counts.rejected_by_reason == {"duplicate_key": 1, "dotted_name": 2}
    assert summary.outcome.counts.num_labelled == 5


def test_members_passed_over_are_printed_with_what_helps(
    open_small_run: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos-0.tar").write_bytes(make_archive(list_mixed_members()))
    assert (
        conclude(
            "out", label(open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path))), allows_nothing_labelled=False
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "  passed over, directory: 1, such as 'd'\n" in printed
    assert "  passed over, second_member: 1, such as 'last.json'; give every sample a key of its own" in printed
    assert "  rejected, dotted_name: 2; give --inputs.key last-dot" in printed


@pytest.mark.parametrize("number", range(10))
def test_run_that_was_ended_at_any_write_gives_the_same_manifests(
    open_small_run: OpenRun, faulty_uri: str, number: int
) -> None:
    put_atomic("faulty://in/photos-0.tar", make_archive(list_mixed_members()))
    FaultyStore.heal()
    label(open_small_run("faulty://whole", inputs_uri="faulty://in"))
    FaultyStore.heal()

    def crash(count: int, name: str) -> None:
        if count == number:
            raise CrashError(name)

    FaultyStore.after_write = staticmethod(crash)
    with contextlib.suppress(CrashError):
        label(open_small_run("faulty://out", inputs_uri="faulty://in"))
    FaultyStore.heal()
    label(open_small_run("faulty://out", inputs_uri="faulty://in"))
    (manifest,) = [text for name, text in read_all("faulty://out").items() if name.startswith("/labels/")]
    (whole,) = [text for name, text in read_all("faulty://whole").items() if name.startswith("/labels/")]
    assert manifest == whole


def run_unlabelled(open_small_run: OpenRun, folder: Path, **options: Any) -> RunSummary:
    """A shard of which nothing can be labelled, beside one that is whole."""
    photo = make_photo(2)
    unknown = [pair for key in "abcd" for pair in ((f"{key}.jpg", photo), (f"{key}.json", tags("sunset", "\x1b[2J")))]
    (folder / "photos-0.tar").write_bytes(make_archive(unknown))
    (folder / "photos-1.tar").write_bytes(make_archive([("x.jpg", photo), ("x.json", tags("cat"))]))
    return label(open_small_run(str(folder / "out"), inputs_uri=str(folder)), **options)


def test_shard_of_which_nothing_is_labelled_is_published_and_fails_the_job_with_advice(
    open_small_run: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_unlabelled(open_small_run, tmp_path)
    assert (summary.num_sealed, summary.outcome.num_unlabelled, summary.outcome.unlabelled) == (2, 1, ("photos-0",))
    assert conclude("out", summary, allows_nothing_labelled=False) == 1
    printed = capsys.readouterr().err
    assert "warning: no image of shard 'photos-0' is labelled: no_known_tag 4 times\n" in printed
    assert "'a' (no_known_tag: none of its tags is in the vocabulary: 'sunset', '\\x1b[2J')" in printed
    assert "for no_known_tag: compare the tags with the classes of the vocabulary" in printed
    assert "--allow-nothing-labelled" in printed
    assert conclude("out", summary, allows_nothing_labelled=True) == 0


@pytest.mark.parametrize("reason", list(Reason))
def test_shard_rejected_for_any_reason_fails_the_job_with_advice(
    capsys: pytest.CaptureFixture[str], reason: Reason
) -> None:
    outcome = Outcome(num_unlabelled=1, unlabelled=("photos-0",), reasons={reason: 3})
    assert warn_of_nothing_labelled(outcome, allows_nothing_labelled=False) == 1
    assert f"warning: for {reason}: " in capsys.readouterr().err


def test_published_shards_tell_again_what_was_not_labelled(open_small_run: OpenRun, tmp_path: Path) -> None:
    summary = run_unlabelled(open_small_run, tmp_path)
    again = read_outcomes(str(tmp_path / "out"), ["photos-0", "photos-1"])
    assert again == summary.outcome


def test_archive_without_a_sample_is_published_and_fails_the_job(
    open_small_run: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos-0.tar").write_bytes(make_archive([("d", None), ("d/README", b"1")]))
    summary = label(open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path)))
    assert count_by_kind(summary.outcome.members) == {"directory": 1, "no_suffix": 1}
    assert conclude("out", summary, allows_nothing_labelled=False) == 1
    assert "no image of shard 'photos-0' is labelled: without any sample" in capsys.readouterr().err


def test_images_and_tags_that_stand_apart_are_split_samples_and_count_once(
    open_small_run: OpenRun, tmp_path: Path
) -> None:
    photo = make_photo(3)
    images_first = [*((f"{key}.jpg", photo) for key in "abc"), *((f"{key}.json", tags("cat")) for key in "abc")]
    tags_first = images_first[3:] + images_first[:3]
    whole = [("x.jpg", photo), ("x.json", tags("cat"))]
    (tmp_path / "photos-0.tar").write_bytes(make_archive(images_first))
    (tmp_path / "photos-1.tar").write_bytes(make_archive(tags_first))
    (tmp_path / "photos-2.tar").write_bytes(
        make_archive([*whole, ("y.jpg", photo), ("y.json", tags("dog")), ("x.txt", b"cat")])
    )
    run = open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path))
    summary = label(run)
    assert sorted(summary.failed_shards) == ["photos-0", "photos-1"]
    for error in summary.failed_shards.values():
        assert "rejected 3 of 3 rows, limit 50%, mostly split_sample, first 'a'; sort the members" in error
        assert "the error of 'a': members of this key stand apart" in error
    summary = label(run, max_rejected_fraction=1.0)
    assert summary.outcome.counts.rejected_by_reason == {"split_sample": 12}
    assert (summary.outcome.num_unlabelled, dict(summary.outcome.reasons)) == (2, {"split_sample": 6})
    assert list(open_manifest(f"{tmp_path}/out/labels/photos-2.parquet").iterate_rows(["key", "reason"])) == [
        {"key": "x", "reason": None},
        {"key": "y", "reason": None},
        {"key": "x", "reason": "split_sample"},
    ]

"""Folders and globs: hidden names are no data, and everything that is passed over is counted."""

from pathlib import Path

import pytest

from pipeline.errors import ShardError
from pipeline.inputs.shards import list_shards
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

HIDDEN = [
    "._a.tar",
    "_b.tar",
    ".ipynb_checkpoints/a-checkpoint.tar",
    "_temporary/0/a.tar",
    "deep/_delta_log/a.tar",
    "__MACOSX/deep/a.tar",
]


def put_all(folder_uri: str, names: list[str]) -> None:
    for name in names:
        put_atomic(join_uri(folder_uri, name), bytes(1024))


def list_names(folder_uri: str, *patterns: str) -> tuple[list[str], list[str]]:
    """Names of the shards that patterns below a folder match, and the warnings."""
    warnings: list[str] = []
    shards = list_shards(
        [join_uri(folder_uri, pattern) if pattern else folder_uri for pattern in patterns], warnings.append
    )
    return [shard.uri.removeprefix(folder_uri).lstrip("/") for shard in shards], warnings


def test_hidden_names_below_a_folder_or_a_wildcard_are_passed_over_and_counted(folder_uri: str) -> None:
    put_all(folder_uri, ["a.tar", "deep/b.tar", "_temporary/c.parquet", *HIDDEN])
    names, (warning,) = list_names(folder_uri, "")
    assert names == ["a.tar", "deep/b.tar"]
    assert f"'{folder_uri}': passed over 7 files (names that begin with '.' or '_': 7, such as '" in warning
    names, (warning,) = list_names(folder_uri, "**/*.tar")
    assert names == ["a.tar", "deep/b.tar"]
    assert "passed over 6 files" in warning
    names, (warning,) = list_names(folder_uri, "*.tar")
    assert names == ["a.tar"]
    assert "passed over 2 files" in warning


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("_temporary", ["_temporary/0/a.tar"]),
        ("_temporary/*/*.tar", ["_temporary/0/a.tar"]),
        ("_*/*/*.tar", ["__MACOSX/deep/a.tar", "_temporary/0/a.tar"]),
        ("**/_*/*.tar", ["deep/_delta_log/a.tar"]),
        ("_*.tar", ["_b.tar"]),
        ("._a.tar", ["._a.tar"]),
        ("{_b,._a}.tar", ["._a.tar", "_b.tar"]),
    ],
)
def test_hidden_name_that_the_pattern_itself_contains_is_data(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    put_all(str(tmp_path), HIDDEN)
    assert list_names(str(tmp_path), pattern)[0] == expected


def test_folder_of_which_all_is_hidden_is_refused(tmp_path: Path) -> None:
    put_all(str(tmp_path), HIDDEN)
    with pytest.raises(
        ShardError, match=r"its 6 archives are all hidden by names that begin with .*; name their folder"
    ):
        list_shards([str(tmp_path)])
    with pytest.raises(ShardError, match=r"matches no shard, only 2 files \(names that begin with '\.' or '_': 2"):
        list_shards([f"{tmp_path}/*.tar"])


def test_hive_partitions_are_data(tmp_path: Path) -> None:
    names = ["color=blue/part-0.parquet", "color=red/part-0.parquet"]
    put_all(str(tmp_path), [*names, "_SUCCESS"])
    found, (warning,) = list_names(str(tmp_path), "")
    assert found == names
    assert warning.endswith(f"passed over 1 file (names that begin with '.' or '_': 1, such as '{tmp_path}/_SUCCESS')")


def test_other_files_of_a_folder_are_counted_by_suffix_in_one_line(folder_uri: str) -> None:
    others = ["README.md", "LICENSE", "a.tar.part", "a.json", "b.json", "00000_stats.json", "a.parquet"]
    put_all(folder_uri, ["a.tar", "B.TAR", *others])
    names, (warning,) = list_names(folder_uri, "")
    assert names == ["B.TAR", "a.tar"]
    assert "passed over 7 files (*.json: 2, such as '" in warning
    for kind in ("*.md: 1", "without a suffix: 1", "*.part: 1", "*_stats.json: 1"):
        assert f"; {kind}, such as '{folder_uri}" in warning
    assert "*.parquet beside a tar of the same name: 1" in warning


def test_outputs_of_a_run_below_the_folder_are_counted(tmp_path: Path) -> None:
    put_all(str(tmp_path), ["a.tar", "out/run.json", "out/labels/a.parquet"])
    names, (warning,) = list_names(str(tmp_path), "")
    assert names == ["a.tar"]
    assert "outputs of a labelling run: 1" in warning


def test_broken_links_are_counted_and_refused_where_there_is_nothing_else(tmp_path: Path) -> None:
    put_all(str(tmp_path), ["a.tar"])
    (tmp_path / "b.tar").symlink_to("/nowhere/b.tar")
    for pattern in ("", "*.tar"):
        names, (warning,) = list_names(str(tmp_path), pattern)
        assert names == ["a.tar"]
        assert f"passed over 1 file (broken links: 1, such as '{tmp_path}/b.tar')" in warning
    (tmp_path / "a.tar").unlink()
    for pattern in ("", "*.tar"):
        with pytest.raises(ShardError, match=r"broken links: 1.*; correct the links, or get their content.*git annex"):
            list_names(str(tmp_path), pattern)


@pytest.mark.parametrize("name", ["link", "link/a.tar"])
def test_link_that_leads_nowhere_is_named_with_its_target(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/nowhere/data")
    with pytest.raises(ShardError, match=r"'.*/link' is a link to '/nowhere/data', which does not exist"):
        list_shards([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "it is an empty folder"),
        (
            ["a.jpg", "b.jpg"],
            r"\(\*\.jpg: 2, .*\), none of them .*; docs/inputs.md lists .* which forms --shards takes",
        ),
        (["tags.csv"], r"which forms --shards takes loose images and tables"),
        (["a.tar.zst"], r"a.tar.zst' is compressed, which is not supported"),
        (["a.bin"], r"a folder of 1 file \(\*\.bin: 1, such as .*check the path, or name the files"),
    ],
)
def test_folder_without_archives_is_described(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "in").mkdir()
    put_all(str(tmp_path / "in"), names)
    with pytest.raises(ShardError, match=message):
        list_shards([str(tmp_path / "in")])


def test_spellings_of_one_file_are_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(str(tmp_path), ["a.tar", "sub/b.tar"])
    monkeypatch.chdir(tmp_path)
    patterns = [
        "a.tar",
        "./a.tar",
        f"{tmp_path}//a.tar",
        f"FILE://{tmp_path}/./a.tar",
        f"file://{tmp_path}/sub/../a.tar",
    ]
    assert [shard.uri for shard in list_shards(patterns)] == [f"{tmp_path}/a.tar"]


def test_buckets_of_both_schemes_of_s3_are_one_store(s3_folder: str) -> None:
    uri = join_uri(s3_folder, "a.tar")
    put_atomic(uri, bytes(1024))
    patterns = [uri.replace("s3://", "S3://"), uri.replace("s3://", "s3a://"), uri]
    assert [shard.uri for shard in list_shards(patterns)] == [uri]

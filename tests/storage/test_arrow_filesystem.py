"""The file system of Ray Train: on a local disk, in memory, and on S3 over HTTP."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import fsspec
import pyarrow.fs
import pytest
from pyarrow.fs import FileSelector, FileType
from ray.train.v2._internal.execution.storage import StorageContext, delete_fs_path

from pipeline.errors import BucketError
from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.faulty_network import Fault, FaultyNetwork

ROOT = Path(__file__).parents[2]
ODD_NAMES = ["a b", "a#b?c", "50% +1", "%20", "ü羊", "a'b\"c", "[x]*", "a=b&c;d", "~tilde", "a:b@c"]


@pytest.fixture
def network(s3_folder: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyNetwork]:
    """The emulated S3 behind a network that fails on command and refuses uploads without a length."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        yield network


def make_checkpoint(folder: Path, **files: Any) -> Path:
    for name, payload in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    return folder


def list_names(folder_uri: str) -> list[Any]:
    return [item.uri.removeprefix(folder_uri) for item in list_objects(folder_uri)]


def test_folder_of_any_name_keeps_checkpoints_as_ray_train_writes_them(folder_uri: str, tmp_path: Path) -> None:
    payload = bytes(range(256)) * 5000
    source = make_checkpoint(tmp_path / "source", **{"state.pt": payload, "inner/empty": b""})
    local = type("Checkpoint", (), {"path": str(source), "filesystem": pyarrow.fs.LocalFileSystem()})
    for name in ODD_NAMES:
        out = join_uri(folder_uri, name)
        filesystem, folder = pickle.loads(pickle.dumps(open_for_ray(out)))
        context = StorageContext(folder, "checkpoints", filesystem)
        kept = context.persist_current_checkpoint(local, "epoch-0001")
        assert kept.filesystem == context.storage_filesystem
        assert context.extract_checkpoint_dir_name_from_path(kept.path) == "epoch-0001"
        marker = "/checkpoints/.validate_storage_marker"
        copies = ["/checkpoints/epoch-0001/inner/empty", "/checkpoints/epoch-0001/state.pt"]
        assert list_names(out) == [marker, *copies]
        with kept.as_directory() as copy:
            assert Path(copy, "state.pt").read_bytes() == payload
            assert Path(copy, "inner", "empty").read_bytes() == b""
        delete_fs_path(kept.filesystem, kept.path)
        assert list_names(out) == [marker]


def test_uploads_of_ray_to_s3_have_a_length(s3_folder: str, network: FaultyNetwork, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", small=b"x", large=bytes(110 * 2**20))
    filesystem, folder = open_for_ray(s3_folder)
    pyarrow.fs.copy_files(str(source), f"{folder}/epoch", destination_filesystem=filesystem)
    assert network.num_without_length == 0
    assert [item.size_bytes for item in list_objects(s3_folder)] == [110 * 2**20, 1]


def test_uploads_of_ray_survive_a_network_that_fails(s3_folder: str, network: FaultyNetwork) -> None:
    network.choose = lambda method, path: Fault.LOST_REPLY if method == "PUT" and network.num_faults < 2 else None
    filesystem, folder = open_for_ray(s3_folder)
    with filesystem.open_output_stream(f"{folder}/a") as stream:
        stream.write(b"whole")
    assert network.num_faults == 2
    assert read_bytes(join_uri(s3_folder, "a")) == b"whole"


def test_missing_bucket_is_named_when_ray_looks_for_its_folder(s3_folder: str) -> None:
    filesystem, folder = open_for_ray("s3://nobody-has-this/run")
    with pytest.raises(BucketError, match="bucket 'nobody-has-this' .* does not exist; create it"):
        StorageContext(folder, "checkpoints", filesystem)


def test_file_that_ray_writes_appears_when_it_is_closed(folder_uri: str) -> None:
    filesystem, folder = open_for_ray(folder_uri)
    uri = join_uri(folder_uri, "snapshot.json")
    put_atomic(uri, b"before")
    stream = filesystem.open_output_stream(f"{folder}/snapshot.json")
    stream.write(b"aft")
    stream.flush()
    assert read_bytes(uri) == b"before"
    stream.write(b"er")
    assert stream.tell() == 5
    stream.close()
    assert read_bytes(uri) == b"after"
    assert list_names(folder_uri) == ["/snapshot.json"]


def test_file_whose_writer_died_does_not_exist(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pipeline.storage.arrow_filesystem import open_for_ray;"
        "filesystem, folder = open_for_ray(sys.argv[1]);"
        "stream = filesystem.open_output_stream(folder + '/state.pt'); stream.write(bytes(10**6)); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False, timeout=120)
    assert list_objects(str(tmp_path)) == []


def test_copy_whose_source_fails_midway_does_not_exist(folder_uri: str, tmp_path: Path) -> None:
    class FailingSource(pyarrow.fs.FileSystemHandler):
        def open_input_stream(self, path: Path) -> Any:
            class Stream:
                closed = False

                def read(self, size: Any) -> bytes:
                    self.read = self.fail
                    return b"half"

                def fail(self, size: Any) -> Never:
                    raise OSError("the source is gone")

                def close(self) -> None:
                    self.closed = True

            return pyarrow.PythonFile(Stream(), mode="r")

        def get_file_info(self, paths: Any) -> list[Any]:
            return [pyarrow.fs.FileInfo(path, FileType.File, size=8) for path in paths]

        get_type_name = lambda self: "failing"  # noqa: E731
        normalize_path = lambda self, path: path  # noqa: E731
        __eq__ = object.__eq__
        get_file_info_selector = create_dir = delete_dir = delete_dir_contents = None
        delete_root_dir_contents = delete_file = move = copy_file = open_input_file = None
        open_output_stream = open_append_stream = None

    filesystem, folder = open_for_ray(folder_uri)
    with pytest.raises(OSError, match="the source is gone"):
        pyarrow.fs.copy_files(
            "a",
            f"{folder}/a",
            source_filesystem=pyarrow.fs.PyFileSystem(FailingSource()),
            destination_filesystem=filesystem,
        )
    assert list_objects(folder_uri) == []


def test_listing_contains_folders_and_files_as_pyarrow_expects(folder_uri: str) -> None:
    for name in ("a/1", "a/deep/2", "b"):
        put_atomic(join_uri(folder_uri, *name.split("/")), b"xyz")
    filesystem, folder = open_for_ray(folder_uri)

    def list_paths(path: str, **options: Any) -> dict[str, Any]:
        return {info.path: info.type for info in filesystem.get_file_info(FileSelector(path, **options))}

    assert list_paths(folder) == {"/a": FileType.Directory, "/b": FileType.File}
    assert list_paths("/a", recursive=True) == {
        "/a/1": FileType.File,
        "/a/deep": FileType.Directory,
        "/a/deep/2": FileType.File,
    }
    assert list_paths("/c", allow_not_found=True) == {}
    with pytest.raises(FileNotFoundError):
        list_paths("/c")
    kinds = [info.type for info in filesystem.get_file_info(["/", "/a", "/b", "/c"])]
    assert kinds == [FileType.Directory, FileType.Directory, FileType.File, FileType.NotFound]
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream("/c")


def test_root_folder_is_never_deleted(folder_uri: str) -> None:
    put_atomic(join_uri(folder_uri, "train.json"), b"x")
    filesystem, folder = open_for_ray(folder_uri)
    with pytest.raises(ValueError, match="is not deleted"):
        filesystem.delete_dir(folder)
    with pytest.raises(ValueError, match="is not deleted"):
        filesystem.delete_dir_contents("/", accept_root_dir=True)
    assert list_names(folder_uri) == ["/train.json"]


def test_deleted_folder_of_a_local_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    filesystem, folder = open_for_ray(str(tmp_path))
    make_checkpoint(tmp_path / "epoch", **{"inner/state.pt": b"x", ".tmp-half": b"half"})
    filesystem.delete_dir(f"{folder}/epoch")
    assert list(tmp_path.iterdir()) == []


def test_local_folder_is_the_same_in_a_process_of_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(open_for_ray("out"))
    monkeypatch.chdir("/")
    filesystem, folder = pickle.loads(payload)
    with filesystem.open_output_stream(f"{folder}/a") as stream:
        stream.write(b"x")
    assert (tmp_path / "out" / "a").read_bytes() == b"x"


def test_published_file_cannot_be_appended_to(folder_uri: str) -> None:
    put_atomic(join_uri(folder_uri, "a"), b"x")
    filesystem, folder = open_for_ray(folder_uri)
    with pytest.raises(NotImplementedError, match="/a' cannot be appended to; write it whole"):
        filesystem.open_append_stream(f"{folder}/a")
    assert read_bytes(join_uri(folder_uri, "a")) == b"x"

"""`hf://` through the hub's real client: rows of its files, and one sentence for what is not open."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.errors import BucketError, ShardError, StorageError, UriError
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.run_file import Run
from pipeline.storage.listing import find_object
from pipeline.storage.outage import is_outage
from pipeline.storage.reading import read_bytes, read_head
from tests.collections.forms import PHOTOS, find, read_samples, write_csv, write_photos
from tests.factories import make_parquet, make_photo
from tests.fakes import SerialCluster
from tests.hub_server import TOKEN, HubServer, serve_hub
from tests.small_run import OPTIONS


def make_tables(folder: Path) -> dict[str, bytes]:
    """Two Parquet files of photos, as a repository holds them."""
    files = {}
    for number in range(2):
        keys = [f"{number}-{place}" for place in range(3)]
        columns = {"key": keys, "image": [make_photo(place) for place in range(3)], "tags": [["cat"]] * 3}
        path = make_parquet(folder / f"photos-{number}.parquet", columns)
        files[f"data/photos-{number}.parquet"] = path.read_bytes()
    return files


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with an open, a private and a gated repository, for a user without a token."""
    files = make_tables(tmp_path / "tables")
    names = ("org/open", "org/private", "org/gated")
    served = HubServer(dict.fromkeys(names, files), frozenset({"org/private"}), frozenset({"org/gated"}))
    client = fsspec.get_filesystem_class("hf")
    with serve_hub(served) as served:
        # The client reads HF_ENDPOINT once, when it is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        client.clear_instance_cache()
        yield served
        client.clear_instance_cache()


@pytest.mark.parametrize(
    "pattern",
    [
        "open/data/*.parquet",
        "open",
        "open@v1/data/photos-{0..1}.parquet",
        "open@refs/convert/parquet/data/*.parquet",
    ],
)
def test_rows_of_a_repository_are_the_rows_of_its_files(hub: HubServer, tmp_path: Path, pattern: str) -> None:
    shards = list_shards([f"hf://datasets/org/{pattern}"])
    local = list_shards([str(tmp_path / "tables")])
    assert [shard.name for shard in shards] == ["photos-0", "photos-1"]
    assert read_samples(shards) == read_samples(local)
    assert len(read_samples(shards)) == 6


def test_run_labels_the_rows_of_a_repository(
    hub: HubServer, open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = open_small_run(str(tmp_path / "out"), inputs_uri="hf://datasets/org/open/data", pattern="*.parquet")
    label_run(run, OPTIONS, cluster=SerialCluster())
    rows = [
        row for name in range(2) for row in pq.read_table(f"{run.out_uri}/labels/photos-{name}.parquet").to_pylist()
    ]
    assert [(row["key"], row["status"]) for row in rows] == [
        (f"{number}-{place}", "labelled") for number in range(2) for place in range(3)
    ]


def test_folder_of_images_in_a_repository_is_read(hub: HubServer, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    write_csv(tmp_path / "photos/metadata.csv")
    hub.files["org/photos"] = {f"train/{path.name}": path.read_bytes() for path in (tmp_path / "photos").iterdir()}
    shards, _ = find("hf://datasets/org/photos/train", tmp_path / "index")
    assert [sample.image for sample in read_samples(shards)] == list(PHOTOS.values())


def test_etag_changes_with_the_content_of_a_file(hub: HubServer) -> None:
    uri = "hf://datasets/org/open/data/photos-0.parquet"
    before = find_object(uri)
    content = hub.files["org/open"]["data/photos-0.parquet"]
    hub.files["org/open"] = {"data/photos-0.parquet": bytes(reversed(content))}
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    after = find_object(uri)
    assert before is not None
    assert after is not None
    assert (after.size_bytes, after.etag != before.etag) == (before.size_bytes, True)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("datasets/org/none/*.parquet", "repository 'datasets/org/none' of .* does not exist, or is private; correct"),
        ("datasets/org/none", "repository 'datasets/org/none' of .* or set HF_TOKEN or log in by 'hf auth login'$"),
        ("datasets/org/private/data/photos-0.parquet", "repository 'datasets/org/private' of .* or is private;"),
        ("org/open/*.parquet", "repository 'org/open' of .*; a dataset is 'hf://datasets/org/open'$"),
        ("datasets/org/open@v9/data/*.parquet", "revision 'v9' of .* does not exist; correct what stands after the @"),
        ("datasets/org/open@refs/pr/7/data/a-{0..2}.parquet", "revision 'refs/pr/7' of .* does not exist"),
    ],
)
def test_repository_or_revision_that_does_not_exist_is_named(hub: HubServer, uri: str, message: str) -> None:
    with pytest.raises(BucketError, match=message) as refusal:
        list_shards([f"hf://{uri}"])
    assert not is_outage(refusal.value)


@pytest.mark.parametrize("use", [read_bytes, lambda uri: read_head(uri, 4)])
def test_gated_repository_is_named_when_read(hub: HubServer, use: Callable[[str], Any]) -> None:
    with pytest.raises(
        BucketError, match=r"repository 'datasets/org/gated' of .* is gated; ask for access on its page"
    ):
        use("hf://datasets/org/gated/data/photos-0.parquet")


def test_token_is_used_and_a_wrong_one_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(list_shards(["hf://datasets/org/private"])) == 2
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    with pytest.raises(
        BucketError, match="the Hugging Face hub refuses the token for 'hf://.*'; correct HF_TOKEN"
    ) as told:
        list_shards(["hf://datasets/org/private"])
    assert "hf_wrong" not in str(told.value)
    assert not is_outage(told.value)


def test_file_that_a_repository_lacks_and_a_name_of_no_repository_are_told(hub: HubServer) -> None:
    with pytest.raises(ShardError, match="it is neither a file nor a folder"):
        list_shards(["hf://datasets/org/open/none.parquet"])
    with pytest.raises(UriError, match=r"'hf://datasets/org' is refused: .*namespace/name.*; check the URI"):
        list_shards(["hf://datasets/org"])


def test_hub_that_is_down_is_an_outage_and_an_offline_client_is_none(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.is_down = True
    with pytest.raises(StorageError, match="cannot be reached: .*503") as refusal:
        list_shards(["hf://datasets/org/open"])
    assert is_outage(refusal.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BucketError, match="told to stay offline; unset HF_HUB_OFFLINE") as told:
        list_shards(["hf://datasets/org/open"])
    assert not is_outage(told.value)

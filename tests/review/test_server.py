"""The server of reviews over HTTP: rows, pictures, decisions, and whom it refuses."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.published.decisions import RowId, Verdict, read_decisions
from pipeline.published.rows import iterate_rows
from pipeline.published.run import open_published
from tests.corrected_masks import correct
from tests.review.real_run import (
    CLASSES,
    HOSTILE_KEYS,
    MODES,
    TOKEN,
    Client,
    make_reviewed_run,
    make_square,
    make_truth,
    serve,
)

NUM_ROWS = 8 + len(HOSTILE_KEYS) + 3 + len(MODES)
WRONG = "wrong or missing token"


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("review")
    make_truth(folder / "truth")
    return make_reviewed_run(folder, str(folder / "out"))


@pytest.fixture(scope="module")
def client(run_uri: str) -> Iterator[Client]:
    with serve(run_uri, run_uri, truth=Path(run_uri).parent / "truth") as opened:
        yield opened


def list_ids(client: Client, query: str) -> list[str]:
    return [row["id"] for row in client.ask(f"/api/rows?limit=500&{query}").fields["rows"]]


def test_run_is_described(client: Client) -> None:
    fields = client.ask("/api/run").fields
    assert [one["name"] for one in fields["classes"]] == ["background", *CLASSES]
    assert (fields["num_rows"], fields["indexed"]) == (NUM_ROWS, {"shards": 4, "of": 4})
    assert (fields["has_truth"], fields["has_maps"], fields["reviewer"]) == (True, True, "ada")
    assert not fields["failures"]
    assert TOKEN not in client.ask("/api/run").content.decode()


def test_rows_are_those_of_the_manifests_worst_first(client: Client, run_uri: str) -> None:
    run = open_published(run_uri)
    rows = [row for uri in run.manifest_uris for row in iterate_rows(run, uri)]
    labelled = sorted((row for row in rows if row.is_labelled), key=lambda row: row.values["quality"])
    found = client.ask("/api/rows?limit=500").fields["rows"]
    assert [row["key"] for row in found] == [row.key for row in labelled] + ["broken"]
    for shown in found:
        row = next(one for one in rows if f"{one.shard_name}/{one.index}" == shown["id"])
        assert (shown["quality"], shown["tags"]) == (row.quality, list(row.class_names))
        assert (shown["width"], shown["orientation"]) == (row.get("width"), row.orientation)
        assert shown["suggested_class_ids"] == (row.get("suggested_class_ids") or [])
    parts = [list_ids(client, f"offset={offset}&limit=5") for offset in range(0, NUM_ROWS, 5)]
    assert [one for part in parts for one in part] == [row["id"] for row in found]


@pytest.mark.parametrize(
    ("query", "num"),
    [
        ("class=1", NUM_ROWS - 1),
        ("class=2", 0),
        ("status=rejected", 1),
        ("reason=undecodable", 1),
        ("reason=changed", 0),
        ("suggested=1", 3 + 3 + 2),
        ("disagree=1&class=1", 3 + 3 + 2),
        ("doubtful=1", 0),
        ("search=photo-1", 3),
        ("search=%0A", 1),
        ("search=%F0%9F%90%B1", 1),
        ("decision=none", NUM_ROWS),
        ("decision=accept", 0),
    ],
)
def test_filters_keep_what_they_name_and_facets_count_it(client: Client, query: str, num: int) -> None:
    reply = client.ask(f"/api/rows?limit=500&{query}").fields
    assert (reply["total"], len(reply["rows"])) == (num, num)
    facets = client.ask(f"/api/facets?{query}").fields
    assert facets["total"] == sum(facets["status"].values()) == sum(facets["decision"].values()) == num
    tagged = [row for row in reply["rows"] if row["class_ids"]]
    assert sum(facets["class"].values()) == len(tagged)
    assert facets["suggested"] == sum(bool(row["suggested_class_ids"]) for row in reply["rows"])


def test_keys_that_differ_by_case_or_shard_only_are_rows_of_their_own(client: Client) -> None:
    assert sorted(list_ids(client, "search=photo-1")) == ["hostile/7", "hostile/8", "turned/0"]
    assert [client.ask(f"/api/row/hostile%2F{place}").fields["key"] for place in range(7)] == list(HOSTILE_KEYS)
    keys = [row["key"] for row in client.ask("/api/rows?order=key&limit=500").fields["rows"]]
    assert keys == sorted(keys, key=str.encode)


def test_corrected_mask_is_shown_beside_that_of_the_run(tmp_path: Path) -> None:
    run_uri = make_reviewed_run(tmp_path, f"{tmp_path}/out")
    correct(run_uri, {("turned", 5): 2 * make_square(6)[1]})
    correct(run_uri, {("turned", 0): make_square(1)[1]}, number=1, is_of_another_image=True)
    with serve(run_uri) as opened:
        found = np.asarray(opened.picture("corrected", "turned/5"))
        assert (found == 2 * np.asarray(opened.picture("mask", "turned/5", "?run=0"))).all()
        shown = opened.ask("/api/row/turned%2F5").fields["corrected"]
        assert (shown["tool"], shown["annotator"], shown["source"]) == ("cvat", "ada", "task 0.zip")
        for row_id in ("turned%2F0", "turned%2F1"):
            assert opened.ask(f"/api/row/{row_id}").fields["corrected"] is None
            assert opened.ask(f"/api/corrected/{row_id}").status == 404
        assert "turned/5" in [one["id"] for one in opened.ask("/api/rows?limit=500").fields["rows"] if one["corrected"]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_thumbnail_mask_and_truth_stand_upright_over_each_other(client: Client, orientation: int) -> None:
    row_id = f"turned/{orientation - 1}"
    photo = np.asarray(ImageOps.exif_transpose(client.picture("image", row_id)).convert("L")) > 127
    small = np.asarray(client.picture("image", row_id, "?size=40").convert("L")) > 127
    masks = [client.picture("mask", row_id, "?run=1"), client.picture("truth", row_id)]
    for mask in masks:
        assert mask.mode == "P"
        assert "exif" not in mask.info, "a browser would turn it again"
        assert (photo == (np.asarray(mask) == 1)).mean() > 0.97
    assert photo.shape == small.shape
    assert (photo == small).mean() > 0.97
    overlay = client.picture("mask", row_id, "?run=0&overlay=1&size=20")
    assert max(overlay.size) == 20
    alpha = np.asarray(overlay.convert("RGBA"))[..., 3]
    assert set(np.unique(alpha)) == {0, 255}


@pytest.mark.parametrize("place", range(len(MODES)))
def test_photos_of_every_kind_are_shown(client: Client, place: int) -> None:
    for query in ("", "?size=32"):
        picture = client.picture("image", f"kinds/{place}", query).convert("L")
        low, high = np.asarray(picture)[-4:, -4:].mean(), np.asarray(picture)[1:4, 1:4].mean()
        assert high > low + 100


def test_maps_are_shown_for_the_classes_that_have_one(client: Client) -> None:
    picture = client.picture("maps", "turned/0", "?class=1")
    assert np.array_equal(np.asarray(picture), np.linspace(0, 255, 6).reshape(2, 3).astype(np.uint8))
    assert client.ask("/api/maps/turned%2F0?class=2").status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/row/turned%2F8", 404),
        ("/api/row/turned%2F-1", 404),
        ("/api/row/turned", 404),
        ("/api/row/..%2F..%2Frun.json%2F0", 404),
        ("/api/row/turned%2F" + "9" * 30, 404),
        ("/api/mask/turned%2F0?run=2", 404),
        ("/api/mask/hostile%2F9?run=0", 404),
        ("/api/truth/kinds%2F0", 404),
        ("/api/image/hostile%2F9?size=32", 422),
        ("/api/image/turned%2F0?size=1", 400),
        ("/api/image/turned%2F0?size=9999", 400),
        ("/api/rows?limit=501", 400),
        ("/api/rows?offset=-1", 400),
        ("/api/rows?order=speed", 400),
        ("/api/rows?status=lost", 400),
        ("/api/rows?class=cat", 400),
        ("/api/nothing", 404),
        ("/static/../api.py", 404),
        ("/static/..%2Fapi.py", 404),
        ("/etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_refused_with_words(client: Client, path: str, status: int) -> None:
    reply = client.ask(path)
    assert reply.status == status, reply.content
    assert reply.fields["error"]


def test_page_and_its_files_need_no_token_and_forbid_foreign_scripts(client: Client) -> None:
    page = client.ask("/", X_Tagmask_Token=WRONG)
    assert page.status == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert client.ask("/static/main.js", X_Tagmask_Token=WRONG).headers["Content-Type"].startswith("text/javascript")


def test_api_needs_the_token_of_header_cookie_or_address(client: Client) -> None:
    for path in ("/api/run", "/api/rows", "/api/image/turned%2F0", "/?token=wrong"):
        assert client.ask(path, X_Tagmask_Token=WRONG).status == 403
    assert client.ask(f"/api/run?token={TOKEN}", X_Tagmask_Token=WRONG).status == 200
    opened = client.ask(f"/?token={TOKEN}", X_Tagmask_Token=WRONG)
    assert {"HttpOnly", "SameSite=Strict"} <= set(opened.headers["Set-Cookie"].split("; "))
    cookie = opened.headers["Set-Cookie"].partition(";")[0]
    assert client.ask("/api/run", X_Tagmask_Token=WRONG, Cookie=cookie).status == 200
    assert client.ask("/api/run", X_Tagmask_Token=WRONG, Cookie=f"{cookie}x").status == 403


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 403), ("localhost", 200), ("127.0.0.1:1", 403), ("", 403)]
)
def test_names_of_others_that_lead_here_are_refused(client: Client, host: str, status: int) -> None:
    assert client.ask("/api/run", Host=host).status == status


def test_pictures_are_fetched_once(client: Client) -> None:
    tag = client.ask("/api/mask/turned%2F0?run=0").headers["ETag"]
    again = client.ask("/api/mask/turned%2F0?run=0", If_None_Match=tag)
    assert (again.status, again.content) == (304, b"")
    assert client.ask("/api/mask/turned%2F1?run=0", If_None_Match=tag).status == 200


def test_decisions_are_stored_shown_counted_and_taken_back(run_uri: str, tmp_path: Path) -> None:
    own = shutil.copytree(run_uri, tmp_path / "out")
    sent = {"id": "hostile/3", "decision": "wrong_tag", "classes": [CLASSES[2]], "note": "<b>\n🐱"}
    with serve(str(own)) as client:
        stored = client.ask("/api/decisions", "POST", sent).fields["decision"]
        assert {**stored, "id": "hostile/3"}.items() >= {**sent, "reviewer": "ada"}.items()
        assert read_decisions(str(own))[RowId("hostile", 3)].key == HOSTILE_KEYS[3]
        assert list_ids(client, "decision=wrong_tag") == ["hostile/3"]
        assert client.ask("/api/facets?decision=none").fields["total"] == NUM_ROWS - 1
        assert client.ask("/api/decisions", "POST", {"id": "hostile/9", "decision": "refuse"}).status == 200
        assert client.ask("/api/decisions/hostile%2F3", "DELETE").status == 200
        assert client.ask("/api/decisions/hostile%2F3", "DELETE").status == 404
        assert client.ask("/api/decisions/summary").fields["decisions"]["wrong_tag"] == 0
    # The server ended without a word to its log.
    with serve(str(own), reviewer="bob", session="s2") as client:
        assert list_ids(client, "decision=refuse") == ["hostile/9"]
        assert client.ask("/api/row/hostile%2F9").fields["decision"]["reviewer"] == "ada"
    run = open_published(str(own))
    found = read_decisions(str(own))
    assert {row_id: one.decision for row_id, one in found.items()} == {RowId("hostile", 9): Verdict.REFUSE}
    assert [row.key for uri in run.manifest_uris for row in iterate_rows(run, uri) if found.is_refused(row)] == [
        "broken"
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        {"id": "turned/0"},
        {"id": "turned/0", "decision": "withdrawn"},
        {"id": "turned/0", "decision": "accept", "classes": ["cat"]},
        {"id": "turned/0", "decision": "wrong_tag", "classes": ["bird"]},
        {"id": "turned/0", "decision": "wrong_tag", "classes": "cat"},
        {"id": "turned/0", "decision": "accept", "note": "x" * 1001},
        {"id": "turned/0", "decision": "accept", "note": "\ud800"},
        {"id": 3, "decision": "accept"},
        {"id": "turned/99", "decision": "accept"},
    ],
)
def test_wrong_decisions_are_refused_and_nothing_is_stored(client: Client, run_uri: str, body: object) -> None:
    reply = client.ask("/api/decisions", "POST", body)
    assert reply.status in (400, 404, 413), reply.content
    assert reply.fields["error"]
    assert not Path(run_uri, "reviews").exists()


def test_decisions_of_other_sites_are_refused(client: Client, run_uri: str) -> None:
    body = {"id": "turned/0", "decision": "accept"}
    assert client.ask("/api/decisions", "POST", body, Origin="http://evil.example").status == 403
    assert client.ask("/api/decisions", "POST", body, X_Tagmask_Token=WRONG).status == 403
    assert client.ask("/api/decisions", "POST", body, Content_Type="text/plain").status == 415
    assert client.ask("/api/decisions/turned%2F0", "DELETE", X_Tagmask_Token=WRONG).status == 403
    assert not Path(run_uri, "reviews").exists()


def test_manifest_that_goes_or_breaks_is_named_and_the_others_stay(run_uri: str, tmp_path: Path) -> None:
    own = shutil.copytree(run_uri, tmp_path / "out")
    (own / "labels" / "kinds.parquet").write_bytes(b"no manifest")
    with serve(str(own)) as client:
        fields = client.ask("/api/run").fields
        assert (fields["num_rows"], fields["indexed"]["shards"]) == (NUM_ROWS - len(MODES), 4)
        assert "kinds.parquet" in fields["failures"][0]
        assert client.ask("/api/row/kinds%2F0").status == 502
        (own / "labels" / "turned.parquet").unlink()
        assert "does not exist any more" in client.ask("/api/row/turned%2F0").fields["error"]
        assert client.ask("/api/row/hostile%2F0").status == 200


def test_run_in_a_store_is_reviewed_as_one_on_a_disk(s3_folder: str, tmp_path: Path) -> None:
    with serve(make_reviewed_run(tmp_path, s3_folder)) as client:
        assert client.ask("/api/rows").fields["total"] == NUM_ROWS
        assert isinstance(client.picture("mask", "turned/5", "?run=0"), Image.Image)
        assert client.ask("/api/decisions", "POST", {"id": "turned/5", "decision": "accept"}).status == 200
    assert list(read_decisions(s3_folder)) == [RowId("turned", 5)]


def test_ids_of_rows_stand_in_addresses_as_one_segment(client: Client) -> None:
    for row_id in list_ids(client, ""):
        assert client.ask(f"/api/row/{quote(row_id, safe='')}").fields["id"] == row_id

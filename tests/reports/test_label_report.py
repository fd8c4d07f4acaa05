"""The page of a run: complete in one file, with notes on missing photos, equal for equal random seeds."""

import base64
import hashlib
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from jobs.report import main
from pipeline.evaluation.truth import open_truth
from pipeline.inputs.shards import list_shards
from pipeline.reports.label_report import MAX_REJECTED, build_report
from pipeline.reports.page import Table
from pipeline.reports.pictures import MAX_SIDE_PX
from pipeline.run.records import InputShard
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import (
    make_labelled_row,
    make_mask_png,
    make_photo,
    make_rejected_row,
    make_run,
    make_tar,
)

CLASSES = ("cat", "dog")
GONE = InputShard(uri="memory://nowhere/a.tar", name="a", size_bytes=10, etag="1")


class Page(HTMLParser):
    """Visible content of a page: its text, and its pictures by caption."""

    def __init__(self, html: Any) -> None:
        super().__init__()
        self.html, self.text, self.tags, self.pictures = html, "", set(), []
        self.feed(html)

    def handle_starttag(self, tag: Any, attributes: Any) -> None:
        self.tags.add(tag)
        fields = dict(attributes)
        # Within the page at most.
        assert fields.get("href", "#").startswith("#")
        if tag == "img":
            head, payload = fields["src"].split(",", 1)
            assert head == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(base64.b64decode(payload, validate=True)))
            assert (fields["loading"], fields["decoding"]) == ("lazy", "async")
            assert image.size == (int(fields["width"]), int(fields["height"]))
            self.pictures.append((fields["alt"], np.asarray(image.convert("RGB"))))

    def handle_data(self, data: Any) -> None:
        self.text += f" {data.strip()}"

    @property
    def captions(self) -> list[Any]:
        return [caption for caption, _ in self.pictures]


def make_square_mask(size: Any = (48, 64), class_id: int = 1) -> Any:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = class_id
    return mask


def write_run(folder: Path, *, keep_maps: bool = True, key_prefix: str = "", **row_fields: Any) -> str:
    """Write a shard of four photos and its run: cat, dog, both, and a rejected one; return the URI of the run."""
    photos = {f"{key_prefix}{index}": make_photo(index, size=(64, 48)) for index in range(4)}
    make_tar(folder / "photos.tar", {key: {"jpg": photo} for key, photo in photos.items()})
    maps = np.random.default_rng(0).uniform(0, 1, (2, 3, 4))
    rows = [
        make_labelled_row(
            key,
            make_square_mask(class_id=class_ids[0]),
            class_ids,
            maps[: len(class_ids)] if keep_maps else None,
            photo=photos[key],
            **row_fields,
        )
        for key, class_ids in zip(photos, ([1], [2], [1, 2]), strict=False)
    ]
    rejected = make_rejected_row(f"{key_prefix}3", "no_known_tag") | {"tags_unknown": ["zebra"]}
    rejected |= {"image_sha256": hashlib.sha256(photos[f"{key_prefix}3"]).hexdigest()}
    make_run(str(folder / "run"), CLASSES, {list_shards([str(folder / "photos.tar")])[0]: [*rows, rejected]})
    return str(folder / "run")


def test_page_shows_photo_mask_and_maps_of_each_image_and_the_photo_of_a_rejected_one(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    assert page.captions == [
        *("photo", "mask", "map: cat"),
        *("photo", "mask", "map: dog"),
        *("photo", "mask", "map: cat", "map: dog"),
        "photo",
    ]
    assert {pixels.shape for caption, pixels in page.pictures if "map" not in caption} == {
        (MAX_SIDE_PX * 48 // 64, MAX_SIDE_PX, 3)
    }


def test_images_stand_worst_first_with_the_columns_that_say_how_good_a_mask_is(tmp_path: Path) -> None:
    row = make_labelled_row("k", make_square_mask(), [1])
    qualities = {"good": 0.9, "bad": 0.125, "fair": 0.5}
    rows = [row | {"key": key, "quality": quality} for key, quality in qualities.items()]
    rows[1] |= {"suggested_class_ids": [2], "doubtful_class_ids": [1], "tags_unknown": ["sky"]}
    make_run(str(tmp_path), CLASSES, {GONE: rows})
    text = " ".join(Page(build_report(str(tmp_path))).text.split())
    assert (
        text.index("bad quality 0.12 margin 0.25") < text.index("fair quality 0.50") < text.index("good quality 0.90")
    )
    assert "doubtful: cat suggested: dog unknown: sky" in text
    assert "class presence stability confidence views agree area regions cat 0.50 0.75 0.50" in text


def test_worst_masks_of_a_large_run_are_on_the_page(tmp_path: Path) -> None:
    row = make_labelled_row("k", make_square_mask(), [1])
    rows = [row | {"key": f"photo{number:02d}", "quality": (number * 7 % 40) / 40} for number in range(40)]
    make_run(str(tmp_path), CLASSES, {GONE: rows})
    text = Page(build_report(str(tmp_path), num_images=6)).text
    worst = [row["key"] for row in sorted(rows, key=lambda row: row["quality"])[:2]]
    assert "The 2 masks of lowest quality of 40" in text
    assert text.index(worst[0]) < text.index(worst[1]) < text.rindex("Others, each class")
    assert sum(row["key"] in text for row in rows) == 6


def test_rejected_images_are_shown_with_reason_and_error_some_of_each_reason(tmp_path: Path) -> None:
    photo = make_photo(0, size=(64, 48))
    keys = [f"photo{number:02d}" for number in range(30)]
    make_tar(tmp_path / "photos.tar", {key: {"jpg": photo} for key in keys})
    digest = hashlib.sha256(photo).hexdigest()
    reasons = {"photo03": "bad_tags", "photo07": "crashed"}
    rows = [make_rejected_row(key, reasons.get(key, "no_known_tag")) | {"image_sha256": digest} for key in keys]
    make_run(str(tmp_path / "run"), CLASSES, {list_shards([str(tmp_path / "photos.tar")])[0]: rows})
    page = Page(build_report(str(tmp_path / "run")))
    shown = [key for key in keys if key in page.text]
    assert len(shown) == MAX_REJECTED
    assert {"photo03", "photo07"} <= set(shown)
    assert page.text.count("made so by a test") == MAX_REJECTED
    # What ended a worker is not decoded again.
    assert page.captions == ["photo"] * (MAX_REJECTED - 1)


def test_rejected_photo_that_cannot_be_decoded_leaves_its_reason(tmp_path: Path) -> None:
    make_tar(tmp_path / "photos.tar", {"a": {"jpg": b"no picture"}})
    row = make_rejected_row("a", "no_known_tag") | {"image_sha256": hashlib.sha256(b"no picture").hexdigest()}
    make_run(str(tmp_path / "run"), CLASSES, {list_shards([str(tmp_path / "photos.tar")])[0]: [row]})
    page = Page(build_report(str(tmp_path / "run")))
    assert page.captions == []
    assert "no_known_tag" in page.text


def test_page_needs_no_other_file_and_runs_no_script(tmp_path: Path) -> None:
    html = build_report(write_run(tmp_path))
    assert "script" not in Page(html).tags
    assert "link" not in Page(html).tags
    assert "http" not in html
    assert "@import" not in html
    assert len(html) < 1_000_000


def test_photo_on_the_page_is_the_photo_of_the_shard(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    shown = dict(page.pictures[:1])["photo"]
    original = Image.open(io.BytesIO(make_photo(0, size=(64, 48)))).resize(shown.shape[1::-1])
    assert np.abs(shown.astype(int) - np.asarray(original)).mean() < 8


def test_mask_is_bright_where_the_class_is_and_in_its_colour(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path)))
    mask = dict(page.pictures[:3])["mask"].astype(int)
    height, width = mask.shape[:2]
    inside = mask[height * 3 // 8, width * 3 // 8]
    outside = mask[height * 3 // 4, width * 3 // 4]
    # VOC's colour of class 1 is a dark red.
    assert inside[0] - inside[1:].max() > 40
    assert np.ptp(outside) < 40


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_photo_and_its_mask_are_both_shown_upright(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[make_square_mask() > 0] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "JPEG", exif=exif, quality=95)
    make_tar(tmp_path / "photos.tar", {"a": {"jpg": photo.getvalue()}})
    row = make_labelled_row("a", make_square_mask(), [1], photo=photo.getvalue(), exif_orientation=orientation)
    make_run(str(tmp_path / "run"), CLASSES, {list_shards([str(tmp_path / "photos.tar")])[0]: [row]})
    shown = dict(Page(build_report(str(tmp_path / "run"))).pictures)
    assert shown["photo"].shape == shown["mask"].shape
    assert (shown["photo"].shape[0] > shown["photo"].shape[1]) == (orientation >= 5)
    bright = shown["photo"].mean(-1) > 128
    marked = shown["mask"].max(-1) > 90
    assert (bright & marked).sum() / (bright | marked).sum() > 0.9


def test_keys_and_tags_with_markup_are_shown_as_text(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path, key_prefix="<script>alert(1)</script>&", tags_unknown=["<b>x"])))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<script>alert(1)</script>&0" in page.text
    assert "<b>x" in page.text


def test_page_is_equal_for_equal_seeds_and_differs_for_another_seed(tmp_path: Path) -> None:
    rows = [make_labelled_row(f"photo{index:02d}", make_square_mask(), [1]) for index in range(30)]
    make_run(str(tmp_path), CLASSES, {GONE: rows})
    first, again, other = (build_report(str(tmp_path), num_images=4, rng_seed=rng_seed) for rng_seed in (0, 0, 1))
    assert first == again
    assert {key for key in (row["key"] for row in rows) if key in first} != {
        key for key in (row["key"] for row in rows) if key in other
    }
    assert len(Page(first).pictures) == 4


def test_rare_class_is_on_the_page_for_every_seed(tmp_path: Path) -> None:
    rows = [make_labelled_row(f"cat{index:02d}", make_square_mask(), [1]) for index in range(60)]
    rows.insert(17, make_labelled_row("rare", make_square_mask(class_id=2), [2]))
    make_run(str(tmp_path), CLASSES, {GONE: rows})
    for rng_seed in range(5):
        assert "rare" in Page(build_report(str(tmp_path), num_images=2, rng_seed=rng_seed)).text


def test_shard_that_is_gone_leaves_the_masks_and_a_note(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "photos.tar").unlink()
    page = Page(build_report(run))
    assert "photo" not in page.captions
    assert page.captions.count("mask") == 3
    assert page.text.count("the input shard is gone or has changed") == 3


def test_photo_that_changed_since_it_was_labelled_is_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    photos = [make_photo(0, size=(64, 48)), make_photo(9, size=(64, 48)), make_photo(2, size=(64, 48))]
    make_tar(tmp_path / "photos.tar", {str(index): {"jpg": photo} for index, photo in enumerate(photos)})
    page = Page(build_report(run))
    # Of the two labelled images that are as they were; the rejected one is gone.
    assert page.captions.count("photo") == 2
    assert page.text.count("the input shard is gone or has changed") == 1


def test_figures_count_rows_reasons_classes_and_unknown_tags(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path, tags_unknown=["sunset"])))
    words = " ".join(page.text.split())
    for fact in ("labelled 3", "rejected, no_known_tag 1", "sunset 3", "zebra 1", f"model {'d' * 16}"):
        assert fact in words
    area = f"{make_square_mask().mean():.2f}"
    assert f"cat 2 0.50 {area} 0.50 0.75" in words


def test_at_most_twenty_unknown_tags_are_listed_most_frequent_first(tmp_path: Path) -> None:
    rows = [
        make_rejected_row(f"photo{row}") | {"tags_unknown": [f"tag{tag:02d}" for tag in range(row)]}
        for row in range(26)
    ]
    make_run(str(tmp_path), CLASSES, {GONE: rows})
    page = Page(build_report(str(tmp_path)))
    assert [f"tag{tag:02d}" in page.text for tag in range(25)] == [True] * 20 + [False] * 5
    assert page.text.index("tag00") < page.text.index("tag19")


def test_page_of_a_run_without_labelled_images_states_it(tmp_path: Path) -> None:
    make_run(str(tmp_path), CLASSES, {GONE: [make_rejected_row("a")]})
    assert "No image is labelled." in Page(build_report(str(tmp_path))).text


def test_tables_of_the_caller_stand_first(tmp_path: Path) -> None:
    table = Table(title="Compared <all>", header=("", "mIoU"), rows=(("trained", "61.2"),), note="A note.")
    text = Page(build_report(write_run(tmp_path), tables=[table], title="demo")).text
    assert "Compared <all>" in text
    assert text.index("61.2") < text.index("Classes")
    assert "A note." in text


def test_truth_is_shown_beside_the_mask_with_their_agreement(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    put_atomic(join_uri(str(tmp_path), "truth", "0.png"), make_mask_png(make_square_mask()))
    put_atomic(join_uri(str(tmp_path), "truth", "1.png"), make_mask_png(make_square_mask()))
    page = Page(build_report(run, find_truth=open_truth(join_uri(str(tmp_path), "truth"))))
    assert page.captions.count("truth") == 2
    assert page.captions.count("mask") == 3
    text = " ".join(page.text.split())
    assert "IoU with the truth 1.00" in text
    # The other mask has its square in another class: both classes miss, and the background does not count.
    assert "IoU with the truth 0.00" in text
    assert "dog 0.00 0.50 0.75" in text
    assert "cat 0.00 - -" in text


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (make_mask_png(np.zeros((3, 4))), "'0' is 4 x 3 pixels"),
        (b"no picture", "'0' cannot be read"),
        (make_mask_png(np.full((48, 64), 9)), "'0' has classes [9]"),
    ],
)
def test_truth_that_does_not_fit_is_named_beside_its_mask(tmp_path: Path, truth: Any, message: str) -> None:
    run = write_run(tmp_path)
    page = Page(build_report(run, find_truth={"0": truth, "1": make_mask_png(make_square_mask())}.get))
    assert f"true mask of {message}" in page.text
    assert page.captions.count("truth") == 1


def test_run_without_kept_maps_has_photos_and_masks(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path, keep_maps=False)))
    assert page.captions == [*["photo", "mask"] * 3, "photo"]


def test_job_writes_the_page_and_prints_its_location(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path)
    assert main(["--labels", run, "--out", f"{tmp_path}/deep/report.html", "--num-images", "2"]) == 0
    assert f"{tmp_path}/deep/report.html" in capsys.readouterr().out
    assert Page((tmp_path / "deep" / "report.html").read_text("utf-8")).captions.count("mask") == 2


def test_job_on_bad_input_prints_one_line_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path)
    for flags, message in [
        (["--labels", f"{tmp_path}/nowhere"], "holds no labelling run"),
        (["--labels", run, "--truth", f"{tmp_path}/nowhere"], "does not exist"),
        (["--labels", run, "--num-images", "0"], "need --num-images >= 1, got 0"),
    ]:
        assert main([*flags, "--out", f"{tmp_path}/report.html"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "report.html").exists()

"""Corrected masks come back: exports are edited as the tools do, and imported to the pixel, in every orientation."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import encode_rle
from PIL import Image
from pycocotools import mask as rle

from jobs import import_masks
from pipeline.corrections.importing import ImportSummary, MaskImport
from pipeline.corrections.label_studio import decode_brush
from pipeline.errors import CorrectionError
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.published.decisions import RowId
from pipeline.published.overrides import OVERRIDES_FOLDER, read_overrides
from pipeline.published.rows import MaskRow, iterate_rows
from pipeline.published.run import open_published
from pipeline.run.records import InputShard
from pipeline.storage.listing import list_objects
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.export.runs import CLASSES, KEYS, Scene, encode, export_all, list_shard, make_rows, make_scene
from tests.factories import make_labelled_row, make_parquet, make_rejected_row, make_run
from tests.foreign_readers import run_reader

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
UNTOUCHED = 4
"""One of so many images nobody touches."""
TOOLS = ("coco", "label-studio", "cvat", "cvat-xml")
Masks = Mapping[str, np.ndarray]
"""Upright masks by the names of the exported images."""


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Two shards of hostile keys, the same in both, with photos of each orientation."""
    shards = {}
    for number in range(2):
        scenes = []
        for place in range(len(KEYS)):
            scene, orientation = make_scene(8 * place), 1 + place % 8
            mask = place_on_stored_pixels(scene.mask, orientation)
            photo = encode(np.where(mask == 1, 230, 20).astype(np.uint8), "JPEG", orientation)
            scenes.append(Scene(photo, mask, orientation))
        photos = [scene.photo for scene in scenes]
        path = make_parquet(tmp_path / f"s{number}.parquet", {"image": photos, "tags": [["cat"]] * len(photos)})
        shards[list_shard(path)] = make_rows(KEYS, scenes)
    make_run(f"{tmp_path}/run", CLASSES, shards)
    return f"{tmp_path}/run"


def read_rows(run_uri: str) -> dict[RowId, MaskRow]:
    run = open_published(run_uri)
    return {RowId(row.shard_name, row.index): row for uri in run.manifest_uris for row in iterate_rows(run, uri)}


def edit_masks(run_uri: str, samples: list[dict[str, Any]]) -> Masks:
    """Paint into the masks of all images but each third; none of it is symmetric."""
    rows = read_rows(run_uri)
    masks = {}
    for place, sample in enumerate(samples):
        mask = rows[RowId(sample["shard"], sample["index"])].upright_mask().copy()
        mask[mask == 255] = 0
        if place % UNTOUCHED:
            mask[1:3, 2 : 4 + place % 5] = 1 + place % 2
        masks[sample["name"]] = mask
    return masks


def write_coco(out: Path, masks: Masks) -> Path:
    (path,) = (out / "annotations").iterdir()
    document = json.loads(path.read_text())
    document["annotations"] = [
        {
            "id": number,
            "image_id": image["id"],
            "category_id": value,
            "iscrowd": 0,
            "segmentation": (segmentation := encode_coco(masks[image["file_name"].rsplit(".", 1)[0]] == value)),
            "bbox": rle.toBbox(segmentation).tolist(),
            "area": int(rle.area(segmentation)),
        }
        for number, (image, value) in enumerate(
            ((image, value) for image in document["images"] for value in (1, 2)),
            start=1,
        )
        if (masks[image["file_name"].rsplit(".", 1)[0]] == value).any()
    ]
    return write(out / "edited.json", json.dumps(document).encode())


def encode_coco(region: np.ndarray) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(region, np.uint8))
    return {"size": list(region.shape), "counts": encoded["counts"].decode()}


def write_label_studio(out: Path, masks: Masks) -> Path:
    tasks = [task for path in sorted((out / "tasks").iterdir()) for task in json.loads(path.read_text())]
    for task in tasks:
        mask = masks[task["data"]["name"]]
        results = [draw_brush(mask, value, name) for value, name in ((1, "cat"), (2, "dog"))]
        old = {"result": [], "updated_at": "2026-01-01T00:00:00Z", "completed_by": 1}
        new = {"result": results, "updated_at": "2026-01-02T00:00:00Z", "completed_by": {"email": "ada@example.org"}}
        task["annotations"] = [new, old]
    return write(out / "edited.json", json.dumps(tasks).encode())


def draw_brush(mask: np.ndarray, value: int, name: str) -> dict[str, Any]:
    channels = np.repeat(np.where(mask == value, 255, 0).astype(np.uint8).ravel(), 4)
    return {
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_rle(channels), "brushlabels": [name]},
    }


def write_cvat(out: Path, masks: Masks) -> Path:
    path = out / "edited.zip"
    with zipfile.ZipFile(path, "w") as archive:
        labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:1,2,3::\n"
        archive.writestr("labelmap.txt", labels)
        for name, mask in masks.items():
            stream = io.BytesIO()
            Image.fromarray(np.array([[0, 0, 0], [250, 50, 83], [1, 2, 3]], np.uint8)[mask]).save(stream, "PNG")
            archive.writestr(f"SegmentationClass/{name}.png", stream.getvalue())
    return path


def write_cvat_xml(out: Path, masks: Masks) -> Path:
    images = []
    for name, mask in masks.items():
        height, width = mask.shape
        shapes = ""
        for value, label in ((1, "cat"), (2, "dog")):
            if (mask == value).any():
                rows, columns = np.nonzero(mask == value)
                top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
                box = (mask[top:bottom, left:right] == value).ravel()
                changes = np.flatnonzero(np.diff(np.concatenate([[False], box]).astype(int)))
                runs = np.diff(np.concatenate([[0], changes, [box.size]]))
                shapes += (
                    f'<mask label="{label}" rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" '
                    f'width="{right - left}" height="{bottom - top}" z_order="0"/>'
                )
        images.append(f'<image id="0" name="deep/{name}.jpg" width="{width}" height="{height}">{shapes}</image>')
    return write(out / "edited.xml", f"<annotations>{''.join(images)}</annotations>".encode())


WRITERS: dict[str, Callable[[Path, Masks], Path]] = {
    "coco": write_coco,
    "label-studio": write_label_studio,
    "cvat": write_cvat,
    "cvat-xml": write_cvat_xml,
}


def write(path: Path, payload: bytes) -> Path:
    path.write_bytes(payload)
    return path


def import_file(run_uri: str, *uris: str | Path, **options: Any) -> ImportSummary:
    return MaskImport(run=open_published(run_uri), uris=tuple(map(str, uris)), **options).run_at(NOON)


def list_imports(run_uri: str) -> list[str]:
    return [item.uri for item in list_objects(join_uri(run_uri, OVERRIDES_FOLDER))]


def export_samples(run_uri: str, out: Path, tool: str) -> list[dict[str, Any]]:
    export_all(run_uri, str(out), tool.removesuffix("-xml"))
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("tool", TOOLS)
def test_edited_masks_come_back_to_the_pixel(run_uri: str, tmp_path: Path, tool: str) -> None:
    out = tmp_path / "out"
    samples = export_samples(run_uri, out, tool)
    masks = edit_masks(run_uri, samples)
    path = WRITERS[tool](out, masks)
    summary = import_file(run_uri, path)
    overrides = read_overrides(run_uri)
    rows = read_rows(run_uri)
    assert {rows[row_id].orientation for row_id in overrides} == set(range(1, 9))
    for place, sample in enumerate(samples):
        row_id = RowId(sample["shard"], sample["index"])
        assert (row_id in overrides) == bool(place % UNTOUCHED)
        if row_id in overrides:
            row, found = rows[row_id], overrides[row_id]
            assert found.key == row.key == sample["key"]
            stored = place_on_stored_pixels(masks[sample["name"]], row.orientation)
            assert np.array_equal(overrides.read_mask(found), stored)
            assert np.array_equal(overrides.apply(row).upright_mask(), masks[sample["name"]])
            assert found.class_ids == tuple(value for value in np.unique(stored).tolist() if value)
            assert found.annotator == ("ada@example.org" if tool == "label-studio" else None)
            assert (found.tool, found.source) == (tool.removesuffix("-xml"), str(path))
    assert summary.num_imported == len(overrides)
    assert summary.num_unchanged == len(samples) - len(overrides)


@pytest.mark.parametrize("tool", ["coco", "label-studio", "cvat"])
def test_what_nobody_touched_is_not_imported(run_uri: str, tmp_path: Path, tool: str) -> None:
    out = tmp_path / "out"
    samples = export_samples(run_uri, out, tool)
    pattern = {"coco": "annotations/*.json", "label-studio": "tasks/*.json", "cvat": "**/annotations.zip"}[tool]
    paths = list(out.glob(pattern))
    if tool == "label-studio":
        for path in paths:
            add_no_annotations(path)
    summary = import_file(run_uri, *paths)
    assert (summary.num_imported, summary.uri) == (0, None)
    assert summary.num_unchanged + summary.num_not_annotated == len(samples)
    assert (summary.num_not_annotated > 0) == (tool == "label-studio")
    assert list_imports(run_uri) == []


def add_no_annotations(path: Path) -> None:
    """The tool exports a task that nobody annotated with an empty list."""
    path.write_text(json.dumps([{**task, "annotations": []} for task in json.loads(path.read_text())]))


def test_the_same_import_twice_writes_once(run_uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = write_coco(out, edit_masks(run_uri, export_samples(run_uri, out, "coco")))
    assert import_file(run_uri, path, is_dry=True).uri is not None
    assert list_imports(run_uri) == []
    first = import_file(run_uri, path)
    again = import_file(run_uri, path, annotator="grace")
    assert (again.num_imported, again.num_in_force, again.uri) == (0, first.num_imported, None)
    assert list_imports(run_uri) == [first.uri]
    # The untouched masks are another import, once.
    kept = import_file(run_uri, path, keep_unchanged=True)
    assert (kept.num_imported, kept.num_unchanged, kept.num_in_force) == (first.num_unchanged, 0, first.num_imported)
    assert import_file(run_uri, path, keep_unchanged=True).uri is None
    assert len(list_imports(run_uri)) == 2


def test_masks_that_were_replaced_come_into_force_again(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    first = write(tmp_path / "1.json", json.dumps(make_coco()).encode())
    other = write(tmp_path / "2.json", json.dumps(make_coco(segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])).encode())
    empty = make_coco() | {"annotations": []}
    models = write(tmp_path / "3.json", json.dumps(empty).encode())
    found = []
    for day, (path, keeps) in enumerate([(first, 0), (other, 0), (first, 0), (models, 0), (models, 1)]):
        masks = MaskImport(run=open_published(uri), uris=(str(path),), keep_unchanged=bool(keeps))
        masks.run_at(NOON + timedelta(days=day))
        overrides = read_overrides(uri)
        found.append(int((overrides.read_mask(overrides[RowId("s", 0)]) > 0).sum()))
    # A mask as the model drew it says nothing, unless it is meant.
    assert found == [1, 16, 1, 1, 0]


def make_small_run(uri: str) -> str:
    """Publish a run of one labelled row and two rejected ones, of which the first has a size."""
    mask = np.zeros((4, 6), np.uint8)
    rejected = make_rejected_row("b", "no_known_tags") | {"width": 6, "height": 4, "exif_orientation": 6}
    shard = InputShard(uri="/gone/s.tar", name="s", size_bytes=512, etag="e")
    make_run(uri, ("cat", "dog"), {shard: [make_labelled_row("a", mask, [1]), rejected, make_rejected_row("c")]})
    return uri


def test_box_around_a_mask_of_its_group_draws_nothing(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    box = '<box label="dog" xtl="0" ytl="0" xbr="3" ybr="3" z_order="0" {}/>'
    mask = '<mask label="dog" rle="0, 1" left="1" top="0" width="1" height="1" z_order="0" group_id="7"/>'
    found = []
    for day, group in enumerate(['group_id="7"', 'group_id="8"', ""]):
        document = f'<annotations><image name="a-0-0.jpg" width="6" height="4">{mask}{box.format(group)}</image>'
        path = write(tmp_path / f"{day}.xml", f"{document}</annotations>".encode())
        MaskImport(run=open_published(uri), uris=(str(path),)).run_at(NOON + timedelta(days=day))
        overrides = read_overrides(uri)
        found.append(int((overrides.read_mask(overrides[RowId("s", 0)]) == 2).sum()))
    assert found == [1, 9, 9]


def make_coco(name: str = "a-0-0.jpg", size: tuple[int, int] = (4, 6), **changes: Any) -> dict[str, Any]:
    region = np.zeros(size, bool)
    region[0, 1] = True
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": encode_coco(region)} | changes
    return {
        "categories": [{"id": 3, "name": "dog"}, {"id": 4, "name": "horse"}],
        "images": [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": [annotation],
    }


def test_a_rejected_row_gets_a_mask(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    path = write(tmp_path / "c.json", json.dumps(make_coco("b-0-1.png", (6, 4))).encode())
    assert import_file(uri, path).num_imported == 1
    overrides = read_overrides(uri)
    row = read_rows(uri)[RowId("s", 1)]
    assert overrides[RowId("s", 1)].mask_sha256 is None
    changed = overrides.apply(row)
    assert changed.is_labelled
    assert np.argwhere(changed.upright_mask() == 2).tolist() == [[0, 1]]


def test_masks_come_back_on_a_store(s3_folder: str) -> None:
    uri = make_small_run(f"{s3_folder}/run")
    put_atomic(f"{s3_folder}/c.json", json.dumps(make_coco()).encode())
    assert import_file(uri, f"{s3_folder}/c.json").num_imported == 1
    assert import_file(uri, f"{s3_folder}/c.json").num_in_force == 1
    overrides = read_overrides(uri)
    assert np.argwhere(overrides.read_mask(overrides[RowId("s", 0)]) == 2).tolist() == [[0, 1]]


def test_shapes_of_coco_lie_on_each_other_in_their_order(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    document = make_coco(segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])
    document["categories"][1]["name"] = "CAT"
    counts = {"size": [4, 6], "counts": [4, 2, 18]}
    document["annotations"].append({"id": 2, "image_id": 7, "category_id": 4, "segmentation": counts, "iscrowd": 1})
    import_file(uri, write(tmp_path / "c.json", json.dumps(document).encode()))
    overrides = read_overrides(uri)
    expected = np.zeros((4, 6), np.uint8)
    expected[:, :4] = 2
    expected[:2, 1] = 1
    assert np.array_equal(overrides.read_mask(overrides[RowId("s", 0)]), expected)


BAD: dict[str, tuple[Any, str]] = {
    "unknown class": (make_coco(category_id=4), "label 'horse', which names no class"),
    "another size": (make_coco(size=(4, 5)), "of 5 x 4 pixels"),
    "another run": (make_coco("z-0-0.jpg"), "is exported as 'a-0-0'"),
    "no such row": (make_coco("a-0-9.jpg"), "has no row 9"),
    "no such shard": (make_coco("a-4-0.jpg"), "no shard number 4"),
    "another name": (make_coco("IMG_0001.jpg"), "no name of tagmask export"),
    "unreadable photo": (make_coco("c-0-2.jpg"), "could not be read when it was labelled"),
    "no pixels": (make_coco(segmentation=[]), "boxes alone"),
    "damaged lengths": (make_coco(segmentation={"size": [4, 6], "counts": [1]}), "do not fill the image"),
    "no annotations": ({"images": []}, "no whole COCO file"),
    "JSON-MIN": ([{"id": 1, "image": "a-0-0.jpg"}], "not JSON-MIN"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_imported_is_named_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    document, said = BAD[kind]
    uri = make_small_run(f"{tmp_path}/run")
    path = write(tmp_path / "c.json", json.dumps(document).encode())
    with pytest.raises(CorrectionError, match=said) as found:
        import_file(uri, path)
    assert str(path) in str(found.value)
    assert list_imports(uri) == []


def test_an_image_in_two_files_is_refused(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    paths = [write(tmp_path / name, json.dumps(make_coco()).encode()) for name in ("c.json", "d.json")]
    with pytest.raises(CorrectionError, match=r"c\.json' and again in .*d\.json"):
        import_file(uri, *paths)


def test_a_colour_without_label_is_refused(tmp_path: Path) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    path = tmp_path / "c.zip"
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (9, 9, 9)).save(stream, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\ncat:1,1,1::\n")
        archive.writestr("SegmentationClass/a-0-0.png", stream.getvalue())
    with pytest.raises(CorrectionError, match="#090909, which labelmap.txt lacks"):
        import_file(uri, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", "background:::\ncat:::\n")
    with pytest.raises(CorrectionError, match="gives label 'background' no colour"):
        import_file(uri, path)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 300)), min_size=1, max_size=12))
def test_brushes_are_decoded_as_the_sdk_encodes_them(runs: list[tuple[int, int]]) -> None:
    values = np.repeat(*(np.array(part) for part in zip(*runs, strict=True))).astype(np.uint8)
    encoded = encode_rle(values)
    assert np.array_equal(decode_brush(encoded, len(values)), values)
    with pytest.raises(ValueError, match="run lengths"):
        decode_brush(encoded, len(values) + 1)
    with pytest.raises(ValueError, match="end early"):
        decode_brush(encoded[: len(encoded) // 2], len(values))


def test_the_command_counts_and_leads_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = make_small_run(f"{tmp_path}/run")
    path = write(tmp_path / "c.json", json.dumps(make_coco()).encode())
    command = ["--labels", uri, "--files", str(path)]
    assert import_masks.main([*command, "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert import_masks.main(command) == 0
    assert "1 corrected, 0 unchanged, 0 imported before, 0 without annotation; wrote" in capsys.readouterr().out
    assert import_masks.main(command) == 0
    assert (
        "0 corrected, 0 unchanged, 1 imported before, 0 without annotation; nothing to import"
        in capsys.readouterr().out
    )
    assert import_masks.main(["--labels", uri, "--files", f"{path}.gone"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert len(read_overrides(uri)) == 1


@pytest.mark.parametrize(
    ("form", "to_form", "options", "pattern"),
    [
        # As run lengths: its polygons do not follow every pixel.
        ("coco", "coco", {"segmentation_mode": "mask"}, "annotations/instances_*.json"),
        ("coco", "cvat", {}, "*.xml"),
        ("voc_segmentation", "voc_segmentation", {}, ""),
    ],
)
def test_what_datumaro_wrote_comes_back_to_the_pixel(
    run_uri: str, tmp_path: Path, form: str, to_form: str, options: dict[str, str], pattern: str
) -> None:
    """CVAT writes its files by datumaro."""
    out, edited, written = tmp_path / "out", tmp_path / "edited", tmp_path / "written"
    samples = export_samples(run_uri, out, "coco")
    masks = edit_masks(run_uri, samples)
    if form == "coco":
        document = write_coco(out, masks)
        (original,) = (out / "annotations").iterdir()
        document.replace(original)
        edited = out
    else:
        with zipfile.ZipFile(write_cvat(out, masks)) as archive:
            archive.extractall(edited)
        (edited / "ImageSets" / "Segmentation").mkdir(parents=True)
        (edited / "ImageSets" / "Segmentation" / "default.txt").write_text("".join(f"{name}\n" for name in masks))
    run_reader("datumaro_rewrite", folder=str(edited), form=form, out=str(written), to_form=to_form, options=options)
    (path,) = written.glob(pattern) if pattern else [zip_folder(written)]
    assert import_file(run_uri, path).num_imported > len(masks) // 2
    rows, overrides = read_rows(run_uri), read_overrides(run_uri)
    for sample in samples:
        found = overrides.apply(rows[RowId(sample["shard"], sample["index"])]).upright_mask()
        assert np.array_equal(np.where(found == 255, 0, found), masks[sample["name"]]), sample["name"]


def zip_folder(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))

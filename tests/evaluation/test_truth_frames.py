"""True masks of turned photos, in the frame of the stored pixels or of the upright photo."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jobs.calibrate import main as calibrate
from jobs.evaluate import main as evaluate
from jobs.report import main as report
from pipeline.errors import TruthError, TruthFrameError
from pipeline.evaluation.truth import decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement
from pipeline.run.records import InputShard
from tests.factories import make_labelled_row, make_run

SHARD = InputShard(uri="photos/a.tar", name="a", size_bytes=10, etag="1")
WIDE = np.arange(6, dtype=np.uint8).reshape(2, 3)
SQUARE = np.arange(4, dtype=np.uint8).reshape(2, 2)
TURNED = range(2, 9)


def encode(values: Any, orientation: int | None = None) -> bytes:
    """Encode a true mask with Pillow, with an EXIF orientation or without EXIF."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(png, "PNG", exif=exif if orientation is not None else None)
    return png.getvalue()


def turn(stored: Any, orientation: int) -> Any:
    """Turn stored values upright with Pillow."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encode(stored, orientation)))))


def decode(payload: bytes, stored: Any, orientation: int, frame: TruthFrame = TruthFrame.AUTO) -> Any:
    return decode_truth(payload, "k", stored.shape, 6, orientation, frame)


@pytest.mark.parametrize("stored", [WIDE, SQUARE])
@pytest.mark.parametrize("orientation", TURNED)
def test_truth_in_a_named_frame_is_placed_on_the_stored_pixels(stored: Any, orientation: int) -> None:
    upright = encode(turn(stored, orientation))
    np.testing.assert_array_equal(decode(encode(stored), stored, orientation, TruthFrame.STORED), stored)
    np.testing.assert_array_equal(decode(upright, stored, orientation, TruthFrame.UPRIGHT), stored)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_truth_whose_size_fits_one_frame_is_placed_by_its_size(orientation: int) -> None:
    for values in (WIDE, turn(WIDE, orientation)):
        np.testing.assert_array_equal(decode(encode(values), WIDE, orientation), WIDE)


@pytest.mark.parametrize(
    ("stored", "orientation"), [*((SQUARE, one) for one in TURNED), *((WIDE, one) for one in (2, 3, 4))]
)
def test_truth_that_fits_both_frames_is_refused_by_key_and_option(stored: Any, orientation: int) -> None:
    for values in (stored, turn(stored, orientation)):
        with pytest.raises(
            TruthFrameError, match=rf"'k' .*orientation {orientation}, .*--truth-frame stored or --truth"
        ):
            decode(encode(values), stored, orientation)


@pytest.mark.parametrize("stored", [WIDE, SQUARE])
@pytest.mark.parametrize("orientation", TURNED)
def test_truth_with_an_orientation_of_its_own_is_placed_by_it(stored: Any, orientation: int) -> None:
    """As stored with the orientation of its photo, or upright with the orientation 1."""
    for payload in (encode(stored, orientation), encode(turn(stored, orientation), 1)):
        np.testing.assert_array_equal(decode(payload, stored, orientation), stored)


def test_truth_that_is_the_same_in_both_frames_needs_no_option() -> None:
    same = np.array([[1, 2], [2, 1]], np.uint8)
    np.testing.assert_array_equal(decode(encode(same), same, 3), same)


def test_truth_of_another_size_than_its_frame_is_named_with_that_size() -> None:
    with pytest.raises(TruthError, match="is 3 x 2 pixels, its image 2 x 3; the frame .* upright"):
        decode(encode(WIDE), WIDE, 6, TruthFrame.UPRIGHT)
    with pytest.raises(TruthError, match="is 2 x 3 pixels, its image 3 x 2; .* before any EXIF rotation"):
        decode(encode(WIDE.T), WIDE, 6, TruthFrame.STORED)
    with pytest.raises(TruthError, match="is 2 x 2 pixels, its image 3 x 2; .* turned upright, 2 x 3"):
        decode(encode(SQUARE), WIDE, 6)


def test_image_that_is_not_turned_has_one_frame_whatever_the_option(tmp_path: Path) -> None:
    for frame in TruthFrame:
        np.testing.assert_array_equal(decode(encode(SQUARE), SQUARE, 1, frame), SQUARE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of twenty square masks, of photos that are turned by half a circle, with true masks upright."""
    rng = np.random.default_rng(0)
    maps = rng.random((1, 2, 2))
    rows = []
    (tmp_path / "truth").mkdir()
    for number in range(20):
        mask = rng.integers(0, 2, (8, 8)).astype(np.uint8)
        mask[0, 0], mask[7, 7] = 0, 1
        rows.append(make_labelled_row(f"k{number}", mask, [1], maps, exif_orientation=3))
        (tmp_path / "truth" / f"k{number}.png").write_bytes(encode(np.rot90(mask, 2)))
    make_run(
        str(tmp_path / "run"),
        ["cat"],
        {SHARD: rows},
        LabelConfig(maps=MapConfig(keep_maps=True, pixel_refinement=PixelRefinement.NONE)),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("job", "out"),
    [(evaluate, "--json"), (report, "--out"), (calibrate, "--out")],
    ids=["evaluate", "report", "calibrate"],
)
def test_jobs_refuse_true_masks_that_fit_both_frames_and_take_the_option(
    folder: Path, job: Any, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "found"
    arguments = ["--labels", str(folder / "run"), "--truth", str(folder / "truth"), out, str(place)]
    assert job(arguments) != 0
    said = capsys.readouterr().err
    assert "true mask of 'k" in said
    assert "--truth-frame stored or --truth-frame upright" in said
    assert not place.exists()
    assert job([*arguments, "--truth-frame", "upright"]) == 0
    assert place.exists()


def test_masks_equal_true_masks_in_the_frame_that_they_have_and_in_no_other(folder: Path) -> None:
    scores = {}
    for frame in ("stored", "upright"):
        place = folder / f"{frame}.json"
        arguments = ["--labels", str(folder / "run"), "--truth", str(folder / "truth"), "--json", str(place)]
        assert evaluate([*arguments, "--truth-frame", frame]) == 0
        scores[frame] = json.loads(place.read_text())["masks"]["mean_iou"]
    assert scores["upright"] == 1
    assert scores["stored"] < 0.7

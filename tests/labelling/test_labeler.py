"""The labelling step on real small images and a small random model, without Ray."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.images.masks import decode_class_maps, decode_mask
from pipeline.labelling.batches import limit_batch_size
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, MapKind, PixelRefinement, Resolution, ViewConfig
from pipeline.run.records import PART_SCHEMA, Sample
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_photo

VOCABULARY = Vocabulary(classes=("cat", "dog", "cow"))
BY_PIXELS = {"pixel_refinement": PixelRefinement.PAR, "pixel_side_px": 96, "pixel_iterations": 3}


def make_model(variant: Any = Variant.V2) -> Any:
    torch.manual_seed(0)
    config = MCTformerConfig(
        variant=variant, num_classes=3, image_size=64, patch_size=16, width=48, depth=4, num_heads=3
    )
    return MCTformer(config).eval()


def make_labeler(
    *,
    variant: Any = Variant.V2,
    batch_size: int | None = 4,
    is_limited: bool = True,
    most_images: Any = None,
    on_batch: Callable[[int], None] = lambda _: None,
    **maps: Any,
) -> Any:
    config = LabelConfig(
        inputs=InputConfig(max_image_pixels=1_000_000),
        views=ViewConfig(
            num_patches=maps.pop("num_patches", 16),
            resolution=maps.pop("resolution", Resolution.BUCKETS),
            scales=maps.pop("scales", (1.0,)),
        ),
        maps=MapConfig(**maps),
    )
    model = make_model(variant)
    model.register_forward_pre_hook(lambda _, inputs: on_batch(len(inputs[0])))
    if most_images is not None:
        model.register_forward_pre_hook(lambda _, inputs: run_out_of_memory(len(inputs[0]), most_images))
    bundle = ModelBundle(
        config=model.config, class_names=VOCABULARY.classes, input_mean=(0.5,) * 3, input_std=(0.5,) * 3
    )
    return ChunkLabeler(
        model=model,
        bundle=bundle,
        vocabulary=VOCABULARY,
        config=config,
        device=torch.device("cpu"),
        batch_size=limit_batch_size(batch_size, torch.device("cpu")) if is_limited else batch_size,
        num_workers=2,
        use_bf16=False,
    )


def run_out_of_memory(num_images: int, most_images: Any) -> None:
    if num_images > most_images:
        raise torch.OutOfMemoryError(f"{num_images} images")


def encode(image: Any, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def make_samples(num: int = 6) -> list[Any]:
    tags = [("cat",), ("dog", "cow"), ("cow", "holiday")]
    return [Sample(key=f"k{i}", image=make_photo(i), image_name="jpg", tags=tags[i % 3]) for i in range(num)]


def test_every_sample_gets_a_row_in_order_with_a_mask_of_its_stored_size() -> None:
    samples = make_samples()
    table = make_labeler().label_chunk(samples)
    assert table.schema.equals(PART_SCHEMA)
    assert table["key"].to_pylist() == [sample.key for sample in samples]
    for row, sample in zip(table.to_pylist(), samples, strict=True):
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"]) == Image.open(io.BytesIO(sample.image)).size[::-1]
        assert set(np.unique(mask)) <= {0, 255, *row["class_ids"]}
        assert [entry["class_id"] for entry in row["classes"]] == row["class_ids"]
    assert table["tags_unknown"].to_pylist()[2] == ["holiday"]


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("resolution", list(Resolution))
def test_every_variant_labels_at_every_resolution(variant: Any, resolution: Any) -> None:
    rows = make_labeler(variant=variant, resolution=resolution).label_chunk(make_samples(3)).to_pylist()
    assert {row["status"] for row in rows} == {"labelled"}
    agreement = [entry["head_agreement"] for row in rows for entry in row["classes"]]
    assert all(value is None for value in agreement) == (variant == Variant.V1)


@pytest.mark.parametrize(
    ("sample", "reason", "message"),
    [
        (Sample(key="k", tags=("cat",)), "no_image", "missing"),
        (Sample(key="k", image=b"broken", image_name="jpg", tags=("cat",)), "undecodable", ""),
        (Sample(key="k", image=make_photo(0), tags=("sunset",)), "no_known_tag", "none of its tags"),
        (Sample(key="k", image=make_photo(0)), "no_known_tag", "no tags"),
        (Sample(key="k", image=make_photo(0), tags_error="'k.json' is not JSON"), "bad_tags", "is not JSON"),
        (
            Sample(key="k", image=encode(Image.new("L", (2000, 1000))), image_name="png", tags=("cat",)),
            "too_large",
            "",
        ),
    ],
)
def test_sample_that_cannot_be_labelled_is_a_rejected_row_with_its_reason(
    sample: Any, reason: str, message: str
) -> None:
    rows = make_labeler().label_chunk([*make_samples(2), sample]).to_pylist()
    assert [row["status"] for row in rows] == ["labelled", "labelled", "rejected"]
    assert rows[2]["reason"] == reason
    assert message in rows[2]["error"]
    assert rows[2]["mask"] is None


def test_mask_lies_on_the_stored_pixels_of_a_rotated_photo() -> None:
    """The same scene, stored upright and stored on its side: equal masks once both are turned upright."""
    upright = Image.open(io.BytesIO(make_photo(1))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise, so it is stored turned the other way
    on_its_side = encode(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    samples = [
        Sample(key="upright", image=encode(upright), tags=("cat",)),
        Sample(key="side", image=on_its_side, tags=("cat",)),
    ]
    rows = make_labeler(batch_size=1).label_chunk(samples).to_pylist()
    masks = [decode_mask(row["mask"]["bytes"]) for row in rows]
    assert (rows[1]["width"], rows[1]["height"]) == (upright.height, upright.width)
    assert len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(np.rot90(masks[1], k=-1), masks[0])


def test_kept_maps_give_the_mask_again() -> None:
    rows = make_labeler(keep_maps=True, num_patches=64).label_chunk(make_samples(3)).to_pylist()
    for row in rows:
        maps = torch.from_numpy(np.asarray(decode_class_maps(row["class_maps"])))[None]
        assert row["class_maps"]["height"] * row["class_maps"]["width"] <= 64
        large = torch.nn.functional.interpolate(maps, (row["height"], row["width"]), mode="bilinear")[0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        best, index = ((large - low) / (high - low)).max(0)
        again = torch.where(best > 0.4, torch.tensor(row["class_ids"])[index], 0).numpy()
        assert (again == decode_mask(row["mask"]["bytes"])).mean() > 0.98


def test_maps_are_left_out_unless_asked_for() -> None:
    assert make_labeler().label_chunk(make_samples(1))["class_maps"].to_pylist() == [None]


def test_two_thresholds_leave_a_band_that_is_ignored() -> None:
    rows = make_labeler(background_threshold=0.3, foreground_threshold=0.7).label_chunk(make_samples()).to_pylist()
    for row in rows:
        mask = decode_mask(row["mask"]["bytes"])
        assert row["ignore_fraction"] == pytest.approx((mask == 255).mean(), abs=1e-6)
        assert row["background_fraction"] == pytest.approx((mask == 0).mean(), abs=1e-6)
    assert sum(row["ignore_fraction"] for row in rows) > 0


def test_tags_below_the_least_presence_are_left_out_of_the_mask_and_named() -> None:
    sample = make_samples(2)[1]
    (plain,) = make_labeler(keep_maps=True).label_chunk([sample]).to_pylist()
    presence = {one["class_id"]: one["presence"] for one in plain["classes"]}
    doubtful, trusted = sorted(presence, key=presence.get)
    limit = sum(presence.values()) / 2
    (row,) = make_labeler(keep_maps=True, min_presence=limit).label_chunk([sample]).to_pylist()
    assert plain["doubtful_class_ids"] == []
    assert row["doubtful_class_ids"] == [doubtful]
    assert row["class_ids"] == plain["class_ids"] == [2, 3]
    assert row["class_maps"] == plain["class_maps"]
    assert doubtful in decode_mask(plain["mask"]["bytes"])
    assert set(np.unique(decode_mask(row["mask"]["bytes"]))) == {0, trusted}
    assert {one["class_id"]: one["area_fraction"] for one in row["classes"]}[doubtful] == 0


def test_image_whose_tags_are_all_doubtful_is_background_and_has_no_quality() -> None:
    (row,) = make_labeler(min_presence=1.0).label_chunk(make_samples(1)).to_pylist()
    assert row["background_fraction"] == 1
    assert row["quality"] == 0


def test_suggested_classes_are_drawn_only_if_asked() -> None:
    (plain,) = make_labeler(suggestion_threshold=0.0).label_chunk(make_samples(1)).to_pylist()
    (drawn,) = make_labeler(suggestion_threshold=0.0, draw_suggestions=True).label_chunk(make_samples(1)).to_pylist()
    assert plain["class_ids"] == [1]
    assert set(np.unique(decode_mask(plain["mask"]["bytes"]))) == {0, 1}
    assert plain["suggested_class_ids"] == drawn["suggested_class_ids"] == [2, 3]
    assert drawn["class_ids"] == [one["class_id"] for one in drawn["classes"]] == [1, 2, 3]
    assert set(np.unique(decode_mask(drawn["mask"]["bytes"]))) == {0, 1, 2, 3}


def test_quality_is_that_of_the_least_stable_class() -> None:
    for row in make_labeler().label_chunk(make_samples()).to_pylist():
        assert row["quality"] == min(one["stability"] for one in row["classes"])
        assert 0 < row["quality"] < 1


def test_same_chunk_gives_the_same_rows_again() -> None:
    labeler = make_labeler(scales=(1.0, 0.75), keep_maps=True)
    assert labeler.label_chunk(make_samples()).equals(labeler.label_chunk(make_samples()))


def test_threads_may_share_a_labeler() -> None:
    from concurrent.futures import ThreadPoolExecutor

    labeler = make_labeler()
    expected = labeler.label_chunk(make_samples())
    with ThreadPoolExecutor(3) as threads:
        for table in threads.map(lambda _: labeler.label_chunk(make_samples()), range(6)):
            assert table.equals(expected)


def test_absurdly_large_photo_of_few_bytes_is_labelled_within_the_limit_and_at_its_size() -> None:
    wide = Sample(key="wide", image=encode(Image.new("RGB", (4000, 250), "red")), tags=("cat",))
    row = make_labeler().label_chunk([wide]).to_pylist()[0]
    assert decode_mask(row["mask"]["bytes"]).shape == (250, 4000)


@pytest.mark.parametrize("resolution", list(Resolution))
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_tiny_photo_is_labelled_at_its_size(resolution: Any, size: tuple[int, int]) -> None:
    tiny = Sample(key="tiny", image=encode(Image.new("RGB", size, "blue")), tags=("dog",))
    row = make_labeler(resolution=resolution).label_chunk([tiny]).to_pylist()[0]
    assert row["status"] == "labelled"
    assert decode_mask(row["mask"]["bytes"]).shape == size[::-1]


def test_model_without_patch_cam_says_so_when_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="no patch CAM"):
        make_labeler(variant=Variant.V1, kind=MapKind.PATCH_CAM).label_chunk(make_samples(1))


def test_batch_that_does_not_fit_into_memory_is_halved() -> None:
    samples = [Sample(key=f"k{i}", image=make_photo(3 * i), image_name="jpg", tags=("cat",)) for i in range(8)]
    halving, small = (
        # As on a GPU: a CPU takes one image at a time.
        make_labeler(batch_size=8, is_limited=False, most_images=2, **BY_PIXELS),
        make_labeler(batch_size=2, is_limited=False, **BY_PIXELS),
    )
    halved, expected = (labeler.label_chunk(samples).to_pylist() for labeler in (halving, small))
    assert [row["status"] for row in halved] == ["labelled"] * 8
    assert [row["mask"] for row in halved] == [row["mask"] for row in expected]


@pytest.mark.parametrize(("num_patches", "num_images"), [(16, 128), (784, 64), (3136, 16)])
def test_batch_size_that_nobody_gives_depends_on_the_pixels_of_an_image(num_patches: int, num_images: int) -> None:
    sizes: list[int] = []
    labeler = make_labeler(
        batch_size=None, is_limited=False, on_batch=sizes.append, num_patches=num_patches, refine=False
    )
    photo = make_photo(0, size=(64, 64))
    samples = [Sample(key=f"k{i}", image=photo, image_name="jpg", tags=("cat",)) for i in range(num_images + 1)]
    assert set(labeler.label_chunk(samples)["status"].to_pylist()) == {"labelled"}
    assert (max(sizes), min(sizes)) == (num_images, 1)


def test_image_that_alone_does_not_fit_into_memory_is_rejected() -> None:
    rows = make_labeler(most_images=0).label_chunk(make_samples(3)).to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [("rejected", "out_of_memory")] * 3
    assert rows[0]["width"] is not None


def test_every_image_and_batch_shows_progress() -> None:
    ticks = []
    make_labeler().label_chunk(make_samples(6), on_progress=lambda: ticks.append(1))
    assert len(ticks) >= 2 * 6


@pytest.mark.parametrize("maps", [{}, {"num_patches": 64}, BY_PIXELS | {"scales": (1.0, 0.75)}])
def test_rows_do_not_depend_on_the_images_that_share_a_batch_or_a_chunk(maps: Any) -> None:
    samples = make_samples(6)
    alone = make_labeler(batch_size=1, keep_maps=True, **maps)
    expected = {sample.key: alone.label_chunk([sample]).to_pylist()[0] for sample in samples}
    for batch_size, order in ((6, samples), (2, samples[::-1]), (4, samples[2:] + samples[:2])):
        labeler = make_labeler(batch_size=batch_size, keep_maps=True, **maps)
        for row in labeler.label_chunk(order).to_pylist():
            differing = [name for name in row if row[name] != expected[row["key"]][name]]
            assert not differing


@pytest.mark.parametrize("resolution", list(Resolution))
@pytest.mark.parametrize("pixel_side_px", [32, 64, 120])
def test_pixel_refinement_works_at_sizes_below_at_and_above_that_of_the_model(
    resolution: Any, pixel_side_px: int
) -> None:
    plain = make_labeler(resolution=resolution, keep_maps=True).label_chunk(make_samples(3)).to_pylist()
    labeler = make_labeler(resolution=resolution, keep_maps=True, **BY_PIXELS | {"pixel_side_px": pixel_side_px})
    rows = labeler.label_chunk(make_samples(3)).to_pylist()
    assert {row["status"] for row in rows} == {"labelled"}
    assert [row["class_maps"] for row in rows] == [row["class_maps"] for row in plain]
    for row, before in zip(rows, plain, strict=True):
        mask, mask_before = decode_mask(row["mask"]["bytes"]), decode_mask(before["mask"]["bytes"])
        assert mask.shape == mask_before.shape
        assert (mask != mask_before).any()


def test_pixel_refinement_draws_the_mask_to_the_edge_of_the_image() -> None:
    """The outline of a mask crosses more contrast in the image once it follows it."""
    sample = Sample(key="k", image=make_photo(4, size=(128, 128)), image_name="jpg", tags=("cat",))
    grey = np.asarray(Image.open(io.BytesIO(sample.image)).convert("L")).astype(float)

    def measure_contrast(**maps: Any) -> Any:
        mask = decode_mask(make_labeler(**maps).label_chunk([sample]).to_pylist()[0]["mask"]["bytes"]) == 1
        # Grey levels that the outline of the mask crosses, from pixel to pixel.
        crossed = mask[:, 1:] != mask[:, :-1]
        return np.abs(np.diff(grey, axis=1))[crossed].mean()

    assert measure_contrast(**BY_PIXELS | {"pixel_side_px": 128, "pixel_iterations": 10}) > measure_contrast()


def test_image_that_was_too_large_to_be_read_is_a_rejected_row() -> None:
    error = "the image has 1001 bytes, limit 1000 (--inputs.max-image-bytes)"
    sample = Sample(key="a", image_name="jpg", image_error=error, tags=("cat",))
    (row,) = make_labeler().label_chunk([sample]).to_pylist()
    assert (row["status"], row["reason"], row["error"]) == ("rejected", "too_large", error)


def test_path_of_a_mask_is_a_plain_name_whatever_the_key_is() -> None:
    keys = ["../../x", "/etc/passwd", "dogs/1", "photo 1"]
    samples = [Sample(key=key, image=make_photo(0), image_name="jpg", tags=("cat",)) for key in keys]
    rows = make_labeler().label_chunk(samples).to_pylist()
    assert [row["key"] for row in rows] == keys
    assert [row["mask"]["path"] for row in rows] == [
        "%2E%2E%2F.%2E%2Fx.png",
        "%2Fetc%2Fpasswd.png",
        "dogs%2F1.png",
        "photo 1.png",
    ]

"""NaN and infinite values: weights and settings with them are refused, and images that give them are rejected."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from models.bundle import decode_bundle, encode_bundle
from models.importers import import_authors_checkpoint, load_backbone_weights
from models.mctformer import Variant
from models.weights import CheckpointError
from pipeline.bundles import load_bundle, save_bundle
from pipeline.commit.plan import ShardWork
from pipeline.errors import BundleError, CalibrationError
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.labelling.label_actor import LabelChunks
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import InputConfig, LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.records import Sample
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.thresholds.calibration import load_calibration
from pipeline.workers.attempts import AttemptCounter
from tests.factories import make_black_photo, make_overflowing_model, make_photo, make_tar
from tests.fakes import REPORTING

VOCABULARY = Vocabulary(classes=("cat", "dog"))
CONFIG = LabelConfig(inputs=InputConfig(max_chunk_samples=2), views=ViewConfig(num_patches=12))
TENSOR = "blocks.1.mlp.fc2.weight"
READS = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "to")
"""Calls of a tensor that wait for its device, or may."""


def make_files(**changes: Any) -> Any:
    """Files of a bundle, with other tensors in place of its own."""
    files = encode_bundle(*make_overflowing_model())
    weights = safetensors.torch.load(files["model.safetensors"]) | changes
    return files | {"model.safetensors": safetensors.torch.save(weights)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_with_tensor_and_count(dtype: Any, value: Any) -> None:
    tensor = torch.zeros(48, 192)
    tensor[3, 5:9] = value if dtype != torch.float8_e4m3fn else math.nan
    with pytest.raises(CheckpointError, match=rf"{TENSOR} has 4 of 9216\); copy the model again"):
        decode_bundle(make_files(**{TENSOR: tensor.to(dtype)}))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"weight {TENSOR} is torch\.\w+, needs floating point numbers"):
        decode_bundle(make_files(**{TENSOR: torch.ones(48, 192, dtype=dtype)}))


def test_weights_that_overflow_the_type_of_the_model_are_refused() -> None:
    tokens = torch.zeros(1, 2, 48, dtype=torch.float64)
    tokens[0, 0, 0] = 1e300
    with pytest.raises(CheckpointError, match=r"cls_token has 1 of 96"):
        decode_bundle(make_files(cls_token=tokens))


@pytest.mark.parametrize("damage", [{"input_mean": [0.5, math.nan, 0.5]}, {"input_std": [0.5, 0.0, 0.5]}])
def test_input_statistics_that_cannot_be_are_refused_by_name(tmp_path: Path, damage: Any) -> None:
    save_bundle(str(tmp_path), *make_overflowing_model())
    fields = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(fields | damage))
    with pytest.raises(BundleError, match=f"need a finite {next(iter(damage))}"):
        load_bundle(str(tmp_path))
    with pytest.raises(ValueError, match=next(iter(damage))):
        replace(make_overflowing_model()[1], **{name: tuple(value) for name, value in damage.items()})


def test_checkpoint_backbone_and_trained_model_with_nan_are_refused(tmp_path: Path) -> None:
    model, bundle = make_overflowing_model()
    with torch.no_grad():
        model.cls_token[0, 1, 7] = math.nan
    torch.save(model.state_dict(), tmp_path / "a.pth")
    statistics = {"input_mean": bundle.input_mean, "input_std": bundle.input_std}
    with pytest.raises(CheckpointError, match=r"not finite .*cls_token has 1 of 96"):
        import_authors_checkpoint(
            tmp_path / "a.pth", variant=Variant.V2, class_names=bundle.class_names, **statistics, num_heads=3
        )
    backbone = model.state_dict() | {"pos_embed": torch.zeros(1, 5, 48), "cls_token": model.cls_token[:, 1:]}
    with pytest.raises(CheckpointError, match=r"not finite .*cls_token has 1 of 48"):
        load_backbone_weights(make_overflowing_model()[0], backbone)
    with pytest.raises(BundleError, match="is not written: weights are not finite"):
        save_bundle(str(tmp_path / "bundle"), model, bundle)
    assert not (tmp_path / "bundle").exists()


def make_mapper(config: Any = CONFIG) -> Any:
    model, bundle = make_overflowing_model()
    return ClassMapper(model=model, bundle=bundle, config=config, device=torch.device("cpu"), use_bf16=False)


def make_frames(*values: Any) -> np.ndarray:
    return np.stack([np.full((48, 64, 3), value, dtype=np.uint8) for value in values])


@pytest.mark.parametrize("maps", [{}, {"refine": False}, {"draw_suggestions": True}])
def test_only_the_images_concerned_are_flagged_in_a_batch(maps: dict[str, bool]) -> None:
    config = replace(CONFIG, maps=replace(CONFIG.maps, **maps))
    found = make_mapper(config).queue(make_frames(0, 255, 0, 40), [(1,), (1, 2), (2,), (2,)], [(48, 64)] * 4)()
    assert [evidence.is_finite for evidence in found] == [True, False, True, False]
    alone = make_mapper(config).queue(make_frames(0), [(1,)], [(48, 64)])()[0]
    np.testing.assert_allclose(found[0].presence, alone.presence, atol=1e-6)


def make_labeler(model: Any, bundle: Any, **arguments: Any) -> Any:
    arguments = {"device": torch.device("cpu"), "batch_size": 1, "num_workers": 2, "use_bf16": False} | arguments
    return ChunkLabeler(model=model, bundle=bundle, vocabulary=VOCABULARY, config=CONFIG, **arguments)


def make_samples(*photos: Any) -> list[Any]:
    return [Sample(key=f"k{i}", image=photo, image_name="png", tags=("cat",)) for i, photo in enumerate(photos)]


def test_image_whose_values_are_not_finite_is_rejected_and_no_other() -> None:
    samples = make_samples(make_photo(1), make_black_photo(), make_photo(2), b"damaged")
    rows = make_labeler(*make_overflowing_model()).label_chunk(samples).to_pylist()
    assert [row["reason"] for row in rows] == ["not_finite", None, "not_finite", "undecodable"]
    assert [row["mask"] is None for row in rows] == [True, False, True, True]
    assert rows[0]["class_ids"] == [1]
    assert "again in float32" in rows[0]["error"]
    assert math.isfinite(rows[1]["classes"][0]["presence"])


def test_image_that_overflows_in_bfloat16_alone_is_labelled_in_float32() -> None:
    def overflow(module: Any, inputs: Path) -> Any:
        return (inputs[0] * math.inf,) if torch.is_autocast_enabled("cpu") else None

    model, bundle = make_overflowing_model()
    plain = make_labeler(model, bundle).label_chunk(make_samples(make_black_photo()))
    model.register_forward_pre_hook(overflow)
    rows = make_labeler(model, bundle, use_bf16=True).label_chunk(make_samples(make_black_photo()))
    assert rows.to_pylist() == plain.to_pylist()
    assert rows["status"].to_pylist() == ["labelled"]


@pytest.fixture
def poisoned_run(tmp_path: Path) -> Any:
    """A run of one shard and six chunks: of two photos that overflow, of a photo and a black one, of black ones."""
    photos = [make_photo(i) for i in range(6)] + [make_black_photo(), make_photo(7)] + [make_black_photo()] * 4
    tags = json.dumps({"tags": ["cat"]}).encode()
    make_tar(tmp_path / "in.tar", {f"k{i:02d}": {"png": photo, "json": tags} for i, photo in enumerate(photos)})
    model, bundle = make_overflowing_model()
    digest = save_bundle(str(tmp_path / "model"), model, bundle)
    return open_run(
        out_uri=str(tmp_path / "out"),
        model_uri=str(tmp_path / "model"),
        model_digest=digest,
        vocabulary=VOCABULARY,
        config=CONFIG,
        shards=list_shards([str(tmp_path / "in.tar")]),
    )


class Ended(Exception):  # noqa: N818 (an end, no error)
    """Stands for the end of the process of an actor."""


def test_two_chunks_in_a_row_end_a_worker_and_the_run_still_ends_with_rejected_rows(poisoned_run: Any) -> None:
    def end(name: str) -> Never:
        raise Ended(name)

    reporting = replace(REPORTING, end_process=end)
    options, attempts = LabelOptions(gpus_per_actor=0.0, device="cpu"), AttemptCounter()
    deaths = []
    actor = LabelChunks(poisoned_run, options, attempts, reporting)
    rows = list(read_rows([ShardWork(shard=poisoned_run.shards[0])], CONFIG.inputs, REPORTING))[:-1]
    for number, row in enumerate(rows):
        for _ in range(10):
            try:
                actor(row)
                break
            except Ended:
                deaths.append(number)
                actor = LabelChunks(poisoned_run, options, attempts, reporting)
    # The second and the fourth of the chunks with such images cost a worker each; black ones in between would not.
    assert deaths == [1, 3]
    names = [item.uri for item in list_objects(f"{poisoned_run.out_uri}/parts")]
    parts = [pq.read_table(io.BytesIO(read_bytes(name))) for name in names]
    reasons = {row["key"]: row["reason"] for table in parts for row in table.to_pylist()}
    poisoned = {f"k{i:02d}" for i in (*range(6), 7)}
    assert reasons == {f"k{i:02d}": "not_finite" if f"k{i:02d}" in poisoned else None for i in range(12)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5, "0.4", None, True])
def test_calibration_with_a_threshold_out_of_range_is_refused(tmp_path: Path, value: Any) -> None:
    fields = {
        "version": 1,
        "fingerprint": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "background_threshold": 0.3,
        "foreground_threshold": value,
        "class_scales": None,
        "maps": {},
        "method": "by hand",
        "uses_truth": False,
        "figures": {"iou": math.nan},
    }
    (tmp_path / "a.json").write_text(json.dumps(fields | {"foreground_threshold": 0.4}))
    assert load_calibration(str(tmp_path / "a.json")).foreground_threshold == 0.4
    (tmp_path / "a.json").write_text(json.dumps(fields))
    with pytest.raises(CalibrationError, match=r"a\.json.*foreground_threshold"):
        load_calibration(str(tmp_path / "a.json"))

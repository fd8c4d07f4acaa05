"""Input files damaged at random: each is read, or refused by an error of this project that names it."""

import contextlib
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.audit.verify import list_run
from pipeline.bundles import load_bundle, save_bundle
from pipeline.errors import BundleError, CalibrationError, LabellingError, ManifestError, VocabularyError
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.run.config import LabelConfig, MapConfig
from pipeline.run.records import InputShard
from pipeline.run.run_file import describe_identity, list_differences, read_config, read_run
from pipeline.run.vocabulary import Vocabulary, load_vocabulary
from pipeline.thresholds.calibration import Calibration, describe_maps, encode_calibration, load_calibration
from tests.factories import make_labelled_row, make_overflowing_model, make_run

NUM_DAMAGES = 120
"""Damages of each file in the tests."""
WRONG_VALUES = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -0.0, 10**9, 2**63, 10**40, float("nan"), float("inf")),
    *("", "a", "v1", "\x1b[2J\u202e\n", "\ud83d", "../../x", "9" * 5000, "0" * 64),
    *([], {}, [[]], [None], {"a": {"b": []}}, [1e999] * 3, [10**12] * 3),
)
WRONG_BYTES = (
    b"\x00",
    b"\xff",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"NaN",
    b"\xef\xbb\xbf",
    b"}",
    b'"',
    b"1" * 5000,
    b"*a",
    b"&a ",
)
SHARDS = (InputShard(uri="a.tar", name="a", size_bytes=9, etag="e"),)


def list_places(value: Any, place: Any = ()) -> Iterator[Any]:
    """List the paths of values in nested plain values."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from list_places(inner, (*place, key))


def damage_values(payload: bytes, rng: random.Random) -> bytes:
    """Replace, remove or add a value of a JSON file."""
    fields = json.loads(payload)
    place = rng.choice(list(list_places(fields))[1:])
    holder = fields
    for key in place[:-1]:
        holder = holder[key]
    match rng.randrange(4):
        case 0:
            del holder[place[-1]]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(["", "extra", "\x1b[2J", place[-1] + "s"])] = holder.pop(place[-1])
        case _:
            holder[place[-1]] = rng.choice(WRONG_VALUES)
    return json.dumps(fields).encode()


def damage_bytes(payload: bytes, rng: random.Random) -> bytes:
    """Truncate a file, or overwrite, insert or remove some bytes."""
    start = rng.randrange(len(payload))
    length = rng.choice([1, 1, 2, 8, 64])
    match rng.randrange(5):
        case 0:
            return payload[:start]
        case 1:
            return payload[:start] + rng.randbytes(length) + payload[start + length :]
        case 2:
            return payload[:start] + rng.choice(WRONG_BYTES) + payload[start:]
        case 3:
            return payload[:start] + payload[start + length :]
        case _:
            return payload[:start] + bytes([payload[start] ^ (1 << rng.randrange(8))]) + payload[start + 1 :]


def damage_weights(payload: bytes, rng: random.Random) -> bytes:
    """Damage a safetensors file: often its header, by value or by byte, or the length of its header."""
    (length,) = struct.unpack("<Q", payload[:8])
    header, body = payload[8 : 8 + length], payload[8 + length :]
    match rng.randrange(5):
        case 0:
            return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 2**40, 2**64 - 1])) + header + body
        case 1:
            header = damage_bytes(header, rng)
        case 2 | 3:
            header = damage_values(header, rng)
        case _:
            return damage_bytes(payload, rng)
    return struct.pack("<Q", len(header)) + header + body


def read_everything(out_uri: Any) -> None:
    """Read a run.json as the jobs that resume a run do."""
    record = read_run(out_uri)
    list_differences(record, describe_identity(LabelConfig(), Vocabulary(classes=("cat",)), "d", SHARDS))
    with contextlib.suppress(LabellingError):
        read_config(out_uri, record)
    with contextlib.suppress(LabellingError):
        open_kept_run(out_uri)
    list_run(out_uri)


def read_extended(out_uri: str) -> None:
    """Read a run with an extension as an audit does, which reports any damage, and as the jobs that resume it do."""
    faults = list_run(out_uri).record.extension_faults
    assert all(fault.startswith("000001.json") for fault in faults)
    read_run(out_uri)


def use_vocabulary(uri: Any) -> None:
    """Read a vocabulary and describe it as a run does."""
    vocabulary = load_vocabulary(uri)
    vocabulary.match(["cat", "Kitty"])
    json.dumps(vocabulary.describe()).encode()


def use_bundle(uri: Any) -> None:
    """Read a bundle, and run the model."""
    model, _, _ = load_bundle(uri)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 32)).class_logits.shape[0] == 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one intact file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    config = LabelConfig(maps=MapConfig(keep_maps=True))
    row = make_labelled_row("k", torch.ones(16, 16).numpy(), (1,), torch.ones(1, 2, 2).numpy())
    make_run(str(folder / "run"), ("cat", "dog"), {SHARDS[0]: [row]}, config)
    for shard in (SHARDS[0], replace(SHARDS[0], uri="b.tar", name="b")):
        make_run(str(folder / "grown"), ("cat", "dog"), {shard: [row]}, config, extend=True)
    save_bundle(str(folder / "model"), *make_overflowing_model())
    calibration = Calibration(
        background_threshold=0.3,
        foreground_threshold=0.4,
        class_scales=(0.5, 1.0),
        maps=describe_maps("d" * 64, ("cat", "dog"), config),
        method="by hand",
        uses_truth=False,
        figures={"fitted": {"iou": 0.5}},
    )
    (folder / "calibration.json").write_bytes(encode_calibration(calibration))
    (folder / "vocabulary.json").write_text(
        json.dumps({"classes": ["cat", "dog"], "aliases": {"cat": ["kitty", "\N{CAT FACE}"]}, "ignored_tags": ["sky"]})
    )
    (folder / "vocabulary.yaml").write_text(
        "classes: [cat, dog]\naliases:\n  cat: [kitty]\n  dog:\n    - puppy\n"
        'colours: {cat: "#ff0000", dog: &a "#00ff00"}\n'
    )
    return folder


CASES = {
    "model values": ("model/model.json", damage_values, lambda folder: use_bundle(f"{folder}/model"), BundleError),
    "model bytes": ("model/model.json", damage_bytes, lambda folder: use_bundle(f"{folder}/model"), BundleError),
    "weights": ("model/model.safetensors", damage_weights, lambda folder: use_bundle(f"{folder}/model"), BundleError),
    "run values": ("run/run.json", damage_values, lambda folder: read_everything(f"{folder}/run"), ManifestError),
    "run bytes": ("run/run.json", damage_bytes, lambda folder: read_everything(f"{folder}/run"), ManifestError),
    **{
        f"extension {kind}": (
            "grown/extensions/000001.json",
            damage,
            lambda folder: read_extended(f"{folder}/grown"),
            ManifestError,
        )
        for kind, damage in (("values", damage_values), ("bytes", damage_bytes))
    },
    **{
        f"{name} {kind}": (name, damage, lambda folder, name=name, use=use: use(f"{folder}/{name}"), error)
        for name, use, error in (
            ("vocabulary.json", use_vocabulary, VocabularyError),
            ("vocabulary.yaml", use_vocabulary, VocabularyError),
            ("calibration.json", load_calibration, CalibrationError),
        )
        for kind, damage in (("values", damage_values), ("bytes", damage_bytes))
        if not (name.endswith("yaml") and kind == "values")
    },
}


def count_outcomes(folder: Path, name: str, num_damages: int, seed: int = 0) -> Any:
    """Damage a file repeatedly; count how often it is read and how often refused. Other exceptions are raised."""
    file, damage, use, error = CASES[name]
    path, outcomes = folder / file, Counter()
    sound = path.read_bytes()
    use(folder)
    try:
        for number in range(num_damages):
            path.write_bytes(damage(sound, random.Random(f"{name} {seed} {number}")))
            try:
                use(folder)
                outcomes["read"] += 1
            except error as refusal:
                outcomes["refused"] += 1
                assert path.parent.name in str(refusal) or path.name in str(refusal), number  # noqa: PT017
                assert str(refusal).isprintable()  # noqa: PT017
            except Exception as other:
                raise AssertionError(f"{name}, seed {seed}, damage {number}") from other
    finally:
        path.write_bytes(sound)
    return outcomes


@pytest.mark.parametrize("name", list(CASES))
def test_file_damaged_at_random_is_read_or_refused_by_name(files: Path, name: str) -> None:
    outcomes = count_outcomes(files, name, NUM_DAMAGES)
    assert outcomes["read"] + outcomes["refused"] == NUM_DAMAGES
    assert outcomes["refused"] > NUM_DAMAGES / 10

"""Small real inputs for tests: photos, tar shards, and published runs."""

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image
from scipy import ndimage

from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.bundles import save_bundle
from pipeline.commit.names import PartName, locate_manifest
from pipeline.commit.parts import commit_part, encode_part
from pipeline.commit.seal import CompleteShard, seal_shard
from pipeline.errors import LabellingError
from pipeline.images.class_texts import describe_classes
from pipeline.images.masks import encode_class_maps, encode_mask, voc_palette
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.parquet_reader import count_parquet_rows, read_parquet_samples
from pipeline.inputs.tar_reader import ArchiveEnd, read_groups
from pipeline.run.config import InputConfig, LabelConfig
from pipeline.run.records import PART_SCHEMA, Chunk, InputShard, MemberCounts, Sample
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import Vocabulary


def make_photo(rng_seed: int, size: tuple[int, int] | None = None, image_format: str = "JPEG") -> bytes:
    """Encode a small picture: a bright disc on a noisy background; its size (width, height) varies with the seed."""
    rng = np.random.default_rng(rng_seed)
    width, height = size or (48 + 16 * (rng_seed % 3), 48 + 8 * (rng_seed % 2))
    rows, columns = np.mgrid[:height, :width]
    center = rng.uniform(0.3, 0.7, 2) * (height, width)
    inside = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < (min(height, width) / 4) ** 2
    pixels = rng.uniform(0, 80, (height, width, 3))
    pixels[inside] += rng.uniform(60, 170, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


def make_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    """Write a WebDataset tar: for each key its members by suffix, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for key, members in samples.items():
            for suffix, payload in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
    return path


def make_parquet(path: Path, columns: Mapping[str, Any], row_group_size: int = 1000, **options: Any) -> Path:
    """Write a Parquet file from columns by name: plain values, or Arrow arrays where the type matters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=row_group_size, **options)
    return path


def save_small_model(folder_uri: str) -> None:
    """Write the bundle of a V2 of two blocks for the classes cat and dog, with fixed weights."""
    torch.manual_seed(0)
    config = MCTformerConfig(
        variant=Variant.V2, num_classes=2, image_size=32, patch_size=16, width=48, depth=2, num_heads=3
    )
    bundle = ModelBundle(config=config, class_names=("cat", "dog"), input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    save_bundle(folder_uri, MCTformer(config), bundle)


def make_overflowing_model() -> tuple[MCTformer, ModelBundle]:
    """Make a V2 with finite weights whose outputs are non-finite, except for black images."""
    torch.manual_seed(0)
    config = MCTformerConfig(
        variant=Variant.V2, num_classes=2, image_size=32, patch_size=16, width=48, depth=2, num_heads=3
    )
    model = MCTformer(config).eval()
    with torch.no_grad():
        model.patch_embed.proj.weight.abs_().add_(1).mul_(1e37)
        torch.nn.init.zeros_(model.get_parameter("patch_embed.proj.bias"))
    return model, ModelBundle(config=config, class_names=("cat", "dog"), input_mean=(0.0,) * 3, input_std=(1.0,) * 3)


def make_black_photo(size: tuple[int, int] = (64, 48)) -> bytes:
    """Encode a black picture of a size (width, height)."""
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def make_mask_png(mask: np.ndarray, exif_orientation: int = 1) -> bytes:
    """Encode class ids as a palette PNG in VOC's colours."""
    return encode_mask(mask.astype(np.uint8), voc_palette(), exif_orientation)


def make_labelled_row(
    key: str,
    mask: np.ndarray,
    class_ids: Sequence[int],
    class_maps: np.ndarray | None = None,
    *,
    photo: bytes = b"",
    exif_orientation: int = 1,
    tags_unknown: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a row of a part like the labeler: a mask on the stored pixels, maps on the upright patch grid."""
    classes = [make_class_stats(mask, class_id) for class_id in class_ids]
    if class_maps is not None:
        for one, class_map in zip(classes, class_maps, strict=False):
            one["raw_peak"] = float(np.float32(class_map.max()))
    return {
        "key": key,
        "status": "labelled",
        "height": mask.shape[0],
        "width": mask.shape[1],
        "exif_orientation": exif_orientation,
        "image_sha256": hashlib.sha256(photo).hexdigest(),
        "tags_unknown": list(tags_unknown),
        "class_ids": list(class_ids),
        "mask": {"bytes": make_mask_png(mask, exif_orientation), "path": f"{key}.png"},
        "quality": 0.75 if classes else 0.0,
        "ignore_fraction": float((mask == 255).mean()),
        "background_fraction": float((mask == 0).mean()),
        "margin_mean": 0.25,
        "entropy_mean": 0.5,
        "suggested_class_ids": [],
        "doubtful_class_ids": [],
        "classes": classes,
        "class_maps": None if class_maps is None else encode_class_maps(class_maps),
        "image_offset": 0,
        "image_bytes": len(photo),
    }


def make_class_stats(mask: np.ndarray, class_id: int) -> dict[str, Any]:
    """Make the statistics of a class in a small mask; values that do not depend on the mask are constant."""
    selected = mask == class_id
    return {
        "class_id": class_id,
        "presence": 0.5,
        "presence_std": 0.0,
        "raw_peak": 1.0,
        "area_fraction": float(selected.mean()),
        "confidence_mean": 0.5 if selected.any() else None,
        "stability": 0.75,
        "components": int(ndimage.label(selected, np.ones((3, 3)))[1]),
    }


def make_rejected_row(key: str, reason: str = "undecodable") -> dict[str, Any]:
    """Make a row of a part for a sample that has no mask."""
    return {"key": key, "status": "rejected", "reason": reason, "error": "made so by a test", "tags_unknown": []}


def find_end_offset(shard: InputShard) -> int:
    """End offset of the last chunk of a shard; 512 if the shard does not exist."""
    try:
        if shard.is_parquet:
            return count_parquet_rows(shard)
        return next(item.offset for item in read_groups(shard, max_image_bytes=2**28) if isinstance(item, ArchiveEnd))
    except (LabellingError, OSError, RecursionError):
        return 512


def place_images(shard: InputShard, rows: Sequence[Mapping[str, Any]], config: InputConfig) -> list[dict[str, Any]]:
    """Let rows state where the images of their shard are; rows of another key, or of no shard, stay."""
    samples: list[Sample] = []
    with suppress(LabellingError, OSError, RecursionError):
        if shard.is_parquet and not shard.is_index:
            # Such files may have no column of tags.
            samples += [sample for _, sample in read_parquet_samples(shard, replace(config, tags_table="elsewhere"))]
        else:
            for piece in read_chunks(shard, config):
                samples += piece.samples if isinstance(piece, Chunk) else ()
    return [
        dict(row) | (sample.locate_image() if sample is not None and sample.key == row["key"] else {})
        for row, sample in zip_longest(rows, samples[: len(rows)])
    ]


def count_members(shard: InputShard) -> MemberCounts | None:
    """Count the members of a tar of which all are in rows; none if it cannot be read, None for a Parquet file."""
    if shard.is_parquet:
        return None
    try:
        with tarfile.open(shard.uri) as archive:
            return MemberCounts(num=len(archive.getnames()))
    except (tarfile.TarError, OSError, RecursionError):
        return MemberCounts()


def start_run(out_uri: Any, shards: Sequence[InputShard], **changes: Any) -> Run:
    """Open a run of a model that is not there; `changes` are other arguments of `open_run`."""
    arguments: dict[str, Any] = {
        "out_uri": str(out_uri),
        "model_uri": "model",
        "model_digest": "d" * 64,
        "vocabulary": Vocabulary(classes=("cat", "dog")),
        "config": LabelConfig(),
        "shards": shards,
    }
    return open_run(**arguments | changes)


def make_run(
    out_uri: str,
    classes: Sequence[str],
    shards: Mapping[InputShard, Sequence[Mapping[str, Any]]],
    config: LabelConfig | None = None,
    *,
    extend: bool = False,
) -> list[str]:
    """Publish a labelling run without a model, from rows by shard; return the URIs of the manifests.

    With `extend` the shards are added to a run that stands.
    """
    vocabulary = Vocabulary(classes=tuple(classes))
    run = start_run(out_uri, list(shards), vocabulary=vocabulary, config=config or LabelConfig(), extend=extend)
    for shard, rows in shards.items():
        part = PartName(chunk_index=0, end_offset=find_end_offset(shard))
        table = pa.Table.from_pylist(place_images(shard, rows, (config or LabelConfig()).inputs), schema=PART_SCHEMA)
        payload = encode_part(table, run.fingerprint, shard.name, 0, count_members(shard))
        commit_part(out_uri, shard.name, part, payload)
        complete = CompleteShard(shard=shard, parts=(part,))
        seal_shard(
            complete,
            out_uri=out_uri,
            fingerprint=run.fingerprint,
            max_rejected_fraction=1.0,
            class_texts=describe_classes(vocabulary),
        )
    return [locate_manifest(out_uri, shard.name) for shard in shards]


def make_certificate(folder: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2000, 1, 1))
        .not_valid_after(datetime(2100, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *plain) + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path

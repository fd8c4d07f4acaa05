"""One small collection of photos in every form, written without the code of the pipeline."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.collections.judge import judge_collections
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.inputs.chunks import read_chunks
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Sample
from tests.factories import make_photo, make_tar

TAGS = {"a": ["cat"], "b": ["dog"], "c": ["cat", "dog"], "d": ["dog"], "e": []}
PHOTOS = {key: make_photo(number) for number, key in enumerate(TAGS)}


def write_photos(folder: Path, suffix: str = "jpg") -> None:
    """Write the photos as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, photo in PHOTOS.items():
        (folder / f"{key}.{suffix}").write_bytes(photo)


def write_csv(path: Path, header: tuple[str, str, str] = ("key", "file_name", "tags"), delimiter: str = ",") -> Path:
    """Write a table by Python's writer."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        for key, tags in TAGS.items():
            writer.writerow([key, f"{key}.jpg", ", ".join(tags)])
    return path


def write_jsonl(path: Path) -> Path:
    """Write JSON lines."""
    rows = [{"key": key, "path": f"{key}.jpg", "tags": tags} for key, tags in TAGS.items()]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_parquet_table(path: Path) -> Path:
    """Write a Parquet table of paths."""
    columns = {"key": list(TAGS), "image_path": [f"{key}.jpg" for key in TAGS], "tags": list(TAGS.values())}
    pq.write_table(pa.table(columns), path)
    return path


def write_bare_parquet(path: Path) -> Path:
    """Write the Parquet file that Hugging Face's `to_parquet` makes of an imagefolder."""
    images = [{"bytes": None, "path": f"{key}.jpg"} for key in TAGS]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"key": list(TAGS), "image": pa.array(images, kind), "tags": list(TAGS.values())}
    pq.write_table(pa.table(columns), path)
    return path


def write_coco(path: Path) -> Path:
    """Write a COCO file whose category numbers have holes, as COCO's own."""
    numbers = {"cat": 17, "dog": 18}
    annotations = [
        {"id": 10 * place + number, "image_id": 100 - place, "category_id": numbers[tag], "segmentation": [[0, 1, 2]]}
        for place, tags in enumerate(TAGS.values())
        for number, tag in enumerate(tags)
    ]
    document = {
        "images": [{"id": 100 - place, "file_name": f"{key}.jpg", "name": key} for place, key in enumerate(TAGS)],
        "annotations": annotations[::-1],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    path.write_text(json.dumps(document))
    return path


def write_tar(path: Path) -> Path:
    """Write a shard."""
    return make_tar(
        path,
        {key: {"jpg": PHOTOS[key], "json": json.dumps({"tags": tags}).encode()} for key, tags in TAGS.items()},
    )


def find(pattern: Path | str, index: Path | str, **inputs: object) -> tuple[tuple[InputShard, ...], list[str]]:
    """List a collection as the job does before its first run; return the shards, and what it says.

    The audit has to agree with the index: it reads whatever the lister reads.
    """
    said: list[str] = []
    config = InputConfig(**inputs)  # type: ignore[arg-type]
    shards = find_inputs([str(pattern)], config, IndexPlace(str(index), is_begun=False), said.append, said.append)
    require_agreement(shards, config)
    return shards, said


def require_agreement(shards: tuple[InputShard, ...], config: InputConfig) -> None:
    """Let the audit compare an index with its source."""
    result = judge_collections(shards, has_tags_table=config.tags_table is not None)
    found = {
        check: [example.text for example in finding.examples] for check, finding in result.verdict.findings.items()
    }
    assert (found, result.obstacles) == ({}, [])


def read_samples(shards: tuple[InputShard, ...], **inputs: object) -> list[Sample]:
    """Read all samples of shards."""
    config = InputConfig(**inputs)  # type: ignore[arg-type]
    pieces = [piece for shard in shards for piece in read_chunks(shard, config)]
    return [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]

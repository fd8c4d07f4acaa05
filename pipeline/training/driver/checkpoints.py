"""Ray Train's record of a run's checkpoints: the place where the run resumes, and the checkpoints that are whole."""

import json
import re
import tempfile
from typing import Any

import pyarrow.fs
import ray.train
from typing_extensions import TypedDict

from models.documents import DocumentError, check_fields, parse_json
from pipeline.errors import TrainingError
from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from pipeline.training.worker.state import CHECKPOINT_FOLDER, copy_state

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's record of the checkpoints; names the one that it resumes from."""


class _Checkpoint(TypedDict):
    checkpoint_dir_name: str


class _Snapshot(TypedDict):
    """The part of Ray Train's record that names the checkpoint to resume from."""

    latest_checkpoint_result: _Checkpoint | None


class _Listing(TypedDict):
    """The part of Ray Train's record that lists the kept checkpoints; both lists have the same order."""

    checkpoint_results: list[_Checkpoint]
    checkpoint_report_indices: list[int]


def read_place(out_uri: str) -> tuple[int, int]:
    """Position of the checkpoint that Ray Train resumes from: finished epochs, and images of the next one.

    Returns:
        (0, 0) without a checkpoint.

    Raises:
        TrainingError: Ray Train's record of the checkpoints is damaged or has another format.
    """
    record = _read_record(out_uri, _Snapshot)
    latest = record["latest_checkpoint_result"] if record else None
    return (0, 0) if latest is None else _parse_place(out_uri, latest["checkpoint_dir_name"])


def drop_damaged(out_uri: str) -> list[str]:
    """Remove damaged checkpoints from Ray Train's record, so that it resumes from the newest whole one.

    Their folders stay until training reaches their places again and replaces them. No process may train in the folder
    meanwhile.

    Returns:
        A warning for each removed checkpoint.

    Raises:
        TrainingError: None of the checkpoints is whole, or the record is damaged or has another format.
    """
    record = _read_record(out_uri, _Listing)
    if record is None:
        return []
    names = [entry["checkpoint_dir_name"] for entry in record["checkpoint_results"]]
    filesystem, _ = open_for_ray(out_uri)
    damages = {name: damage for name in names if (damage := _find_damage(filesystem, name))}
    if not damages:
        return []
    warnings = [f"checkpoint '{name}' is damaged: {damage}" for name, damage in damages.items()]
    whole = [index for index, name in enumerate(names) if name not in damages]
    if not whole:
        raise TrainingError(
            f"'{out_uri}' has no whole checkpoint to resume from: {'; '.join(warnings)}; delete its folder "
            f"'{CHECKPOINT_FOLDER}' to train from the start"
        )
    newest = max(whole, key=lambda index: _parse_place(out_uri, names[index]))
    entries = [record["checkpoint_results"][index] for index in whole]
    changes = {
        "checkpoint_results": entries,
        "checkpoint_report_indices": [record["checkpoint_report_indices"][index] for index in whole],
        "latest_checkpoint_result": record["checkpoint_results"][newest],
    }
    put_atomic(_get_uri(out_uri), json.dumps(record | changes).encode())
    return [f"{warning}; it is passed over" for warning in warnings]


def _find_damage(filesystem: pyarrow.fs.FileSystem, name: str) -> str | None:
    checkpoint = ray.train.Checkpoint(f"/{CHECKPOINT_FOLDER}/{name}", filesystem)
    with tempfile.TemporaryFile() as file:
        return copy_state(checkpoint, file)


def _read_record(out_uri: str, part: Any) -> dict[str, Any] | None:
    """Read Ray Train's record and check a part of it; None if there is no record."""
    uri = _get_uri(out_uri)
    try:
        # The record contains metrics, which may be NaN.
        record: dict[str, Any] = parse_json(read_bytes(uri), allow_non_finite=True)
        check_fields(part, record)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise TrainingError(f"'{uri}' is not Ray Train's record of checkpoints: {error}; use another --out") from error
    return record


def _parse_place(out_uri: str, name: str) -> tuple[int, int]:
    match = re.fullmatch(r"epoch-(\d{1,9})(?:-(\d{1,18}))?", name)
    if match is None:
        uri = _get_uri(out_uri)
        raise TrainingError(f"'{uri}' names the checkpoint '{name}' of another program; use another --out")
    return int(match[1]), int(match[2] or 0)


def _get_uri(out_uri: str) -> str:
    return join_uri(out_uri, CHECKPOINT_FOLDER, SNAPSHOT_FILE)

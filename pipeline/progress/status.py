"""The status of a run, from its folder alone: what is published, who works on it, how the last invocation ended.

Listings are the truth of what is done; `progress.json` and `driver.json` say what a driver says of itself.
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.commit.names import locate_manifest
from pipeline.driver.heartbeat import DRIVER_FILE, MAX_SILENCE_S
from pipeline.errors import ManifestError
from pipeline.progress.progress_file import PERIOD_S, ProgressRecord, RunState, parse_time, read_progress
from pipeline.run.records import RUN_FILE
from pipeline.run.run_file import read_run
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri

EXPORT_FILE = "export.json"
RECORDS_FOLDER, RECORD_ENDING = "export", ".json"
GONE_S = 3 * PERIOD_S
"""A driver of this machine that is silent for so long, and whose process is gone, is dead."""


class Condition(StrEnum):
    """What a run is doing."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    DIED = "died"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The status of a labelling run or an export."""

    out_uri: str
    kind: str
    """run or export."""
    condition: Condition
    num_published: int
    """Published or exported shards."""
    num_shards: int | None
    """All shards; None if the labelling run of an export cannot be listed from here."""
    silent_s: float | None
    """Seconds since the last sign of a driver; None if there is none."""
    host: str | None
    pid: int | None
    """The last driver that gave a sign."""
    progress: ProgressRecord | None
    """As of the last report of the last invocation that wrote one; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class _Sign:
    """The last sign of a driver."""

    host: str
    pid: int
    silent_s: float

    @property
    def is_dead(self) -> bool:
        if self.silent_s >= MAX_SILENCE_S:
            return True
        if self.silent_s < GONE_S or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            # It lives and belongs to another user.
            return False
        return False


def read_status(out_uri: str, now_s: float | None = None) -> RunStatus:
    """Read the status of a labelling run or an export.

    Args:
        out_uri: Its output folder.
        now_s: Unix time in seconds; None: now.

    Raises:
        ManifestError: The folder holds neither, or its record is damaged.
        OSError: The store failed.
    """
    now_s = time.time() if now_s is None else now_s
    kind, num_published, num_shards = _count(out_uri)
    progress = read_progress(out_uri)
    beat = _read_beat(out_uri, now_s)
    said = None
    if progress is not None:
        said = _Sign(host=progress.host, pid=progress.pid, silent_s=max(0.0, now_s - parse_time(progress.updated)))
    # The heartbeat of another driver than the one that wrote last: a driver that runs is the one of interest.
    is_old_report = progress is not None and progress.state != RunState.RUNNING
    signs = [sign for sign in (beat, None if is_old_report and beat else said) if sign is not None]
    last = min(signs, key=lambda sign: sign.silent_s, default=None)
    is_complete = num_shards is not None and num_published >= num_shards > 0
    return RunStatus(
        out_uri=out_uri,
        kind=kind,
        condition=_judge(progress, beat, last, is_complete=is_complete, is_export=kind == "export"),
        num_published=num_published,
        num_shards=num_shards,
        silent_s=None if last is None else last.silent_s,
        host=None if last is None else last.host,
        pid=None if last is None else last.pid,
        progress=progress,
    )


def _judge(
    progress: ProgressRecord | None, beat: _Sign | None, last: _Sign | None, *, is_complete: bool, is_export: bool
) -> Condition:
    is_open = beat is not None or (progress is not None and progress.state == RunState.RUNNING)
    if is_open and last is not None and not last.is_dead:
        return Condition.RUNNING
    # Files of an export that all shards share are written after the last shard.
    has_rest = is_export and progress is not None and progress.state != RunState.DONE
    if is_complete and not has_rest:
        return Condition.FINISHED
    if is_open:
        return Condition.DIED
    if progress is not None and progress.state == RunState.FAILED:
        return Condition.FAILED
    return Condition.STOPPED


def _count(out_uri: str) -> tuple[str, int, int | None]:
    """The kind of a folder, its published shards, and all its shards."""
    try:
        record = json.loads(read_bytes(join_uri(out_uri, EXPORT_FILE)))
    except FileNotFoundError:
        return _count_run(out_uri)
    except ValueError as error:
        raise ManifestError(f"'{join_uri(out_uri, EXPORT_FILE)}' is damaged; put it back from a copy") from error
    exported = {
        name.removesuffix(RECORD_ENDING).rpartition(".")[0]
        for name in _list_names(join_uri(out_uri, RECORDS_FOLDER))
        # Records of joint files have no digest in their names.
        if name.endswith(RECORD_ENDING) and "." in name.removesuffix(RECORD_ENDING)
    }
    run_uri = record.get("run_uri") if isinstance(record, dict) else None
    if not isinstance(run_uri, str):
        raise ManifestError(f"'{join_uri(out_uri, EXPORT_FILE)}' is not the record of an export; check the folder")
    # From another machine a local run is not there.
    there = {name.removesuffix(".parquet") for name in _list_names(join_uri(run_uri, "labels"))}
    return "export", len(exported & there if there else exported), len(there) or None


def _count_run(out_uri: str) -> tuple[str, int, int]:
    try:
        record = read_run(out_uri)
    except ManifestError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ManifestError(
            f"'{out_uri}' holds neither a labelling run ({RUN_FILE}) nor an export ({EXPORT_FILE}): it was never "
            "begun, or the folder is another one; check it"
        ) from error
    names = {locate_manifest("", recorded[1]).rpartition("/")[2] for recorded in record["inputs"]}
    return "run", len(names & _list_names(join_uri(out_uri, "labels"))), len(names)


def _list_names(folder_uri: str) -> set[str]:
    return {item.uri.rpartition("/")[2] for item in list_folder(folder_uri)}


def _read_beat(out_uri: str, now_s: float) -> _Sign | None:
    try:
        fields: Any = json.loads(read_bytes(join_uri(out_uri, DRIVER_FILE)))
        return _Sign(
            host=str(fields["host"]), pid=int(fields["pid"]), silent_s=max(0.0, now_s - float(fields["beat_s"]))
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None

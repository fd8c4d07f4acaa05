"""The identity and the folder of a training run: `train.json`, the survey, checkpoints, and the bundle at the end.

<out>/train.json                 what this run is; created once, never changed
<out>/survey.json                what the shards hold
<out>/checkpoints/epoch-0007/    Ray Train's: the state after 7 epochs; epoch-0007-003200: and 3200 images of the next
<out>/metrics.jsonl              a line every few steps and one an epoch; the same in tensorboard/ and training.html
<out>/bundle/                    the trained model; the run is finished once it is there
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict

from models.documents import DocumentError, check_fields, parse_json, show_value
from pipeline.errors import RunConflictError, TrainingError
from pipeline.run.config import FORMAT_VERSION, compute_fingerprint, to_canonical_json
from pipeline.run.identity import get_library_version
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.storage import create_if_absent, exists, join_uri, put_atomic, read_bytes
from pipeline.training.config import TrainConfig, describe_train_config
from pipeline.training.data.survey import Survey, SurveyFields

TRAIN_FILE = "train.json"
SURVEY_FILE = "survey.json"
BUNDLE_FOLDER = "bundle"
CHECKPOINT_FOLDER = "checkpoints"
SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Written by Ray Train beside the checkpoints: which of them it resumes from."""


class _Checkpoint(TypedDict):
    checkpoint_dir_name: str


class _Snapshot(TypedDict):
    """What is read of Ray Train's record."""

    latest_checkpoint_result: _Checkpoint | None


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What is trained, on what, and where to."""

    out_uri: str
    config: TrainConfig
    vocabulary: Vocabulary
    train_shards: tuple[InputShard, ...]
    validation_shards: tuple[InputShard, ...]
    fingerprint: str
    identity: dict[str, Any]
    """What the fingerprint is made of, as plain values."""

    @property
    def bundle_uri(self) -> str:
        """Where the trained model will be."""
        return join_uri(self.out_uri, BUNDLE_FOLDER)

    @property
    def data_fingerprint(self) -> str:
        """Digest of the shards, with their sizes and etags, and of the vocabulary: what is learned from."""
        data = ("vocabulary", "train_shards", "validation_shards")
        return compute_fingerprint({name: self.identity[name] for name in data})

    def read_place(self) -> tuple[int, int]:
        """Return the epochs that the newest registered checkpoint has seen, and the images of the next one."""
        return read_place(self.out_uri)


def open_training(
    *,
    out_uri: str,
    config: TrainConfig,
    vocabulary: Vocabulary,
    train_shards: Sequence[InputShard],
    validation_shards: Sequence[InputShard],
) -> TrainingRun:
    """Describe a run, and make sure that its folder is empty or holds the same run. Writes nothing; see `claim`.

    Raises:
        RunConflictError: The folder belongs to another run; the message names what differs.
        ValueError: A shard serves both training and validation.
    """
    shared = sorted({shard.uri for shard in train_shards} & {shard.uri for shard in validation_shards})
    if shared:
        raise ValueError(f"shard '{shared[0]}' is among the training and the validation shards; choose one")
    identity = {
        "kind": "training",
        "format_version": FORMAT_VERSION,
        "config": describe_train_config(config),
        "vocabulary": vocabulary.describe(),
        "train_shards": _describe_shards(train_shards),
        "validation_shards": _describe_shards(validation_shards),
    }
    run = TrainingRun(
        out_uri=out_uri,
        config=config,
        vocabulary=vocabulary,
        train_shards=tuple(train_shards),
        validation_shards=tuple(validation_shards),
        fingerprint=compute_fingerprint(identity),
        identity=identity,
    )
    if exists(join_uri(out_uri, TRAIN_FILE)):
        _require_same(run)
    elif exists(join_uri(out_uri, CHECKPOINT_FOLDER, SNAPSHOT_FILE)):
        raise RunConflictError(
            f"'{out_uri}' holds checkpoints, but no {TRAIN_FILE} that says of which run; give another --out"
        )
    return run


def claim(run: TrainingRun) -> None:
    """Make the folder that of this run, if it is not yet.

    Raises:
        RunConflictError: It belongs to another run.
    """
    record = run.identity | {"fingerprint": run.fingerprint, "library_version": get_library_version()}
    if not create_if_absent(join_uri(run.out_uri, TRAIN_FILE), to_canonical_json(record).encode()):
        _require_same(run)


def _require_same(run: TrainingRun) -> None:
    uri = join_uri(run.out_uri, TRAIN_FILE)
    try:
        existing = parse_json(read_bytes(uri))
        if not isinstance(existing, dict):
            raise DocumentError(f"need a mapping, got {show_value(existing)}")
    except DocumentError as error:
        raise RunConflictError(f"'{uri}' is not the record of a training run: {error}; give another --out") from error
    if existing.get("fingerprint") != run.fingerprint:
        before, now = existing.get("library_version"), get_library_version()
        other = f" (begun by version {before}, this is {now})" if before != now else ""
        raise RunConflictError(
            f"'{run.out_uri}' holds another training run{other}: {'; '.join(list_changes(existing, run.identity))}; "
            "give the same command as before, or another --out"
        )


def list_changes(before: dict[str, Any], after: dict[str, Any], most: int = 8) -> list[str]:
    """Name the fields in which two runs differ, with both values.

    >>> list_changes({"config": {"epochs": 5, "rng_seed": 1}}, {"config": {"epochs": 6, "rng_seed": 1}})
    ['config.epochs was 5, is 6']
    """
    old, new = _flatten(before), _flatten(after)
    changes = [
        f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in {**new, **{key: None for key in old if key.split(".")[0] in after}}
        if old.get(key) != new.get(key)
    ]
    return changes if len(changes) <= most else [*changes[:most], f"and {len(changes) - most} more fields"]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flatten(inner, f"{prefix}{name}.").items()}


def _describe_shards(shards: Sequence[InputShard]) -> dict[str, str]:
    return {shard.uri: f"{shard.size_bytes} bytes, etag {shard.etag}" for shard in shards}


def read_place(out_uri: str) -> tuple[int, int]:
    """Return how far the checkpoint is that Ray Train will resume from: epochs, and images of the next; 0, 0 without.

    Raises:
        TrainingError: Ray's record of the checkpoints cannot be understood.
    """
    uri = join_uri(out_uri, CHECKPOINT_FOLDER, SNAPSHOT_FILE)
    try:
        # Ray keeps figures here, too, which may be NaN.
        fields = parse_json(read_bytes(uri), allow_non_finite=True)
        latest = check_fields(_Snapshot, fields)["latest_checkpoint_result"]
    except FileNotFoundError:
        return 0, 0
    except DocumentError as error:
        raise TrainingError(f"'{uri}' is not Ray Train's record of checkpoints: {error}; give another --out") from error
    if latest is None:
        return 0, 0
    name = latest["checkpoint_dir_name"]
    match = re.fullmatch(r"epoch-(\d{1,9})(?:-(\d{1,18}))?", name)
    if match is None:
        raise TrainingError(f"'{uri}' names a checkpoint '{name}' that is not ours; give another --out")
    return int(match[1]), int(match[2] or 0)


def name_checkpoint(num_epochs: int, num_images: int = 0) -> str:
    """Name the checkpoint after so many epochs, and so many images of the next.

    >>> name_checkpoint(7), name_checkpoint(7, 3200)
    ('epoch-0007', 'epoch-0007-003200')
    """
    return f"epoch-{num_epochs:04d}" + (f"-{num_images:06d}" if num_images else "")


def read_surveys(run: TrainingRun) -> dict[str, Survey] | None:
    """Read the surveys of an earlier attempt by split; None when there are none.

    Raises:
        TrainingError: The file is damaged.
    """
    uri = join_uri(run.out_uri, SURVEY_FILE)
    try:
        fields = parse_json(read_bytes(uri))
        surveys: dict[str, SurveyFields] = check_fields(dict[str, SurveyFields], fields)
        return {split: Survey.restore(survey) for split, survey in surveys.items()}
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise TrainingError(f"'{uri}' is not the survey of a training run: {error}; delete it") from error


def write_surveys(run: TrainingRun, surveys: dict[str, Survey]) -> None:
    """Keep the surveys, by split, for the next attempt."""
    fields = {split: survey.describe() for split, survey in surveys.items()}
    put_atomic(join_uri(run.out_uri, SURVEY_FILE), to_canonical_json(fields).encode())

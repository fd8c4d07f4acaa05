"""Identity and output folder of a training run.

<out>/train.json                 identity of the run; created once, never changed
<out>/survey.json                contents of the shards
<out>/checkpoints/epoch-0007/    state after 7 epochs; epoch-0007-003200: and 3200 images of the next epoch
<out>/metrics.jsonl              a line every few steps and one per epoch; also as tensorboard/ and training.html
<out>/bundle/                    the trained model; the run is finished once it exists
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.documents import DocumentError, check_fields, parse_json, show_value
from pipeline.errors import RunConflictError, TrainingError
from pipeline.run.fingerprint import compute_fingerprint, get_library_version, list_changes, to_canonical_json
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent, put_atomic
from pipeline.training.config import TrainConfig, describe_train_config
from pipeline.training.data.survey import Survey, SurveyFields
from pipeline.training.driver.checkpoints import SNAPSHOT_FILE, drop_damaged, read_place
from pipeline.training.worker.state import CHECKPOINT_FOLDER

TRAIN_FILE = "train.json"
SURVEY_FILE = "survey.json"
BUNDLE_FOLDER = "bundle"
TRAINING_FORMAT_VERSION = 4
"""Changes when the meaning of a training run changes; that of manifests has a version of its own."""
MAX_CHANGES = 8
"""Changed fields that a message names at most."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Configuration, inputs and output folder of a training run."""

    out_uri: str
    config: TrainConfig
    vocabulary: Vocabulary
    train_shards: tuple[InputShard, ...]
    validation_shards: tuple[InputShard, ...]
    fingerprint: str
    identity: dict[str, Any]
    """Everything that decides what is learned, as plain values; the fingerprint is computed from it."""

    @property
    def bundle_uri(self) -> str:
        """Folder of the trained model."""
        return join_uri(self.out_uri, BUNDLE_FOLDER)

    @property
    def data_fingerprint(self) -> str:
        """Digest of the training data: names, sizes and etags of the shards, and the vocabulary."""
        data = ("vocabulary", "train_shards", "validation_shards")
        return compute_fingerprint({name: self.identity[name] for name in data})

    def read_place(self) -> tuple[int, int]:
        """Position of the newest checkpoint: finished epochs, and images of the next one."""
        return read_place(self.out_uri)

    def drop_damaged(self) -> list[str]:
        """Pass over damaged checkpoints; see `pipeline.training.driver.checkpoints.drop_damaged`."""
        return drop_damaged(self.out_uri)


def open_training(
    *,
    out_uri: str,
    config: TrainConfig,
    vocabulary: Vocabulary,
    train_shards: Sequence[InputShard],
    validation_shards: Sequence[InputShard],
) -> TrainingRun:
    """Describe a run; check that its folder is empty or belongs to the same run. Writes nothing; see `claim`.

    Raises:
        RunConflictError: The folder belongs to another run; the message names the differences.
        ValueError: A shard serves both training and validation.
    """
    shared = sorted({shard.uri for shard in train_shards} & {shard.uri for shard in validation_shards})
    if shared:
        raise ValueError(f"shard '{shared[0]}' is among the training and the validation shards; choose one")
    identity = {
        "kind": "training",
        "format_version": TRAINING_FORMAT_VERSION,
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
            f"'{out_uri}' has checkpoints but no {TRAIN_FILE} with the identity of their run; use another --out"
        )
    return run


def claim(run: TrainingRun) -> None:
    """Write `train.json`, unless this run has already written it.

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
        raise RunConflictError(f"'{uri}' is not the record of a training run: {error}; use another --out") from error
    if existing.get("fingerprint") != run.fingerprint:
        before, now = existing.get("library_version"), get_library_version()
        # A record of another format always names its version: that one can continue the run, whatever else differs.
        is_foreign = before != now or existing.get("format_version") != TRAINING_FORMAT_VERSION
        other = f" (started by version {before}, this is {now})" if is_foreign else ""
        changes = "; ".join(_list_run_changes(existing, run.identity))
        raise RunConflictError(
            f"'{run.out_uri}' belongs to another training run{other}: {changes}; run the same command as before, or "
            "use another --out"
        )


def _list_run_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Describe the first changes between the identities of two runs; entries that `after` lacks do not count."""
    changes = list_changes({name: value for name, value in before.items() if name in after}, after)
    # First what no option can undo.
    changes.sort(key=lambda change: not change.startswith("format_version "))
    num_more = len(changes) - MAX_CHANGES
    return changes if num_more <= 0 else [*changes[:MAX_CHANGES], f"and {num_more} more fields"]


def _describe_shards(shards: Sequence[InputShard]) -> dict[str, str]:
    return {shard.uri: f"{shard.size_bytes} bytes, etag {shard.etag}" for shard in shards}


def read_surveys(run: TrainingRun) -> dict[str, Survey] | None:
    """Read the surveys of an earlier attempt, by split; None if there are none.

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
    """Write the surveys, by split, for later attempts."""
    fields = {split: survey.describe() for split, survey in surveys.items()}
    put_atomic(join_uri(run.out_uri, SURVEY_FILE), to_canonical_json(fields).encode())

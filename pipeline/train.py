"""The assembly of training: survey -> network -> Ray Train over streams of images -> bundle.

Ray Train resumes by itself: same storage path and name, newest registered checkpoint.
"""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from models.bundle import ModelBundle
from pipeline.bundles import BUNDLE_FILES, save_bundle
from pipeline.errors import TrainingError
from pipeline.run.identity import get_library_version
from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.storage.storage import exists, join_uri
from pipeline.training.config import WorkerConfig, describe_train_config
from pipeline.training.data.feed import SampleSet
from pipeline.training.data.survey import Survey, survey_splits
from pipeline.training.driver.log import MetricLog
from pipeline.training.driver.run import (
    CHECKPOINT_FOLDER,
    TrainingRun,
    claim,
    read_place,
    read_surveys,
    write_surveys,
)
from pipeline.training.events import EpochRecord, NonFiniteLoss, Resumed, post_event, relay_events, start_event_box
from pipeline.training.worker.loop import LoopSettings, train_on_worker
from pipeline.training.worker.network import InitialModel
from pipeline.training.worker.state import load_state

LIBRARIES = ("torch", "torchvision", "timm", "ray", "numpy", "pillow")
"""Whose versions a bundle remembers."""
MOST_NAMED_KEYS = 8
DATA_CPUS = 1.25
"""A task that reads and one that decodes, at least."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What a finished run came to."""

    history: list[EpochRecord]
    """One record an epoch, those of earlier attempts included."""
    best_epoch: int
    """From 1: the one whose weights were saved."""
    rule: str
    """By which it was chosen, in words."""
    digest: str
    """Of the saved bundle."""


def is_finished(run: TrainingRun) -> bool:
    """Tell whether the trained model is there."""
    return exists(join_uri(run.bundle_uri, BUNDLE_FILES[-1]))


def survey_run(run: TrainingRun) -> dict[str, Survey]:
    """Count what the shards hold, or take the counts of an earlier attempt. Needs a connected Ray.

    Raises:
        ShardError: A shard cannot be read.
        RunConflictError: Another run has taken the folder meanwhile.
        ValueError: There is nothing to train on: no sample has a tag of the vocabulary.
    """
    surveys = read_surveys(run)
    if surveys is None:
        surveys = survey_splits(run.train_shards, run.validation_shards, run.vocabulary, run.config.inputs)
        _require_usable(surveys["train"], run)
        # Only now: a mistake in the command should not bind the folder to it.
        claim(run)
        write_surveys(run, surveys)
    return surveys


def _require_usable(train: Survey, run: TrainingRun) -> None:
    if train.num_usable:
        return
    unknown = ", ".join(tag for tag, _ in train.unknown_tags.most_common(MOST_NAMED_KEYS)) or "none"
    reasons = ", ".join(f"{reason} {number}" for reason, number in train.unusable.most_common()) or "no samples"
    raise ValueError(
        f"none of the {train.num_samples} training samples can be used ({reasons}); their most frequent tags: "
        f"{unknown}; the vocabulary knows {', '.join(run.vocabulary.classes)}; give one that fits these shards"
    )


def fit(
    run: TrainingRun,
    initial: InitialModel,
    surveys: dict[str, Survey],
    workers: WorkerConfig,
    on_event: Callable[[object], None],
) -> TrainingOutcome:
    """Train to the last epoch and save the bundle of the best one.

    The figures are kept beside the checkpoints; see `pipeline.training.driver.log`.

    Args:
        run: What is trained.
        initial: The network before its first step.
        surveys: Of the splits.
        workers: Where it computes.
        on_event: Called in a thread of its own with each event of `pipeline.training.events`.

    Raises:
        TrainingError: The loss is no longer a number.
        ray.train.TrainingFailedError: Workers failed more often than allowed, without a new checkpoint in between.
    """
    box = start_event_box()
    shards = {"train": run.train_shards, "validation": run.validation_shards}
    splits = {
        split: SampleSet(shards=shards[split], usable_per_shard=survey.usable_per_shard)
        for split, survey in surveys.items()
        if survey.num_usable
    }
    class_ids = range(1, len(run.vocabulary.classes) + 1)
    settings = LoopSettings(
        config=run.config,
        workers=workers,
        network=initial.network.config,
        vocabulary=run.vocabulary,
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        images_per_class=tuple(surveys["train"].images_per_class[class_id] for class_id in class_ids),
        splits=ray.put(splits),
        initial_state=ray.put(initial.network.state_dict()),
        box=box,
        post=partial(post_event, box),
    )
    recorder = EventRecorder(MetricLog(run.out_uri, run.out_uri, surveys["train"].num_usable), on_event)
    with relay_events(box, recorder):
        outcome = _train(run.out_uri, settings)
    recorder.log.flush()
    if recorder.failure is not None:
        raise TrainingError(describe_failure(recorder.failure))
    return _finish(run, initial, surveys, outcome)


def _train(out_uri: str, settings: LoopSettings) -> Result:
    """Train until it is over, or until workers fail too often without a new checkpoint.

    Ray Train counts failures from the start of a run: nodes that come and go would end a long one, however well it
    does. What has failed too often is therefore started again as long as it has come further than the time before.
    """
    filesystem, folder = open_for_ray(out_uri)
    while True:
        trainer = TorchTrainer(
            train_on_worker,
            train_loop_config={"settings": settings},
            scaling_config=_scale(settings.workers),
            run_config=RunConfig(
                name=CHECKPOINT_FOLDER,
                storage_path=folder,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=settings.workers.max_failures),
                # The best one; the latest is kept besides.
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order="max"
                ),
            ),
        )
        place = read_place(out_uri)
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError:
            if read_place(out_uri) <= place:
                raise


def find_shortage(workers: WorkerConfig, num_slots: float, num_gpus: float) -> str | None:
    """Say what keeps workers from starting, or from getting images, in a cluster as it is now; None: all is well.

    Of a range of workers as many start as fit, and what they take, reading and decoding cannot have.

    Args:
        workers: Each takes a CPU slot, or as many as it is given, and GPUs if it asks for them.
        num_slots: CPU slots of the cluster.
        num_gpus: GPUs of the cluster.
    """
    least = workers.min_workers or workers.num_workers
    fitting = num_slots / workers.cpus_per_worker
    if workers.gpus_per_worker:
        num_wanted = least * workers.gpus_per_worker
        if num_gpus < num_wanted:
            return (
                f"the cluster has {num_gpus:g} GPUs and {_count_workers(least)} of {workers.gpus_per_worker:g} each "
                f"want {num_wanted:g}, so training waits until they join; give fewer --workers, a larger cluster, or "
                "--gpus-per-worker 0 to train on CPUs"
            )
        fitting = min(fitting, num_gpus / workers.gpus_per_worker)
    num_starting = max(least, min(workers.num_workers, math.floor(fitting)))
    if num_slots >= num_starting * workers.cpus_per_worker + DATA_CPUS:
        return None
    return (
        f"the cluster has {num_slots:g} CPU slots: {_count_workers(num_starting)} would leave none to read and decode "
        "images, and training waits until there is one; give fewer --workers or a larger cluster"
    )


def _count_workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


class EventRecorder:
    """Keeps the records among the events of a run, and why it stopped; hands all of them on."""

    def __init__(self, log: MetricLog, on_event: Callable[[object], None]) -> None:
        """Keep records in a log."""
        self.log = log
        self.failure: NonFiniteLoss | None = None
        self._on_event = on_event

    def __call__(self, event: object) -> None:
        """Take an event."""
        if isinstance(event, dict):
            self.log.add(event)
        elif isinstance(event, NonFiniteLoss):
            self.failure = event
        elif isinstance(event, Resumed):
            self.log.go_back(event.position, event.records)
        self._on_event(event)


def describe_failure(failure: NonFiniteLoss) -> str:
    """Say which images went with a loss that is no number, and what to do."""
    named = ", ".join(f"'{key}'" for key in failure.keys[:MOST_NAMED_KEYS])
    more = f" and {len(failure.keys) - MOST_NAMED_KEYS} more" if len(failure.keys) > MOST_NAMED_KEYS else ""
    what = "gradient of the loss" if failure.is_gradient else "loss"
    return (
        f"the {what} is not finite in epoch {failure.epoch}, step {failure.step}; images of the batch: {named}{more}; "
        "lower base_lr or set clip_norm, and give another --out"
    )


def _scale(workers: WorkerConfig) -> ScalingConfig:
    resources = {"CPU": workers.cpus_per_worker}
    if workers.gpus_per_worker:
        resources["GPU"] = workers.gpus_per_worker
    is_elastic = workers.min_workers not in (None, workers.num_workers)
    # The type checker sees Train V1's class, at run time it is V2's.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=cast(int, (workers.min_workers, workers.num_workers)) if is_elastic else workers.num_workers,
        use_gpu=workers.gpus_per_worker > 0,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=workers.resize_interval_s,
    )


def _finish(run: TrainingRun, initial: InitialModel, surveys: Mapping[str, Survey], outcome: Result) -> TrainingOutcome:
    """Turn the best checkpoint into the bundle."""
    num_epochs = run.config.optimizer.epochs
    latest = None if outcome.checkpoint is None else load_state(outcome.checkpoint, device="cpu")
    history = latest.progress.history if latest else []
    if latest is None or len(history) < num_epochs:
        raise TrainingError(
            f"training ended in epoch {len(history) + 1} of {num_epochs}; give the same command again to go on"
        )
    checkpoints = {metrics["epoch"]: checkpoint for checkpoint, metrics in outcome.best_checkpoints or ()}
    checkpoints = {epoch: checkpoints[epoch] for epoch in checkpoints if 1 <= epoch <= num_epochs}
    best_epoch = max(checkpoints, key=lambda epoch: (history[epoch - 1]["score"], epoch), default=num_epochs)
    best = load_state(checkpoints[best_epoch], device="cpu") if checkpoints else latest
    initial.network.load_state_dict(best.best_weights)
    rule = describe_rule(history)
    bundle = ModelBundle(
        config=initial.network.config,
        class_names=tuple(run.vocabulary.classes),
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        backbone=run.config.model.backbone,
        recipe=describe_train_config(run.config),
        metrics={"best": history[best_epoch - 1], "rule": rule, "history": history},
        library_version=get_library_version(),
        provenance=describe_provenance(run, surveys),
    )
    digest = save_bundle(run.bundle_uri, initial.network.eval(), bundle)
    return TrainingOutcome(history=history, best_epoch=best_epoch, rule=rule, digest=digest)


def describe_rule(history: Sequence[EpochRecord]) -> str:
    """Say by which rule the best epoch of a run was chosen.

    See `pipeline.training.events.compute_score`.
    """
    if not any(record["validation"] for record in history):
        return "the last, as there is no validation"
    heads = "class and patch scores" if any(record["patch_validation"] for record in history) else "class scores"
    return f"highest mean average precision of {heads} on the validation images; of equals the later"


def describe_provenance(run: TrainingRun, surveys: Mapping[str, Survey]) -> dict[str, Any]:
    """Say of what data and with which libraries a model was made."""
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "run_fingerprint": run.fingerprint,
        "data_fingerprint": run.data_fingerprint,
        "data": {
            split: {"num_samples": survey.num_samples, "num_usable": survey.num_usable}
            for split, survey in surveys.items()
        },
        "versions": {"python": platform.python_version(), **versions},
    }

"""The assembly of training: survey -> network -> Ray Train over a stream of images -> bundle.

Ray Train resumes by itself: same storage path and name, newest registered checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from models.bundle import ModelBundle
from pipeline.bundles import BUNDLE_FILES, save_bundle
from pipeline.errors import TrainingError
from pipeline.run import get_library_version
from pipeline.storage import exists, join_uri
from pipeline.training_config import WorkerConfig, describe_train_config
from pipeline.training_data import SplitForTraining, make_dataset
from pipeline.training_events import EpochRecord, post_event, relay_events, start_event_box
from pipeline.training_loop import LoopSettings, count_steps, load_state, train_on_worker
from pipeline.training_model import InitialModel
from pipeline.training_run import CHECKPOINT_FOLDER, TrainingRun, get_storage_path, read_surveys, write_surveys
from pipeline.training_survey import Survey, survey_on_ray

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What a finished run came to."""

    history: list[EpochRecord]
    """One record an epoch, those of earlier attempts included."""
    digest: str
    """Of the saved bundle."""


def is_finished(run: TrainingRun) -> bool:
    """Tell whether the trained model is there."""
    return exists(join_uri(run.bundle_uri, BUNDLE_FILES[-1]))


def survey_run(run: TrainingRun) -> dict[str, Survey]:
    """Count what the shards hold, or take the counts of an earlier attempt. Needs a connected Ray.

    Raises:
        ShardError: A shard cannot be read.
    """
    surveys = read_surveys(run)
    if surveys is None:
        inputs = run.config.inputs
        surveys = {
            "train": survey_on_ray(run.train_shards, run.vocabulary, inputs),
            "validation": survey_on_ray(run.validation_shards, run.vocabulary, inputs),
        }
        write_surveys(run, surveys)
    return surveys


def fit(
    run: TrainingRun,
    initial: InitialModel,
    num_images: int,
    workers: WorkerConfig,
    on_event: Callable[[object], None],
) -> TrainingOutcome:
    """Train to the last epoch and save the bundle.

    Args:
        num_images: Usable training images.
        on_event: Called in a thread of its own with each StepProgress, EpochRecord and RejectedImage.

    Raises:
        TrainingError: The loss is no longer a number.
        ray.train.TrainingFailedError: Workers failed more often than allowed.
    """
    count_steps(num_images, run.config.optimizer.batch_size, workers.num_workers)
    box = start_event_box()
    settings = LoopSettings(
        config=run.config,
        network=initial.network.config,
        class_names=tuple(run.vocabulary.classes),
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        num_images=num_images,
        has_validation=bool(run.validation_shards),
        initial_state=ray.put(initial.network.state_dict()),
        post=partial(post_event, box),
    )
    splits = ("train", "validation") if run.validation_shards else ("train",)
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"settings": settings},
        scaling_config=_scale(workers),
        run_config=RunConfig(
            name=CHECKPOINT_FOLDER,
            storage_path=get_storage_path(run.out_uri),
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
        datasets={split: partial(make_dataset, run, split, box) for split in splits},
        dataset_config=SplitForTraining(),
    )
    with relay_events(box, on_event):
        outcome = trainer.fit()
    return _finish(run, initial, outcome.checkpoint)


def _scale(workers: WorkerConfig) -> ScalingConfig:
    resources = {"CPU": 1.0}
    if workers.gpus_per_worker:
        resources["GPU"] = workers.gpus_per_worker
    return ScalingConfig(
        num_workers=workers.num_workers, use_gpu=workers.gpus_per_worker > 0, resources_per_worker=resources
    )


def _finish(run: TrainingRun, initial: InitialModel, checkpoint: ray.train.Checkpoint | None) -> TrainingOutcome:
    """Turn the last checkpoint into the bundle."""
    num_epochs = run.config.optimizer.epochs
    state: dict[str, Any] = {"next_epoch": 0} if checkpoint is None else load_state(checkpoint, device="cpu")
    if state["next_epoch"] < num_epochs:
        raise TrainingError(
            f"training stopped in epoch {state['next_epoch'] + 1} of {num_epochs}: its loss is not finite; "
            "lower base_lr or set clip_norm, and give another --out"
        )
    history: list[EpochRecord] = state["history"]
    initial.network.load_state_dict(state["network"])
    bundle = ModelBundle(
        config=initial.network.config,
        class_names=tuple(run.vocabulary.classes),
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        backbone=run.config.model.backbone,
        recipe=describe_train_config(run.config),
        metrics={"last": history[-1], "history": history},
        library_version=get_library_version(),
    )
    return TrainingOutcome(history=history, digest=save_bundle(run.bundle_uri, initial.network.eval(), bundle))

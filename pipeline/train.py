"""Training: data flow and assembly; image tags in, a bundle out.

shards -> survey               training/data/     counts samples and tags; keeps the usable ones of each shard
config -> network              training/worker/   random weights, or those of a timm backbone
network -> workers             training/driver/   Ray Train starts them, replaces lost ones, resumes
shards -> stream of images     training/data/     order of an epoch -> samples -> augmented images -> batches
batch -> new weights           training/worker/   forward, loss of the tags, backward, AdamW; validation
weights -> checkpoints         training/worker/   after each epoch and every few hundred steps
events -> figures              training/driver/   metrics.jsonl, TensorBoard, a page with curves
best checkpoint -> bundle      training/driver/   the model that labelling reads
"""

from collections.abc import Callable
from functools import partial

import ray

from pipeline.bundles import BUNDLE_FILES
from pipeline.errors import TrainingError
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from pipeline.training.config import WorkerConfig
from pipeline.training.data.feed import select_samples
from pipeline.training.data.survey import Survey, require_usable, survey_splits
from pipeline.training.driver.log import MetricLog
from pipeline.training.driver.outcome import TrainingOutcome, save_outcome
from pipeline.training.driver.recorder import EventRecorder, describe_failure
from pipeline.training.driver.run import TrainingRun, claim, read_surveys, write_surveys
from pipeline.training.driver.trainer import run_workers
from pipeline.training.events import Event, post_event, relay_events, start_event_box
from pipeline.training.worker.loop import LoopSettings
from pipeline.training.worker.network import InitialModel


def is_finished(run: TrainingRun) -> bool:
    """Whether the run has its bundle."""
    return exists(join_uri(run.bundle_uri, BUNDLE_FILES[-1]))


def survey_run(run: TrainingRun) -> dict[str, Survey]:
    """Survey the shards by split, or read the surveys of an earlier attempt. Needs a connected Ray.

    Raises:
        ShardError: A shard cannot be read.
        RunConflictError: Another run has claimed the folder since it was opened.
        ValueError: No sample has a tag of the vocabulary.
    """
    surveys = read_surveys(run)
    if surveys is None:
        surveys = survey_splits(run.train_shards, run.validation_shards, run.vocabulary, run.config.inputs)
        require_usable(surveys["train"], run.vocabulary)
        # After the check: a wrong command does not claim the folder.
        claim(run)
        write_surveys(run, surveys)
    return surveys


def fit(
    run: TrainingRun,
    initial: InitialModel,
    surveys: dict[str, Survey],
    workers: WorkerConfig,
    on_event: Callable[[Event], None],
) -> TrainingOutcome:
    """Train to the last epoch and save the weights of the best one; resumes from the newest checkpoint.

    Args:
        run: Configuration, shards and output folder.
        initial: Network before its first step. Built by `pipeline.training.worker.network.build_initial_model`.
        surveys: Of the splits, from `survey_run`.
        workers: Number and resources of the training processes.
        on_event: Called with each event, in another thread.

    Raises:
        TrainingError: The loss is not finite.
        ray.train.TrainingFailedError: Workers failed `max_failures` times without a new checkpoint.
    """
    box = start_event_box()
    shards = {"train": run.train_shards, "validation": run.validation_shards}

    settings = LoopSettings(
        config=run.config,
        workers=workers,
        network=initial.network.config,
        vocabulary=run.vocabulary,
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        images_per_class=surveys["train"].list_images_per_class(len(run.vocabulary.classes)),
        splits=ray.put(select_samples(shards, surveys)),
        initial_state=ray.put(initial.network.state_dict()),
        box=box,
        post=partial(post_event, box),
    )
    recorder = EventRecorder(MetricLog(run.out_uri, run.out_uri, surveys["train"].num_usable), on_event)
    with relay_events(box, recorder):
        result = run_workers(run.out_uri, settings)
    recorder.log.flush()
    if recorder.failure is not None:
        raise TrainingError(describe_failure(recorder.failure))
    return save_outcome(run, initial, surveys, result)

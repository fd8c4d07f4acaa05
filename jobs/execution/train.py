"""Train: check the inputs, survey the shards, fit, and print how it goes."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace

import ray.exceptions
import ray.train

from jobs.arguments.train import TrainJob
from jobs.cluster.actor_count import ClusterSize, choose_gpus, measure_cluster
from jobs.cluster.connection import connect
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_FAILED, EXIT_OK, print_config, print_lines
from jobs.display.training import EventPrinter, print_surveys, warn
from pipeline.bundles import load_bundle
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.errors import TrainingError
from pipeline.inputs.first_look import look_at_tags
from pipeline.inputs.patterns.first_bytes import require_archives
from pipeline.inputs.tag_join import settle_tags_table
from pipeline.run.class_names import settle_inputs
from pipeline.run.records import INDEX_FOLDER, InputShard
from pipeline.run.vocabulary import load_vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from pipeline.train import fit, is_finished, survey_run
from pipeline.training.config import WorkerConfig
from pipeline.training.driver.resources import find_shortage
from pipeline.training.driver.run import TRAIN_FILE, TrainingRun, open_training
from pipeline.training.worker.network import InitialModel, build_initial_model
from pipeline.workers.ray_failures import describe_ray_failure

DATA_SLOTS = 2
"""CPU slots of a local Ray that training workers cannot take, so that reading and decoding always go on."""


def train(job: TrainJob) -> int:
    """Train and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    run, initial = _open(job)
    if is_finished(run):
        _, bundle, digest = load_bundle(run.bundle_uri)
        history = bundle.metrics.get("history")
        num_epochs = len(history) if isinstance(history, list) else 0
        print_lines(f"nothing to do: this run is finished after {num_epochs} epochs")
        print_lines(f"model: {run.bundle_uri}  digest {digest}")
        return EXIT_OK
    num_taken = math.ceil(job.count_workers()[1] * job.execution.cpus_per_worker)
    connect(job.cluster.address, num_cpus=max(os.cpu_count() or 1, num_taken + DATA_SLOTS))
    workers = _choose_workers(job, measure_cluster())
    surveys = survey_run(run)
    print_surveys(surveys, run.vocabulary.classes)
    num_images = surveys["train"].num_usable
    num_steps = -(-num_images // job.config.optimizer.batch_size)
    num_epochs = job.config.optimizer.epochs
    for warning in run.drop_damaged():
        warn(warning)
    num_done, num_seen = run.read_place()
    within = f" and {num_seen} images of the next" if num_seen else ""
    start = f"resuming after epoch {num_done}{within}" if num_done or num_seen else "starting"
    print_lines(f"{start}: {num_epochs} epochs of about {num_steps} steps")
    printer = EventPrinter(num_epochs, run.vocabulary.classes)
    try:
        outcome = fit(run, initial, surveys, workers, printer)
    except TrainingError as error:
        print_lines(f"error: training failed: {error}", to_stderr=True)
        return EXIT_FAILED
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        print_lines(f"error: training failed: {describe_ray_failure(error)}", to_stderr=True)
        print_lines("run the same command again to go on from the last checkpoint", to_stderr=True)
        return EXIT_FAILED
    printer.print_summary(outcome)
    print_lines(f"model: {run.bundle_uri}  digest {outcome.digest}")
    return EXIT_OK


def _open(job: TrainJob) -> tuple[TrainingRun, InitialModel]:
    """Read the inputs and check them all before the output folder gets an identity that a mistake would keep."""
    vocabulary = load_vocabulary(job.vocabulary)
    config = replace(job.config, inputs=settle_tags_table(settle_inputs(job.config.inputs, vocabulary)))
    is_begun = exists(join_uri(job.out, TRAIN_FILE))

    def find(patterns: Sequence[str], folder: str) -> tuple[InputShard, ...]:
        index = IndexPlace(join_uri(job.out, INDEX_FOLDER, folder), is_begun=is_begun)
        return find_inputs(patterns, config.inputs, index, print_lines, warn)

    train_shards = find(job.shards, "train")
    validation_shards = find(job.val_shards, "validation") if job.val_shards else ()
    if not is_begun:
        for shards in (train_shards, validation_shards):
            require_archives(shards, warn)
            for warning in look_at_tags(shards, config.inputs, vocabulary):
                warn(warning)
    facts = {
        "recipe": job.recipe,
        "out": job.out,
        "classes": list(vocabulary.classes),
        "train_shards": len(train_shards),
        "validation_shards": len(validation_shards),
        "num_workers": job.count_workers()[1],
        "gpus_per_worker": job.gpus_per_worker,
    }
    print_config(facts, config)
    initial = build_initial_model(config.model, vocabulary.classes, config.rng_seed)
    print_lines(*initial.notes)
    run = open_training(
        out_uri=job.out,
        config=config,
        vocabulary=vocabulary,
        train_shards=train_shards,
        validation_shards=validation_shards,
    )
    return run, initial


def _choose_workers(job: TrainJob, size: ClusterSize) -> WorkerConfig:
    """Assign a GPU to each worker if there are enough, unless the options set it; warn if some are missing."""
    least, most = job.count_workers()
    num_gpus = choose_gpus(job.gpus_per_worker, size, num_workers=least)
    if job.gpus_per_worker == "auto":
        print_lines(f"training on {'GPUs' if num_gpus else 'CPUs'}: the cluster has {size.num_gpus:g} GPUs")
    workers = WorkerConfig(
        **vars(job.execution),
        num_workers=most,
        min_workers=least if least < most else None,
        gpus_per_worker=num_gpus,
    )
    if shortage := find_shortage(workers, size.num_cpus, size.num_gpus):
        warn(shortage)
    return workers

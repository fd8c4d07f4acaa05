"""Train a model on tagged image shards: `python -m jobs.train --recipe v2 --shards ... --vocabulary ... --out OUT`.

    python -m jobs.train --recipe v2 --shards 'train-{00000..00009}.tar' --val-shards train-00010.tar \\
        --vocabulary vocabulary.json --out OUT --workers 2

`--workers 8:64` trains with as many as there are, 8 at least: the run goes on when nodes come and go.
The recipe gives the defaults of all other options. Options of the inputs may be written as in jobs.label, say
`--inputs.tags-field caption`. Run the same command again to go on after any interruption,
from the last checkpoint; a finished run only says so. Beside the checkpoints are metrics.jsonl, TensorBoard's events
and training.html. The model of the best epoch is in OUT/bundle when the exit code is 0.
Exit code 1: the training failed; 2: the command or its inputs are wrong.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import ray.exceptions
import ray.train
import tyro

from jobs.cluster import connect, use_endpoint
from jobs.console import EXIT_FAILED, EXIT_OK, peek, print_config, print_lines, refuse_passwords, run_job
from jobs.recipes import RECIPES
from jobs.train_output import EventPrinter, print_surveys, warn
from pipeline.bundles import load_bundle
from pipeline.errors import TrainingError
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.vocabulary import load_vocabulary
from pipeline.train import find_shortage, fit, is_finished, survey_run
from pipeline.training.config import TrainConfig, WorkerConfig
from pipeline.training.driver.run import TrainingRun, open_training
from pipeline.training.worker.network import InitialModel, build_initial_model
from pipeline.workers.ray_failures import describe_ray_failure

DATA_SLOTS = 2
"""CPU slots of a local Ray that training workers cannot take, so that reading and decoding always go on."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train a model on tagged image shards. Run the same command again to resume."""

    recipe: Literal["v1", "v2", "plus", "seeded", "demo"]
    """Which complete configuration to start from; see jobs/recipes.py."""
    shards: tuple[str, ...]
    """Training shards, WebDataset tars or Parquet files: paths or URIs, globs, {00000..00099} ranges, folders."""
    vocabulary: str
    """Vocabulary file (JSON or YAML): classes in the model's order, and their aliases."""
    out: str
    """Output folder or URI: checkpoints, and the model in OUT/bundle."""
    val_shards: tuple[str, ...] = ()
    """Shards kept aside for average precision; none: no validation."""
    address: str | None = None
    """Ray cluster to use. Default: the one that this job runs on, else a local one."""
    endpoint_url: str | None = None
    """Address of an S3-compatible store. Default: AWS_ENDPOINT_URL, else AWS. Credentials come from the usual chain."""
    workers: WorkerConfig
    config: TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_job(lambda: train(parse_command(sys.argv[1:] if arguments is None else arguments)))


def parse_command(arguments: Sequence[str]) -> TrainJob:
    """Parse the recipe first, then everything with the recipe's values as defaults.

    Raises:
        ValueError: An argument is a URI with a password in it.
    """
    refuse_passwords(arguments)
    arguments = shorten_inputs(expand_workers(arguments))
    recipe: Any = peek(arguments, "--recipe")
    default = TrainJob(
        recipe=recipe if recipe in RECIPES else tyro.MISSING,
        shards=tyro.MISSING,
        vocabulary=tyro.MISSING,
        out=tyro.MISSING,
        workers=WorkerConfig(),
        config=RECIPES[recipe]() if recipe in RECIPES else TrainConfig(),
    )
    return tyro.cli(
        TrainJob,
        args=arguments,
        prog="python -m jobs.train",
        description=__doc__,
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues),
    )


def expand_workers(arguments: Sequence[str]) -> list[str]:
    """Write `--workers 64` and the range `--workers 8:64` as the options that they stand for.

    >>> expand_workers(["--workers", "8:64", "--epochs", "3"])
    ['--min-workers', '8', '--num-workers', '64', '--epochs', '3']
    """
    expanded: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if name != "--workers":
            expanded.append(word)
            continue
        least, _, most = (value or next(words, "")).rpartition(":")
        expanded += [*(["--min-workers", least] if least else []), "--num-workers", most]
    return expanded


def shorten_inputs(arguments: Sequence[str]) -> list[str]:
    """Write `--inputs.tags-field`, as jobs.label calls it, by the short name that it has here.

    >>> shorten_inputs(["--inputs.tags-field", "caption", "--inputs.max_chunk_samples=8", "--inputs.epochs", "3"])
    ['--tags-field', 'caption', '--max_chunk_samples=8', '--inputs.epochs', '3']
    """
    names = {field.name for field in fields(InputConfig)}
    shortened: list[str] = []
    for word in arguments:
        prefix, _, short = word.partition("--inputs.")
        is_input = not prefix and short.partition("=")[0].replace("-", "_") in names
        shortened.append(f"--{short}" if is_input else word)
    return shortened


def train(job: TrainJob) -> int:
    """Train as the job says and return the exit code."""
    use_endpoint(job.endpoint_url)
    run, initial = _open(job)
    if is_finished(run):
        _, bundle, digest = load_bundle(run.bundle_uri)
        history = bundle.metrics.get("history")
        num_epochs = len(history) if isinstance(history, list) else 0
        print_lines(f"nothing to do: this run is finished after {num_epochs} epochs")
        print_lines(f"model: {run.bundle_uri}  digest {digest}")
        return EXIT_OK
    num_taken = math.ceil(job.workers.num_workers * job.workers.cpus_per_worker)
    connect(job.address, num_cpus=max(os.cpu_count() or 1, num_taken + DATA_SLOTS))
    resources = ray.cluster_resources()
    shortage = find_shortage(job.workers, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    if shortage:
        warn(shortage)
    surveys = survey_run(run)
    print_surveys(surveys, run.vocabulary.classes)
    num_images = surveys["train"].num_usable
    num_steps = -(-num_images // job.config.optimizer.batch_size)
    num_epochs = job.config.optimizer.epochs
    num_done, num_seen = run.read_place()
    within = f" and {num_seen} images of the next" if num_seen else ""
    start = f"resuming after epoch {num_done}{within}" if num_done or num_seen else "starting"
    print_lines(f"{start}: {num_epochs} epochs of about {num_steps} steps")
    printer = EventPrinter(num_epochs, run.vocabulary.classes)
    try:
        outcome = fit(run, initial, surveys, job.workers, printer)
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
    train_shards = list_shards(job.shards)
    validation_shards = list_shards(job.val_shards) if job.val_shards else ()
    facts = {
        "recipe": job.recipe,
        "out": job.out,
        "classes": list(vocabulary.classes),
        "train_shards": len(train_shards),
        "validation_shards": len(validation_shards),
        "num_workers": job.workers.num_workers,
        "gpus_per_worker": job.workers.gpus_per_worker,
    }
    print_config(facts, job.config)
    initial = build_initial_model(job.config.model, vocabulary.classes, job.config.rng_seed)
    run = open_training(
        out_uri=job.out,
        config=job.config,
        vocabulary=vocabulary,
        train_shards=train_shards,
        validation_shards=validation_shards,
    )
    return run, initial


if __name__ == "__main__":
    sys.exit(main())

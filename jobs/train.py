"""Train a model on tagged image shards.

    tagmask train --recipe v2 --shards 'train-{00000..00009}.tar' --val-shards train-00010.tar \\
        --vocabulary vocabulary.json --out OUT --workers 2

`--workers 8:64` trains with as many as there are, 8 at least: the run continues when nodes come and go. The recipe sets
the defaults of all other options. Options of the inputs may be written as in tagmask label, such as
`--inputs.tags-field caption`. Run the same command again to resume from the last checkpoint; a finished run has
nothing to do. Beside the checkpoints are metrics.jsonl, TensorBoard's events and training.html. The model of the best
epoch is in OUT/bundle when the exit code is 0.
Exit code 1: the training failed; 2: the command or its inputs are wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import tyro

from jobs.arguments.train import TrainJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse, peek
from jobs.recipes import RECIPES
from pipeline.run.config import InputConfig
from pipeline.training.config import TrainConfig

BASIC = frozenset(
    {
        *("recipe", "shards", "vocabulary", "out", "val_shards", "workers", "gpus_per_worker", "address"),
        *("endpoint_url", "variant", "backbone", "backbone_weights", "image_size", "epochs", "batch_size", "base_lr"),
        *("tags_field", "image_column", "key_column", "image_root", "allow_url", "rng_seed"),
    }
)
RENAMED = {"--num-workers": "--workers"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_job(lambda: _run(parse_command(sys.argv[1:] if arguments is None else arguments)))


def _run(job: TrainJob) -> int:
    # PyTorch and Ray take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.train import train

    return train(job)


def parse_command(arguments: Sequence[str]) -> TrainJob:
    """Parse the recipe first, then everything with the recipe's values as defaults.

    Raises:
        ValueError: An argument is a URI with a password in it.
    """
    arguments = shorten_inputs(join_workers(arguments))
    recipe: Any = peek(arguments, "--recipe")
    default = TrainJob(
        recipe=recipe if recipe in RECIPES else tyro.MISSING,
        shards=tyro.MISSING,
        vocabulary=tyro.MISSING,
        out=tyro.MISSING,
        config=RECIPES[recipe]() if recipe in RECIPES else TrainConfig(),
    )
    usage = Usage(command="train", description=__doc__, basic=BASIC, renamed=RENAMED)
    return parse(TrainJob, usage, arguments, default)


def join_workers(arguments: Sequence[str]) -> list[str]:
    """Write `--min-workers 8 --num-workers 64`, the names of old, as the range that `--num-workers` takes.

    >>> join_workers(["--min-workers", "8", "--num-workers=64", "--epochs", "3"])
    ['--epochs', '3', '--num-workers', '8:64']
    """
    old = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    old.add_argument("--min-workers", "--min_workers")
    old.add_argument("--num-workers", "--num_workers", "--workers", default="1")
    found, rest = old.parse_known_args(arguments)
    return (
        list(arguments)
        if found.min_workers is None
        else [*rest, "--num-workers", f"{found.min_workers}:{found.num_workers}"]
    )


def shorten_inputs(arguments: Sequence[str]) -> list[str]:
    """Write `--inputs.tags-field`, as tagmask label calls it, by the short name that it has here.

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


if __name__ == "__main__":
    leave(main())

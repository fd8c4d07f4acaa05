"""Label tagged image shards with masks.

    tagmask label --shards 's3://bucket/photos-{00000..00099}.tar' \\
        --vocabulary vocabulary.json --model s3://bucket/model --out s3://bucket/masks

Run the same command again to resume after any interruption: committed chunks are not labelled again, and a finished
run has nothing to do. --extend adds new shards, or the new images of a folder or table, to the run. Exit code 0: every
shard is published; 1: some shard is not; 2: the command or its inputs are wrong; 75: stopped by a signal, run the same
command again.
"""

from collections.abc import Sequence

import tyro

from jobs.arguments.label import LabelJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse, peek
from jobs.qualities import QUALITIES

BASIC = frozenset(
    {
        *("shards", "vocabulary", "model", "out", "calibration", "workers", "gpus_per_worker", "batch_size", "limit"),
        *("retry", "extend", "dry_run", "address", "endpoint_url", "log_format", "quality"),
        *("tags_field", "image_column", "key_column", "image_root", "allow_url"),
        *("background_threshold", "foreground_threshold", "keep_maps"),
    }
)
RENAMED = {
    "--num-actors": "--workers",
    "--gpus-per-actor": "--gpus-per-worker",
    "--cpus-per-actor": "--cpus-per-worker",
    "--no-progress-timeout": "--no-progress-timeout-s",
    "--store-outage": "--store-outage-s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse_command(arguments)))


def _run(job: LabelJob) -> int:
    # PyTorch and Ray take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.label import label

    return label(job)


def parse_command(arguments: Sequence[str] | None) -> LabelJob:
    """Parse the quality first, then everything with its values as defaults."""
    quality = peek(arguments, "--quality") or "balanced"
    default = LabelJob(
        shards=tyro.MISSING,
        vocabulary=tyro.MISSING,
        model=tyro.MISSING,
        out=tyro.MISSING,
        config=QUALITIES.get(quality, QUALITIES["balanced"])(),
    )
    usage = Usage(command="label", description=__doc__, basic=BASIC, renamed=RENAMED)
    return parse(LabelJob, usage, arguments, default)


if __name__ == "__main__":
    leave(main())

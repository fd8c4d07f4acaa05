"""Label tagged image shards with masks.

    tagmask label --shards 's3://bucket/photos-{00000..00099}.tar' \\
        --vocabulary vocabulary.json --model s3://bucket/model --out s3://bucket/masks

Run the same command again to go on after any interruption: what is committed is not done twice, and a
finished run only says so. Exit code 0: every shard is published; 1: some shard is not; 2: the command or
its inputs are wrong; 75: stopped by a signal, run the same command again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.console import leave, run_job
from jobs.command_line.options import ClusterOptions, Gpus, RunOptions, StoreOptions
from jobs.command_line.parsing import Usage, parse, peek
from jobs.qualities import QUALITIES
from pipeline.run.config import LabelConfig
from pipeline.run.options import ExecutionOptions

BASIC = frozenset(
    {
        *("shards", "vocabulary", "model", "out", "calibration", "workers", "gpus_per_worker", "batch_size", "limit"),
        *("retry", "dry_run", "address", "endpoint_url", "quality", "tags_field", "image_column", "key_column"),
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


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Label tagged image shards with masks. Run the same command again to resume."""

    shards: tuple[str, ...]
    """WebDataset tars or Parquet files: paths or URIs, globs, {00000..00099} ranges, or folders."""
    vocabulary: str
    """Vocabulary file (JSON or YAML): classes in the model's order, and their aliases."""
    model: str
    """Model bundle: the folder that tagmask train or tagmask import-checkpoint wrote."""
    out: str
    """Output folder or URI. Manifests appear in OUT/labels, one per shard."""
    calibration: str | None = None
    """File of tagmask calibrate that sets thresholds; made for the same model, views and evidence."""
    workers: int | None = None
    """Labelling workers. Default: as many as the cluster holds when the job starts."""
    gpus_per_worker: Gpus = "auto"
    """GPUs of a worker: auto (1 where the cluster has one or may come to have one, else 0), 1, a fraction to share
    one, 0 to label on CPUs."""
    cpus_per_worker: float = 1.0
    """CPUs of a worker; without GPU they run the model too."""
    execution: Annotated[ExecutionOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ExecutionOptions)
    retry: str | None = None
    """Label again what a finished run rejected: 'rejected', or 'rejected:too_large,crashed' for some reasons. The
    limit that rejected them may be raised in the same command; everything else stays as it was."""
    run: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)
    quality: Literal["fast", "balanced", "best"] = "balanced"
    """What better maps may cost; gives the defaults of the options below. See jobs/qualities.py."""
    config: Annotated[LabelConfig, tyro.conf.arg(name="")] = field(default_factory=QUALITIES["balanced"])


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

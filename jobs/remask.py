"""Make new masks and statistics of kept maps: other thresholds, or drawn to the edges of the images, without GPU.

    tagmask remask --labels s3://bucket/masks --out s3://bucket/masks-50 \\
        --maps.background-threshold 0.5 --maps.foreground-threshold 0.5

The run in --labels must have been made with --maps.keep-maps. What is not given stays as it was there. Images are read
again, from the shards that were labelled, where pixels refine the maps (--maps.pixel-refinement par, now or then); else
neither images nor model are needed. Run the same command again to go on after any interruption; with --extend it also
takes the shards that were published since. Exit codes are those of tagmask label.
"""

from collections.abc import Sequence

from jobs.arguments.remask import RemaskJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse

BASIC = frozenset(
    {
        *("labels", "out", "calibration", "background_threshold", "foreground_threshold", "has_background"),
        *("pixel_refinement", "limit", "extend", "dry_run", "address", "endpoint_url", "log_format"),
    }
)
RENAMED = {
    "--no-progress-timeout": "--no-progress-timeout-s",
    "--store-outage": "--store-outage-s",
    "--maps.has-background False": "--maps.no-has-background",
    "--maps.has-background True": "--maps.has-background",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    usage = Usage(command="remask", description=__doc__, basic=BASIC, renamed=RENAMED)
    return run_job(lambda: _run(parse(RemaskJob, usage, arguments)))


def _run(job: RemaskJob) -> int:
    # PyTorch and Ray take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.remask import remask

    return remask(job)


if __name__ == "__main__":
    leave(main())

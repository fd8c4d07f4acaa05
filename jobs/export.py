"""Export published masks and their images as a data set of other tools.

    tagmask export --labels s3://bucket/masks --out s3://bucket/dataset --format hf
    tagmask export --labels masks --out voc --format voc --best-fraction 0.5 --splits train=0.9,val=0.1

Images and masks are upright: photos that carry an EXIF orientation are turned and encoded again, others keep their
bytes. Run the same command again to go on after any interruption, or to add shards that were published since. Exit
codes are those of tagmask label.
"""

from collections.abc import Sequence

from jobs.arguments.export import ExportJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse

BASIC = frozenset(
    {
        *("labels", "out", "format", "min_quality", "best_fraction", "classes", "keys", "splits", "limit"),
        *("skip_missing", "dry_run", "address", "endpoint_url", "log_format"),
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    usage = Usage(command="export", description=__doc__, basic=BASIC)
    return run_job(lambda: _run(parse(ExportJob, usage, arguments)))


def _run(job: ExportJob) -> int:
    # Ray takes seconds, which a wrong command or --help does not wait for.
    from jobs.execution.export import export

    return export(job)


if __name__ == "__main__":
    leave(main())

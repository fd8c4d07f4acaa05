"""Say how far a labelling run or an export is, from any machine that can read its folder.

    tagmask status s3://bucket/masks
    tagmask status masks --json
    tagmask status masks --watch 10

Exit code 0: it runs or is finished; 1: it failed, or its driver died; 2: the folder holds no run and no export; 75: it
was stopped or is not finished, run its command again to go on.
"""

from collections.abc import Sequence

from jobs.arguments.status import StatusJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(StatusJob, Usage(command="status", description=__doc__), arguments)))


def _run(job: StatusJob) -> int:
    # Arrow takes a moment, which a wrong command or --help does not wait for.
    from jobs.execution.status import status

    return status(job)


if __name__ == "__main__":
    leave(main())

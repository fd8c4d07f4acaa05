"""Look at masks in a browser, worst first, and judge them.

    tagmask review --labels OUT                       # prints an address; Ctrl-C ends it
    tagmask review --labels OUT --labels OTHER_OUT --truth truth/ --open

Decisions are stored beside the run, in OUT/reviews/, each when it is made. Exit code 0: ended by Ctrl-C or SIGTERM; 1:
the store failed; 2: the command or its inputs are wrong.
"""

from collections.abc import Sequence

from jobs.arguments.review import ReviewJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(ReviewJob, Usage(command="review", description=__doc__), arguments)))


def _run(job: ReviewJob) -> int:
    # Arrow takes a second, which a wrong command or --help does not wait for.
    from jobs.execution.review import review

    return review(job)


if __name__ == "__main__":
    leave(main())

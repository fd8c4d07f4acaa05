"""From made-up tagged photos to scored masks, on this machine, in minutes.

    tagmask demo --out demo

Makes a collection of tagged pictures, trains a small MCTformer+ on the tags alone, labels other pictures,
scores the masks against the truth that was kept aside, and leaves a page with pictures and figures. Every step is
a command that you can run on your own shards; it is printed before it runs.
"""

from collections.abc import Sequence

from jobs.arguments.demo import DemoJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(DemoJob, Usage(command="demo", description=__doc__), arguments)))


def _run(job: DemoJob) -> int:
    # PyTorch takes seconds, which a wrong command or --help does not wait for.
    from jobs.execution.demo import run_demo

    return run_demo(job)


if __name__ == "__main__":
    leave(main())

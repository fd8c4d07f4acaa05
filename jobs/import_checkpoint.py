"""Turn a checkpoint in the MCTformer authors' format into a model bundle.

    tagmask import-checkpoint --checkpoint MCTformerV2.pth --variant v2 \\
        --vocabulary vocabulary.json --out model
"""

from collections.abc import Sequence

from jobs.arguments.import_checkpoint import ImportJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    usage = Usage(command="import-checkpoint", description=__doc__)
    return run_job(lambda: _run(parse(ImportJob, usage, arguments)))


def _run(job: ImportJob) -> int:
    # PyTorch takes seconds, which a wrong command or --help does not wait for.
    from jobs.execution.import_checkpoint import import_checkpoint

    return import_checkpoint(job)


if __name__ == "__main__":
    leave(main())

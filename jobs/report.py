"""Look at what was labelled: one page with figures and pictures.

tagmask report --labels OUT --out report.html [--truth truth/]
"""

from collections.abc import Sequence

from jobs.arguments.report import ReportJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(ReportJob, Usage(command="report", description=__doc__), arguments)))


def _run(job: ReportJob) -> int:
    # Arrow and PyTorch take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.report import report

    return report(job)


if __name__ == "__main__":
    leave(main())

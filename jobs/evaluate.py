"""Score masks against the truth, and say which columns of the manifests tell good masks from bad ones.

    tagmask evaluate --labels OUT --truth truth/ [--json scores.json] [--html scores.html]

Per class: IoU, precision, recall, boundary F-score, and IoU at the best of all thresholds. Per column: the rank
correlation with the true IoU, and the IoU of the tenths where it is lowest and highest.

The best threshold is found with the truth in hand, so its mIoU is what a perfect choice would give, and no
claim about new images. A true mask that cannot be used is named, counted and left out.

Exit code 0: scored; 1: no true mask can be used, or more than --max-bad-truth-fraction of them cannot; 2: the command
or its inputs are wrong.
"""

from collections.abc import Sequence

from jobs.arguments.evaluate import EvaluateJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(EvaluateJob, Usage(command="evaluate", description=__doc__), arguments)))


def _run(job: EvaluateJob) -> int:
    # Arrow and PyTorch take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.evaluate import evaluate

    return evaluate(job)


if __name__ == "__main__":
    leave(main())

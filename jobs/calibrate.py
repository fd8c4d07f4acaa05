"""Find thresholds for the class maps of a labelled sample, with true masks or without, and write them to a file.

    tagmask calibrate --labels OUT --truth truth/ --out calibration.json   # fitted, a threshold a class
    tagmask calibrate --labels OUT --out calibration.json                  # by a rule, without truth

The run must have been made with --maps.keep-maps; the images of one whose maps pixels refine (--maps.pixel-refinement
par) are read again from its shards. tagmask label and remask take the file with --calibration, for
the same model, views and evidence only. Exit code 0: written; 2: the command or its inputs are wrong.
"""

from collections.abc import Sequence

from jobs.arguments.calibrate import CalibrateJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(CalibrateJob, Usage(command="calibrate", description=__doc__), arguments)))


def _run(job: CalibrateJob) -> int:
    # Arrow and PyTorch take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.calibrate import calibrate

    return calibrate(job)


if __name__ == "__main__":
    leave(main())

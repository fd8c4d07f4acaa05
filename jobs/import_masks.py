"""Import masks that people corrected in Label Studio, CVAT or a tool that writes COCO.

    tagmask import-masks --labels OUT --files project-1.json
    tagmask import-masks --labels s3://bucket/masks --files task-1.zip task-2.zip --annotator ada

The images must be those of tagmask export. Masks are stored beside the run, in OUT/overrides/, one file an import; the
manifests stay as they are. Exit code 0: imported; 1: the store failed; 2: the command or its inputs are wrong, and
nothing was written.
"""

from collections.abc import Sequence

from jobs.arguments.import_masks import ImportMasksJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(ImportMasksJob, Usage(command="import-masks", description=__doc__), arguments)))


def _run(job: ImportMasksJob) -> int:
    # Arrow takes a second, which a wrong command or --help does not wait for.
    from jobs.execution.import_masks import import_masks

    return import_masks(job)


if __name__ == "__main__":
    leave(main())

"""Prove that the books of a labelling run balance: every sample of every input shard is a row, once.

    tagmask verify --labels s3://bucket/masks

Reads every manifest and every input again: each byte of a manifest, each row, each mask, and the image that it
was made of. Masks are measured again, and inputs walked through, by code that labelling does not use. The index of
a folder or table is compared with its source, which is listed and read again. With
--sample 0.01 the masks and images of one row in a hundred are looked at. With --footers-only it reads the
footers of the manifests and no input: cheap, and enough to see that all shards are published and their counts
add up. Run it while nobody labels. Nothing is changed.

Exit code 0: the books balance; 1: they do not, or Ray failed; 2: the command is wrong or there is no run.
"""

from collections.abc import Sequence

from jobs.arguments.verify import VerifyJob
from jobs.command_line.console import leave, run_job
from jobs.command_line.parsing import Usage, parse

RENAMED = {"--out": "--labels", "--report": "--json"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    usage = Usage(command="verify", description=__doc__, renamed=RENAMED)
    return run_job(lambda: _run(parse(VerifyJob, usage, arguments)))


def _run(job: VerifyJob) -> int:
    # Arrow and Ray take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.verify import verify

    return verify(job)


if __name__ == "__main__":
    leave(main())

"""Prove that the books of a labelling run balance: every sample of every input shard is a row, once.

    tagmask verify --labels s3://bucket/masks

Reads every manifest and every input again: each byte of a manifest, each row, each mask, and the image that it
was made of. Masks are measured again, and inputs walked through, by code that labelling does not use. With
--sample 0.01 the masks and images of one row in a hundred are looked at. With --footers-only it reads the
footers of the manifests and no input: cheap, and enough to see that all shards are published and their counts
add up. Run it while nobody labels. Nothing is changed.

Exit code 0: the books balance; 1: they do not, or Ray failed; 2: the command is wrong or there is no run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.console import leave, run_job
from jobs.command_line.options import ClusterOptions, StoreOptions
from jobs.command_line.parsing import Usage, parse

RENAMED = {"--out": "--labels", "--report": "--json"}


@dataclass(frozen=True, kw_only=True)
class VerifyJob:
    """Prove that the books of a labelling run balance."""

    labels: str
    """Labelling run to verify: output folder or URI of tagmask label or remask."""
    footers_only: bool = False
    """Read the footers of the manifests only: their identity and counts, no rows and no inputs."""
    sample: float = 1.0
    """Share of the rows, in [0, 1], whose masks are decoded and whose images are read: by a hash of their keys, so
    the same rows every time. All else is read in full."""
    json: str | None = None
    """Also write the verdict to this JSON file or URI."""
    cluster: Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ClusterOptions)
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ValueError(f"need --sample from 0 to 1, got {self.sample}")


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

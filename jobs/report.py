"""Look at what was labelled: one page with figures and pictures.

tagmask report --labels OUT --out report.html [--truth truth/]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.command_line.console import leave, run_job
from jobs.command_line.options import StoreOptions
from jobs.command_line.parsing import Usage, parse


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """Make a page with figures and pictures of a labelling run, finished or not."""

    labels: str
    """Labelling run to show: output folder or URI of tagmask label or remask."""
    out: str
    """The page: an HTML file or URI, which needs no other file."""
    truth: str | None = None
    """Folder, URI or tar of true masks to show beside."""
    num_images: int = 24
    """Images in the gallery; every class is shown about equally often."""
    rng_seed: int = 0
    """Another one picks other images."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"need --num-images >= 1, got {self.num_images}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: _run(parse(ReportJob, Usage(command="report", description=__doc__), arguments)))


def _run(job: ReportJob) -> int:
    # Arrow and PyTorch take seconds, which a wrong command or --help does not wait for.
    from jobs.execution.report import report

    return report(job)


if __name__ == "__main__":
    leave(main())

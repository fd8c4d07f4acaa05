"""Look at what was labelled: one page with figures and pictures.

python -m jobs.report --labels OUT --out report.html [--truth truth/]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.console import EXIT_OK, format_bytes, parse, print_lines, run_job
from pipeline.evaluation.evaluate import open_truth
from pipeline.reports.label_report import build_report
from pipeline.storage.writing import put_atomic


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """Make a page with figures and pictures of a labelling run, finished or not."""

    labels: str
    """Output folder or URI of jobs.label."""
    out: str
    """The page: an HTML file or URI, which needs no other file."""
    truth: str | None = None
    """Folder, URI or tar of true masks to show beside."""
    num_images: int = 24
    """Images in the gallery; every class is shown about equally often."""
    rng_seed: int = 0
    """Another one picks other images."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: report(parse(ReportJob, __doc__, arguments)))


def report(job: ReportJob) -> int:
    """Make the page as the job says and return the exit code."""
    if job.num_images < 1:
        raise ValueError(f"need --num-images >= 1, got {job.num_images}")
    find_truth = open_truth(job.truth) if job.truth else None
    page = build_report(job.labels, find_truth=find_truth, num_images=job.num_images, rng_seed=job.rng_seed).encode()
    put_atomic(job.out, page)
    print_lines(f"{job.out}: {format_bytes(len(page))}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())

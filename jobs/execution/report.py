"""Make the page of a labelling run."""

from jobs.arguments.report import ReportJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, format_bytes, print_lines
from pipeline.evaluation.truth import open_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.reports.label_report import build_report
from pipeline.storage.writing import put_atomic


def report(job: ReportJob) -> int:
    """Make the page and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    find_truth = open_truth(job.truth) if job.truth else None
    page = build_report(
        job.labels,
        find_truth=find_truth,
        num_images=job.num_images,
        rng_seed=job.rng_seed,
        frame=TruthFrame(job.truth_frame),
    ).encode()
    put_atomic(job.out, page)
    print_lines(f"{job.out}: {format_bytes(len(page))}")
    return EXIT_OK

"""Import corrected masks and say what became of each image."""

from datetime import UTC, datetime

from jobs.arguments.import_masks import ImportMasksJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, print_lines
from pipeline.corrections.importing import ImportSummary, MaskImport
from pipeline.published.run import open_published


def import_masks(job: ImportMasksJob) -> int:
    """Import the masks and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    summary = MaskImport(
        run=open_published(job.labels),
        uris=job.files,
        file_format=job.format,
        annotator=job.annotator,
        keep_unchanged=job.keep_unchanged,
        is_dry=job.dry_run,
    ).run_at(datetime.now(UTC))
    print_lines(_describe(summary, is_dry=job.dry_run))
    return EXIT_OK


def _describe(summary: ImportSummary, *, is_dry: bool) -> str:
    counts = (
        f"{summary.num_imported} corrected, {summary.num_unchanged} unchanged, {summary.num_in_force} imported before, "
        f"{summary.num_not_annotated} without annotation"
    )
    if summary.uri is None:
        return f"{counts}; nothing to import"
    return f"{counts}; {'would write' if is_dry else 'wrote'} '{summary.uri}'"

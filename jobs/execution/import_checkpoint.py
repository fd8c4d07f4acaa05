"""Import a checkpoint of the MCTformer authors."""

from jobs.arguments.import_checkpoint import ImportJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, print_lines
from models.importers import import_authors_checkpoint
from models.mctformer import Variant
from pipeline.bundles import save_bundle
from pipeline.run.vocabulary import load_vocabulary


def import_checkpoint(job: ImportJob) -> int:
    """Import and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    vocabulary = load_vocabulary(job.vocabulary)
    model, bundle = import_authors_checkpoint(
        job.checkpoint,
        variant=Variant(job.variant),
        class_names=vocabulary.classes,
        input_mean=job.input_mean,
        input_std=job.input_std,
        key=job.key,
        report=print_lines,
    )
    digest = save_bundle(job.out, model, bundle)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    print_lines(
        f"{job.out}: {job.variant} with {len(vocabulary.classes)} classes, {num_weights:,} weights, digest {digest}"
    )
    return EXIT_OK

"""Turn a checkpoint in the MCTformer authors' format into a model bundle.

    python -m jobs.import_checkpoint --checkpoint MCTformerV2.pth --variant v2 \\
        --vocabulary vocabulary.json --out model
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.console import EXIT_OK, parse, print_lines, run_job
from models.importers import import_authors_checkpoint
from models.mctformer import Variant
from pipeline.run.bundles import save_bundle
from pipeline.run.vocabulary import load_vocabulary

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImportJob:
    """Turn a checkpoint in the MCTformer authors' format into a model bundle."""

    checkpoint: Path
    """A .pth file with the state dict, alone or under the key `model`. Only tensors are loaded from it."""
    variant: Variant
    """v1, v2 or plus: which of the authors' models it is."""
    vocabulary: str
    """Vocabulary file: its classes, in its order, are the classes of the model."""
    out: str
    """Folder or URI of the bundle."""
    input_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the inputs per channel, for pixels in [0, 1]."""
    input_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the inputs per channel."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    return run_job(lambda: import_checkpoint(parse(ImportJob, __doc__, arguments)))


def import_checkpoint(job: ImportJob) -> int:
    """Import as the job says and return the exit code."""
    vocabulary = load_vocabulary(job.vocabulary)
    model, bundle = import_authors_checkpoint(
        job.checkpoint,
        variant=job.variant,
        class_names=vocabulary.classes,
        input_mean=job.input_mean,
        input_std=job.input_std,
    )
    digest = save_bundle(job.out, model, bundle)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    print_lines(
        f"{job.out}: {job.variant} with {len(vocabulary.classes)} classes, {num_weights:,} weights, digest {digest}"
    )
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())

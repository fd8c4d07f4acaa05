"""Turn a checkpoint in the MCTformer authors' format into a model bundle.

    tagmask import-checkpoint --checkpoint MCTformerV2.pth --variant v2 \\
        --vocabulary vocabulary.json --out model
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs.command_line.console import leave, run_job
from jobs.command_line.options import StoreOptions
from jobs.command_line.parsing import Usage, parse

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImportJob:
    """Turn a checkpoint in the MCTformer authors' format into a model bundle."""

    checkpoint: Path
    """A .pth file with the state dict, alone or under the key `model`. Only tensors are loaded from it."""
    variant: Literal["v1", "v2", "plus"]
    """v1, v2 or plus: which of the authors' models it is."""
    vocabulary: str
    """Vocabulary file: its classes, in its order, are the classes of the model."""
    out: str
    """Folder or URI of the bundle."""
    input_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the inputs per channel, for pixels in [0, 1]."""
    input_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the inputs per channel."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` if None, and return its exit code."""
    usage = Usage(command="import-checkpoint", description=__doc__)
    return run_job(lambda: _run(parse(ImportJob, usage, arguments)))


def _run(job: ImportJob) -> int:
    # PyTorch takes seconds, which a wrong command or --help does not wait for.
    from jobs.execution.import_checkpoint import import_checkpoint

    return import_checkpoint(job)


if __name__ == "__main__":
    leave(main())

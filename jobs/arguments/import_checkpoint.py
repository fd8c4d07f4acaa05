"""The options of tagmask import-checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImportJob:
    """Turn a checkpoint in the MCTformer authors' format into a model bundle."""

    checkpoint: Path
    """A local file of torch.save or safetensors with the state dict, under any wrappers. Only tensors are loaded from
    it."""
    variant: Literal["v1", "v2", "plus"]
    """v1, v2 or plus: which of the authors' models it is."""
    vocabulary: str
    """Vocabulary file: its classes, in its order, are the classes of the model."""
    out: str
    """Folder or URI of the bundle."""
    key: str | None = None
    """Which weights to take where the checkpoint has several, such as model_ema; default: plain ones before averaged
    ones."""
    input_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the inputs per channel, for pixels in [0, 1]."""
    input_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the inputs per channel."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

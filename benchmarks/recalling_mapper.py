"""A model that costs nothing from the second pass over some images on: it recalls what it found in the first pass."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8

from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.labelling.batches import BatchMapper
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import LabelConfig, settle_config

SAMPLE_STEP_PX = 16
"""Distance of the pixels by which a frame is recognised."""


class RecallingMapper:
    """Takes the place of a `ClassMapper`, whose evidence it keeps."""

    def __init__(self, mapper: ClassMapper) -> None:
        """Keep nothing yet."""
        self._mapper = mapper
        self._found: dict[tuple[Any, ...], ImageEvidence] = {}

    def queue(
        self,
        frames: UInt8[np.ndarray, "b h w 3"],
        class_ids: Sequence[tuple[int, ...]],
        upright_sizes: Sequence[tuple[int, int]],
        guides: UInt8[np.ndarray, "b guide_h guide_w 3"] | None = None,
        *,
        in_float32: bool = False,
    ) -> Callable[[], list[ImageEvidence]]:
        """Recall the evidence of a batch; find it if an image is new."""
        samples = frames[:, ::SAMPLE_STEP_PX, ::SAMPLE_STEP_PX]
        keys = [(one.tobytes(), *rest) for one, *rest in zip(samples, class_ids, upright_sizes, strict=True)]
        if any(key not in self._found for key in keys):
            found = self._mapper.queue(frames, class_ids, upright_sizes, guides, in_float32=in_float32)()
            self._found.update(zip(keys, found, strict=True))
        return lambda: [self._found[key] for key in keys]


class RecallingLabeler(ChunkLabeler):
    """A labeler whose model costs nothing for images that it labelled before."""

    def __init__(
        self,
        *,
        model: MCTformer,
        bundle: ModelBundle,
        config: LabelConfig,
        device: torch.device,
        batch_size: int,
        use_bf16: bool,
        **settings: Any,
    ) -> None:
        """Make a labeler; the arguments are those of `ChunkLabeler`."""
        mapper = ClassMapper(
            model=model,
            bundle=bundle,
            config=settle_config(config, model.config.grid_side),
            device=device,
            use_bf16=use_bf16,
        )
        super().__init__(
            model=model,
            bundle=bundle,
            config=config,
            device=device,
            batch_size=batch_size,
            use_bf16=use_bf16,
            **settings,
        )
        self._batches = BatchMapper(cast(ClassMapper, RecallingMapper(mapper)), batch_size)

"""Validation: each worker collects scores and losses of its images; together they become ranking metrics."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from models.losses import compute_loss
from models.mctformer import Variant
from models.output import MCTformerOutput
from pipeline.training.config import ModelConfig
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.events import ValidationRecord
from pipeline.training.worker.metrics import compute_ranking_metrics
from pipeline.training.worker.state import Means


class ValidationScores:
    """Scores, tags and losses of validation images."""

    def __init__(self, model: ModelConfig) -> None:
        """Start empty."""
        self.means = Means()
        self.class_scores: list[Float[np.ndarray, "_ c"]] = []
        self.patch_scores: list[Float[np.ndarray, "_ c"]] = []
        self.image_labels: list[Bool[np.ndarray, "_ c"]] = []
        self._model = model

    def add(self, output: MCTformerOutput, batch: TrainingBatch) -> None:
        """Add the images of a batch that have a weight.

        The tag loss is always the soft margin, whatever loss the training uses, so that runs can be compared.
        """
        is_valid = batch.weights > 0
        device = output.class_logits.device
        parts = compute_loss(
            output,
            batch.image_labels.to(device),
            Variant(self._model.variant),
            contrast_weight=self._model.contrast_weight,
            sample_weights=batch.weights.to(device),
        )
        losses = {name: value.item() for name, value in parts._asdict().items() if value is not None}
        self.means.add(losses, float(is_valid.sum()), 0.0)
        self.class_scores.append(output.class_logits.float().cpu()[is_valid].numpy())
        if output.patch_logits is not None:
            self.patch_scores.append(output.patch_logits.float().cpu()[is_valid].numpy())
        self.image_labels.append(batch.image_labels[is_valid].numpy())

    def describe(self, class_names: tuple[str, ...]) -> tuple[ValidationRecord, ValidationRecord | None]:
        """Compute the metrics of the class scores, with the losses, and those of the patch scores (None for V1)."""
        labels = np.concatenate(self.image_labels)
        ranked = compute_ranking_metrics(np.concatenate(self.class_scores), labels, class_names).describe()
        ranked["losses"] = self.means.losses
        if not self.patch_scores:
            return ranked, None
        return ranked, compute_ranking_metrics(np.concatenate(self.patch_scores), labels, class_names).describe()


def merge_scores(shares: Sequence[ValidationScores]) -> ValidationScores:
    """Merge the scores of all workers into those of the first, in place."""
    first, *others = shares
    for other in others:
        if other.means.num_images:
            first.means.add(other.means.losses, other.means.num_images, 0.0)
        first.class_scores += other.class_scores
        first.patch_scores += other.patch_scores
        first.image_labels += other.image_labels
    return first

"""What training minimises."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.mctformer import MCTformerOutput, Variant


class LossParts(NamedTuple):
    """A loss and what it is made of; parts that a variant does not have are None."""

    total: Float[Tensor, ""]
    class_loss: Float[Tensor, ""]
    patch_loss: Float[Tensor, ""] | None
    contrast_loss: Float[Tensor, ""] | None


def compute_loss(
    output: MCTformerOutput,
    image_labels: Bool[Tensor, "b c"],
    variant: Variant,
    contrast_weight: float = 1.0,
    sample_weights: Float[Tensor, " b"] | None = None,
) -> LossParts:
    """Compute the loss of a variant: class scores; with V2 patch scores; with plus contrast of class tokens.

    Args:
        output: Of the network.
        image_labels: True for the classes that an image is tagged with.
        variant: Which parts there are.
        contrast_weight: Of the contrast among the parts.
        sample_weights: How much each image counts in the means; None: all the same. Images of weight 0 have no say.
    """
    weights = image_labels.new_ones(len(image_labels), dtype=torch.float32) if sample_weights is None else sample_weights

    def average(losses: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)

    targets = image_labels.float()
    class_loss = average(_score_labels(output.class_logits, targets))
    total, patch_loss, contrast_loss = class_loss, None, None
    if output.patch_logits is not None:
        patch_loss = average(_score_labels(output.patch_logits, targets))
        total = total + patch_loss
    if variant == Variant.PLUS:
        contrast_loss = average(compute_contrast_losses(output.class_tokens, image_labels))
        total = total + contrast_weight * contrast_loss
    return LossParts(total, class_loss, patch_loss, contrast_loss)


def _score_labels(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    return functional.multilabel_soft_margin_loss(logits.float(), targets, reduction="none")


def compute_contrast_losses(
    class_tokens: Float[Tensor, "l b c d"], image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Make the class tokens of an image differ from each other: each should resemble itself most.

    Cosine similarities of the class tokens of a layer are scores of a classification in which token i
    belongs to class i. Only present classes count; mean over layers, one value an image.

    Source: MCTformer+ (TPAMI 2024), class-token contrast, and the authors' training code.
    """
    tokens = functional.normalize(class_tokens.float(), dim=-1)
    scores = tokens @ tokens.transpose(-2, -1)
    own = -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    targets = image_labels.float()
    return (own.mean(0) * targets).sum(-1) / targets.sum(-1).clamp_min(1)

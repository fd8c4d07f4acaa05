"""What training minimises."""

from typing import NamedTuple

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
    output: MCTformerOutput, image_labels: Bool[Tensor, "b c"], variant: Variant, contrast_weight: float = 1.0
) -> LossParts:
    """Compute the loss of a variant: class scores; with V2 patch scores; with plus contrast of class tokens."""
    targets = image_labels.float()
    class_loss = functional.multilabel_soft_margin_loss(output.class_logits.float(), targets)
    total, patch_loss, contrast_loss = class_loss, None, None
    if output.patch_logits is not None:
        patch_loss = functional.multilabel_soft_margin_loss(output.patch_logits.float(), targets)
        total = total + patch_loss
    if variant == Variant.PLUS:
        contrast_loss = compute_contrast_loss(output.class_tokens, image_labels)
        total = total + contrast_weight * contrast_loss
    return LossParts(total, class_loss, patch_loss, contrast_loss)


def compute_contrast_loss(
    class_tokens: Float[Tensor, "l b c d"], image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, ""]:
    """Make the class tokens of an image differ from each other: each should resemble itself most.

    Cosine similarities of the class tokens of a layer are scores of a classification in which token i
    belongs to class i. Only present classes count; mean over layers and images.

    Source: MCTformer+ (TPAMI 2024), class-token contrast, and the authors' training code.
    """
    tokens = functional.normalize(class_tokens.float(), dim=-1)
    scores = tokens @ tokens.transpose(-2, -1)
    own = -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    targets = image_labels.float()
    per_image = (own.mean(0) * targets).sum(-1) / targets.sum(-1).clamp_min(1)
    return per_image.mean()

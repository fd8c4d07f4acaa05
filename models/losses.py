"""Loss of training.

Three parts follow the authors' code: tag loss of the class tokens, tag loss of the pooled patches, contrast of the
class tokens. The fourth is ours (`models.seed_loss`). The tag loss is a parameter, as tags may be wrong.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.class_maps import compute_evidence
from models.mctformer import Variant
from models.output import MCTformerOutput
from models.seed_loss import (
    compute_attention_losses,
    compute_seed_losses,
    list_every_class,
    make_seeds,
)

ScoreTags = Callable[[Float[Tensor, "b c"], Float[Tensor, "b c"]], Float[Tensor, "b c"]]
"""Tag loss: from logits and targets (0 or 1) to the loss of every label."""


class LossParts(NamedTuple):
    """The total loss and its parts; None for a part that the variant lacks."""

    total: Float[Tensor, ""]
    class_loss: Float[Tensor, ""]
    patch_loss: Float[Tensor, ""] | None
    contrast_loss: Float[Tensor, ""] | None
    seed_loss: Float[Tensor, ""] | None = None


class SeedTerm(NamedTuple):
    """Settings of the seed loss, which trains the patch CAM and the class tokens on the network's own class maps."""

    weight: float
    """Of the seed loss in the total; 0: no seeds are made yet."""
    background_threshold: float
    """A patch does not show a class whose map is below this."""
    foreground_threshold: float
    """A patch whose highest class map is above this shows that class."""
    attention_share: float = 0.0
    """Weight of the attention loss of the class tokens, relative to the loss of the patch CAM."""
    affinity_steps: int = 1
    """Multiplications of the class maps by the patch affinity before seeds are made."""


def score_soft_margin(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """Compute the binary cross entropy of every label, the authors' tag loss."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def compute_loss(
    output: MCTformerOutput,
    image_labels: Bool[Tensor, "b c"],
    variant: Variant,
    *,
    contrast_weight: float = 1.0,
    seed_term: SeedTerm | None = None,
    seed_source: MCTformerOutput | None = None,
    sample_weights: Float[Tensor, " b"] | None = None,
    score_tags: ScoreTags = score_soft_margin,
) -> LossParts:
    """Compute the loss of a variant: class scores; from V2 on patch scores; for plus contrast of class tokens.

    A seed term adds the seed loss of the patch CAM and, with its attention share, of the class tokens.

    Args:
        output: Of the network.
        image_labels: True for the classes that an image is tagged with.
        variant: Decides the parts.
        contrast_weight: Of the contrast in the total.
        seed_term: Settings of the seed loss; None: without it, as the authors train.
        seed_source: Output of another network, an averaged one, for the same images, of which seeds are made; None:
            seeds are made of `output`.
        sample_weights: Weights of the images in the means; None: 1 each. Images of weight 0 have no effect.
        score_tags: Tag loss.
    """
    weights = (
        image_labels.new_ones(len(image_labels), dtype=torch.float32) if sample_weights is None else sample_weights
    )

    def average(losses: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)

    targets = image_labels.float()
    class_loss = average(score_tags(output.class_logits.float(), targets).mean(-1))
    total, patch_loss, contrast_loss = class_loss, None, None
    if output.patch_logits is not None:
        patch_loss = average(score_tags(output.patch_logits.float(), targets).mean(-1))
        total = total + patch_loss
    if variant == Variant.PLUS:
        contrast_loss = average(compute_contrast_losses(output.class_tokens, image_labels))
        total = total + contrast_weight * contrast_loss
    if seed_term is None:
        return LossParts(total, class_loss, patch_loss, contrast_loss)
    seed_loss = torch.zeros_like(class_loss)
    if seed_term.weight:
        seed_loss = average(_compute_seed_term(output, seed_source, image_labels, variant, seed_term))
        total = total + seed_term.weight * seed_loss
    return LossParts(total, class_loss, patch_loss, contrast_loss, seed_loss)


def _compute_seed_term(
    output: MCTformerOutput,
    seed_source: MCTformerOutput | None,
    image_labels: Bool[Tensor, "b c"],
    variant: Variant,
    term: SeedTerm,
) -> Float[Tensor, " b"]:
    seeds = make_seeds(
        output if seed_source is None else seed_source,
        image_labels,
        variant,
        background_threshold=term.background_threshold,
        foreground_threshold=term.foreground_threshold,
        affinity_steps=term.affinity_steps,
    )
    assert output.patch_cam is not None
    losses = compute_seed_losses(output.patch_cam, seeds, image_labels)
    if not term.attention_share:
        return losses
    attention = compute_evidence(output, variant, list_every_class(image_labels)).class_to_patch
    return losses + term.attention_share * compute_attention_losses(attention, seeds, image_labels)


def compute_contrast_losses(
    class_tokens: Float[Tensor, "l b c d"], image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Compute the contrast loss of the class tokens of each image: each token should be most similar to itself.

    The cosine similarities of the class tokens of a layer are the logits of a classification of token i as class i.
    The loss is the mean over the layers and over the present classes.

    Source: MCTformer+ (TPAMI 2024), class-token contrast, and the authors' training code.
    """
    tokens = functional.normalize(class_tokens.float(), dim=-1)
    scores = tokens @ tokens.transpose(-2, -1)
    own = -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    targets = image_labels.float()
    return (own.mean(0) * targets).sum(-1) / targets.sum(-1).clamp_min(1)


def score_asymmetric(
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    focus_negative: float,
    focus_positive: float,
    margin: float,
) -> Float[Tensor, "b c"]:
    """Compute the asymmetric loss: easy labels weigh less, negatives less than positives, as tags may be missing.

    Args:
        logits: Scores.
        targets: 0 or 1.
        focus_negative: Exponent of the probability p of a negative; 0: no down-weighting.
        focus_positive: Exponent of 1 - p of a positive; 0: no down-weighting.
        margin: Probability below which the loss of a negative is 0.

    Source: Ridnik et al., "Asymmetric Loss for Multi-Label Classification" (ICCV 2021), equations 3 to 7; as there,
    no gradient flows through the weighting factors.
    """
    positive = functional.logsigmoid(logits)
    shifted = (logits.sigmoid() - margin).clamp_min(0)
    negative = torch.log1p(-shifted.clamp_max(1 - torch.finfo(torch.float32).eps))
    with torch.no_grad():
        # 0 ** 0 is 1: with exponent 0 every label has weight 1.
        factors = torch.where(targets > 0, (1 - logits.sigmoid()) ** focus_positive, shifted**focus_negative)
    return -factors * torch.where(targets > 0, positive, negative)


def score_without_large_losses(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"], *, rejected_share: float
) -> Float[Tensor, "b c"]:
    """Compute the soft margin loss; set the largest losses of untagged labels to 0, as these tags may be missing.

    Args:
        logits: Scores.
        targets: 0 or 1.
        rejected_share: Fraction of the untagged labels of the batch, in [0, 1].

    Source: Kim et al., "Large Loss Matters in Weakly Supervised Multi-Label Classification" (CVPR 2022), LL-R.
    """
    losses = score_soft_margin(logits, targets)
    untagged = targets == 0
    num_rejected = round(rejected_share * int(untagged.sum()))
    if num_rejected == 0:
        return losses
    candidates = losses.detach().masked_fill(~untagged, -torch.inf)
    rejected = candidates.flatten().topk(num_rejected).indices
    keep = torch.ones_like(losses).flatten().index_fill(0, rejected, 0.0).view_as(losses)
    return losses * keep


def weigh_positives(score_tags: ScoreTags, class_weights: Float[Tensor, " c"]) -> ScoreTags:
    """Return a tag loss whose positives are weighted by their class."""

    def score(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        weights = class_weights.to(logits.device)
        return score_tags(logits, targets) * torch.where(targets > 0, weights, torch.ones_like(weights))

    return score


def balance_classes(images_per_class: Float[Tensor, " c"], power: float) -> Float[Tensor, " c"]:
    """Compute class weights of positives: (median count / count) ** power.

    Args:
        images_per_class: Counts; a class without images has weight 1.
        power: 0: all weights are 1; 1: inversely proportional to the count.
    """
    seen = images_per_class > 0
    if not seen.any():
        return torch.ones_like(images_per_class)
    weights = (images_per_class[seen].median() / images_per_class.clamp_min(1)) ** power
    return torch.where(seen, weights, torch.ones_like(weights))

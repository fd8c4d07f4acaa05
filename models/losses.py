"""What training minimises.

Three parts follow the authors' code: scores of the class tokens, scores of the pooled patches, contrast of the class
tokens. A fourth is ours (`models.seed_loss`). How a score is held against a tag that may be wrong is a function of its
own, to choose from.
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
"""Gives the loss of every label of logits and targets (0 or 1)."""


class LossParts(NamedTuple):
    """A loss and what it is made of; parts that a variant does not have are None."""

    total: Float[Tensor, ""]
    class_loss: Float[Tensor, ""]
    patch_loss: Float[Tensor, ""] | None
    contrast_loss: Float[Tensor, ""] | None
    seed_loss: Float[Tensor, ""] | None = None


class SeedTerm(NamedTuple):
    """How seeds of a network's own class maps teach its patch CAM and, with a share, its class tokens."""

    weight: float
    """Of the seed loss among the parts; 0: not yet, and no seeds are made."""
    background_threshold: float
    """Patches do not show the classes whose maps are below this."""
    foreground_threshold: float
    """Patches whose best class map is above this show that class."""
    attention_share: float = 0.0
    """Weight of the class tokens' attention, relative to that of the patch CAM."""
    affinity_steps: int = 1
    """How often the class maps are spread along the patch affinity before they teach."""


def score_soft_margin(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """Binary cross entropy of every label: what the authors train with."""
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
    """Compute the loss of a variant: class scores; with V2 patch scores; with plus contrast of class tokens.

    With a seed term, patches learn from the class maps, too, and with its attention share class tokens do.

    Args:
        output: Of the network.
        image_labels: True for the classes that an image is tagged with.
        variant: Which parts there are.
        contrast_weight: Of the contrast among the parts.
        seed_term: Whether and what class maps teach; None: as the authors train.
        seed_source: Whose class maps teach: what another network, an averaged one, makes of the same images.
            None: those of `output` itself.
        sample_weights: How much each image counts in the means; None: all the same. Images of weight 0 have no say.
        score_tags: How scores are held against tags.
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
        seed_loss = average(_compare_with_seeds(output, seed_source, image_labels, variant, seed_term))
        total = total + seed_term.weight * seed_loss
    return LossParts(total, class_loss, patch_loss, contrast_loss, seed_loss)


def _compare_with_seeds(
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


def score_asymmetric(
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    focus_negative: float,
    focus_positive: float,
    margin: float,
) -> Float[Tensor, "b c"]:
    """Play down easy labels, negatives more than positives: a missing tag is a negative that the model denies.

    Args:
        logits: Scores.
        targets: 0 or 1.
        focus_negative: Exponent of a negative's probability; 0: none.
        focus_positive: Exponent of a positive's improbability; 0: none.
        margin: Probability below which a negative costs nothing.

    Source: Ridnik et al., "Asymmetric Loss for Multi-Label Classification" (ICCV 2021), equations 3 to 7; as there,
    no gradient flows through the factors that play labels down.
    """
    positive = functional.logsigmoid(logits)
    shifted = (logits.sigmoid() - margin).clamp_min(0)
    negative = torch.log1p(-shifted.clamp_max(1 - torch.finfo(torch.float32).eps))
    with torch.no_grad():
        # 0 ** 0 is 1, as it has to be: without an exponent every label counts whole.
        factors = torch.where(targets > 0, (1 - logits.sigmoid()) ** focus_positive, shifted**focus_negative)
    return -factors * torch.where(targets > 0, positive, negative)


def score_without_large_losses(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"], *, rejected_share: float
) -> Float[Tensor, "b c"]:
    """Leave out the untagged labels with the largest losses: they are the likeliest to be true classes without a tag.

    Args:
        logits: Scores.
        targets: 0 or 1.
        rejected_share: Of the untagged labels of the batch, in [0, 1].

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
    """Make positives count by their class, so that rare classes have their say."""

    def score(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        weights = class_weights.to(logits.device)
        return score_tags(logits, targets) * torch.where(targets > 0, weights, torch.ones_like(weights))

    return score


def balance_classes(images_per_class: Float[Tensor, " c"], power: float) -> Float[Tensor, " c"]:
    """Compute weights of positives: the median class has 1, rarer ones more.

    Classes that no image shows get 1: their positives never come.
    """
    seen = images_per_class > 0
    if not seen.any():
        return torch.ones_like(images_per_class)
    weights = (images_per_class[seen].median() / images_per_class.clamp_min(1)) ** power
    return torch.where(seen, weights, torch.ones_like(weights))

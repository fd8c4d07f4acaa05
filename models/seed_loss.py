"""Seed loss: the patch CAM is trained on confident patches of the network's own refined class maps.

The tag loss trains pooled scores, which contain no location. A patch CAM trained with it alone marks the most
discriminative parts of an object, and its surroundings. Class maps that fuse attention and patch CAM and are refined by
affinity are better than either, and their errors differ between images. Each step therefore makes seeds of the class
maps, without gradient, and trains the patch CAM to reproduce them. The class maps are those of the network itself or,
with less noise, of its average over the last steps (`pipeline.training.worker.step`). With `seed_attention_share` the
class tokens are trained to attend evenly to the seeds of their class.

This loss is ours. Source of the idea: seeds as targets of "Seed, Expand and Constrain" (Kolesnikov and Lampert, ECCV
2016) and one-stage training on affinity-refined pseudo labels, as in "Learning Affinity from Attention" (Ru et al.,
CVPR 2022). There a separate segmentation branch is trained on them; here the patch CAM itself, with the same network.
An averaged network as teacher: "Mean teachers are better role models" (Tarvainen and Valpola, NeurIPS 2017).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.class_maps import compute_evidence, refine_class_maps, scale_min_max
from models.fusion import Fusion
from models.mctformer import Variant
from models.output import MCTformerOutput

TINY = 1e-9
"""Added to attention before the logarithm; far below 1e-4, the attention per patch if 10,000 patches have equal
attention."""


class Seeds(NamedTuple):
    """Confident patches of a batch of images."""

    foreground: Bool[Tensor, "b c gh gw"]
    """Patches that show the class; at most one class per patch."""
    absent: Bool[Tensor, "b c gh gw"]
    """Patches that do not show the class, as its own map is low there. Patches that are neither have no loss: uncertain
    ones, and those of another class where the map of this class is not low."""
    trust: Float[Tensor, "b c"]
    """Weight of the seeds of a class: its probability by the patch scores; 0 for untagged classes."""


@torch.no_grad()
def make_seeds(
    output: MCTformerOutput,
    image_labels: Bool[Tensor, "b c"],
    variant: Variant,
    *,
    background_threshold: float,
    foreground_threshold: float,
    affinity_steps: int,
) -> Seeds:
    """Make seeds of class maps: square root of attention x patch CAM, propagated by affinity, scaled to [0, 1].

    Args:
        output: Of a network with a patch head.
        image_labels: True for the classes that an image is tagged with.
        variant: Of the network; decides the number of attention layers.
        background_threshold: A patch does not show a class whose map is below this.
        foreground_threshold: A patch whose highest map is above this shows that class.
        affinity_steps: Multiplications by the affinity; more steps make larger, smoother maps, which need higher
            thresholds.

    Raises:
        ValueError: The network has no patch head (V1).
    """
    if output.patch_cam is None or output.patch_logits is None:
        raise ValueError("seeds need a patch head, which variant v1 lacks; train v2 or plus")
    num_classes = image_labels.shape[1]
    evidence = compute_evidence(output, variant, list_every_class(image_labels), fusion=Fusion.SQUARE_ROOT)
    is_tagged = image_labels[:, :, None, None]
    maps = scale_min_max(refine_class_maps(output, evidence.fused, num_steps=affinity_steps)) * is_tagged
    best, best_class = maps.max(1)
    is_best = functional.one_hot(best_class, num_classes).permute(0, 3, 1, 2).bool()
    is_foreground = best > foreground_threshold
    return Seeds(
        foreground=is_foreground[:, None] & is_best & is_tagged,
        absent=(maps < background_threshold) & is_tagged,
        trust=output.patch_logits.float().sigmoid() * image_labels,
    )


def list_every_class(image_labels: Bool[Tensor, "b c"]) -> Int[Tensor, "b c"]:
    """Indices of all classes for each image, from 0."""
    num_images, num_classes = image_labels.shape
    return torch.arange(num_classes, device=image_labels.device).expand(num_images, -1)


def compute_seed_losses(
    patch_cam: Float[Tensor, "b c gh gw"], seeds: Seeds, image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Compute the cross entropy of the patch CAM of the tagged classes and their seeds.

    The means over the foreground patches and over the absent patches have weight 1/2 each. Where the maps of two
    classes are high, the patch is not absent for the weaker one: the class could not regain it.

    A class without a foreground patch, as other tagged classes are stronger everywhere, has loss 0. It would have
    absent patches only, and the network would unlearn it.

    Returns:
        Mean over the tagged classes of each image, weighted by their trust; 0 for an image without tags.
    """
    losses = functional.binary_cross_entropy_with_logits(patch_cam.float(), seeds.foreground.float(), reduction="none")
    with_class = _average_patches(losses, seeds.foreground)
    without = _average_patches(losses, seeds.absent)
    counts = seeds.trust * seeds.foreground.any(-1).any(-1)
    return ((with_class + without) / 2 * counts).sum(-1) / image_labels.sum(-1).clamp_min(1)


def compute_attention_losses(
    class_to_patch: Float[Tensor, "b c gh gw"], seeds: Seeds, image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Compute the divergence between equal attention to the seeds and the attention of each tagged class token.

    Attention sums to 1, so attention to the seeds is taken from all other patches, absent and uncertain.

    Args:
        class_to_patch: Attention, non-negative, any scale.
        seeds: Made of the same images.
        image_labels: True for the classes that an image is tagged with.

    Returns:
        Kullback-Leibler divergence of the uniform distribution over the seeds from a class token's attention among
        patches, in nats: mean over the tagged classes of each image, weighted by their trust. It is 0 for a class
        without seeds.
    """
    attention = class_to_patch.flatten(2)
    log_attention = (attention + TINY).log() - (attention + TINY).sum(-1, keepdim=True).log()
    shown = seeds.foreground.flatten(2).float()
    num_shown = shown.sum(-1)
    divergence = -(shown * log_attention).sum(-1) / num_shown.clamp_min(1) - num_shown.clamp_min(1).log()
    return (divergence * seeds.trust * (num_shown > 0)).sum(-1) / image_labels.sum(-1).clamp_min(1)


def _average_patches(losses: Float[Tensor, "b c gh gw"], where: Bool[Tensor, "b c gh gw"]) -> Float[Tensor, "b c"]:
    return (losses * where).sum((-2, -1)) / where.sum((-2, -1)).clamp_min(1)

"""Patches learn from the class maps: what the network finds sure in its own refined maps teaches its patch CAM.

Pooled scores say that a class is there, not where, so a patch CAM that only has to be right on the whole marks the
most telling parts and what surrounds them. Class maps that join attention and patch CAM and are refined by affinity
are better than either, and errors that differ from image to image average out in the weights. So each step makes
seeds of its images' own maps, through which no gradient flows, and asks the patch CAM to repeat them. The maps are
those of the network itself or, more steadily, of its average over the last steps
(`pipeline.training.worker.step`). With `seed_attention_share` it also asks the class tokens to spread their attention
evenly over the seeds of their class.

This is ours. Source of the idea: seeds as targets of "Seed, Expand and Constrain" (Kolesnikov and Lampert, ECCV 2016)
and one-stage training on affinity-refined pseudo labels, as in "Learning Affinity from Attention" (Ru et al., CVPR
2022). There a separate segmentation branch learns from them; here the patch CAM itself, and the network stays as it is.
An averaged network as teacher: "Mean teachers are better role models" (Tarvainen and Valpola, NeurIPS 2017).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.class_maps import compute_evidence, refine_class_maps, scale_min_max
from models.fusion import Fusion
from models.mctformer import MCTformerOutput, Variant

TINY = 1e-9
"""Added to attention before its logarithm; an even share of 10,000 patches is 1e-4."""


class Seeds(NamedTuple):
    """What is sure about the patches of a batch of images."""

    foreground: Bool[Tensor, "b c gh gw"]
    """Patches that show the class; at most one class a patch."""
    absent: Bool[Tensor, "b c gh gw"]
    """Patches that surely do not show the class, as its own map is low there. What is neither is left alone by the
    patch CAM: patches that are unsure, and those that another class won although this one's map is not low."""
    trust: Float[Tensor, "b c"]
    """How much the seeds of a class count: its probability by the patch scores; 0 for untagged classes."""


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
    """Make seeds of the refined class maps: square root of attention x patch CAM, spread by affinity, scaled to [0, 1].

    Args:
        output: Of a network with a patch head.
        image_labels: True for the classes that an image is tagged with.
        variant: Of the network: how many layers of attention are used.
        background_threshold: A patch does not show the classes whose maps are below this.
        foreground_threshold: A patch whose best map is above this shows that class.
        affinity_steps: How often maps are spread along the affinity; more steps give fuller and blunter maps, which
            want higher thresholds.

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
    """Index all classes of each image, from 0."""
    num_images, num_classes = image_labels.shape
    return torch.arange(num_classes, device=image_labels.device).expand(num_images, -1)


def compute_seed_losses(
    patch_cam: Float[Tensor, "b c gh gw"], seeds: Seeds, image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Hold the patch CAM of the tagged classes against seeds; patches with and without the class count half each.

    Where two classes overlap, and the maps of both are high, the weaker one is not taught to be absent: it would lose
    the patch for good.

    A class that wins no patch, because another tagged one is stronger wherever it is, has no seeds and costs nothing:
    all that could be learnt of it is where it is not, and patch after patch it would be unlearnt.

    Returns:
        Mean over the tagged classes of each image, weighted by their trust; 0 for an image without tags.
    """
    losses = functional.binary_cross_entropy_with_logits(patch_cam.float(), seeds.foreground.float(), reduction="none")
    with_class = _average(losses, seeds.foreground)
    without = _average(losses, seeds.absent)
    counts = seeds.trust * seeds.foreground.any(-1).any(-1)
    return ((with_class + without) / 2 * counts).sum(-1) / image_labels.sum(-1).clamp_min(1)


def compute_attention_losses(
    class_to_patch: Float[Tensor, "b c gh gw"], seeds: Seeds, image_labels: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Ask each tagged class token to spread its attention evenly over the patches that show its class.

    Attention is a share: what goes to the seeds leaves all other patches, be they absent or unsure.

    Args:
        class_to_patch: Attention, non-negative, any scale.
        seeds: Made of the same images.
        image_labels: True for the classes that an image is tagged with.

    Returns:
        Kullback-Leibler divergence of a class token's attention among patches from the even one, in nats: mean over the
        tagged classes of each image, weighted by their trust. Classes without a seed cost nothing.
    """
    attention = class_to_patch.flatten(2)
    log_attention = (attention + TINY).log() - (attention + TINY).sum(-1, keepdim=True).log()
    shown = seeds.foreground.flatten(2).float()
    num_shown = shown.sum(-1)
    divergence = -(shown * log_attention).sum(-1) / num_shown.clamp_min(1) - num_shown.clamp_min(1).log()
    return (divergence * seeds.trust * (num_shown > 0)).sum(-1) / image_labels.sum(-1).clamp_min(1)


def _average(losses: Float[Tensor, "b c gh gw"], where: Bool[Tensor, "b c gh gw"]) -> Float[Tensor, "b c"]:
    return (losses * where).sum((-2, -1)) / where.sum((-2, -1)).clamp_min(1)

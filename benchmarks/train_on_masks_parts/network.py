"""A plain segmentation network: a ViT of timm with a small head that enlarges its patches; training and prediction."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.train_on_masks_parts.pairs import Photos
from pipeline.run.records import IGNORE_LABEL

NUM_LAYERS = 4
"""Blocks, evenly over the depth, whose patch tokens the head reads."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training, the same for all masks."""

    backbone: str = "vit_tiny_patch16_224"
    """A ViT of timm."""
    backbone_weights: str | None = None
    """File of its pretrained weights. Default: timm downloads them."""
    image_size: int = 160
    """Sides of the input, in pixels."""
    num_steps: int = 400
    batch_size: int = 16
    learning_rate: float = 2e-4
    """Of the backbone at its peak; the head has five times as much."""
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls along a cosine to zero."""
    min_crop_side: float = 0.6
    """Sides of the smallest crop, as a share of the photo's."""
    color_jitter: float = 0.2
    """Largest change of brightness and contrast."""


class Segmenter(nn.Module):
    """ViT with a head: patch tokens of several blocks, joined, then enlarged four times by convolutions."""

    def __init__(self, training: Training, num_values: int, width: int = 96) -> None:
        """Load the backbone; the head is random. `num_values` are the values of a mask, background included."""
        super().__init__()
        overlay = {"file": training.backbone_weights} if training.backbone_weights else None
        backbone: Any = timm.create_model(
            training.backbone,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            img_size=training.image_size,
            drop_path_rate=0.1,
        )
        self.backbone, depth = backbone, len(backbone.blocks)
        self.taps = [depth - 1 - place * (depth // NUM_LAYERS) for place in range(NUM_LAYERS)]
        self.join = nn.Conv2d(NUM_LAYERS * backbone.embed_dim, width, 1)
        self.enlarge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU()) for _ in range(2)
        )
        self.classify = nn.Conv2d(width, num_values, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b values h w"]:
        """Scores of each value of the mask, before softmax."""
        backbone: Any = self.backbone
        taps = backbone.forward_intermediates(images, indices=self.taps, norm=True, intermediates_only=True)
        maps = self.join(torch.cat(taps, 1))
        for layer in self.enlarge:
            maps = layer(functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False))
        return functional.interpolate(self.classify(maps), size=images.shape[-2:], mode="bilinear", align_corners=False)

    def normalise(self, images_rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalise images in [0, 1] as the backbone wants them."""
        backbone: Any = self.backbone
        mean, std = (torch.tensor(backbone.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
        return (images_rgb - mean) / std


def draw_batch(
    photos: Photos, numbers: Int[np.ndarray, " b"], training: Training, rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 h w"], Int[Tensor, "b h w"]]:
    """Draw a crop, a flip and a brightness for each photo of a batch: images in [0, 1], and masks."""
    images = torch.from_numpy(photos.images_rgb[numbers]).permute(0, 3, 1, 2).float() / 255
    masks = torch.from_numpy(photos.masks[numbers])[:, None].float()
    num = len(numbers)
    sides = rng.uniform(training.min_crop_side, 1, num)
    centres = rng.uniform(-1, 1, (num, 2)) * (1 - sides[:, None])
    matrices = np.zeros((num, 2, 3), np.float32)
    matrices[:, 0, 0] = sides * rng.choice([-1, 1], num)
    matrices[:, 1, 1] = sides
    matrices[:, :, 2] = centres
    shape = [num, 1, training.image_size, training.image_size]
    grid = functional.affine_grid(torch.from_numpy(matrices), shape, align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    masks = functional.grid_sample(masks, grid, mode="nearest", padding_mode="border", align_corners=False)
    gain, shift = (
        torch.from_numpy(rng.uniform(-training.color_jitter, training.color_jitter, (num, 1, 1, 1)).astype(np.float32))
        for _ in range(2)
    )
    centre = images.mean((1, 2, 3), keepdim=True)
    images = ((images - centre) * (1 + gain) + centre * (1 + shift)).clamp(0, 1)
    return images, masks[:, 0].long()


def train(photos: Photos, num_values: int, training: Training, rng_seed: int) -> Segmenter:
    """Train a network on photos and masks."""
    torch.manual_seed(rng_seed)
    rng = np.random.default_rng(rng_seed)
    model = Segmenter(training, num_values).train()
    heads = [weight for name, weight in model.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": list(model.backbone.parameters()), "lr": training.learning_rate},
        {"params": heads, "lr": 5 * training.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    num_warmup = max(1, round(training.warmup_fraction * training.num_steps))

    def scale(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - num_warmup) / max(1, training.num_steps - num_warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    order = np.empty(0, np.int64)
    for _ in range(training.num_steps):
        while len(order) < training.batch_size:
            order = np.append(order, rng.permutation(len(photos.keys)))
        numbers, order = order[: training.batch_size], order[training.batch_size :]
        images, masks = draw_batch(photos, numbers, training, rng)
        loss = functional.cross_entropy(model(model.normalise(images)), masks, ignore_index=IGNORE_LABEL)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def predict(
    model: Segmenter, image_rgb: UInt8[np.ndarray, "side side 3"], size: tuple[int, int], image_size: int
) -> UInt8[np.ndarray, "h w"]:
    """Predict the mask of a photo at its own size (height, width)."""
    image = torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 255
    image = functional.interpolate(
        image, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
    )
    scores = functional.interpolate(model(model.normalise(image)), size=size, mode="bilinear", align_corners=False)
    return scores[0].argmax(0).numpy().astype(np.uint8)

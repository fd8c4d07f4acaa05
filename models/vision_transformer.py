"""The plain Vision Transformer: patch embedding and blocks with normalisation before each part.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), section 3.1. Names of modules and the order in
which random numbers are drawn are those of timm, so that weights load by name and a seed gives the same model. The
blocks are our own because the import of timm takes as long as the import of PyTorch, and each labelling process would
wait for it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
MAX_DEVIATIONS = 6.0
"""Standard deviations to which initial weights are limited; the inverse of the error function is infinite at 1."""


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with the epsilon of ViT and DeiT."""

    def __init__(self, width: int) -> None:
        """Start with weights of one and biases of zero."""
        super().__init__(width, eps=LAYER_NORM_EPS)


class PatchEmbed(nn.Module):
    """Projection of each patch to a token."""

    def __init__(self, patch_size: int, width: int) -> None:
        """Start with random weights.

        Args:
            patch_size: Side of a patch in pixels.
            width: Channels of a token.
        """
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Project the patches; pixels at the right and at the bottom that fill no patch are ignored."""
        projected: Tensor = self.proj(images)
        return projected


class Attention(nn.Module):
    """Weights of multi-head self-attention; `models.attention.attend` runs it."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Start with random weights.

        Raises:
            ValueError: The heads cannot share the width evenly.
        """
        super().__init__()
        if width % num_heads:
            raise ValueError(f"need a width that {num_heads} heads share evenly, got {width}")
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        """Start with random weights."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Transform each token."""
        transformed: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return transformed


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves a branch out for some images, and scales it up for the others.

    Source: Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016), for each image of its own as in timm.
    """

    def __init__(self, rate: float) -> None:
        """Leave the branch out with the probability `rate`."""
        super().__init__()
        self.rate = rate

    def forward(self, branch: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Leave the branch out, or scale it."""
        if self.rate == 0 or not self.training:
            return branch
        keep = 1 - self.rate
        kept = branch.new_empty(len(branch), *(1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * (kept.div_(keep) if keep > 0 else kept)


class Block(nn.Module):
    """A block: attention and MLP, each after a normalisation and beside a residual connection."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        """Start with random weights.

        Args:
            width: Channels of a token.
            num_heads: Heads of the attention.
            mlp_ratio: Hidden width of the MLP, as a multiple of `width`.
            drop_path: Probability of stochastic depth for each of the two branches.

        Raises:
            ValueError: The heads cannot share the width evenly.
        """
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def add_attended(self, tokens: Float[Tensor, "b t d"], attended: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Add what the attention gave for the normalised tokens, then what the MLP gives."""
        tokens = tokens + self.drop_path(attended)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def fill_normal(tensor: Tensor, std: float) -> None:
    """Fill a tensor with random values of a normal distribution of mean 0, in place.

    By the inverse of the error function, as timm does: PyTorch's own functions draw other values in other versions.
    """
    if tensor.is_meta:
        # There is nothing to fill, and the inverse of the error function would import PyTorch's compiler: 2.5 s.
        return
    with torch.no_grad():
        tensor.uniform_(-1, 1).erfinv_().mul_(std * math.sqrt(2)).clamp_(-MAX_DEVIATIONS * std, MAX_DEVIATIONS * std)

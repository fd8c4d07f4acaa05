"""Output of the network: scores, and the tensors that class maps and losses need."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class MCTformerOutput(NamedTuple):
    """Scores of the classes, and the tensors that class maps and losses need; t = c + gh * gw tokens."""

    class_logits: Float[Tensor, "b c"]
    """Mean over the embedding of each class token."""
    patch_logits: Float[Tensor, "b c"] | None
    """Pooled patch CAM; None for V1."""
    patch_cam: Float[Tensor, "b c gh gw"] | None
    """Class scores of the patch tokens, before ReLU; None for V1."""
    class_tokens: Float[Tensor, "l b c d"]
    """After each block."""
    queries: tuple[Float[Tensor, "b heads t hd"], ...]
    """Of each layer, class tokens first."""
    keys: tuple[Float[Tensor, "b heads t hd"], ...]
    grid: tuple[int, int]
    """Rows and columns of patches."""

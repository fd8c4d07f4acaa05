"""Sizes of a model. Without PyTorch, which takes seconds to import: a finished run reads no more than this."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from models.documents import STRICT

MAX_SIZE = 2**16
"""Largest size in a configuration: far above that of any ViT, and the product of two still fits into memory."""
MAX_DEPTH = 2**10
MAX_MLP_RATIO = 64


class Variant(StrEnum):
    """The authors' models."""

    V1 = "v1"
    V2 = "v2"
    PLUS = "plus"


@dataclass(frozen=True, kw_only=True)
class MCTformerConfig:
    """The sizes of a model."""

    __pydantic_config__ = STRICT

    variant: Variant
    num_classes: int
    image_size: int = 224
    """Side of the square image for whose grid there are position embeddings, in pixels."""
    patch_size: int = 16
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    rank_decay: float = 0.996
    """Plus: decay of the weight from one patch to the next in global weighted ranking pooling; the authors' value
    suits 784 patches."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block; rises linearly from 0 at the first; in training only."""

    def __post_init__(self) -> None:
        for name in ("num_classes", "image_size", "patch_size", "width", "depth", "num_heads"):
            most = MAX_DEPTH if name == "depth" else MAX_SIZE
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"need {name} >= 1 and at most {most}, got {getattr(self, name)}")
        if self.width % self.num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {self.width} and {self.num_heads}")
        if not 0 < self.mlp_ratio <= MAX_MLP_RATIO or int(self.width * self.mlp_ratio) < 1:
            raise ValueError(f"need mlp_ratio above 0 and at most {MAX_MLP_RATIO}, got {self.mlp_ratio}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"need 0 <= drop_path < 1, got {self.drop_path}")
        if not 0 < self.rank_decay <= 1:
            raise ValueError(f"need 0 < rank_decay <= 1, got {self.rank_decay}")
        if self.image_size < self.patch_size:
            raise ValueError(f"need image_size >= patch_size, got {self.image_size} and {self.patch_size}")

    @property
    def grid_side(self) -> int:
        """Side of the grid of position embeddings, in patches."""
        return self.image_size // self.patch_size

    def describe(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self) | {"variant": str(self.variant)}

"""Names of the fusions of attention and patch CAM; a module without PyTorch, for configurations."""

from enum import StrEnum


class Fusion(StrEnum):
    """Fusion of class-to-patch attention and patch CAM."""

    PRODUCT = "product"
    """Attention x patch CAM: only patches that are high in both stay high. Source: CVPR 2022, section 3.3."""
    SQUARE_ROOT = "square_root"
    """Square root of the product, the geometric mean: preserves more of an object's extent. Source: plus."""

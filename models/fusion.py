"""How the two kinds of evidence are joined. Apart from the mathematics, so that a configuration needs no PyTorch."""

from enum import StrEnum


class Fusion(StrEnum):
    """How class-to-patch attention and patch CAM are joined."""

    PRODUCT = "product"
    """Attention x patch CAM: few patches of both stand out. Source: CVPR 2022, section 3.3."""
    SQUARE_ROOT = "square_root"
    """Square root of the product, their geometric mean: keeps more of the extent. Source: plus."""

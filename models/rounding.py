"""How far rounding goes, for code with PyTorch and without it."""

NOISE = 4.0
"""A map whose range is at most this many units of rounding of its largest value is constant."""

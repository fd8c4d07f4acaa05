"""Random operations on a cropped training image: which ones it gets, and with what arguments. No PyTorch, no timm.

They are drawn where an image is decoded and applied where it is trained on, by `pipeline.training.worker`.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float32

TOP_LEVEL = 10.0
"""Level at which an operation reaches the end of its range."""
UNIFORM_ABOVE = 100.0
"""A `mstd` above this draws levels evenly from 0 to the magnitude."""
NUM_JITTERS = 3
"""Operations of colour jitter."""


class Operation(IntEnum):
    """An operation on the pixels of an image; timm and Pillow define what each one does."""

    NONE = 0
    AUTO_CONTRAST = 1
    """Stretches each channel to 0 to 255. No argument, as the next two."""
    EQUALIZE = 2
    INVERT = 3
    ROTATE = 4
    """By degrees, counterclockwise."""
    POSTERIZE = 5
    """Number of bits that are kept of a value, 1 to 8."""
    SOLARIZE = 6
    """Inverts values from this one on."""
    SOLARIZE_ADD = 7
    """Added to values below 128."""
    COLOR = 8
    """Factor of the difference from grey, as of the next three: 1 changes nothing."""
    CONTRAST = 9
    """From the mean grey of the image."""
    BRIGHTNESS = 10
    """From black."""
    SHARPNESS = 11
    """From the smoothed image."""
    SHEAR_X = 12
    """Columns by which a row is displaced, per row; likewise SHEAR_Y."""
    SHEAR_Y = 13
    TRANSLATE_X = 14
    """Fraction of the width; likewise TRANSLATE_Y of the height."""
    TRANSLATE_Y = 15


RANDOM_OPERATIONS = tuple(Operation)[1:]
"""From which RandAugment draws, all with the same probability."""
JITTERS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """A RandAugment policy in timm's notation, such as rand-m9-mstd0.5-mmax9-inc1.

    Source: Cubuk et al., NeurIPS 2020, as timm implements it (timm/data/auto_augment.py, Apache 2.0). Weighted choices
    of operations (`t`) are left out, and a value keeps at least 1 bit.
    """

    magnitude: float = 10.0
    """`m`: mean level."""
    num_layers: int = 2
    """`n`: operations drawn for an image, one after the other."""
    probability: float = 0.5
    """`p`: of applying an operation that was drawn."""
    magnitude_std: float = 0.0
    """`mstd`: standard deviation of the level; above 100: levels are drawn evenly from 0 to the magnitude."""
    magnitude_max: float = TOP_LEVEL
    """`mmax`: highest level."""
    is_increasing: bool = False
    """`inc`: whether a higher level always is a stronger change; `inc0` is the same as none."""

    @classmethod
    def parse(cls, name: str) -> "RandAugment":
        """Parse timm's name of a policy.

        >>> RandAugment.parse("rand-m9-n3-mstd0.5").num_layers
        3

        Raises:
            ValueError: It is not such a name, or a value is out of range.
        """
        first, *sections = name.split("-")
        # As timm: m, n, mmax and inc are whole numbers. Digits of other scripts are not known.
        found = [re.fullmatch(r"(m|n|mmax|inc)([0-9]+)|(p|mstd)([0-9]+\.?[0-9]*)", section) for section in sections]
        values = {match[1] or match[3]: float(match[2] or match[4]) for match in found if match}
        # A key that comes twice would be read in two ways: timm takes the last m, and the first mstd.
        if first != "rand" or len(values) < len(sections):
            raise ValueError(
                f"need a rand_augment of timm's RandAugment with m, n, p, mstd, mmax and inc, each once at most, such "
                f"as rand-m9-mstd0.5-mmax9-inc1, got '{name}'; leave it empty for colour jitter. A run that an earlier "
                "version began with another policy goes on with that version alone, which its train.json names"
            )
        policy = cls(
            magnitude=values.get("m", TOP_LEVEL),
            num_layers=int(values.get("n", 2)),
            probability=values.get("p", 0.5),
            magnitude_std=values.get("mstd", 0.0),
            magnitude_max=values.get("mmax", 0.0) or TOP_LEVEL,
            is_increasing=bool(values.get("inc", 0)),
        )
        if policy.num_layers < 1 or policy.probability > 1:
            raise ValueError(f"need n >= 1 and p <= 1 in rand_augment, got '{name}'")
        return policy

    def draw(self, generator: np.random.Generator) -> Float32[np.ndarray, "l 2"]:
        """Draw the operations of an image and their arguments; NONE for one that is not applied."""
        drawn = np.zeros((self.num_layers, 2), np.float32)
        # Each layer takes the same number of draws, so that a draw does not depend on the values of earlier ones.
        chances = generator.random((self.num_layers, 4)).tolist()
        deviations = generator.standard_normal(self.num_layers).tolist()
        for layer, (choice, chance, share, side) in enumerate(chances):
            if chance >= self.probability:
                continue
            operation = RANDOM_OPERATIONS[int(choice * len(RANDOM_OPERATIONS))]
            level = self.magnitude + self.magnitude_std * deviations[layer]
            if self.magnitude_std > UNIFORM_ABOVE:
                level = share * self.magnitude
            level = min(max(level, 0.0), self.magnitude_max) / TOP_LEVEL
            drawn[layer] = operation, self._find_argument(operation, level, -1.0 if side < 0.5 else 1.0)
        return drawn

    def _find_argument(self, operation: Operation, level: float, sign: float) -> float:
        """Compute the argument of an operation for a level, 1 at the end of its range, and a random sign."""
        if operation in (Operation.COLOR, Operation.CONTRAST, Operation.BRIGHTNESS, Operation.SHARPNESS):
            return max(0.1, 1 + sign * level * 0.9) if self.is_increasing else level * 1.8 + 0.1
        if operation == Operation.POSTERIZE:
            return float(max(1, 4 - int(level * 4) if self.is_increasing else int(level * 4)))
        if operation == Operation.SOLARIZE:
            threshold = min(256, int(level * 256))
            return float(256 - threshold if self.is_increasing else threshold)
        if operation == Operation.SOLARIZE_ADD:
            return float(min(128, int(level * 110)))
        if operation == Operation.ROTATE:
            return sign * level * 30
        if operation in (Operation.SHEAR_X, Operation.SHEAR_Y):
            return sign * level * 0.3
        if operation in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y):
            return sign * level * 0.45
        return 0.0


def draw_jitter(strength: float, generator: np.random.Generator) -> Float32[np.ndarray, "l 2"]:
    """Draw factors of brightness, contrast and colour from 1 - strength to 1 + strength, in a random order."""
    drawn = np.zeros((NUM_JITTERS, 2), np.float32)
    drawn[:, 0] = generator.permutation(JITTERS)
    drawn[:, 1] = generator.uniform(max(0.0, 1 - strength), 1 + strength, NUM_JITTERS)
    return drawn

"""Splits of rows by the hash of their keys: the same key is always in the same split, whatever the run or export."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Splits:
    """Names of splits and their shares."""

    shares: Mapping[str, float]
    """Share of each split, in order; they add up to 1."""

    def __post_init__(self) -> None:
        if not self.shares:
            raise ValueError("need at least one split")
        for name, share in self.shares.items():
            if not name.isidentifier() or not name.isascii():
                raise ValueError(f"need letters, digits and _ in the name of a split, got {name!r}")
            if not 0 < share <= 1:
                raise ValueError(f"need a share of split {name!r} above 0 and at most 1, got {share}")
        if abs(sum(self.shares.values()) - 1) > SUM_TOLERANCE:
            raise ValueError(f"need shares of splits that add up to 1, got {sum(self.shares.values()):g}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits, in order."""
        return tuple(self.shares)

    def choose(self, key: str) -> str:
        """Choose the split of a key.

        >>> [Splits({"train": 0.9, "val": 0.1}).choose(key) for key in ("000001", "000002", "000003")]
        ['train', 'val', 'train']
        """
        place = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
        *limits, _ = accumulate(self.shares.values())
        return self.names[sum(place >= limit for limit in limits)]


ONE_SPLIT = Splits({"train": 1.0})
"""All rows in one split."""


def parse_splits(text: str) -> Splits:
    """Parse shares as users write them.

    >>> parse_splits("train=0.9,val=0.1").names
    ('train', 'val')

    Raises:
        ValueError: The text has another form, a name twice, or the shares do not add up to 1.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (word.strip() for word in part.partition("="))
        try:
            value = float(share)
        except ValueError:
            raise ValueError(f"need splits as train=0.9,val=0.1; got {part.strip()!r} in {text!r}") from None
        if name in shares:
            raise ValueError(f"split {name!r} stands twice in {text!r}")
        shares[name] = value
    return Splits(shares)

"""Random seeds as a function of their purpose: equal on every machine and in every attempt."""

import hashlib

import numpy as np


def make_generator(rng_seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Make a random generator that depends on the arguments alone."""
    return np.random.default_rng(derive_seed(rng_seed, epoch, purpose))


def derive_seed(rng_seed: int, epoch: int, purpose: str) -> int:
    """Derive a 32-bit random seed from the arguments alone."""
    digest = hashlib.sha256(f"{rng_seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

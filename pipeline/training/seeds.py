"""Random seeds that are a function of what they are for: the same on every machine and in every attempt."""

import hashlib

import numpy as np


def make_generator(rng_seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Make random numbers that depend on nothing but the arguments."""
    return np.random.default_rng(derive_seed(rng_seed, epoch, purpose))


def derive_seed(rng_seed: int, epoch: int, purpose: str) -> int:
    """Derive a 32-bit random seed that is the same on every machine."""
    digest = hashlib.sha256(f"{rng_seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

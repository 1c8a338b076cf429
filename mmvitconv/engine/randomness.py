"""Random numbers that depend on the place in a run, not on what was drawn before.

A run that was killed goes on exactly only if every random number it will draw is known again.
Instead of saving the states of all generators of all processes (worker processes included, which
are ahead of the training by some batches), each iteration and each sample gets a seed of its own,
made from the seed of the run and the place.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Make a seed from a place in a run.

    Args:
        *parts: What the place is, e.g. the run's seed, a word for the purpose, and numbers.

    Returns:
        A number of 0..2**63-1; other parts give an unrelated one. The same on every machine.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_process(seed: int, devices: bool = True) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators.

    Args:
        seed: As :func:`derive_seed` returns it.
        devices: Seed the generators of GPUs too.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that NumPy takes
    if devices:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)

"""Random numbers that depend only on a few integers, not on earlier draws.

So a sample is the same in every process and after every restart, and nobody's generator has to be saved.
"""

from __future__ import annotations

import numpy as np


__all__ = ["derive_seed", "generator_of"]


def _sequence(counters: tuple[int, ...]) -> np.random.SeedSequence:
    # Two words a counter and their number in front, as NumPy takes (1,), (1, 0) and (2**32, ) to (0, 1) for the same.
    return np.random.SeedSequence(np.array([len(counters), *counters], dtype=np.uint64).view(np.uint32))


def derive_seed(*counters: int) -> int:
    """One seed, 0 to 2**63 - 1, of several integers of the range 0 to 2**64 - 1, such as (seed, index)."""
    return int(_sequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(*counters: int) -> np.random.Generator:
    """A generator of its own for several integers of the range 0 to 2**64 - 1."""
    return np.random.Generator(np.random.PCG64(_sequence(counters)))

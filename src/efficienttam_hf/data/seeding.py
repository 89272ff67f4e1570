"""Random numbers that depend only on a few integers, not on earlier draws.

So a sample is the same in every process and after every restart, and no generator state has to be saved.
"""

from __future__ import annotations

import numpy as np


__all__ = ["derive_seed", "generator_of"]


def _sequence(counters: tuple[int, ...]) -> np.random.SeedSequence:
    # Two words for each counter, after the number of counters: NumPy treats (1,) and (1, 0) alike, and (2**32,) and
    # (0, 1).
    return np.random.SeedSequence(np.array([len(counters), *counters], dtype=np.uint64).view(np.uint32))


def derive_seed(*counters: int) -> int:
    """Return a seed from 0 to 2**63 - 1 for several integers from 0 to 2**64 - 1, such as (seed, index)."""
    return int(_sequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(*counters: int) -> np.random.Generator:
    """Return a generator that is seeded by several integers from 0 to 2**64 - 1."""
    return np.random.Generator(np.random.PCG64(_sequence(counters)))

"""Combines several sources of clips, which are sampled by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .clip import Clip, ClipSource
from .seeding import generator_of


__all__ = ["MixedClips"]


class MixedClips:
    """A source of clips that takes each clip from one of several sources.

    A source is called with the index of the mixture, so it gets only some indices, in increasing order: over a long run
    it returns its videos equally often, but not exactly once in each of its epochs.

    Args:
        sources: `(source, weight)` pairs. A source's share of the clips is its weight divided by the sum of weights.
        seed: the seed of the choice. Nested mixtures need different seeds, or the choices would be correlated.

    Raises:
        ValueError: if there are no sources, or a weight is not a positive finite number.
    """

    def __init__(self, sources: Sequence[tuple[ClipSource, float]], seed: int = 0):
        if not sources:
            raise ValueError("A mixture needs at least one (source, weight) pair, got none.")
        for place, (source, weight) in enumerate(sources):
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(
                    f"The weight of source {place} ({type(source).__name__}) must be a positive finite number, got "
                    f"{weight!r}; leave a source out rather than weigh it 0."
                )
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}.")
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources], dtype=np.float64)
        self.shares = weights / weights.sum()
        self.seed = seed

    def __getitem__(self, index: int) -> Clip:
        return self.sources[self.source_of(index)][index]

    def source_of(self, index: int) -> int:
        """Return the position in `sources` of the source for this index."""
        return int(generator_of(self.seed, index).choice(len(self.sources), p=self.shares))

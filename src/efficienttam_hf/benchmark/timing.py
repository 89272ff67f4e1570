"""Fair timing on a machine that others use too: contenders take turns, so what is compared was measured together.

A busy minute makes everything slower. So nothing is timed on its own: in every round each contender does one frame, the
first one of a round is another each time, and ratios are taken within rounds before their median is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch


__all__ = ["Clock", "Spread", "clock_for", "interleave", "paired_ratios"]


T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing.

    Attributes:
        median: of all.
        low, high: the first and the third quartile: half of them lie between.
        count: how many.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        low, median, high = np.percentile(np.asarray(values, dtype=np.float64), (25, 50, 75))
        return cls(float(median), float(low), float(high), len(values))


def clock_for(device: torch.device | str) -> Clock:
    """A clock in seconds that waits for the device to have done what it was told."""
    device = torch.device(device)
    if device.type == "cpu":
        return time.perf_counter
    wait = getattr(torch, device.type).synchronize

    def clock() -> float:
        wait()
        return time.perf_counter()

    return clock


def interleave(steps: Mapping[str, Callable[[], T]], rounds: int) -> Iterator[dict[str, T]]:
    """Run every step once a round, beginning with another one each round; yields what they returned, by name."""
    names = list(steps)
    for number in range(rounds):
        first = number % len(names)
        yield {name: steps[name]() for name in names[first:] + names[:first]}


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """The spread of value / base, each taken within a round.

    Raises:
        ValueError: if they are not of the same rounds.
    """
    return Spread.of([value / reference for value, reference in zip(values, base, strict=True)])

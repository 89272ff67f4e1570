"""Fair timing on a shared machine: contenders take turns, so compared values are measured together.

A busy minute slows every contender. So no contender is timed alone: in every round, each contender processes one frame,
the order changes from round to round, and the median is taken over the ratios within rounds.
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
        median: the median of all values.
        low, high: the first and the third quartile; half of the values lie between them.
        count: the number of values.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute the spread of at least one value."""
        low, median, high = np.percentile(np.asarray(values, dtype=np.float64), (25, 50, 75))
        return cls(float(median), float(low), float(high), len(values))


def clock_for(device: torch.device | str) -> Clock:
    """Return a clock in seconds that waits until the device has finished its work."""
    device = torch.device(device)
    if device.type == "cpu":
        return time.perf_counter
    wait = getattr(torch, device.type).synchronize

    def clock() -> float:
        wait()
        return time.perf_counter()

    return clock


def interleave(steps: Mapping[str, Callable[[], T]], rounds: int) -> Iterator[dict[str, T]]:
    """Run every step once per round, beginning with the next step each round, and yield their results by name."""
    names = list(steps)
    for number in range(rounds):
        first = number % len(names)
        yield {name: steps[name]() for name in names[first:] + names[:first]}


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Compute the spread of value / base, with each ratio taken within a round.

    Raises:
        ValueError: if the numbers of values differ.
    """
    return Spread.of([value / reference for value, reference in zip(values, base, strict=True)])

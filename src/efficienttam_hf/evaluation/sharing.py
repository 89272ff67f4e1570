"""Distributes videos among the processes of `accelerate launch` or torchrun, and gathers their results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch


__all__ = ["Processes", "balanced_shares"]

PATIENCE = timedelta(days=7)  # time for which a finished process waits for the others


class Processes:
    """The processes that evaluate or track together: one, unless a launcher started more.

    Attributes:
        count: number of processes.
        index: index of this process.
        device: the launcher's choice for this process; `None` if there is only one process, which may choose.

    Raises:
        ImportError: if there are several processes and Accelerate is not installed.
    """

    def __init__(self) -> None:
        self.count, self.index, self.device, self._state = 1, 0, None, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise ImportError(
                    "Work in several processes needs Accelerate: pip install efficienttam-hf[batch]."
                ) from error
            # On machines without another device, several processes only find each other with this setting.
            self._state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
            self.count, self.index = self._state.num_processes, self._state.process_index
            self.device = self._state.device

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which prints and writes for all."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in each of them."""
        if self._state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)


def balanced_shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Distribute the indices of ``lengths`` evenly: longest first, each to the share with the least work so far.

    Args:
        lengths: the time for each item, in any unit.
        count: number of shares.

    Returns:
        `count` lists, each ascending.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    busy = [0] * count
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = busy.index(min(busy))
        shares[least].append(item)
        busy[least] += lengths[item]
    return [sorted(share) for share in shares]

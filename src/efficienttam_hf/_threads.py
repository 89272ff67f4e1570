"""Sets how OpenMP threads wait for each other, before PyTorch is loaded.

PyTorch computes with OpenMP, and between two operations its threads wait for the next in a loop that burns their core.
Alone on a machine that saves some microseconds. Beside other work it is a disaster: a thread that waits keeps the core
from the one that it waits for, and a step becomes up to thirty times slower. OpenMP reads its settings once, when its
library loads, so they are environment variables and must be set before torch is imported. `docs/performance.md` has the
measurements. Nothing in here needs torch.
"""

from __future__ import annotations

import os
import sys


__all__ = ["WAITING_VARIABLES", "let_threads_sleep"]


# What says how threads wait: of the OpenMP standard, and of libgomp, which PyTorch's own packages for Linux come with.
# `KMP_BLOCKTIME` is libomp's, in which OMP_WAIT_POLICY works as well.
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def let_threads_sleep() -> bool:
    """Have OpenMP's threads sleep while they wait, in this process and those it starts.

    A variable that the user has set holds; nothing is changed then. `OMP_WAIT_POLICY=active` brings the loop back.

    Returns:
        Whether it takes effect in this process: not if torch was imported before, or the user decided otherwise.
    """
    if any(name in os.environ for name in WAITING_VARIABLES):
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return "torch" not in sys.modules

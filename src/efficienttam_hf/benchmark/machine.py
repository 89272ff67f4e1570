"""The machine: its description, its memory, and the speed of its matrix product.

The matrix product is the reference, because no part of a network is faster: the ratio of a stage's rate to it shows how
much could be gained. It is timed in turns with the contenders, because on a shared machine the speed of both changes.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .timing import clock_for


__all__ = ["MatrixProduct", "MemoryUse", "check_device", "describe_machine", "with_peak_memory"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_device(device: torch.device, dtype: str) -> None:
    """Check that a device can compute in a dtype.

    Raises:
        ValueError: if it cannot; the message has the reason.
    """
    try:
        x = torch.ones(1, 1, 16, 16, device=device, dtype=DTYPES[dtype])
        F.scaled_dot_product_attention(F.conv2d(x, x[..., :1, :1]) @ x, x, x).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {device} cannot compute in {dtype}: {reason}") from error


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what results depend on: the processor, the threads, the load and the versions."""
    import transformers

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor_name(),
        "logical cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load average at the start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _processor_name() -> str:
    """Return the name of the processor's model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


class MatrixProduct:
    """A product of two square matrices, which is timed repeatedly.

    Args:
        device: the device.
        dtype: the dtype of the matrices.
        size: the number of rows and columns; the default is large enough for the full rate of a CPU or GPU.
    """

    def __init__(self, device: torch.device, dtype: str, size: int | None = None):
        self.size = size or (2048 if device.type == "cpu" else 8192)
        self._a, self._b = torch.randn(2, self.size, self.size, device=device).to(DTYPES[dtype])
        self._out, self._clock = torch.empty_like(self._a), clock_for(device)
        self.rate()  # the first call includes initialization

    def rate(self) -> float:
        """Return the rate of one product in operations per second."""
        start = self._clock()
        torch.matmul(self._a, self._b, out=self._out)
        return 2 * self.size**3 / (self._clock() - start)


@dataclass(frozen=True)
class MemoryUse:
    """The largest memory use, in bytes.

    Attributes:
        peak: the largest RAM of the process or, on a GPU, the largest GPU memory of its tensors.
        libraries: the part of it that the process used before a model was made; 0 on a GPU.
    """

    peak: int
    libraries: int

    @property
    def own(self) -> int:
        """The largest use by the model, the video and the memories."""
        return self.peak - self.libraries


def with_peak_memory(device: str, function: Callable[..., Any], *args: Any) -> tuple[Any, MemoryUse]:
    """Call a function of a module in a new process, and measure its memory use.

    Args:
        device: the device that the function uses.
        function: the function.
        args: its arguments.

    Returns:
        The function's result, and the memory use.

    Raises:
        MemoryError: if the system ended the process, as it does when RAM is exhausted.
    """
    # The process is spawned and not forked, because a forked process begins with the RAM of its parent.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_call, device, function, args).result()
        except BrokenProcessPool as error:
            raise MemoryError("The process that memory was measured in was ended; was memory at an end?") from error


def _call(device: str, function: Callable[..., Any], args: tuple) -> tuple[Any, MemoryUse]:
    """Call a function and measure the memory use of this process."""
    if torch.device(device).type == "cuda":
        result = function(*args)
        return result, MemoryUse(torch.cuda.max_memory_allocated(device), 0)
    libraries = highest_resident_bytes()
    result = function(*args)
    return result, MemoryUse(highest_resident_bytes(), libraries)


def highest_resident_bytes() -> int:
    """Return the largest RAM that this process has used so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage would include the parent process
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS

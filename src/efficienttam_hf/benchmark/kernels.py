"""The output of `efficienttam benchmark --kernels`: the kernels that this machine uses, and their measured times."""

from __future__ import annotations

import os

import torch

from ..cpu_kernels import OPERATIONS
from ..kernel_choice import DTYPES, PLAIN, VARIABLE, KernelChoices, cache_file, machine


__all__ = ["describe_kernels"]


def describe_kernels(threads: int | None = None) -> str:
    """Return a Markdown table for each dtype, with each operation's candidates and their milliseconds.

    The chosen candidate is bold. Candidates without a stored measurement are timed now.

    Args:
        threads: torch's number of threads; None is its default.

    Raises:
        ValueError: if `EFFICIENTTAM_KERNELS` names an unknown mode, operation or candidate.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return "\n\n".join(_table(dtype) for dtype in DTYPES)
    finally:
        torch.set_num_threads(before)


def _table(dtype: str) -> str:
    """Return the table of a dtype."""
    choices = KernelChoices(OPERATIONS)  # the choices of this process may be for another number of threads
    found, about = choices.measured(dtype), machine(dtype)
    lines = [
        f"{dtype}, {about['processor']} ({about['capability']}), threads: {about['threads']}, torch {about['torch']}",
        "",
        f"| operation | candidates, milliseconds | {PLAIN} / chosen |",
        "| --- | --- | ---: |",
    ]
    for name, operation in choices.operations.items():
        chosen = choices.of(name, DTYPES[dtype], measure=True)
        times = {} if found is None else found.milliseconds[name]
        cells = []
        for choice in operation.candidates[dtype]:
            cell = f"{choice} {times[choice]:.2f}" if choice in times else choice
            cells.append(f"**{cell}**" if choice == chosen else cell)
        ratio = f"{times[PLAIN] / times[chosen]:.2f}" if times.get(chosen) else ""
        lines.append(f"| {name} | {', '.join(cells)} | {ratio} |")
    kept = f"Kept in {cache_file(dtype)}." if found else f"Not measured: {cache_file(dtype).parent} cannot be written."
    said = os.environ.get(VARIABLE, "measured")
    return "\n".join([*lines, "", f"{kept} {VARIABLE} is {said}; {PLAIN!r} takes PyTorch's own everywhere."])

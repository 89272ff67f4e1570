"""The stages of a frame, found in a model by their role, and meters that say what each stage took.

This is the one place that knows what the parts of a model are called, ours and those of its kind. A meter only
listens: hooks read a clock (or a counter of operations) before and after a part runs, and what runs is the same with
and without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


__all__ = ["STAGES", "StageMeter", "count_flops", "find_stages"]

# For each stage, the parts that make it: their names in our models and Transformers', and in published code.
STAGES: dict[str, tuple[str, ...]] = {
    "image encoder": ("vision_encoder", "image_encoder"),
    "memory attention": ("memory_attention",),
    "mask decoder": ("prompt_encoder", "mask_decoder", "sam_prompt_encoder", "sam_mask_decoder"),
    # EdgeTAM compresses each memory before it is kept.
    "memory encoder": ("memory_encoder", "spatial_perceiver"),
}


def find_stages(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The parts of a model that make each stage of `STAGES`.

    Raises:
        ValueError: if a stage has none.
    """
    parts = dict(model.named_children())
    found = {stage: [parts[name] for name in names if name in parts] for stage, names in STAGES.items()}
    missing = [stage for stage, modules in found.items() if not modules]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no part for the {' and the '.join(missing)}: its parts are {', '.join(parts)}."
        )
    return found


class StageMeter:
    """What the stages of a model take, by any reading that only grows.

    Args:
        model: whose stages are metered.
        read: gives the reading: seconds of a clock, or operations counted.
    """

    def __init__(self, model: nn.Module, read: Callable[[], float]):
        self._stages, self._read = find_stages(model), read

    @contextmanager
    def listening(self) -> Iterator[dict[str, float]]:
        """Meter what runs in the block: a sum for each stage that ran, also of several calls."""
        taken: dict[str, float] = defaultdict(float)
        begun: dict[nn.Module, float] = {}
        handles: list[Any] = []

        def hook(stage: str, module: nn.Module) -> None:
            def before(*_: Any) -> None:
                begun[module] = self._read()

            def after(*_: Any) -> None:
                taken[stage] += self._read() - begun.pop(module)

            handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

        for stage, modules in self._stages.items():
            for module in modules:
                hook(stage, module)
        try:
            yield taken
        finally:
            for handle in handles:
                handle.remove()


def count_flops(model: nn.Module, step: Callable[[], object]) -> dict[str, int]:
    """Floating point operations of matrix products, convolutions and attention in a step; a multiplication and an
    addition are two. By stage, and `"frame"` for all. Padding that is computed counts, as it is computed."""
    counter = FlopCounterMode(display=False)
    eager = getattr(torch.compiler, "set_stance", None)  # compiled code would pass the counter by
    meter = StageMeter(model, counter.get_total_flops)
    with meter.listening() as taken, counter:
        if eager is None:
            step()
        else:
            with eager("force_eager"):
                step()
    return {**{stage: int(flops) for stage, flops in taken.items()}, "frame": int(counter.get_total_flops())}

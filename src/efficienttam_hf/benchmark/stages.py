"""The stages of a frame, which are found in a model by the names of its parts, and meters that time them.

Only this file knows these names, for our models and similar ones. A meter does not change the model: hooks read a clock
(or a counter of operations) before and after a part runs.
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

# For each stage, the names of its parts in our models and Transformers', and in the published code.
STAGES: dict[str, tuple[str, ...]] = {
    "image encoder": ("vision_encoder", "image_encoder"),
    "memory attention": ("memory_attention",),
    "mask decoder": ("prompt_encoder", "mask_decoder", "sam_prompt_encoder", "sam_mask_decoder"),
    # EdgeTAM compresses each memory before it is stored.
    "memory encoder": ("memory_encoder", "spatial_perceiver"),
}


def find_stages(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the parts of a model that make up each stage of `STAGES`.

    Raises:
        ValueError: if a stage has no part.
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
    """Measures what the stages of a model take, with any reading that only grows.

    Args:
        model: the model.
        read: a function that returns the reading: seconds of a clock, or the number of operations.
    """

    def __init__(self, model: nn.Module, read: Callable[[], float]):
        self._stages, self._read = find_stages(model), read

    @contextmanager
    def listening(self) -> Iterator[dict[str, float]]:
        """Measure all calls in a `with` block. The result has the sum for each stage that ran."""
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
    """Count the floating-point operations of a step: matrix products, convolutions and attention.

    A multiplication and an addition are two operations. Operations on padding are counted, because they are computed.

    Args:
        model: the model.
        step: a function that runs the step.

    Returns:
        The operations of each stage, and of all as `"frame"`.
    """
    counter = FlopCounterMode(display=False)
    eager = getattr(torch.compiler, "set_stance", None)  # compiled code would bypass the counter
    meter = StageMeter(model, counter.get_total_flops)
    with meter.listening() as taken, counter:
        if eager is None:
            step()
        else:
            with eager("force_eager"):
                step()
    return {**{stage: int(flops) for stage, flops in taken.items()}, "frame": int(counter.get_total_flops())}

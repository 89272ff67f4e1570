"""Graphs whose axes have an upper bound, which runtimes on phones need to plan their RAM in advance.

`coreml_export.py` and `executorch_export.py` use this file. A graph becomes one function, or two if the computation for
a single memory differs from that for several; neither runtime chooses between them, so the host does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from ..modeling_efficienttam_video import EfficientTamVideoModel
from .exporting import manifest_of
from .graphs import Counts, ExportedGraph, traces
from .manifest import Manifest


# The host runs more objects in several batches; `max_cond_frame_num` limits the conditioning frames.
MOST_OBJECTS, MOST_PROMPTED_FRAMES, MOST_POINTS = 4, 8, 16


@dataclass(frozen=True)
class Function:
    """One entry point of a graph.

    Attributes:
        program: the traced computation.
        axes: the smallest and the largest size of each axis, by name.
    """

    program: torch.export.ExportedProgram
    axes: dict[str, tuple[int, int]]

    @property
    def least(self) -> Counts:
        """The smallest sizes that the function accepts."""
        return replace(Counts(1, 1, 1, 1), **{name: least for name, (least, _) in self.axes.items()})


def most(model: EfficientTamVideoModel) -> Counts:
    """Return the bounds of a model's axes, from its temporal windows and the bound of prompted frames."""
    config = model.config
    return Counts(
        MOST_OBJECTS,
        MOST_PROMPTED_FRAMES + config.num_maskmem - 1,
        MOST_PROMPTED_FRAMES + config.max_object_pointers_in_encoder - 1,
        MOST_POINTS,
    )


def bounded_manifest(model: EfficientTamVideoModel, source: str, dtype: str, format: str) -> Manifest:
    """Like `manifest_of`, with a limit of conditioning frames that keeps memories and pointers within the bounds."""
    manifest = manifest_of(model, source, dtype, format=format)
    given = manifest.rules.max_cond_frame_num
    frames = MOST_PROMPTED_FRAMES if given == -1 else min(given, MOST_PROMPTED_FRAMES)
    return replace(manifest, rules=replace(manifest.rules, max_cond_frame_num=frames))


def functions(graph: ExportedGraph, least_pointers: int = 0) -> dict[str, Function]:
    """Return a graph's functions by name: `main`, or `several_memories` and `single_memory`."""
    bounds, found = asdict(most(graph.model)), {}
    for counts, inputs in traces(graph):
        least = {axis.__name__: axis.min for axes in inputs.values() for axis in axes.values()}
        if "pointers" in least:
            least["pointers"] = least_pointers
        bounded = {name: torch.export.Dim(name, min=least[name], max=bounds[name]) for name in least}
        program = torch.export.export(
            graph,
            (),
            graph.examples(counts, torch.Generator().manual_seed(1)),
            dynamic_shapes={
                name: {i: bounded[axis.__name__] for i, axis in axes.items()} for name, axes in inputs.items()
            },
        )
        name = "main"
        if graph.needs_several_memories:
            name = "several_memories" if counts.memories > 1 else "single_memory"
        found[name] = Function(program, {name: (least[name], bounds[name]) for name in sorted(least)})
    return found

"""Exports ExecuTorch programs (`.pte`) for the XNNPACK backend, and runs each with ExecuTorch's Python runtime.

This needs the `executorch` extra. The programs are float32 for CPUs, on any system that ExecuTorch supports.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..modeling_efficienttam_video import EfficientTamVideoModel
from .bounded import Function, bounded_manifest, functions
from .exporting import GraphReport, check_difference, check_exportable, differences, prepared, write_folder
from .graphs import ExportedGraph
from .manifest import Manifest


FORMAT = "efficienttam-executorch"

# These operators run in ExecuTorch itself. They compute nothing. If they are delegated, XNNPACK 1.5 fails on several
# variable axes ("reshape only supports 1 dynamic dimension"), or the partitioner fails on the operators between them
# ("dependency cycles").
NOT_DELEGATED = ("View", "Unsqueeze", "Cat", "Slice", "Permute", "Clone", "CloneDimOrder", "ToDimOrder")


def export_executorch(
    model: EfficientTamVideoModel,
    output: str | Path,
    source: str,
    dtype: str = "float32",
    overwrite: bool = False,
    report: Callable[[GraphReport], None] = lambda graph: None,
) -> Manifest:
    """Export a model to a folder of four `.pte` and `manifest.json`. Arguments, errors: see `exporting.export_onnx`."""
    if dtype != "float32":
        raise ValueError(f"There is no export to ExecuTorch in dtype {dtype!r}: choose float32.")
    check_exportable(model, output, overwrite)
    _import_executorch()
    manifest = bounded_manifest(model, source, dtype, FORMAT)
    network = prepared(model, dtype)

    def make(graph: ExportedGraph, folder: Path, temporary: Path) -> GraphReport:
        entry = manifest.graphs[graph.name]
        path, entries = folder / entry["file"], functions(graph)
        planned = _save(entries, path)
        entry["functions"] = {name: function.axes for name, function in entries.items()}
        made = GraphReport(
            graph.name, path.stat().st_size, *compare(graph, path), note=f"{planned / 1e6:.1f} MB to compute in"
        )
        report(made)
        check_difference(made, dtype)
        return made

    write_folder(network, output, manifest, make)
    return manifest


def compare(graph: ExportedGraph, path: Path) -> tuple[float, float]:
    """Return `differences` of a saved program, run by ExecuTorch's Python runtime."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    methods = {name: program.load_method(name) for name in program.method_names}

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        name = "main" if "main" in methods else "single_memory"
        if name == "single_memory" and inputs["memory"].shape[1] > 1:
            name = "several_memories"
        return methods[name].execute(list(inputs.values()))

    return differences(graph, run)


def _save(entries: dict[str, Function], path: Path) -> int:
    """Write functions as methods of one program with shared weights; return the largest working memory in bytes."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    left = {name + suffix for name in NOT_DELEGATED for suffix in ("Config", "CopyConfig")}
    delegated = [kind for kind in ALL_PARTITIONER_CONFIGS if kind.__name__ not in left]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lowered = to_edge_transform_and_lower(
            {name: function.program for name, function in entries.items()},
            partitioner=[XnnpackPartitioner(configs=delegated)],
        ).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)
    return max(sum(plan.non_const_buffer_sizes) for plan in lowered.executorch_program.execution_plan)


def _import_executorch() -> None:
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # warnings of torchao, which ExecuTorch imports
    try:
        import executorch.runtime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Exporting to ExecuTorch needs {error.name}: pip install efficienttam-hf[executorch]."
        ) from error

"""Exports Core ML packages (`.mlpackage`, ML Programs). They run on Apple's systems only, so they are not executed.

This needs the `coreml` extra; `coremltools` converts on Linux too. The export checks the names, types, axes and bounds
of inputs and outputs. In the tests, the operators are run in torch and the numbers are compared.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..modeling_efficienttam_video import EfficientTamVideoModel
from .bounded import Function, bounded_manifest, functions
from .exporting import GraphReport, check_exportable, prepared, write_folder
from .graphs import ExportedGraph
from .manifest import ExportError, Manifest


if TYPE_CHECKING:
    import coremltools

FORMAT = "efficienttam-coreml"
DTYPES = ("float32", "float16")

# Core ML has neither booleans nor 64-bit indices as inputs and outputs of a graph. Flags are 0 or 1.
BORDER_TYPES = {torch.float32: "FLOAT32", torch.bool: "FLOAT32", torch.int64: "INT32"}


def export_coreml(
    model: EfficientTamVideoModel,
    output: str | Path,
    source: str,
    dtype: str = "float32",
    overwrite: bool = False,
    report: Callable[[GraphReport], None] = lambda graph: None,
) -> Manifest:
    """Export a model to a folder of four packages and a manifest. Arguments, errors: see `exporting.export_onnx`."""
    if dtype not in DTYPES:
        raise ValueError(f"There is no export to Core ML in dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
    check_exportable(model, output, overwrite)
    if model.config.memory_attention_config.cross_attention == "windowed":
        raise ValueError(
            "A model with cross_attention='windowed' cannot be exported to Core ML: it needs arrays of more than five "
            "axes, which Core ML does not have. Export it to ONNX or ExecuTorch."
        )
    _import_coremltools()
    manifest = bounded_manifest(model, source, dtype, FORMAT)
    network = prepared(model, "float32")  # the converter converts it to float16

    def make(graph: ExportedGraph, folder: Path, temporary: Path) -> GraphReport:
        entry = manifest.graphs[graph.name]
        entries = functions(graph, least_pointers=1)  # Core ML has no empty arrays
        path = folder / entry["file"]
        with contextlib.redirect_stderr(io.StringIO()):  # hides progress bars
            _save({name: convert(graph, function, dtype) for name, function in entries.items()}, path, temporary)
        entry["functions"] = {name: function.axes for name, function in entries.items()}
        operators = check(graph, entries, path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        made = GraphReport(graph.name, size, note=f"{operators.total()} operators of {len(operators)} kinds, not run")
        report(made)
        return made

    write_folder(network, output, manifest, make)
    return manifest


def convert(graph: ExportedGraph, function: Function, dtype: str) -> coremltools.models.MLModel:
    """Convert one function to a model with named outputs."""
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            function.program.run_decompositions(_decompositions()),
            source="pytorch",
            minimum_deployment_target=ct.target.iOS18,  # the first that allows several functions in a package
            compute_precision=ct.precision.FLOAT16 if dtype == "float16" else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    spec = model.get_spec()
    for output, name in zip(list(spec.description.output), graph.outputs, strict=True):
        ct.utils.rename_feature(spec, output.name, name, rename_inputs=False)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def check(graph: ExportedGraph, entries: dict[str, Function], path: Path) -> Counter[str]:
    """Return the operators of a saved package. Raises ExportError if its inputs and outputs are not the graph's."""
    import coremltools as ct

    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    several = {function.name: function for function in spec.description.functions}
    operators: Counter[str] = Counter()
    for name, function in entries.items():
        description = several.get(name, spec.description)
        examples = graph.examples(function.least, torch.Generator())
        expected = {key: _border(graph.inputs[key], value, function) for key, value in examples.items()}
        found = {feature.name: _found(feature) for feature in description.input}
        outputs = [feature.name for feature in description.output]
        if found != expected or outputs != list(graph.outputs):
            raise ExportError(
                f"The converted {graph.name} is not the model's: it takes {found} and gives {outputs}, where it should "
                f"take {expected} and give {list(graph.outputs)}. Nothing was written."
            )
        program = spec.mlProgram.functions[name]
        block = program.block_specializations[program.opset]
        operators.update(operation.type for operation in block.operations if operation.type != "const")
    return operators


def _border(axes: tuple[int | str, ...], example: Tensor, function: Function) -> tuple:
    """Return the expected type of an input, and the smallest and the largest size of each axis."""
    return BORDER_TYPES[example.dtype], [
        function.axes.get(str(axis), (size, size)) for axis, size in zip(axes, example.shape, strict=True)
    ]


def _found(feature: coremltools.proto.Model_pb2.FeatureDescription) -> tuple:
    """Return the actual type and sizes of an input."""
    array = feature.type.multiArrayType
    ranges = [(axis.lowerBound, axis.upperBound) for axis in array.shapeRange.sizeRanges]
    return array.ArrayDataType.Name(array.dataType), ranges or [(size, size) for size in array.shape]


def _decompositions() -> dict:
    """Return decompositions of the operators that coremltools 9 cannot convert into operators that it can."""
    aten = torch.ops.aten
    return {
        aten.where.ScalarOther: lambda condition, x, other: torch.where(condition, x, torch.full_like(x, other)),
        aten.alias.default: lambda x: x,
    }


def _save(models: dict[str, coremltools.models.MLModel], path: Path, temporary: Path) -> None:
    """Write functions into one package, in which they share their weights."""
    import coremltools as ct

    if len(models) == 1:
        models["main"].save(str(path))
        return
    package = ct.utils.MultiFunctionDescriptor()
    for name, model in models.items():
        single = str(temporary / f"{name}.mlpackage")
        model.save(single)
        package.add_function(single, "main", name)
    package.default_function_name = next(iter(models))
    ct.utils.save_multifunction(package, str(path))


def _import_coremltools() -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of a newer torch and of missing macOS
    try:
        import coremltools  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Exporting to Core ML needs {error.name}: pip install efficienttam-hf[coreml].") from error

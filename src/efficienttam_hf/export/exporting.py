"""Exports a model to a folder of four graphs and a manifest, compared with the model; and to ONNX.

This file traces, shrinks, quantises and compares; `graphs.py` has the traced modules, and `manifest.py` the manifest.
ONNX needs the `export` extra. `coreml_export.py` and `executorch_export.py` write such folders for phones.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..checkpoints import weights_sha256
from ..configuration_efficienttam import size_pair
from ..cpu_kernels import CHOICES
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..output_folders import check_replaceable, new_folder
from ..processing_efficienttam import EfficientTamVideoProcessor
from .graphs import GRAPHS, Counts, ExportedGraph, host_constants, traces
from .manifest import DTYPES, FORMAT, SUFFIXES, ExportError, Manifest, Rules, sha256


if TYPE_CHECKING:
    import onnx

OPSETS = range(18, 24)

# The largest accepted difference from torch, relative to the largest value of the output. In int8, some values differ
# much although masks do not, so the mean difference is checked there.
BOUNDS = {"float32": 1e-3, "float16": 5e-2, "int8": 5e-2}

# int8 quantises matrix products with weights. Convolutions, normalisations and products of activations stay in float32.
QUANTISED_OPERATORS = ("MatMul", "Gemm")
# The mask decoder is small, and masks change most if it is quantised, so it stays in float32.
QUANTISED_GRAPHS = ("image_encoder", "memory_attention", "memory_encoder")

# The input sizes of a check: the smallest possible ones, and several of each.
CHECKED_COUNTS = (Counts(1, 1, 1, 1), Counts(3, 2, 0, 2), Counts(2, 4, 7, 5))


@dataclass(frozen=True)
class GraphReport:
    """The result of exporting one graph.

    Attributes:
        name: the name of the graph. size: the size of its file or folder, in bytes.
        largest, mean: the largest and the mean difference from torch on the same inputs, relative to the largest value
            of each output, for the worst output. None if the graph cannot be run on this system.
        note: a further remark.
    """

    name: str
    size: int
    largest: float | None = None
    mean: float | None = None
    note: str = ""


def export_onnx(
    model: EfficientTamVideoModel,
    output: str | Path,
    source: str,
    dtype: str = "float32",
    opset: int = 18,
    overwrite: bool = False,
    report: Callable[[GraphReport], None] = lambda graph: None,
) -> Manifest:
    """Export a model to a folder of four graphs and `manifest.json`, which is created completely or not at all.

    Args:
        model: the model in float32, on the CPU.
        output: the folder to create.
        source: the user's name of the model, for the manifest.
        dtype: data type of the stored weights; `int8` also quantises the activations, dynamically.
        opset: the ONNX operator set.
        overwrite: whether an existing folder of exported graphs may be replaced.
        report: a function that is called with the report of each finished graph.

    Raises:
        ValueError: if a dtype, an opset or a kind of model is not supported. FileExistsError: if the folder may not be
            replaced.
        ExportError: if a graph's outputs differ from the model's. ImportError: if a package of the extra is missing.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no export in dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
    if opset not in OPSETS:
        raise ValueError(f"Opset {opset} is not supported: choose one from {OPSETS[0]} to {OPSETS[-1]}.")
    check_exportable(model, output, overwrite)
    _import_onnx()
    manifest = manifest_of(model, source, dtype, opset)

    def make(graph: ExportedGraph, folder: Path, temporary: Path) -> GraphReport:
        path = folder / manifest.graphs[graph.name]["file"]
        _save(_to_onnx(graph, dtype, opset, temporary), path, manifest.properties(graph.name))
        made = GraphReport(graph.name, path.stat().st_size, *compare(graph, path))
        report(made)
        check_difference(made, dtype)
        return made

    write_folder(prepared(model, dtype), output, manifest, make)
    return manifest


def check_exportable(model: EfficientTamVideoModel, output: str | Path, overwrite: bool) -> None:
    """Raise ValueError if the kind of model cannot be exported, FileExistsError if the folder may not be replaced."""
    attention = model.config.memory_attention_config
    if attention.cross_attention.startswith("pooled") and attention.pooling_scope != "spatial":
        # Runtimes cannot pool empty tensors, and there may be no object pointers.
        raise ValueError(
            f"A model with pooling_scope={attention.pooling_scope!r} cannot be exported: only with 'spatial', as all "
            "published variants have it. The same weights run with either."
        )
    if model.config.non_overlap_masks_for_mem_enc:
        raise ValueError(
            "A model with non_overlap_masks_for_mem_enc cannot be exported: the graph of the memory encoder sees one "
            "object at a time. Set it to False; the weights are the same."
        )
    check_replaceable(output, overwrite)


def check_difference(made: GraphReport, dtype: str) -> None:
    """Raise ExportError if a graph's outputs differ from the model's."""
    difference = made.mean if dtype == "int8" else made.largest
    assert difference is not None  # the graph was run
    if not difference <= BOUNDS[dtype]:
        raise ExportError(
            f"The exported {made.name} is not the model's: its outputs differ by {difference:.1e} of their "
            f"range, and at most {BOUNDS[dtype]:g} is accepted in {dtype}. Nothing was written."
        )


def manifest_of(
    model: EfficientTamVideoModel, source: str, dtype: str, opset: int | None = None, format: str = FORMAT
) -> Manifest:
    """Return the manifest of a future export; `write_folder` adds the files of the graphs."""
    graphs = {
        graph.name: {
            "file": graph.name + SUFFIXES[format],
            "inputs": {name: list(axes) for name, axes in graph.inputs.items()},
            "outputs": {name: list(axes) for name, axes in graph.outputs.items()},
        }
        for graph in (graph_class(model) for graph_class in GRAPHS)
    }
    return Manifest(source, weights_sha256(model), __version__, dtype, opset, graphs, rules_of(model), format)


def write_folder(
    network: EfficientTamVideoModel,
    output: str | Path,
    manifest: Manifest,
    make: Callable[[ExportedGraph, Path, Path], GraphReport],
) -> None:
    """Write graphs and manifest to a folder, completely or not at all. An existing folder is replaced.

    Args:
        network: the output of `prepared`.
        make: a function that writes a graph's file; its arguments are the graph, the folder, and a folder for temporary
            files.
    """
    # `check_exportable` has checked that the folder may be replaced, before the graphs were made.
    with new_folder(output, overwrite=True) as whole, tempfile.TemporaryDirectory() as temporary:
        for graph in (graph_class(network).eval() for graph_class in GRAPHS):
            made, entry = make(graph, whole, Path(temporary)), manifest.graphs[graph.name]
            entry |= {"sha256": sha256(whole / entry["file"]), "bytes": made.size}
        manifest.write(whole)


def rules_of(model: EfficientTamVideoModel) -> Rules:
    """Return the rules and numbers of a model that a host needs."""
    config = model.config
    pixels = EfficientTamVideoProcessor.from_config(config).video_processor
    taken = {name: getattr(config, name) for name in Rules.__dataclass_fields__ if hasattr(config, name)}
    taken |= host_constants(model)
    return Rules(
        **taken
        | {
            "image_size": list(size_pair(config.image_size)),
            "feature_size": list(config.vision_config.feature_size),
            "mask_size": list(config.prompt_encoder_config.mask_input_size),
            "image_mean": list(pixels.image_mean),
            "image_std": list(pixels.image_std),
            "mask_threshold": 0.0,
        }
    )


def compare(graph: ExportedGraph, path: Path) -> tuple[float, float]:
    """Return `differences` of a saved ONNX graph, run by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; in half precision it warns of float32 operators
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return differences(graph, lambda inputs: session.run(None, {name: x.numpy() for name, x in inputs.items()}))


def differences(
    graph: ExportedGraph, run: Callable[[dict[str, Tensor]], Sequence[np.ndarray | Tensor]]
) -> tuple[float, float]:
    """Return the largest and the mean difference of `run` from torch, relative to the largest value of the output.

    The values are those of the worst output. Both run on the same inputs: with one object, memory and click, and with
    several of each; with proposals and without.
    """
    generator = torch.Generator().manual_seed(0)
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        name: [] for name in graph.outputs if name not in graph.chosen_outputs
    }
    for counts in CHECKED_COUNTS:
        inputs = graph.examples(counts, generator)
        for several in (True, False) if "multimask_output" in inputs else (True,):
            if "multimask_output" in inputs:
                inputs["multimask_output"].fill_(several)
            with torch.no_grad(), CHOICES.setting("plain"):
                expected = graph(**inputs)
            for name, mine, value in zip(graph.outputs, run(inputs), _as_tuple(expected), strict=True):
                if name in pairs:
                    pairs[name].append((np.asarray(mine).ravel(), value.numpy().ravel()))
    largest = mean = 0.0
    for compared in pairs.values():
        found, wanted = (np.concatenate(values) for values in zip(*compared, strict=True))
        difference = np.abs(found - wanted) / max(np.abs(wanted).max(), 1e-6)
        largest, mean = max(largest, float(difference.max())), max(mean, float(difference.mean()))
    return largest, mean


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _import_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Exporting needs {error.name}: pip install efficienttam-hf[export].") from error


def prepared(model: EfficientTamVideoModel, dtype: str) -> EfficientTamVideoModel:
    """Return a copy of the model for tracing, with plain attention: graphs do not use the fused kernels."""
    network = EfficientTamVideoModel(model.config)
    network.load_state_dict(model.state_dict())
    network.set_attn_implementation("eager")
    return network.eval().to(torch.float16 if dtype == "float16" else torch.float32)


def _to_onnx(graph: ExportedGraph, dtype: str, opset: int, folder: Path) -> onnx.ModelProto:
    """Trace a graph, and quantise it if `dtype` is int8."""
    from .onnx_models import choose_by_memories, quantised, with_axes

    models = []
    for counts, axes in traces(graph):
        examples = graph.examples(counts, torch.Generator().manual_seed(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names of axes, and about internals of the exporter
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                graph,
                kwargs=examples,
                dynamo=True,
                dynamic_shapes=axes,
                output_names=list(graph.outputs),
                opset_version=opset,
                verbose=False,
            )
        assert program is not None  # dynamo returns a program
        model = with_axes(program, graph.inputs, graph.outputs)
        quantises = dtype == "int8" and graph.name in QUANTISED_GRAPHS
        models.append(quantised(model, QUANTISED_OPERATORS, folder) if quantises else model)
    return models[0] if len(models) == 1 else choose_by_memories(*models)


def _save(model: onnx.ModelProto, path: Path, properties: dict[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)

"""Transforms ONNX models: merges common parts, names axes, quantises weights, and joins two graphs to one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import onnx
    import torch


def with_axes(
    program: torch.onnx.ONNXProgram,
    inputs: dict[str, tuple[int | str, ...]],
    outputs: dict[str, tuple[int | str, ...]],
) -> onnx.ModelProto:
    """Convert a traced program to a model without repeated computations whose axes have the given names.

    Args:
        program: the traced program, whose axes have names such as `s17`.
        inputs: the axes of each input: a number, or the name of an axis that may vary.
        outputs: the axes of each output.

    Returns:
        The model.
    """
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

    CommonSubexpressionEliminationPass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    model = program.model_proto
    for values, axes in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for value in values:
            for dimension, axis in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=True):
                if isinstance(axis, str):
                    dimension.dim_param = axis
    del model.graph.value_info[:]  # the shapes of inner values have the old names; runtimes infer them again
    for node in model.graph.node:
        del node.metadata_props[:]  # the positions in the Python code
    return model


def quantised(model: onnx.ModelProto, operators: tuple[str, ...], folder: Path) -> onnx.ModelProto:
    """Quantise the weights of some operators to int8, with one scale per column, by ONNX Runtime's quantiser.

    Activations are quantised at run time (dynamic quantisation), so no data is needed.

    Args:
        model: the model in float32.
        operators: the types of operators whose weights are quantised.
        folder: a folder for temporary files.

    Returns:
        The quantised model.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before, after = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, before)
    logging.disable(logging.WARNING)  # hides the advice to simplify the graph first, which is done already
    try:
        quantize_dynamic(
            before, after, op_types_to_quantize=list(operators), per_channel=True, weight_type=QuantType.QInt8
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(after)


def choose_by_memories(several: onnx.ModelProto, single: onnx.ModelProto) -> onnx.ModelProto:
    """Join two models with the same inputs and outputs, for several memories and for one; they share their weights.

    Args:
        several: the model for several memories.
        single: the model for one memory.

    Returns:
        A model with an `If` on the number of memories, which runs one of them.
    """
    import onnx
    from onnx import compose, helper

    branches: list[onnx.GraphProto] = []
    weights: dict[tuple, onnx.TensorProto] = {}  # by content, so that weights of both models are stored once
    for prefix, model in (("several/", several), ("single/", single)):
        graph = compose.add_prefix_graph(model.graph, prefix, rename_inputs=False)
        renamed = {tensor.name: weights.setdefault(_content(tensor), tensor).name for tensor in graph.initializer}
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        branches.append(helper.make_graph(graph.node, prefix.rstrip("/"), [], graph.output))
    one = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    outputs = [output.name for output in several.graph.output]
    nodes = [
        helper.make_node("Shape", ["memory"], ["memories"], start=1, end=2),
        helper.make_node("Greater", ["memories", "one"], ["are_several"]),
        helper.make_node("If", ["are_several"], outputs, then_branch=branches[0], else_branch=branches[1]),
    ]
    graph = helper.make_graph(
        nodes, several.graph.name, several.graph.input, several.graph.output, [*weights.values(), one]
    )
    opsets = {opset.domain: opset for model in (several, single) for opset in model.opset_import}
    return helper.make_model(
        graph,
        opset_imports=list(opsets.values()),
        ir_version=several.ir_version,
        producer_name=several.producer_name,
    )


def _content(tensor: onnx.TensorProto) -> tuple:
    """Return a key that is equal for tensors with equal type, shape and values."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(values.tobytes()).digest()

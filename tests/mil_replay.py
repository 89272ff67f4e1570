"""Carries out a Core ML package's operators with torch, as Core ML itself runs on Apple's systems only.

Only the operators that this package's graphs become, each as Apple's documentation of ML Programs (MIL) says. This
shows that a conversion kept the numbers; not that Core ML's own kernels do.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def replay(package: Path, inputs: dict[str, Tensor], function: str = "main") -> dict[str, Tensor]:
    """The outputs of a function of a saved package by name, in float32."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir).functions[function]
    values = {name: value.float() if value.dtype == torch.bool else value for name, value in inputs.items()}

    def value_of(given):
        if isinstance(given, (list, tuple)):
            return [value_of(item) for item in given]
        if given.name not in values:
            constant = given.val
            if isinstance(constant, (str, bytes)) or constant is None:
                return constant
            values[given.name] = torch.from_numpy(np.array(constant))
        return values[given.name]

    for operation in program.operations:
        if operation.op_type == "const":
            continue
        given = SimpleNamespace(**{name: value_of(x) for name, x in operation.inputs.items() if x is not None})
        result = OPERATORS[operation.op_type](given)
        for output, value in zip(operation.outputs, result if isinstance(result, tuple) else (result,), strict=True):
            values[output.name] = value
    return {output.name: values[output.name].float() for output in program.outputs}


def _conv(o: SimpleNamespace, convolve=F.conv2d) -> Tensor:
    x, padding = o.x, o.pad.tolist() if o.pad_type == "custom" else [0] * 4
    assert o.pad_type in ("valid", "custom") and padding[0] == padding[1] and padding[2] == padding[3]
    options = {"stride": o.strides.tolist(), "groups": int(o.groups), "dilation": o.dilations.tolist()}
    return convolve(x, o.weight, getattr(o, "bias", None), padding=(padding[0], padding[2]), **options)


def _slices(o: SimpleNamespace) -> tuple:
    rank = o.x.ndim
    masks = [getattr(o, name, torch.zeros(rank)).tolist() for name in ("begin_mask", "end_mask", "squeeze_mask")]
    strides = getattr(o, "stride", torch.ones(rank, dtype=torch.int)).tolist()
    found = []
    for begin, end, stride, from_start, to_end, alone in zip(
        o.begin.tolist(), o.end.tolist(), strides, *masks, strict=True
    ):
        found.append(begin if alone else slice(None if from_start else begin, None if to_end else end, stride))
    return tuple(found)


def _slice_update(o: SimpleNamespace) -> Tensor:
    x = o.x.clone()
    x[_slices(o)] = o.update
    return x


def _expand_dims(o: SimpleNamespace) -> Tensor:
    rank = o.x.ndim + len(o.axes)
    added = [axis % rank for axis in o.axes.tolist()]
    return o.x[tuple(None if axis in added else slice(None) for axis in range(rank))]


def _gather(o: SimpleNamespace) -> Tensor:
    assert int(o.batch_dims) == 0
    axis = int(o.axis) % o.x.ndim
    taken = o.x.index_select(axis, o.indices.reshape(-1).long() % o.x.shape[axis])
    return taken.reshape((*o.x.shape[:axis], *o.indices.shape, *o.x.shape[axis + 1 :]))


def _avg_pool(o: SimpleNamespace) -> Tensor:
    assert o.pad_type == "valid" or not o.pad.any()
    pool = F.avg_pool2d if o.x.ndim == 4 else F.avg_pool1d
    return pool(o.x, o.kernel_sizes.tolist(), o.strides.tolist(), 0, bool(o.ceil_mode), False)


def _pad(o: SimpleNamespace) -> Tensor:
    assert o.mode == "constant"
    pairs = o.pad.reshape(-1, 2).flip(0).reshape(-1).tolist()  # torch counts axes from the last
    return F.pad(o.x, pairs, value=float(o.constant_val))


def _upsample(o: SimpleNamespace) -> Tensor:
    assert not o.align_corners and getattr(o, "half_pixel_centers", True)
    scales = float(o.scale_factor_height), float(o.scale_factor_width)
    return F.interpolate(o.x, scale_factor=scales, mode="bilinear", align_corners=False)


def _product(o: SimpleNamespace) -> Tensor:
    x, y = (a.mT if turned else a for a, turned in ((o.x, o.transpose_x), (o.y, o.transpose_y)))
    return x @ y


def _shaped(o: SimpleNamespace) -> Tensor:
    return o.x.reshape([o.x.shape[i] if n == 0 and o.x.numel() else n for i, n in enumerate(o.shape.tolist())])


TYPES = {"fp32": torch.float32, "fp16": torch.float16, "int32": torch.int32, "bool": torch.bool}

OPERATORS = {
    "add": lambda o: o.x + o.y,
    "avg_pool": _avg_pool,
    "batch_norm": lambda o: F.batch_norm(
        o.x, o.mean, o.variance, getattr(o, "gamma", None), getattr(o, "beta", None), eps=float(o.epsilon)
    ),
    "cast": lambda o: o.x.to(TYPES.get(o.dtype, torch.int32)),
    "clip": lambda o: o.x.clip(float(o.alpha), float(o.beta)),
    "concat": lambda o: torch.cat([torch.atleast_1d(x) for x in o.values], int(o.axis)),
    "conv": _conv,
    "conv_transpose": lambda o: _conv(o, F.conv_transpose2d),
    "cos": lambda o: o.x.cos(),
    "equal": lambda o: o.x == o.y,
    "expand_dims": _expand_dims,
    "fill": lambda o: o.value.expand(o.shape.tolist()).clone(),
    "fill_like": lambda o: o.value.expand(o.ref_tensor.shape),
    "gather": _gather,
    "gather_nd": lambda o: o.x[tuple(o.indices.long().unbind(-1))],
    "gelu": lambda o: F.gelu(o.x, approximate="none" if o.mode == "EXACT" else "tanh"),
    "greater": lambda o: o.x > o.y,
    "greater_equal": lambda o: o.x >= o.y,
    "layer_norm": lambda o: F.layer_norm(o.x, o.gamma.shape, o.gamma, o.beta, float(o.epsilon)),
    "less": lambda o: o.x < o.y,
    "linear": lambda o: F.linear(o.x, o.weight, getattr(o, "bias", None)),
    "matmul": _product,
    "minimum": lambda o: torch.minimum(o.x, o.y),
    "mul": lambda o: o.x * o.y,
    "pad": _pad,
    "pow": lambda o: o.x**o.y,
    "range_1d": lambda o: torch.arange(int(o.start), int(o.end), int(o.step), dtype=torch.int32),
    "real_div": lambda o: o.x / o.y if o.x.is_floating_point() else o.x // o.y,
    "reduce_argmax": lambda o: o.x.argmax(int(o.axis), bool(o.keep_dims)).int(),
    "reduce_mean": lambda o: o.x.mean(o.axes.tolist(), bool(o.keep_dims)),
    "reduce_sum": lambda o: o.x.sum(o.axes.tolist(), bool(o.keep_dims)),
    "relu": lambda o: o.x.relu(),
    "reshape": _shaped,
    "select": lambda o: torch.where(o.cond, o.a, o.b),
    "shape": lambda o: torch.tensor(o.x.shape, dtype=torch.int32),
    "sigmoid": lambda o: o.x.sigmoid(),
    "sin": lambda o: o.x.sin(),
    "slice_by_index": lambda o: o.x[_slices(o)],
    "slice_by_size": lambda o: o.x[
        tuple(slice(b, None if n == -1 else b + n) for b, n in zip(o.begin.tolist(), o.size.tolist(), strict=True))
    ],
    "slice_update": _slice_update,
    "softmax": lambda o: o.x.softmax(int(o.axis)),
    "split": lambda o: o.x.split(
        o.split_sizes.tolist() if hasattr(o, "split_sizes") else o.x.shape[int(o.axis)] // int(o.num_splits),
        int(o.axis),
    ),
    "sqrt": lambda o: o.x.sqrt(),
    "squeeze": lambda o: o.x.squeeze(tuple(o.axes.tolist())),
    "stack": lambda o: torch.stack(o.values, int(o.axis)),
    "sub": lambda o: o.x - o.y,
    "tile": lambda o: o.x.tile(o.reps.tolist()),
    "transpose": lambda o: o.x.permute(o.perm.tolist()),
    "upsample_bilinear": _upsample,
}

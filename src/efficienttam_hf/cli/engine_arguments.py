"""The options of `track` that say which library computes the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..app.defaults import DTYPE_VARIABLE


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """`--engine`, `--graphs` and `--compile`."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=("torch", "onnx", "openvino"),
        default="torch",
        help="the library that computes the model: PyTorch (default), or ONNX Runtime or OpenVINO, which run exported "
        "graphs on the CPU in float32. They give the same files. The model is exported once, which takes a minute or "
        "more, and kept in the cache directory",
    )
    group.add_argument(
        "--graphs",
        metavar="DIR",
        type=Path,
        help="with --engine onnx or openvino: a folder that `efficienttam export` made, instead of --model",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="with --engine torch: compile the image encoder with torch.compile, which needs a C++ compiler. The first "
        "run on a machine takes a minute or more for it, later runs take seconds, so that it pays for long videos",
    )


def check_engine(args: argparse.Namespace, finds: bool) -> None:
    """Check that the options of the model fit the engine, before anything is loaded.

    Args:
        finds: whether objects are to be found, which needs the torch model.

    Raises:
        ValueError: if objects are to be found with another engine than torch, or if `--graphs`, `--model`, `--device`,
            `--dtype` or `--compile` does not fit `--engine`.
    """
    if args.engine == "torch":
        if args.graphs is not None:
            raise ValueError("--graphs is for exported graphs: add --engine onnx or --engine openvino.")
        return
    if finds:
        raise ValueError(
            f"Objects are only found with --engine torch: leave --engine {args.engine} out, or give prompts."
        )
    if args.compile:
        raise ValueError(f"--compile is for --engine torch: graphs of --engine {args.engine} are compiled already.")
    if args.graphs is not None and args.model is not None:
        raise ValueError("--graphs and --model both name a model: give one of them.")
    if args.device not in ("auto", "cpu"):
        raise ValueError(f"--engine {args.engine} runs on the CPU: leave --device {args.device} out.")
    from ..app.precision import requested_dtype

    dtype = requested_dtype(args.dtype)
    if dtype not in ("auto", "float32"):
        source = "--dtype" if args.dtype else DTYPE_VARIABLE
        raise ValueError(
            f"--engine {args.engine} computes in the data type that was exported, by default float32: leave {source} "
            f"{dtype} out. Graphs of another type can be exported with `efficienttam export`, for --graphs."
        )

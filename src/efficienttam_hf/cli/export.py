"""`efficienttam export`: export a model to ONNX, Core ML or ExecuTorch, to run it without torch."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..app.defaults import PRESET_PREFIX


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "export",
        help="export a model to ONNX, Core ML or ExecuTorch, to track without torch",
        description="Export four graphs of a model (image encoder, memory attention, mask decoder, memory encoder) "
        "and a "
        "manifest with everything that an application needs to track with them. At the end each graph is compared with "
        "the model, except those of Core ML, which run on Apple's systems only.",
        **options,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder, an id on the Hub, a name that `efficienttam models` lists, or a preset with random weights, "
        f"such as {PRESET_PREFIX}efficienttam_s_1",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="the folder to create")
    parser.add_argument("--format", choices=("onnx", "coreml", "executorch"), default="onnx", help="(default: onnx)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="data type of the weights (default: float32). With int8 only linear layers are int8, and the rest is "
        "float32. Core ML supports float32 and float16, ExecuTorch float32",
    )
    parser.add_argument("--opset", metavar="N", type=int, help="ONNX operator set (default: 18)")
    parser.add_argument("--image-size", metavar="PIXELS", type=int, help="side of the input (default: the model's)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it contains an export")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, print what was made. All checks come before anything is written."""
    from ..output_folders import check_replaceable

    check_replaceable(args.output, args.overwrite)
    if args.format != "onnx" and args.opset is not None:
        raise ValueError(f"--opset is for --format onnx; leave it out with --format {args.format}.")

    from ..app.loading import quiet_transformers
    from ..benchmark.contenders import load_ours
    from ..export.coreml_export import export_coreml
    from ..export.executorch_export import export_executorch
    from ..export.exporting import BOUNDS, QUANTISED_OPERATORS, GraphReport, export_onnx

    quiet_transformers()

    def show(graph: GraphReport) -> None:
        line = f"  {graph.name:<16} {graph.size / 1e6:8.1f} MB"
        if graph.largest is not None:
            line += f"   difference from torch: largest {graph.largest:.1e}, mean {graph.mean:.1e}"
        print(f"{line}   {graph.note}".rstrip(), flush=True)

    model = load_ours(args.model, args.image_size).eval()
    exporters: dict[str, Callable[..., Any]] = {
        "onnx": export_onnx,
        "coreml": export_coreml,
        "executorch": export_executorch,
    }
    export = exporters[args.format]
    options = {} if args.opset is None else {"opset": args.opset}
    manifest = export(model, args.output, args.model, args.dtype, overwrite=args.overwrite, report=show, **options)
    total = sum(graph["bytes"] for graph in manifest.graphs.values())
    judged = "the mean difference" if args.dtype == "int8" else "the largest difference"
    accepted = "" if args.format == "coreml" else f"   accepted: {judged} up to {BOUNDS[args.dtype]:g}"
    print(f"  {'together':<16} {total / 1e6:8.1f} MB{accepted}")
    if args.dtype == "int8":
        print(f"Weights of {' and '.join(QUANTISED_OPERATORS)} are int8; all else is float32.")
    if args.format == "coreml":
        print("Checked: names, types and axes of inputs and outputs. Not run: Core ML runs on Apple's systems only.")
    print(f"Exported '{args.model}' to '{args.output}'.", flush=True)
    end_soon()
    return 0


def end_soon() -> None:
    """Let the process end without a walk through all its objects, and without a word about them.

    Exporters leave some 650,000 objects that refer to one another. Python would walk them several times as it ends: 4 s
    of a core after the last line, and a minute or more where other programs want the cores too. Libraries bound by
    nanobind (Triton's) count the objects that are not walked as leaks, and print pages about them.
    """
    gc.freeze()
    atexit.register(_close_stderr)


def _close_stderr() -> None:
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

"""`efficienttam export`: a model to ONNX graphs, for hosts without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import DEFAULT_MODEL, quiet_transformers


def add_parser(commands: argparse._SubParsersAction, **options) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "export",
        help="export a model to ONNX, to track without torch",
        description="Make four ONNX graphs of a model (image encoder, memory attention, mask decoder, memory encoder) "
        "and a manifest with all that a host needs to track with them. Each graph is run beside the model at the end.",
        **options,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a folder, an id on the Hub, {DEFAULT_MODEL}, or a preset such as efficienttam_s_1, with random weights",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="the folder to make")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="default: onnx")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the weights; int8: those of linear layers, the rest stays in float32",
    )
    parser.add_argument("--opset", metavar="N", type=int, default=18, help="ONNX operator set; default: 18")
    parser.add_argument("--image-size", metavar="PIXELS", type=int, help="side of the input; default: the model's own")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds an export")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, print what was made. All checks come before anything is written."""
    from ..benchmark.contenders import load_ours
    from ..export.exporting import BOUNDS, QUANTISED_OPERATORS, GraphReport, export_onnx

    quiet_transformers()

    def show(graph: GraphReport) -> None:
        print(
            f"  {graph.name:<16} {graph.size / 1e6:8.1f} MB   difference from torch: largest {graph.largest:.1e}, "
            f"mean {graph.mean:.1e}",
            flush=True,
        )

    model = load_ours(args.model, args.image_size).eval()
    manifest = export_onnx(model, args.output, args.model, args.dtype, args.opset, args.overwrite, report=show)
    total = sum(graph["bytes"] for graph in manifest.graphs.values())
    judged = "the mean difference" if args.dtype == "int8" else "the largest difference"
    print(f"  {'together':<16} {total / 1e6:8.1f} MB   accepted: {judged} up to {BOUNDS[args.dtype]:g}")
    if args.dtype == "int8":
        print(f"Weights of {' and '.join(QUANTISED_OPERATORS)} are int8; all else is float32.")
    print(f"Exported '{args.model}' to '{args.output}'.")
    return 0

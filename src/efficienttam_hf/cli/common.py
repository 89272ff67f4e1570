"""Options that commands share: of models and of sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..app.defaults import DEFAULT_MODEL


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--device` and `--dtype`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        default=DEFAULT_MODEL,
        help=f"a folder, an id on the Hub, or {DEFAULT_MODEL} (default), the small model that comes with this package",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto (default): the best there is")
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="data type of weights and activations (default: float32)",
    )


def add_output_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str) -> None:
    """`--output`, also as `--out`, and `--overwrite`."""
    parser.add_argument("--output", "--out", metavar="DIR", type=Path, help=f"default: {default}")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run wrote to DIR, and nothing else",
    )


def add_size_argument(parser: argparse.ArgumentParser) -> None:
    """`--max-side`."""
    parser.add_argument(
        "--max-side",
        metavar="PIXELS",
        type=int,
        help="scale down so that the longer side has at most so many pixels: what goes in and what comes out; prompts "
        "stay in pixels of the original",
    )

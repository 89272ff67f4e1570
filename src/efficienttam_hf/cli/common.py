"""Options that commands share: of models and of sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..app.defaults import DEFAULT_ON_CPU, DEFAULT_ON_GPU, INCLUDED_MODEL, MODEL_VARIABLE


MODEL_HELP = (
    "a folder, an id on the Hub, or a name that `efficienttam models` lists; by default the environment's "
    f"{MODEL_VARIABLE}, or else the authors' {DEFAULT_ON_GPU} on a GPU and {DEFAULT_ON_CPU} on a CPU, which are "
    f"fetched once, and without a network the small {INCLUDED_MODEL} that comes with this package"
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--device` and `--dtype`."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME", help=MODEL_HELP)
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

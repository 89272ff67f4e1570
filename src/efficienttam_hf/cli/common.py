"""Options that several commands share: the model, the output folder and the size."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..app.defaults import (
    DEFAULT_ON_CPU,
    DEFAULT_ON_GPU,
    DTYPE_VARIABLE,
    DTYPES,
    INCLUDED_MODEL,
    MODEL_VARIABLE,
)


MODEL_HELP = (
    "a folder, an id on the Hub, or a name that `efficienttam models` lists. The default is the environment variable "
    f"{MODEL_VARIABLE}; if it is not set, the authors' {DEFAULT_ON_GPU} on a GPU and {DEFAULT_ON_CPU} on a CPU, which "
    f"are downloaded once; if they cannot be downloaded, the included model {INCLUDED_MODEL}"
)


def add_model_arguments(parser: argparse.ArgumentParser, auto_dtype: bool = False) -> None:
    """`--model`, `--device` and `--dtype`; with `auto_dtype`, `app.precision` resolves the last."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default): a GPU if there is one"
    )
    if auto_dtype:
        group.add_argument(
            "--dtype",
            choices=("auto", *DTYPES),
            help="data type of the weights and activations. auto (default, unless the environment variable "
            f"{DTYPE_VARIABLE} names another): bfloat16 if it is faster on this machine and more than 99.9%% of the "
            "pixels of the model's masks stay the same, which is measured once; otherwise float32",
        )
    else:
        group.add_argument(
            "--dtype",
            choices=DTYPES,
            default="float32",
            help="data type of the weights and activations (default: float32)",
        )


def add_output_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str) -> None:
    """`--output`, also as `--out`, and `--overwrite`."""
    parser.add_argument(
        "--output", "--out", metavar="DIR", type=Path, help=f"folder for the results (default: {default})"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run in DIR; other files are never replaced",
    )


def add_size_argument(parser: argparse.ArgumentParser) -> None:
    """`--max-side`."""
    parser.add_argument(
        "--max-side",
        metavar="PIXELS",
        type=int,
        help="scale frames and results down so that the longer side has at most PIXELS; prompt coordinates still "
        "refer to "
        "the original size",
    )

"""`efficienttam models`: list the models that have a name, and download or remove them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..app.known_models import ACCURACIES, known_models
from ..hub_files import cache_folder
from ..published import INCLUDED_MODELS, VARIANTS, FetchError, fetch, found, remove


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command and its own commands."""
    parser = commands.add_parser(
        "models",
        help="list the models that have a name; download or remove them",
        description="List the models that --model and from_pretrained know by name: parameters, input size, licence, "
        "J&F in the paper (Table 1; empty if the paper has none), and whether each is in the cache. `fetch` downloads "
        "models into the Hugging Face cache, to use them offline; `remove` deletes them from it.",
        epilog="examples: efficienttam models; efficienttam models fetch efficienttam_s",
        **options,
    )
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(metavar="ACTION")
    actions.add_parser("list", help="list the models (default)", **options).set_defaults(run=run_list)
    for name, run, what in (
        ("fetch", run_fetch, "download and convert models that are not in the cache"),
        ("remove", run_remove, "delete models and their downloads from the cache"),
    ):
        action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", **options)
        action.add_argument("names", metavar="NAME", nargs="*", help=f"one or more of {', '.join(VARIANTS)}")
        action.add_argument("--all", action="store_true", help="all models")
        action.set_defaults(run=run)


def run_list(args: argparse.Namespace) -> int:
    """Print the table. This loads neither torch nor Transformers and sends no request."""
    headings = [f"{short} J&F" for short in ACCURACIES.values()]
    rows = [("name", "parameters", "input", "licence", *headings, "here")]
    for model in known_models():
        folder = model.folder
        here = "comes with this package" if model.is_included else f"{_megabytes(folder):.0f} MB" if folder else "no"
        side = f"{model.image_size}x{model.image_size}"
        scores = [f"{model.accuracies[name]:.1f}" if name in model.accuracies else "" for name in ACCURACIES.values()]
        rows.append((model.name, f"{model.parameters / 1e6:.1f} M", side, model.licence, *scores, here))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nThe cache is '{cache_folder()}'. `efficienttam models fetch NAME` downloads a model into it.")
    return 0


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def run_fetch(args: argparse.Namespace) -> int:
    """Download each model; a failure does not stop the others. Returns 1 if one failed."""
    failures = 0
    names = _chosen(args)
    from ..app.loading import quiet_transformers

    quiet_transformers()
    for name in names:
        there = name in INCLUDED_MODELS or found(name) is not None
        try:
            where = "comes with this package" if name in INCLUDED_MODELS else f"'{fetch(name)}'"
        except FetchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failures += 1
        else:
            print(f"{name}: {where}{', as before' if there and name not in INCLUDED_MODELS else ''}")
    return 1 if failures else 0


def run_remove(args: argparse.Namespace) -> int:
    """Remove each model and print how much space that freed."""
    for name in _chosen(args):
        if name in INCLUDED_MODELS:
            raise ValueError(f"{name} is a part of this package and cannot be removed.")
        freed = remove(name)
        print(f"{name}: {f'{freed / 1e6:.0f} MB freed' if freed else 'was not here'}")
    return 0


def _chosen(args: argparse.Namespace) -> list[str]:
    """The names that were given, checked.

    Raises:
        ValueError: none, or one that there is not.
    """
    if args.all:
        if args.names:
            raise ValueError("Give names or --all, not both.")
        return list(VARIANTS)
    if not args.names:
        raise ValueError(f"Which models? Give names of {', '.join(VARIANTS)}, or --all.")
    unknown = [name for name in args.names if name not in (*VARIANTS, *INCLUDED_MODELS)]
    if unknown:
        raise ValueError(
            f"There is no model {', '.join(unknown)}; there are {', '.join([*INCLUDED_MODELS, *VARIANTS])}."
        )
    return list(dict.fromkeys(args.names))

"""`efficienttam export-masks`: write the results of `track` and `segment` in the formats of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..formats.registry import FORMATS


FORMAT_HELP = "; ".join(f"{name}: {form.text}" for name, form in FORMATS.items())


def add_format_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup, required: bool = False) -> None:
    """`--format`, which takes several names."""
    parser.add_argument(
        "--format",
        metavar="NAME",
        nargs="+",
        action="extend",
        choices=tuple(FORMATS),
        required=required,
        help=f"write the masks in these formats too, each in a folder of its name. {FORMAT_HELP}",
    )


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "export-masks",
        help="write the results of track and segment in the formats of other tools",
        description="Write the results of `efficienttam track` or `segment` in the formats of annotation tools, data "
        "sets and benchmarks.",
        epilog="example: efficienttam export-masks efficienttam-out/cups --format coco cvat",
        **options,
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of results, or its masks.json")
    add_format_argument(parser, required=True)
    parser.add_argument(
        "--output", "--out", metavar="DIR", type=Path, help="folder for the folders of the formats (default: RESULTS)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier conversion; other files are never replaced"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert."""
    from ..app.conversion import convert_results

    names = list(dict.fromkeys(args.format))
    for name, folder in zip(names, convert_results(args.results, names, args.output, args.overwrite), strict=True):
        print(f"  {name:14} {folder}")
    return 0

"""What the values of mask files mean, as options of every command that reads such files from a dataset."""

from __future__ import annotations

import argparse
from typing import Any


def add_mask_arguments(group: Any) -> None:
    """`--mask-binary`, `--mask-threshold` and `--mask-colors`, to a parser or a group of one."""
    group.add_argument(
        "--mask-binary", action="store_true", help="in mask files all that is not background is one object"
    )
    group.add_argument(
        "--mask-threshold", metavar="N", type=int, help="in mask files values of at least N are one object"
    )
    group.add_argument(
        "--mask-colors",
        metavar="COLOR=ID",
        nargs="+",
        help="object ids of the colours of mask files, as in '#ff0000=1' '0,255,0=2'; black is background",
    )


def mask_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_mask_arguments` as options of a dataset; empty if none was given."""
    given = {
        "binary": args.mask_binary or None,
        "threshold": args.mask_threshold,
        "colors": " ".join(args.mask_colors) if args.mask_colors else None,
    }
    return {name: value for name, value in given.items() if value is not None}

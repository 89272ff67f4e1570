"""Options that define the pixel values of mask files, shared by the commands that read a dataset."""

from __future__ import annotations

import argparse
from typing import Any


def add_mask_arguments(group: Any) -> None:
    """`--mask-binary`, `--mask-threshold` and `--mask-colors`, to a parser or a group of one."""
    group.add_argument(
        "--mask-binary",
        action="store_true",
        help="treat all pixels of a mask file that are not background as one object",
    )
    group.add_argument(
        "--mask-threshold",
        metavar="N",
        type=int,
        help="treat all pixels of a mask file that are at least N as one object",
    )
    group.add_argument(
        "--mask-colors",
        metavar="COLOR=ID",
        nargs="+",
        help="assign object ids to the colours of mask files, as in '#ff0000=1' '0,255,0=2'; black is background",
    )


def mask_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_mask_arguments` as options of a dataset; empty if none was given."""
    given = {
        "binary": args.mask_binary or None,
        "threshold": args.mask_threshold,
        "colors": " ".join(args.mask_colors) if args.mask_colors else None,
    }
    return {name: value for name, value in given.items() if value is not None}

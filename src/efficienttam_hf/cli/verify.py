"""`efficienttam verify`: check the files of a model against their checksums."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "verify",
        help="check the files of a model against their checksums",
        description="Compare every file of a model's folder with its SHA-256 in the folder's SHA256SUMS, which "
        "convert, train and finetune write. The weights are not loaded.",
        epilog="examples: efficienttam verify efficienttam-nano; efficienttam verify runs/mine/last",
        **options,
    )
    parser.add_argument("model", metavar="FOLDER|NAME", help="a folder, or a name that `efficienttam models` lists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, and say how many files were compared. Loads neither torch nor Transformers."""
    from ..checksums import verify_folder
    from ..published import INCLUDED_MODELS, VARIANTS, folder_of

    folder = Path(args.model)
    if not folder.is_dir():
        if args.model in INCLUDED_MODELS:
            folder = Path(__file__).resolve().parents[1] / "pretrained" / args.model
        elif args.model in VARIANTS:
            folder = folder_of(args.model)
    count = verify_folder(folder)
    print(f"'{args.model}' is as it was written: {count} files have the checksums that are in its SHA256SUMS.")
    return 0

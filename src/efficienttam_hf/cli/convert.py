"""`efficienttam convert`: convert a published checkpoint to a folder for `from_pretrained`, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "convert",
        help="convert a published checkpoint to this package's format, or back",
        description="Convert a published .pt checkpoint to a folder for from_pretrained (safetensors, configuration, "
        "processor, checksums). A checkpoint of the published training code and a .safetensors file with published "
        "names are accepted too; each can be a URL. --to-published converts a folder back to a .pt file.",
        epilog="example: efficienttam convert hf://yunyangx/efficient-track-anything/efficienttam_s.pt small "
        "--variant efficienttam_s",
        **options,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="the .pt file, a URL (https://...), or a file on the Hub (hf://owner/name/file, or "
        "hf://owner/name@revision/file); with --to-published, the folder",
    )
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="the folder to create; with --to-published, the .pt file to create"
    )
    parser.add_argument(
        "--variant",
        metavar="NAME|CONFIG.json",
        help="the model: a published variant such as efficienttam_s_1, or a configuration file",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "model", "average"),
        default="auto",
        help="which weights of a training checkpoint to use: the model's weights or their moving average; auto "
        "(default): the average if there is one",
    )
    parser.add_argument("--to-published", action="store_true", help="convert a folder to a published .pt file")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, if an earlier conversion made it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert. All checks come before anything is written; what appears is whole."""
    from ..output_folders import check_place, check_replaceable

    if args.to_published:
        if args.variant is not None:
            raise ValueError("--variant is not needed with --to-published: the folder says what model it is.")
        check_place(args.output.absolute().parent)
        if args.output.exists() and not args.overwrite:
            raise FileExistsError(
                f"'{args.output}' exists already: choose another name, or replace it with --overwrite."
            )
    else:
        check_replaceable(args.output, args.overwrite)

    from ..app.loading import quiet_transformers
    from ..checkpoints import convert_checkpoint, has_average, publish_checkpoint, resolve_config
    from ..configuration_efficienttam import PRESETS, size_pair
    from ..hub_files import local_checkpoint

    quiet_transformers()
    if args.to_published:
        publish_checkpoint(args.checkpoint, args.output, overwrite=args.overwrite)
    else:
        if args.variant is None:
            raise ValueError(f"Which model is it? Give --variant: one of {', '.join(PRESETS)}, or a CONFIG.json.")
        config = resolve_config(args.variant)
        with local_checkpoint(args.checkpoint) as (checkpoint, source):
            options = {"overwrite": args.overwrite, "weights": args.weights, "source": source}
            convert_checkpoint(checkpoint, args.output, config, **options)
            average = has_average(checkpoint)
        if average:
            taken = "weights as they were trained" if args.weights == "model" else "average of the weights"
            print(f"Took the {taken}.")
        # Said because the tensors do not tell: variants of one width differ in these alone.
        height, width = size_pair(config.image_size)
        kind = config.memory_attention_config.cross_attention
        print(f"Taken as a model with {width}x{height} pixels of input and memory cross-attention of kind {kind!r}.")
    print(f"Converted '{args.checkpoint}' to '{args.output}'.")
    return 0

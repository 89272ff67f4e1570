"""`efficienttam segment`: segment objects in an image, from prompts or all at once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app.defaults import DEFAULT_OUTPUT
from .common import add_model_arguments, add_output_arguments, add_size_argument
from .effect_arguments import add_effect_arguments, image_effect_output
from .export_masks import add_format_argument
from .prompts import add_prompt_arguments, check_order, gather


if TYPE_CHECKING:
    import numpy as np


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "segment",
        help="segment objects in an image",
        description="Segment objects in an image from points and boxes, or all objects, and write an overlay, an "
        "indexed "
        "PNG, and the masks as COCO run-length JSON.",
        **options,
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="an image file")
    add_prompt_arguments(parser, video=False)
    group = parser.add_argument_group("everything")
    group.add_argument("--everything", action="store_true", help="segment all objects, without prompts")
    group.add_argument(
        "--grid", metavar="N", type=int, default=32, help="number of points along each side (default: 32)"
    )
    group.add_argument(
        "--min-score", metavar="P", type=float, default=0.88, help="lowest predicted IoU of a mask (default: 0.88)"
    )
    group.add_argument(
        "--min-stability",
        metavar="P",
        type=float,
        default=0.95,
        help="lowest stability of a mask when its threshold changes, up to 1 (default: 0.95)",
    )
    add_model_arguments(parser, auto_dtype=True)
    add_size_argument(parser)
    add_output_arguments(parser, f"{DEFAULT_OUTPUT}/<name of the image>")
    add_effect_arguments(parser, video=False)
    add_format_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment and write."""
    from ..app.conversion import convert_results
    from ..app.frames import limited_size, resize_image
    from ..app.loading import choose_device, choose_model, quiet_transformers
    from ..app.precision import AUTO, load_with_dtype, requested_dtype
    from ..app.segmenting import SegmentFolder, first_masks, propose_masks, segment_everything, write_image_results
    from ..formats.registry import check_formats
    from ..image_io import read_image
    from ..safe_names import safe_name

    check_order(args)
    effect = image_effect_output(args)
    if args.everything == bool(args.prompts):
        raise ValueError(
            "What is to be segmented? Give prompts, such as --point X,Y or --box X0,Y0,X1,Y1, or give --everything"
            + (", not both." if args.everything else ".")
        )
    if args.grid < 1:
        raise ValueError(f"--grid must be at least 1, got {args.grid}.")
    original = read_image(args.image)
    size = limited_size(original.shape[:2], args.max_side)
    image = resize_image(original, size)
    prompts = gather(args.prompts, original.shape[:2], range(1)).get(0, {})
    out = args.output or DEFAULT_OUTPUT / safe_name(args.image.stem)
    if effect is not None and not args.everything:
        effect.check_objects(prompts)
    formats = list(dict.fromkeys(args.format or ()))
    check_formats(formats, is_video=False)
    folder = SegmentFolder(out, effect, formats)
    folder.check(args.overwrite)
    from ..modeling_efficienttam import EfficientTamModel

    device = choose_device(args.device)
    quiet_transformers()
    chosen = choose_model(args.model, device)
    scaled = {object_id: given.scaled(original.shape[:2], size) for object_id, given in prompts.items()}

    def masks(model: Any, processor: Any) -> Iterator[np.ndarray]:
        return first_masks(model, processor, image, scaled)

    model, processor, dtype = load_with_dtype(EfficientTamModel, chosen.name, device, args.dtype, masks)
    if args.model is None or requested_dtype(args.dtype) == AUTO:
        print(f"Model: {chosen.description}; {device}, {dtype}.")
    if args.everything:
        found = segment_everything(model, processor, image, args.grid, args.min_score, args.min_stability)
    else:
        found = []
        for object_id, proposals in propose_masks(model, processor, image, scaled).items():
            best = max(proposals, key=lambda proposal: proposal["score"])
            found.append({"id": object_id, **best, "prompts": prompts[object_id].as_json()})
        prompts = scaled
    files = folder.prepare(args.overwrite)
    how: dict[str, Any] = {"write_ids": not args.everything, "prompt_size": original.shape[:2]}
    write_image_results(files, image, args.image.name, chosen.name, found, prompts, effect=effect, **how)
    print(f"{len(found)} object{'' if len(found) == 1 else 's'}.")
    for label, name in ((folder.picture.split(".")[0], folder.picture), ("masks", "masks.png"), ("", "masks.json")):
        print(f"  {label:8} {files[name]}")
    if formats and found:
        for path in convert_results(out, formats, None, overwrite=True):
            print(f"  {path.name:8} {path}")
    return 0

"""Options of effects, shared by the commands that draw results."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..app.effect_output import EffectOutput


EFFECT_HELP = (
    "draw an effect instead of the overlay. NAME is overlay, outline, spotlight, blur-background, replace-background, "
    "green-screen, cutout (transparent), mask (black and white), pixelate, blur or fill. Give --effect again to apply "
    "another one to the result. All effects have the parameters objects=1+3, grow=PIXELS, feather=PIXELS (soft edges)"
)


def add_effect_arguments(group: Any, video: bool) -> None:
    """`--effect` and, for a video, `--effect-format`, to a parser or a group of one."""
    of_video = (
        ", smooth=0..0.95 (steady edges); those that hide objects also have hold=FRAMES and lost=show or blank, for "
        "lost objects"
    )
    group.add_argument(
        "--effect",
        metavar="NAME[:KEY=VALUE,...]",
        action="append",
        default=[],
        help=EFFECT_HELP + (of_video if video else "") + ". docs/effects.md lists all parameters",
    )
    if video:
        group.add_argument(
            "--effect-format",
            choices=("mp4", "webm", "mov", "png"),
            help="how the frames with an effect are written: mp4 (H.264), webm (VP9 with alpha), mov (ProRes 4444 with "
            "alpha) or png (one for each frame, without sound); the default is webm for cutout and mp4 for the others",
        )


def effect_output(args: argparse.Namespace) -> EffectOutput | None:
    """Return the effects of a video and how they are written; None if the default overlay is drawn.

    Raises:
        ValueError: if an effect or a format is not accepted, or no encoder is available.
    """
    if args.effect_format and not args.effect:
        raise ValueError(f"--effect-format {args.effect_format} needs an effect, such as --effect cutout.")
    if args.effect in ([], ["overlay"]) and args.effect_format is None:
        return None
    from ..app.effect_output import EffectOutput
    from ..effects import parse_effect

    return EffectOutput.choose([parse_effect(text) for text in args.effect], args.effect_format)


def image_effect_output(args: argparse.Namespace) -> EffectOutput | None:
    """Return the effects of an image, which are written as a PNG; None if the default overlay is drawn."""
    if args.effect in ([], ["overlay"]):
        return None
    from ..app.effect_output import EffectOutput
    from ..effects import parse_effect

    return EffectOutput.choose([parse_effect(text) for text in args.effect], "png")

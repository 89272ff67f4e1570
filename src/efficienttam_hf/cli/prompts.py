"""Prompts on the command line: points, boxes and masks, in the order in which they are given.

`--object` and `--frame` set the object and the frame of the prompts that follow them, so the order of options has a
meaning, which argparse does not keep by itself: the actions here write one list. `gather` then checks it against the
video or the image, in the user's pixels and frame numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app.defaults import MAX_OBJECT_ID


if TYPE_CHECKING:
    from ..app.plan import Reference
    from ..mask_values import MaskCoding
    from ..prompts import Prompts


@dataclass(frozen=True)
class GivenPrompt:
    """One option as given. `object_id` and `frame` are `None` where no `--object` or `--frame` came before it."""

    kind: str  # "point", "negative", "box", "mask" or "reference"
    value: Any  # (x, y), (x0, y0, x1, y1), a path, or the paths of a reference image and its mask
    object_id: int | None
    frame: int | None
    coding: MaskCoding | None = None  # what the values of a mask mean


def add_prompt_arguments(parser: argparse.ArgumentParser, video: bool) -> None:
    """The prompt options; those of frames and masks for a video only."""
    group = parser.add_argument_group(
        "prompts",
        "Order matters: --object"
        + (" and --frame set the object and the frame" if video else " sets the object")
        + " for the prompts that follow. Coordinates are in pixels from the top left corner.",
    )
    parser.set_defaults(prompts=(), current_object=None, current_frame=None, without_prompt=())
    parser.set_defaults(current_mask_binary=None, current_mask_threshold=None, current_mask_colors=None)
    group.add_argument(
        "--object",
        metavar="N",
        action=_SetCurrent,
        type=_whole(1, MAX_OBJECT_ID),
        help="id of the object, 1 to 255 (default: 1)",
    )
    if video:
        group.add_argument(
            "--frame",
            metavar="F",
            action=_SetCurrent,
            type=_whole(0),
            help="number of the frame, from 0 (default: --start)",
        )
    numbers = {"point": ("X,Y", 2), "negative": ("X,Y", 2), "box": ("X0,Y0,X1,Y1", 4)}
    texts = {
        "point": "a point on the object",
        "negative": "a point that is not on the object",
        "box": "a box around the object",
    }
    for kind, (metavar, count) in numbers.items():
        group.add_argument(
            f"--{kind}", metavar=metavar, action=_Append, type=_coordinates(metavar, count), help=texts[kind]
        )
    if video:
        for option, metavar, read, text in (
            (
                "--mask-threshold",
                "N",
                _whole(1),
                "in the masks that follow, all pixels that are at least N are one object",
            ),
            (
                "--mask-colors",
                "COLOR=ID ...",
                str,
                "assign object ids to colours, as one argument: '#ff0000=1 0,255,0=2'",
            ),
        ):
            group.add_argument(option, metavar=metavar, action=_SetCurrent, type=read, help=text)
        group.add_argument(
            "--mask-binary",
            action=_SetCurrent,
            nargs=0,
            help="in the masks that follow, all pixels that are not black are one object",
        )
        group.add_argument(
            "--mask",
            metavar="FILE",
            action=_Append,
            type=Path,
            help="an image of the frame's size that is 0 outside the object; without --object, each index is one "
            "object",
        )
        group.add_argument(
            "--reference",
            metavar=("IMAGE", "MASK"),
            action=_Append,
            nargs=2,
            type=Path,
            help="another picture of the object, such as a frame of another video, and its mask there; the object is "
            "looked for from the first frame on",
        )


class _SetCurrent(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, f"current_{self.dest}", True if self.nargs == 0 else values)
        shown = option_string if self.nargs == 0 else f"{option_string} {values}"
        namespace.without_prompt = (*namespace.without_prompt, shown)


class _Append(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        coding = _mask_coding(parser, namespace) if self.dest in ("mask", "reference") else None
        given = GivenPrompt(self.dest, values, namespace.current_object, namespace.current_frame, coding)
        namespace.prompts = (*namespace.prompts, given)
        namespace.without_prompt = ()


def _mask_coding(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> MaskCoding | None:
    """What the values of the next mask mean, by the options before it."""
    from ..mask_values import MaskCoding

    given = (namespace.current_mask_binary, namespace.current_mask_threshold, namespace.current_mask_colors)
    try:
        return MaskCoding.of(bool(given[0]), given[1], given[2])
    except ValueError as error:
        parser.error(str(error))


def check_order(args: argparse.Namespace) -> None:
    """Raise `ValueError` if an `--object` or `--frame` stands after the last prompt, where it means nothing."""
    if args.without_prompt:
        raise ValueError(f"No prompt follows {' '.join(args.without_prompt)}; it only applies to the prompts after it.")


def _coordinates(shape: str, count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(number) for number in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r} is not {shape} (numbers separated by commas, without spaces)")
        return values

    return parse


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            limits = f"from {least} to {most}" if most is not None else f"from {least} on"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return value

    return parse


def gather_references(given: Sequence[GivenPrompt]) -> list[Reference]:
    """The reference images among the options, read and checked.

    Raises:
        ValueError: if an image or a mask cannot be read, the mask is empty, or their sizes differ.
        FileNotFoundError: for a file that is not there.
    """
    from ..app.plan import Reference
    from ..image_io import read_image
    from ..mask_io import read_indexed_png
    from ..mask_values import MaskCoding
    from ..prompts import check_mask

    references = []
    for prompt in given:
        if prompt.kind == "reference":
            path, mask_path = prompt.value
            image = read_image(path)
            labels = read_indexed_png(mask_path, prompt.coding or MaskCoding(binary=True))
            mask = check_mask(labels, image.shape[:2], f" '{mask_path}' of the reference image '{path}'")
            references.append(Reference(prompt.object_id or 1, image, mask, path.name))
    return references


def gather(given: Sequence[GivenPrompt], size: tuple[int, int], frames: range) -> Prompts:
    """Options to prompts by frame and object, checked.

    Args:
        given: the options in order.
        size: (height, width) of the original frames.
        frames: the frames there are; the first is that of prompts without `--frame`.

    Raises:
        ValueError: for a prompt outside the frame or the frames, a second box, a mask beside other prompts, a mask of
            another size, an empty mask.
        FileNotFoundError: for a mask file that is not there.
    """
    import numpy as np

    from ..mask_io import read_indexed_png
    from ..mask_values import VOID, MaskCoding
    from ..prompts import Box, ObjectPrompts

    prompts: Prompts = {}
    for prompt in given:
        if prompt.kind == "reference":
            continue
        frame = frames.start if prompt.frame is None else prompt.frame
        if frame not in frames:
            raise ValueError(f"--frame {frame} is not one of the frames {frames.start} to {frames.stop - 1}.")
        if prompt.kind == "mask":
            # With --object the file is of one object, whatever its values; else they are object ids.
            one = None if prompt.object_id is None else MaskCoding(binary=True)
            labels = read_indexed_png(prompt.value, prompt.coding or one)
            if prompt.object_id is not None:
                masks: dict[int, np.ndarray | None] = {prompt.object_id: labels != 0}
            else:
                ids = [int(i) for i in np.unique(labels) if i not in (0, VOID)]
                masks = {i: labels == i for i in ids} if ids else {1: labels == VOID} if labels.any() else {}
            if not masks:
                raise ValueError(f"The mask '{prompt.value}' is empty: every pixel is 0, the background.")
        else:
            masks = {1 if prompt.object_id is None else prompt.object_id: None}
        for object_id, mask in masks.items():
            where = f" for object {object_id}" + (f" on frame {frame}" if len(frames) > 1 else "")
            on_object = prompts.setdefault(frame, {}).setdefault(object_id, ObjectPrompts())
            if on_object.mask is not None or (mask is not None and (on_object.points or on_object.box)):
                raise ValueError(f"A mask{where} says all: it cannot go with other prompts there.")
            new, name = ObjectPrompts(mask=mask), f" '{prompt.value}'{where}"
            if prompt.kind == "box":
                if on_object.box is not None:
                    raise ValueError(f"There are two boxes{where}: give one, or say which --object each is for.")
                new, name = ObjectPrompts(box=Box(*prompt.value)), where
            elif prompt.kind != "mask":
                new, name = ObjectPrompts([prompt.value], [int(prompt.kind == "point")]), where
            new.check(size, name)
            prompts[frame][object_id] = ObjectPrompts(
                on_object.points + new.points,
                on_object.labels + new.labels,
                on_object.box if new.box is None else new.box,
                on_object.mask if new.mask is None else new.mask,
            )
    return prompts

"""Begins tracking from annotations that another tool made, or from earlier results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.prompting import MAX_PROMPTED, InitialPrompts, prompts_of
from ..formats.registry import read_annotations
from ..prompts import Prompts


if TYPE_CHECKING:
    from ..video_io import FrameSource


__all__ = ["add_initial", "read_initial"]


def read_initial(path: Path | None, source: FrameSource, frames: range, most: int | None) -> InitialPrompts:
    """Read annotations as prompts for the frames of a video, and print what was left out.

    Args:
        path: a file or folder of annotations; `None` for none.
        source: the video.
        frames: the numbers of its frames that are tracked.
        most: the largest number of frames on which an object is prompted; 0 for all, `None` for the default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is for another video.
    """
    if path is None:
        return InitialPrompts()
    size = (source.height, source.width)
    limit = MAX_PROMPTED if most is None else most
    media = read_annotations(path, source.name, size)
    made = prompts_of(media, size, frames, lambda index: source.frame_name(index - frames.start), limit)
    objects = {object_id for on_frame in made.prompts.values() for object_id in on_frame}
    print(f"{len(objects)} object{'' if len(objects) == 1 else 's'} from '{path}', on {len(made.prompts)} frames.")
    if made.left_out:
        print(
            f"{made.left_out} of its masks and boxes are not used: they are on frames that are not tracked, or more "
            "than --init-frames allows.",
            file=sys.stderr,
        )
    return made


def add_initial(prompts: Prompts, initial: Prompts) -> None:
    """Add the prompts of annotations to those of the command line.

    Raises:
        ValueError: if an object has both on one frame.
    """
    for frame, on_frame in initial.items():
        for object_id, prompt in on_frame.items():
            if object_id in prompts.get(frame, {}):
                raise ValueError(
                    f"Object {object_id} has a prompt and an annotation of --init on frame {frame}: give the prompt on "
                    "another frame, or for another --object."
                )
            prompts.setdefault(frame, {})[object_id] = prompt

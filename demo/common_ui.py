"""What the tabs share: examples, object buttons in the objects' colours, messages instead of failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from uploads import UserError
from video_clip import readable

from efficienttam_hf.tracking_session import EndOfVideoError
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.visualization import object_color


# What every event of the pages has in common: callable from the page only. `/track` is for programs.
PAGE_EVENT = {"api_visibility": "private"}


def example_gallery(pictures: list[Path], height: int, elem_id: str) -> gr.Gallery:
    """Pictures to choose an example by."""
    return gr.Gallery(
        value=[str(path) for path in pictures],
        label="Or try one of these",
        columns=3,
        height=height,
        allow_preview=False,
        object_fit="contain",
        interactive=False,
        buttons=[],
        elem_id=elem_id,
    )


def object_choice(objects: list[int], current: int) -> dict[str, Any]:
    """The radio buttons of objects, after a change."""
    return gr.update(choices=[(f"Object {i}", str(i)) for i in objects], value=str(current))


def object_colours(most: int) -> str:
    """Style sheet: each object's radio button has the colour that its mask has."""
    rules = []
    for i in range(1, most + 1):
        colour = ",".join(map(str, object_color(i)))
        rules.append(f'.objects label:has(input[value="{i}"]) {{ border-left: 0.7rem solid rgb({colour}); }}')
    return "\n".join(rules)


def refuse(error: UserError) -> None:
    """Say why an upload is not taken, where the event goes on to make room for another."""
    gr.Warning(str(error), duration=10, title="That did not work")


@contextmanager
def friendly() -> Iterator[None]:
    """Show the visitor what they can put right, or that the video turned out to be damaged."""
    try:
        yield
    except (UserError, VideoError, EndOfVideoError) as error:
        raise gr.Error(readable(error), duration=8, print_exception=False, title="That did not work") from error

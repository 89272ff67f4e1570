"""What the tabs share: examples, what clicks are and for which object, messages instead of failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from clicks import KINDS, POSITIVE
from uploads import UserError
from video_clip import readable

from efficienttam_hf.tracking_session import EndOfVideoError
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.visualization import object_color


# What every event of the pages has in common: callable from the page only. `/track` is for programs.
PAGE_EVENT = {"api_visibility": "private"}


def example_gallery(pictures: list[Path], elem_id: str) -> gr.Gallery:
    """Pictures to choose an example by."""
    return gr.Gallery(
        value=[str(path) for path in pictures],
        label="Or try one of these",
        columns=3,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=elem_id,
        elem_classes="examples",
    )


def camera(side: int) -> gr.WebcamOptions:
    """What is asked of a visitor's camera: pictures about so wide, the phone's rear camera, no sound."""
    video = {"width": {"ideal": side}, "facingMode": {"ideal": "environment"}}
    return gr.WebcamOptions(mirror=False, constraints={"video": video, "audio": False})


@dataclass(frozen=True)
class ObjectControls:
    """What a click says, for which object, and the buttons beside that."""

    kind: gr.Radio
    objects: gr.Radio
    next_object: gr.Button
    undo: gr.Button
    remove: gr.Button


def object_controls(tab: str) -> ObjectControls:
    """The controls of a tab, `"video"` or `"image"`, laid out where this is called."""
    kind = gr.Radio(KINDS, value=POSITIVE, label="A click says", elem_id=f"{tab}-kind")
    choices = [("Object 1", "1")]
    objects = gr.Radio(choices, value="1", label="Which object", elem_classes="objects", elem_id=f"{tab}-objects")
    with gr.Row(elem_classes="buttons"):
        next_object = gr.Button("Next object (n)", elem_classes="key-n", elem_id=f"{tab}-next")
        undo = gr.Button("Undo (u)", elem_classes="key-u", elem_id=f"{tab}-undo")
        remove = gr.Button("Remove object", elem_id=f"{tab}-remove")
    return ObjectControls(kind, objects, next_object, undo, remove)


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

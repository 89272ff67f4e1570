"""What the tabs share: examples, what clicks are and for which object, what is said of failures."""

from __future__ import annotations

import functools
import html
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from clicks import KINDS, POSITIVE
from settings import Settings
from uploads import UserError
from video_clip import readable

from efficienttam_hf.tracking_session import EndOfVideoError
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.visualization import object_color


logger = logging.getLogger(__name__)

# What an event changes: a value for each of its outputs, or only for some of them.
Answer = list[Any] | dict[Any, Any]

# What every event of the pages has in common: callable from the page only. `/track` is for programs.
PAGE_EVENT: dict[str, Any] = {"api_visibility": "private"}


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


def as_source(what: str, settings: Settings) -> tuple[str, int]:
    """The choice of results as large as the video or image: its label and its value, 0."""
    return f"as the {what}, up to {settings.max_result_side}", 0


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


def status_line(elem_id: str) -> gr.HTML:
    """Where a visitor is told what happened: a live region, which screen readers read (page.html)."""
    return gr.HTML(said(""), elem_id=elem_id, elem_classes="status-line")


def said(text: str, progress: float | None = None, what: str = "Tracked so far") -> str:
    """A status line's content: plain text and, where something is under way, how much of it is done, 0 to 1.

    Args:
        what: that part is, for those who hear it.
    """
    bar = ""
    if progress is not None:
        bar = f'<progress max="1" value="{progress:.3f}" aria-label="{what}"></progress>'
    return f'<div class="status">{bar}<span>{html.escape(text)}</span></div>'


def refused(error: Exception) -> str:
    """A status line's content: why something was not done."""
    return f'<div class="status refused"><span>{html.escape(readable(error))}</span></div>'


# What the visitor can put right, or that a video turned out to be damaged.
REFUSALS = (UserError, VideoError, EndOfVideoError)


def answered(callback: Callable) -> Callable:
    """Decorator for a tab's callbacks: what goes wrong is said in the tab's `status`, which is among the outputs."""

    def explain(tab: Any, error: Exception) -> dict[Any, str]:
        if not isinstance(error, REFUSALS):
            logger.exception("%s failed", callback.__name__)
            error = UserError("Something went wrong on the server. Try again, or load the page again.")
        return {tab.status: refused(error)}

    if inspect.isgeneratorfunction(callback):

        @functools.wraps(callback)
        def steps(self: Any, *args: Any) -> Iterator[Any]:
            try:
                yield from callback(self, *args)
            except Exception as error:
                yield explain(self, error)

        return steps

    if inspect.isasyncgenfunction(callback):

        @functools.wraps(callback)
        async def steps_between_waits(self: Any, *args: Any) -> AsyncIterator[Any]:
            try:
                async for step in callback(self, *args):
                    yield step
            except Exception as error:
                yield explain(self, error)

        return steps_between_waits

    @functools.wraps(callback)
    def answer(self: Any, *args: Any) -> Any:
        try:
            return callback(self, *args)
        except Exception as error:
            return explain(self, error)

    return answer


@contextmanager
def friendly() -> Iterator[None]:
    """For programs: what they can put right as an error of Gradio's, whose message reaches them."""
    try:
        yield
    except REFUSALS as error:
        raise gr.Error(readable(error), duration=8, print_exception=False, title="That did not work") from error


# ------------------------------------------------------------------------------------------------------------- clicks

# page.html turns a click, however it was made, into a place in the picture and, for a right click, what it says.
Place = list[float] | None


def click_place() -> gr.JSON:
    """The input through which a click's place comes: [x, y] as parts of the picture's width and height."""
    return gr.JSON(visible=False)


def with_place(*names: str) -> str:
    """JavaScript of an event whose last input is a `click_place`; `names` are those of the other inputs."""
    values = ", ".join("click.kind ?? kind" if name == "kind" else name for name in names)
    taken = "const click = window.efficienttam?.takeClick() ?? {};"
    return f"({', '.join(names)}) => {{ {taken} return [{values + ', ' if values else ''}click.place ?? null]; }}"


def place_in(size: tuple[int, int], place: Place, event: gr.SelectData) -> tuple[float, float]:
    """(x, y) of a click in pixels of an image of (height, width) `size`, which may be shown in another size."""
    if isinstance(place, list) and len(place) == 2 and all(isinstance(part, int | float) for part in place):
        return float(place[0]) * size[1], float(place[1]) * size[0]
    return float(event.index[0]), float(event.index[1])


def canvas_classes(size: tuple[int, int] | None, busy: bool = False) -> list[str]:
    """Classes of a picture to click on: narrow ones are shown larger and scrolled (style.css)."""
    classes = ["canvas"]
    if size is not None and max(size) > 2.5 * min(size):
        classes.append("tall" if size[0] > size[1] else "wide")
    return [*classes, "busy"] if busy else classes

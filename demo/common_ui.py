"""Code that the tabs share: examples, the controls of clicks and objects, and messages about errors."""

from __future__ import annotations

import functools
import html
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from clicks import KINDS, POSITIVE
from settings import Settings
from text_detector import MOST_CHARACTERS, OFF
from uploads import UserError
from video_clip import readable

from efficienttam_hf.tracking_session import EndOfVideoError
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.visualization import object_color


logger = logging.getLogger(__name__)

# The answer to an event: a value for each of its outputs, or a dictionary with some of them.
Answer = list[Any] | dict[Any, Any]

# Options of every event of the pages: programs cannot call them. `/track` is the endpoint for programs.
PAGE_EVENT: dict[str, Any] = {"api_visibility": "private"}


def example_gallery(pictures: list[Path], elem_id: str) -> gr.Gallery:
    """Return a gallery of pictures from which a visitor chooses an example.

    Args:
        pictures: one picture for each example.
        elem_id: the id of the element on the page.
    """
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
    """Return the options of a visitor's camera: about `side` pixels wide, a phone's rear camera, no sound."""
    video = {"width": {"ideal": side}, "facingMode": {"ideal": "environment"}}
    return gr.WebcamOptions(mirror=False, constraints={"video": video, "audio": False})


def as_source(what: str, settings: Settings) -> tuple[str, int]:
    """Return the label and the value (0) of the choice that results are as large as the video or the image.

    Args:
        what: `"video"` or `"image"`.
        settings: the settings of the demo.
    """
    return f"as the {what}, up to {settings.max_result_side}", 0


@dataclass(frozen=True)
class ObjectControls:
    """The kind of a click, its object, and the buttons beside these choices."""

    kind: gr.Radio
    objects: gr.Radio
    next_object: gr.Button
    undo: gr.Button
    remove: gr.Button


def object_controls(tab: str) -> ObjectControls:
    """Lay out the controls of a tab at the place where this function is called.

    Args:
        tab: `"video"` or `"image"`; the ids of the elements begin with it.
    """
    kind = gr.Radio(KINDS, value=POSITIVE, label="A click says", elem_id=f"{tab}-kind")
    choices = [("Object 1", "1")]
    objects = gr.Radio(choices, value="1", label="Which object", elem_classes="objects", elem_id=f"{tab}-objects")
    with gr.Row(elem_classes="buttons"):
        next_object = gr.Button("Next object (n)", elem_classes="key-n", elem_id=f"{tab}-next")
        undo = gr.Button("Undo (u)", elem_classes="key-u", elem_id=f"{tab}-undo")
        remove = gr.Button("Remove object", elem_id=f"{tab}-remove")
    return ObjectControls(kind, objects, next_object, undo, remove)


@dataclass(frozen=True)
class SearchControls:
    """The box for texts, and the buttons that find what they say, or everything."""

    texts: gr.Textbox
    find: gr.Button
    everything: gr.Button


def search_controls(tab: str, settings: Settings) -> SearchControls:
    """Lay out the search of a tab at the place where this function is called.

    Args:
        tab: `"video"` or `"image"`; the ids of the elements begin with it.
        settings: the settings of the demo, which say whether texts can be looked for.
    """
    where = "On the shown frame" if tab == "video" else "In the image"
    with gr.Column(elem_id=f"{tab}-search"):
        texts = gr.Textbox(
            label="Find instead of clicking",
            info=f"{where}; several things are separated by commas",
            placeholder="a dog, a red ball",
            max_length=MOST_CHARACTERS,
            visible=settings.text_detector != OFF,
            elem_id=f"{tab}-texts",
        )
        with gr.Row(elem_classes="buttons"):
            find = gr.Button("Find", visible=settings.text_detector != OFF, elem_id=f"{tab}-find")
            everything = gr.Button("Everything", elem_id=f"{tab}-everything")
    return SearchControls(texts, find, everything)


def object_choice(objects: list[int], current: int, labels: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Return the update of the radio buttons of objects after a change.

    Args:
        objects: the ids of all objects.
        current: the id of the selected object.
        labels: the labels of objects that were found from a text.
    """
    return gr.update(choices=[(object_title(i, labels or {}), str(i)) for i in objects], value=str(current))


def object_title(object_id: int, labels: Mapping[int, str]) -> str:
    """Return what an object is called on the page."""
    label = labels.get(object_id)
    return f"Object {object_id} · {label}" if label else f"Object {object_id}"


def object_colours(most: int) -> str:
    """Return a style sheet in which each object's radio button has the colour of its mask, for ids 1 to `most`."""
    rules = []
    for i in range(1, most + 1):
        colour = ",".join(map(str, object_color(i)))
        rules.append(f'.objects label:has(input[value="{i}"]) {{ border-left: 0.7rem solid rgb({colour}); }}')
    return "\n".join(rules)


def status_line(elem_id: str) -> gr.HTML:
    """Return the line that tells a visitor what happened; screen readers read it aloud (page.html)."""
    return gr.HTML(said(""), elem_id=elem_id, elem_classes="status-line")


def said(text: str, progress: float | None = None, what: str = "Tracked so far") -> str:
    """Return the content of a status line.

    Args:
        text: plain text.
        progress: the completed part of work that is under way, from 0 to 1; `None` shows no progress bar.
        what: the name of the progress bar for screen readers.

    Returns:
        HTML, in which the text is escaped.
    """
    bar = ""
    if progress is not None:
        bar = f'<progress max="1" value="{progress:.3f}" aria-label="{what}"></progress>'
    return f'<div class="status">{bar}<span>{html.escape(text)}</span></div>'


def refused(error: Exception) -> str:
    """Return the content of a status line, as HTML, that says why something was not done."""
    return f'<div class="status refused"><span>{html.escape(readable(error))}</span></div>'


# Errors that a visitor can correct, or that show that a video is damaged.
REFUSALS = (UserError, VideoError, EndOfVideoError)


def answered(callback: Callable) -> Callable:
    """Decorate a callback of a tab: its errors are shown in the tab's `status`, which must be one of the outputs.

    The messages of `REFUSALS` are shown as they are. Other errors are logged, and a general message is shown.
    """

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
    """Convert errors that a program can correct to Gradio's errors, whose messages reach the program.

    Raises:
        gr.Error: in place of one of `REFUSALS`.
    """
    try:
        yield
    except REFUSALS as error:
        raise gr.Error(readable(error), duration=8, print_exception=False, title="That did not work") from error


# ------------------------------------------------------------------------------------------------------------- clicks

# page.html converts a click, with any input device, to a position in the picture and, for a right click, a kind.
Place = list[float] | None


def click_place() -> gr.JSON:
    """Return the hidden input that receives a click's position: [x, y] as fractions of width and height."""
    return gr.JSON(visible=False)


def with_place(*names: str) -> str:
    """Return the JavaScript of an event whose last input is a `click_place`.

    Args:
        names: the names of the other inputs, in order.
    """
    values = ", ".join("click.kind ?? kind" if name == "kind" else name for name in names)
    taken = "const click = window.efficienttam?.takeClick() ?? {};"
    return f"({', '.join(names)}) => {{ {taken} return [{values + ', ' if values else ''}click.place ?? null]; }}"


def place_in(size: tuple[int, int], place: Place, event: gr.SelectData) -> tuple[float, float]:
    """Return (x, y) of a click in pixels of an image.

    Args:
        size: (height, width) of the image, which may be shown in another size.
        place: the position as fractions of width and height, from `click_place`; `None` if the page sent none.
        event: Gradio's event, which is used if there is no position.
    """
    if isinstance(place, list) and len(place) == 2 and all(isinstance(part, int | float) for part in place):
        return float(place[0]) * size[1], float(place[1]) * size[0]
    return float(event.index[0]), float(event.index[1])


def canvas_classes(size: tuple[int, int] | None, busy: bool = False) -> list[str]:
    """Return the CSS classes of a picture that can be clicked. Long pictures are shown larger and scroll (style.css).

    Args:
        size: (height, width) of the picture, if there is one.
        busy: whether the picture ignores clicks at the moment.
    """
    classes = ["canvas"]
    if size is not None and max(size) > 2.5 * min(size):
        classes.append("tall" if size[0] > size[1] else "wide")
    return [*classes, "busy"] if busy else classes

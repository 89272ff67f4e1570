"""The image tab: its layout and its callbacks. `image_work` has the state of the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from click_image import click_image
from common_ui import (
    PAGE_EVENT,
    REFUSALS,
    Answer,
    Place,
    answered,
    as_source,
    canvas_classes,
    click_place,
    example_gallery,
    object_choice,
    object_controls,
    object_title,
    place_in,
    refused,
    said,
    search_controls,
    status_line,
    with_place,
)
from image_export_panel import ImageExportPanel
from image_work import ImageWork
from model_store import shown_name
from settings import Settings
from text_detector import split_texts
from uploads import UserError
from visitors import Visitors


SHOWN = 15  # the number of components that show the state of an image
TAKEN_BACK = {
    "corner": "The corner is undone.",
    "click": "The last click is undone.",
    "removal": "The object is there again.",
    "everything": "The objects that Everything found are removed.",
    "search": "The objects of the last search are removed.",
}


class ImageTab:
    """The layout of the image tab and its callbacks. It is constructed within a `gr.Tab`.

    Args:
        visitors: all visitors of the demo.
        settings: the settings of the demo.
        examples: the paths of example images.
    """

    def __init__(self, visitors: Visitors, settings: Settings, examples: list[Path]):
        self.visitors = visitors
        self.settings = settings
        self.examples = examples
        self._layout()
        self._wire()

    def _layout(self) -> None:
        """Make the components of the tab."""
        settings = self.settings
        gr.Markdown(
            "**1** choose an image · **2** click on an object, or find it by words or with *Everything* · "
            "**3** choose a mask."
        )
        with gr.Accordion("Choose an image", open=True, elem_id="image-source") as self.source, gr.Row():
            with gr.Column():
                self.upload = gr.File(
                    label=f"Upload · up to {settings.max_upload_mb} MB",
                    file_types=["image"],
                    height=190,
                    elem_id="image-upload",
                )
            with gr.Column():
                self.gallery = example_gallery(self.examples, elem_id="image-examples")
                with gr.Accordion("Settings", open=False, elem_id="image-settings"):
                    self.side = gr.Dropdown(
                        [(str(settings.image_side), settings.image_side), as_source("image", settings)],
                        value=settings.image_side,
                        label="Size of the results",
                        info="Longer side in pixels",
                        elem_id="image-side",
                    )
        self.status = status_line("image-status")
        with gr.Row(visible=False) as self.workspace:
            with gr.Column(scale=3, min_width=320):
                self.canvas = click_image(label="Click to mark objects", elem_id="image-canvas", elem_classes="canvas")
                self.place = click_place()
            with gr.Column(scale=2, min_width=300):
                self.controls = object_controls("image")
                with gr.Column(visible=False, elem_id="image-proposals") as self.proposals:
                    self.scores = gr.Markdown()
                    with gr.Row():
                        self.choices = [
                            click_image(height=110, min_width=90, elem_id=f"image-proposal-{number}")
                            for number in range(3)
                        ]
                self.search = search_controls("image", settings)
                self.least_iou = gr.Slider(
                    0, 1, 0.3, step=0.05, label="Everything: least predicted IoU", buttons=[], elem_id="image-least-iou"
                )
                with gr.Column(visible=False) as self.results:
                    with gr.Row(elem_classes="buttons"):
                        self.files = [
                            gr.DownloadButton(label, elem_id=f"image-download-{label.split()[0].lower()}")
                            for label in ("Overlay (PNG)", "Masks (PNG)", "JSON (COCO)")
                        ]
                    self.markers = gr.Checkbox(
                        False, label="Draw clicks and boxes in the overlay, too", elem_id="image-markers"
                    )
                    self.exports = ImageExportPanel(self._work)

    def _wire(self) -> None:
        """Connect the components to the callbacks."""
        controls = self.controls
        shown = [
            *(self.status, self.canvas, controls.objects, self.proposals, self.scores),
            *(*self.choices, self.results, *self.files, *self.exports.files),
        ]
        loaded = [self.source, self.upload, self.workspace, *shown]
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        model: dict[str, Any] = {
            **PAGE_EVENT,
            "concurrency_id": "click",
            "concurrency_limit": self.settings.clicks_at_once,
        }
        tracking: dict[str, Any] = {
            **PAGE_EVENT,
            "concurrency_id": "track",
            "concurrency_limit": self.settings.tracking_at_once,
        }
        self.upload.upload(self.on_upload, [self.upload, self.side, self.markers], loaded, **quiet)
        self.gallery.select(self.on_example, [self.side, self.markers], loaded, **quiet)
        self.canvas.select(
            self.on_click,
            [controls.kind, controls.objects, self.markers, self.place],
            shown,
            show_progress="hidden",
            trigger_mode="multiple",
            js=with_place("kind", "objects", "markers"),
            **model,
        )
        controls.kind.input(self.on_kind, self.markers, shown, **quiet)
        controls.objects.input(self.on_object, [controls.objects, self.markers], shown, **quiet)
        controls.next_object.click(self.on_next, self.markers, shown, **quiet)
        controls.undo.click(self.on_undo, self.markers, shown, **quiet)
        controls.remove.click(self.on_remove, self.markers, shown, **quiet)
        self.markers.input(self.on_markers, self.markers, shown, **quiet)
        for number, choice in enumerate(self.choices):
            choice.select(self._chooser(number), self.markers, shown, **quiet)
        self.exports.wire(controls.objects)
        inputs = [self.least_iou, self.markers]
        self.model_inputs, self.model_outputs = [self.markers], shown
        looking = said("Looking for everything …")
        everything = self.search.everything.click
        everything(None, None, self.status, js=f"() => {json.dumps(looking)}", **PAGE_EVENT)
        everything(self.on_everything, inputs, shown, show_progress_on=self.canvas, **tracking)
        searching = said("Looking for objects in the image …")
        for begins in (self.search.find.click, self.search.texts.submit):
            begins(None, None, self.status, js=f"() => {json.dumps(searching)}", **PAGE_EVENT)
            begins(
                self.on_find,
                [self.search.texts, self.markers],
                shown,
                concurrency_id="find",
                concurrency_limit=1,
                **quiet,
            )

    # ------------------------------------------------------------------------------------------------------- callbacks
    # Each callback is decorated with `answered`: if it refuses, the status line gives the reason and nothing else
    # changes.

    def _work(self, request: gr.Request) -> ImageWork:
        """Return the state of the visitor's image tab."""
        return self.visitors.of(request.session_hash).image

    @answered
    def on_upload(self, path: str | None, side: int, markers: bool, request: gr.Request) -> Answer:
        """Load an uploaded image."""
        return self._load(Path(path), side, markers, request) if path else [gr.skip()] * (3 + SHOWN)

    @answered
    def on_example(self, event: gr.SelectData, side: int, markers: bool, request: gr.Request) -> Answer:
        """Load the example whose picture was clicked."""
        return self._load(self.examples[event.index], side, markers, request)

    def _load(self, path: Path, side: int, markers: bool, request: gr.Request) -> Answer:
        """Load an image and show it."""
        work = self._work(request)
        try:
            work.load(path, int(side))
        except REFUSALS as error:  # the upload field is emptied for another file
            return {self.status: refused(error), self.upload: None}
        text = f"{work.original[1]}×{work.original[0]} pixels. Now click on an object, or press Everything."
        status, canvas, *others = self._shown(work, text, markers)
        canvas = gr.update(value=canvas, elem_classes=canvas_classes(work.shown_size))
        opened = gr.update(open=False, label="Choose another image")
        return [opened, None, gr.update(visible=True), status, canvas, *others]

    @answered
    def on_click(
        self, event: gr.SelectData, kind: str, object_id: str, markers: bool, place: Place, request: gr.Request
    ) -> Answer:
        """Add a click on the picture to the prompts of the selected object."""
        work = self._work(request)
        size = work.image.shape[:2] if work.image is not None else (1, 1)
        if work.current != int(object_id):
            work.choose_object(int(object_id))
        work.click(kind, place_in(size, place, event))
        if work.corner:
            return self._shown(work, "Now click the opposite corner of the box.", markers)
        return self._shown(work, f"Object {work.current} is marked. Click again to improve it.", markers)

    @answered
    def on_kind(self, markers: bool, request: gr.Request) -> Answer:
        """Note that another kind of click was chosen; a box that was begun is discarded."""
        work = self._work(request)
        if work.corner is None:
            return {self.status: gr.skip()}
        work.corner = None
        return self._shown(work, "Click on an object, or press Everything.", markers)

    @answered
    def on_object(self, object_id: str, markers: bool, request: gr.Request) -> Answer:
        """Select another object."""
        work = self._work(request)
        work.choose_object(int(object_id))
        return self._shown(work, f"Clicks are for object {work.current}.", markers)

    @answered
    def on_next(self, markers: bool, request: gr.Request) -> Answer:
        """Select a new object."""
        work = self._work(request)
        work.next_object()
        return self._shown(work, f"Clicks are for object {work.current}.", markers)

    @answered
    def on_undo(self, markers: bool, request: gr.Request) -> Answer:
        """Undo the last change."""
        work = self._work(request)
        return self._shown(work, TAKEN_BACK[work.undo()], markers)

    @answered
    def on_remove(self, markers: bool, request: gr.Request) -> Answer:
        """Remove the selected object."""
        work = self._work(request)
        return self._shown(work, f"Object {work.remove_object()} is removed.", markers)

    @answered
    def on_markers(self, markers: bool, request: gr.Request) -> Answer:
        """Draw clicks in the overlay, or leave them out."""
        text = f"The overlay {'shows' if markers else 'does not show'} clicks and boxes."
        return self._shown(self._work(request), text, markers)

    def _chooser(self, number: int) -> Callable:
        """Return the callback of a click on a proposal."""

        def on_choose(markers: bool, request: gr.Request) -> Answer:
            """Use the proposal that was clicked."""
            return self.on_choose(number, markers, request)

        return on_choose

    @answered
    def on_choose(self, number: int, markers: bool, request: gr.Request) -> Answer:
        """Use a proposal for the selected object."""
        work = self._work(request)
        work.choose(number)
        return self._shown(work, f"Proposal {number + 1} is taken for object {work.current}.", markers)

    @answered
    def on_model(self, markers: bool, request: gr.Request) -> Answer:
        """Tell the visitor that another model is used, if it was changed."""
        work = self._work(request)
        if not work.model_is_new:
            return {self.status: gr.skip()}
        work.model_is_new = False
        return self._shown(
            work, f"You work with {shown_name(work.model)} now. Click on an object to begin again.", markers
        )

    @answered
    def on_everything(self, least_iou: float, markers: bool, request: gr.Request) -> Answer:
        """Find all objects of the image."""
        work = self._work(request)
        count = work.everything(least_iou)
        if not count:
            raise UserError(f"No object has a predicted IoU of at least {least_iou}: move the slider to a lower value.")
        text = (
            f"{count} object{'' if count == 1 else 's'} found. Choose one to remove it, or undo to have none of them."
        )
        return self._shown(work, text, markers)

    @answered
    def on_find(self, texts: str, markers: bool, request: gr.Request) -> Answer:
        """Find in the image what the texts say."""
        work = self._work(request)
        found = work.find(split_texts(texts))
        names = ", ".join(object_title(i, work.labels) for i in found)
        full = len(work.objects) >= self.settings.max_objects
        text = f"Found: {names}." + (" There can be no more objects." if full else "")
        return self._shown(work, f"{text} Remove what you do not want, or click to improve it.", markers)

    def _shown(self, work: ImageWork, text: str, markers: bool) -> list[Any]:
        """Return the values of all components that show the state, with `text` in the status line."""
        if work.image is None:
            raise UserError("Choose an image first.")
        files = [str(path) for path in work.write_results(markers)]
        proposals = work.proposal_pictures()
        scores = " · ".join(f"{proposal['score']:.2f}" for proposal in work.proposals)
        return [
            said(text),
            work.picture(),
            object_choice(work.objects, work.current, work.labels),
            gr.update(visible=bool(proposals)),
            f"Predicted IoU: {scores}. Click a proposal to take it.",
            *(proposals or [gr.skip()] * 3),
            gr.update(visible=bool(files)),
            *(files or [gr.skip()] * 3),
            *self.exports.without_files(),
        ]

"""The image tab: its layout, and what happens on each click. The work itself is in `image_work`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from click_image import click_image
from common_ui import PAGE_EVENT, example_gallery, friendly, object_choice, object_controls, refuse
from image_work import ImageWork
from settings import Settings
from uploads import UserError
from visitors import Visitors


SHOWN = 11  # components that show an image's state


class ImageTab:
    """Call within a `gr.Tab`.

    Args:
        examples: image files to try.
    """

    def __init__(self, visitors: Visitors, settings: Settings, examples: list[Path]):
        self.visitors = visitors
        self.settings = settings
        self.examples = examples
        self._layout()
        self._wire()

    def _layout(self) -> None:
        gr.Markdown("**1** choose an image · **2** click on an object, or find *everything* · **3** choose a mask.")
        with gr.Accordion("Choose an image", open=True, elem_id="image-source") as self.source, gr.Row():
            self.upload = gr.File(
                label=f"Upload · up to {self.settings.max_upload_mb} MB",
                file_types=["image"],
                height=160,
                elem_id="image-upload",
            )
            self.gallery = example_gallery(self.examples, elem_id="image-examples")
        with gr.Row(visible=False) as self.workspace:
            with gr.Column(scale=3, min_width=320):
                self.canvas = click_image(label="Click to mark objects", elem_id="image-canvas", elem_classes="canvas")
            with gr.Column(scale=2, min_width=300):
                self.controls = object_controls("image")
                with gr.Column(visible=False, elem_id="image-proposals") as self.proposals:
                    self.scores = gr.Markdown()
                    with gr.Row():
                        self.choices = [
                            click_image(height=110, min_width=90, elem_id=f"image-proposal-{number}")
                            for number in range(3)
                        ]
                with gr.Row(elem_classes="buttons", visible=False) as self.results:
                    self.files = [
                        gr.DownloadButton(label, elem_id=f"image-download-{label.split()[0].lower()}")
                        for label in ("Overlay (PNG)", "Masks (PNG)", "JSON (COCO)")
                    ]
                self.everything = gr.Button("Everything", variant="primary", elem_id="image-everything")
                self.least_iou = gr.Slider(
                    0, 1, 0.3, step=0.05, label="Everything: least predicted IoU", buttons=[], elem_id="image-least-iou"
                )

    def _wire(self) -> None:
        controls = self.controls
        shown = [self.canvas, controls.objects, self.proposals, self.scores, *self.choices, self.results, *self.files]
        loaded = [self.source, self.upload, self.workspace, *shown]
        quiet = {**PAGE_EVENT, "show_progress": "hidden"}
        model = {**PAGE_EVENT, "concurrency_id": "click", "concurrency_limit": self.settings.clicks_at_once}
        tracking = {**PAGE_EVENT, "concurrency_id": "track", "concurrency_limit": self.settings.tracking_at_once}
        self.upload.upload(self.on_upload, self.upload, loaded, **quiet)
        self.gallery.select(self.on_example, None, loaded, **quiet)
        inputs = [controls.kind, controls.objects]
        self.canvas.select(self.on_click, inputs, shown, show_progress="hidden", trigger_mode="multiple", **model)
        controls.objects.input(self.on_object, controls.objects, shown, **quiet)
        controls.next_object.click(self.on_next, None, shown, **quiet)
        controls.undo.click(self.on_undo, None, shown, show_progress="hidden", **model)
        controls.remove.click(self.on_remove, None, shown, **quiet)
        for number, choice in enumerate(self.choices):
            choice.select(self._chooser(number), None, shown, **quiet)
        self.everything.click(self.on_everything, self.least_iou, shown, show_progress_on=self.canvas, **tracking)

    # ------------------------------------------------------------------------------------------------------- callbacks

    def _work(self, request: gr.Request) -> ImageWork:
        return self.visitors.of(request.session_hash).image

    def on_upload(self, path: str | None, request: gr.Request):
        """An image was uploaded."""
        return self._load(Path(path), request) if path else [gr.skip()] * (3 + SHOWN)

    def on_example(self, event: gr.SelectData, request: gr.Request):
        """A picture of the examples was clicked."""
        example = self.examples[event.index]
        copy = self.visitors.of(request.session_hash).folder / example.name
        shutil.copyfile(example, copy)
        return self._load(copy, request)

    def _load(self, path: Path, request: gr.Request) -> list[Any]:
        work = self._work(request)
        try:
            work.load(path)
        except UserError as error:
            refuse(error)
            return [gr.skip(), None, gr.skip(), *[gr.skip()] * SHOWN]  # ready for another file
        return [gr.update(open=False, label="Choose another image"), None, gr.update(visible=True), *self._shown(work)]

    def on_click(self, event: gr.SelectData, kind: str, object_id: str, request: gr.Request):
        """The picture was clicked."""
        work = self._work(request)
        with friendly():
            work.current = int(object_id)
            work.click(kind, (float(event.index[0]), float(event.index[1])))
        return self._shown(work)

    def on_object(self, object_id: str, request: gr.Request):
        """Another object was chosen."""
        work = self._work(request)
        work.current, work.corner = int(object_id), None
        return self._shown(work)

    def on_next(self, request: gr.Request):
        """Next object."""
        work = self._work(request)
        with friendly():
            work.next_object()
        return self._shown(work)

    def on_undo(self, request: gr.Request):
        """Undo."""
        work = self._work(request)
        work.undo()
        return self._shown(work)

    def on_remove(self, request: gr.Request):
        """Remove object."""
        work = self._work(request)
        work.remove_object()
        return self._shown(work)

    def _chooser(self, number: int) -> Callable:
        def on_choose(request: gr.Request):
            """A proposal was clicked."""
            work = self._work(request)
            work.choose(number)
            return self._shown(work)

        return on_choose

    def on_everything(self, least_iou: float, request: gr.Request):
        """Everything."""
        work = self._work(request)
        with friendly():
            count = work.everything(least_iou)
        if count:
            gr.Info(f"{count} object{'' if count == 1 else 's'} found.", duration=4)
        else:
            gr.Warning(f"Nothing has a predicted IoU of at least {least_iou}: set it lower.", duration=6)
        return self._shown(work)

    def _shown(self, work: ImageWork) -> list[Any]:
        if work.image is None:
            return [gr.skip()] * SHOWN
        files = [str(path) for path in work.write_results()]
        proposals = work.proposal_pictures()
        scores = " · ".join(f"{proposal['score']:.2f}" for proposal in work.proposals)
        return [
            work.picture(),
            object_choice(work.objects, work.current),
            gr.update(visible=bool(proposals)),
            f"Predicted IoU: {scores}. Click a proposal to take it.",
            *(proposals or [gr.skip()] * 3),
            gr.update(visible=bool(files)),
            *(files or [gr.skip()] * 3),
        ]

"""The panel of effects and formats below the results: its layout and its callbacks. `exports` writes the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from click_image import click_image
from common_ui import PAGE_EVENT, Answer, answered, said
from exports import ANNOTATIONS, CONTAINERS, EFFECT_TITLES, make_effect, preview, titles, write_effect, write_format
from settings import Settings
from uploads import UserError
from video_work import VideoWork

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.effects import Effect


ALL, SELECTED = "all objects", "the selected object"
PREVIEW_SIDE = 640  # pixels


class ExportPanel:
    """The layout of the panel and its callbacks. It is constructed in the column of results.

    Args:
        settings: the settings of the demo.
        work_of: a function from a request to the visitor's work.
    """

    def __init__(self, settings: Settings, work_of: Callable[[gr.Request], VideoWork]):
        self.settings = settings
        self._work_of = work_of
        with gr.Accordion("Effects and formats of other tools", open=False, elem_id="video-exports") as self.panel:
            with gr.Row():
                with gr.Column():
                    self.effect = gr.Dropdown(
                        titles(EFFECT_TITLES), value="cutout", label="Effect", elem_id="video-effect"
                    )
                    self.which = gr.Radio([ALL, SELECTED], value=ALL, label="For", elem_id="video-effect-objects")
                    self.feather = gr.Slider(
                        0, 10, 1, step=0.5, label="Softness of edges in pixels", buttons=[], elem_id="video-feather"
                    )
                    self.smooth = gr.Slider(
                        0, 0.9, 0, step=0.1, label="Steadiness of edges over time", buttons=[], elem_id="video-smooth"
                    )
                    self.container = gr.Dropdown(
                        titles(CONTAINERS), value="auto", label="Kind of file", elem_id="video-container"
                    )
                    with gr.Row(elem_classes="buttons"):
                        self.make = gr.Button("Make the video", variant="primary", elem_id="video-make-effect")
                        self.effect_file = gr.DownloadButton(
                            "Download the video", visible=False, elem_id="download-effect"
                        )
                self.preview = click_image(label="Preview of the effect", elem_id="video-preview")
            with gr.Row():
                self.format = gr.Dropdown(
                    titles(ANNOTATIONS), value="coco", label="Annotations as", elem_id="video-format"
                )
                with gr.Column(), gr.Row(elem_classes="buttons"):
                    self.convert = gr.Button("Make the annotations", elem_id="video-make-format")
                    self.format_file = gr.DownloadButton(
                        "Download the annotations", visible=False, elem_id="download-format"
                    )
            self.status = gr.HTML(said(""), elem_id="export-status", elem_classes="status-line")

    def wire(self, frame: gr.Slider, objects: gr.Radio) -> None:
        """Connect the components to the callbacks.

        Args:
            frame: the slider of the tab, whose frame the preview shows.
            objects: the choice of the selected object.
        """
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        chosen = [self.effect, self.which, self.feather, objects]
        changes = (self.effect.input, self.which.input, self.feather.input, frame.input, objects.input)
        for begins in (self.panel.expand, *changes):
            begins(
                self.on_preview,
                self.preview_inputs(frame, objects),
                self.preview_outputs,
                trigger_mode="always_last",
                **quiet,
            )
        work: dict[str, Any] = {**quiet, "concurrency_id": "track", "concurrency_limit": self.settings.tracking_at_once}
        self.make.click(self.on_make, [*chosen, self.smooth, self.container], self.file_outputs, **work)
        self.convert.click(self.on_convert, self.format, self.file_outputs, **work)

    def preview_inputs(self, frame: gr.Slider, objects: gr.Radio) -> list[Any]:
        """Return the inputs of `on_preview`; see `wire` for the arguments."""
        return [frame, self.effect, self.which, self.feather, objects]

    @property
    def file_outputs(self) -> list[Any]:
        """The outputs of `on_make` and `on_convert`."""
        return [self.status, self.effect_file, self.format_file]

    @property
    def preview_outputs(self) -> list[Any]:
        """The outputs of `on_preview`."""
        return [self.preview, self.status, self.effect_file]

    @answered
    def on_preview(
        self, frame: float, effect: str, which: str, feather: float, selected: str, request: gr.Request
    ) -> Answer:
        """Show the frame of the slider with the effect. A file that was made before is out of date."""
        work = self._work_of(request)
        if work.clip is None or not work.tracked_frames or work.tracking:
            return {self.status: gr.skip()}
        index = max(0, min(int(frame), work.clip.count - 1))
        picture = preview(work, index, chosen_effect(effect, which, feather, selected))
        small = resize_image(picture, limited_size(picture.shape[:2], PREVIEW_SIDE))
        return {self.preview: small, self.effect_file: gr.update(visible=False)}

    @answered
    def on_make(
        self,
        effect: str,
        which: str,
        feather: float,
        selected: str,
        smooth: float,
        container: str,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Write the video with the effect."""
        work = self._work_of(request)
        for done, total, path in write_effect(work, chosen_effect(effect, which, feather, selected, smooth), container):
            if path is None:
                status = said(f"Frame {done} of {total}", done / total, "Written so far")
                yield {self.status: status, self.effect_file: gr.update(visible=False)}
            else:
                height, width = work.full_size
                yield {
                    self.status: said(f"The video is ready: {total} frames of {width}×{height} pixels."),
                    self.effect_file: gr.update(value=str(path), visible=True),
                    self.format_file: gr.update(visible=False),
                }

    @answered
    def on_convert(self, name: str, request: gr.Request) -> Answer:
        """Write the annotations in a format."""
        path = write_format(self._work_of(request), name)
        return {
            self.status: said(f"The annotations are ready: {path.name}."),
            self.format_file: gr.update(value=str(path), visible=True),
            self.effect_file: gr.update(visible=False),
        }


def chosen_effect(name: str, which: str, feather: float, selected: str, smooth: float = 0.0) -> Effect:
    """Make the effect that a panel describes; see `make_effect`. `which` is `ALL` or `SELECTED`."""
    if which == ALL:
        return make_effect(name, None, feather, smooth)
    if which != SELECTED or not str(selected).isdecimal():
        raise UserError("Choose the objects that the effect is for.")
    return make_effect(name, (int(selected),), feather, smooth)

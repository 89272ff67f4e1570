"""The panel of effects and formats below an image's results: its layout and callbacks. `exports` writes the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from click_image import click_image
from common_ui import PAGE_EVENT, Answer, answered, said
from export_panel import ALL, PREVIEW_SIDE, SELECTED, chosen_effect
from exports import EFFECT_TITLES, IMAGE_ANNOTATIONS, on_pattern, titles, write_image_effect, write_image_format
from image_work import ImageWork

from efficienttam_hf.app.frames import limited_size, resize_image


class ImageExportPanel:
    """The layout of the panel and its callbacks. It is constructed in the column of results.

    Args:
        work_of: a function from a request to the visitor's work.
    """

    def __init__(self, work_of: Callable[[gr.Request], ImageWork]):
        self._work_of = work_of
        with gr.Accordion("Effects and formats of other tools", open=False, elem_id="image-exports"):
            self.effect = gr.Dropdown(titles(EFFECT_TITLES), value="cutout", label="Effect", elem_id="image-effect")
            self.which = gr.Radio([ALL, SELECTED], value=ALL, label="For", elem_id="image-effect-objects")
            self.feather = gr.Slider(
                0, 10, 1, step=0.5, label="Softness of edges in pixels", buttons=[], elem_id="image-feather"
            )
            self.make = gr.Button("Make the picture", variant="primary", elem_id="image-make-effect")
            with gr.Column(visible=False) as self.made:
                self.preview = click_image(elem_id="image-preview")
                self.effect_file = gr.DownloadButton("Download the picture (PNG)", elem_id="image-download-effect")
            self.format = gr.Dropdown(
                titles(IMAGE_ANNOTATIONS), value="coco", label="Annotations as", elem_id="image-format"
            )
            self.convert = gr.Button("Make the annotations", elem_id="image-make-format")
            self.format_file = gr.DownloadButton(
                "Download the annotations", visible=False, elem_id="image-download-format"
            )
            self.status = gr.HTML(said(""), elem_id="image-export-status", elem_classes="status-line")

    def wire(self, objects: gr.Radio) -> None:
        """Connect the components to the callbacks.

        Args:
            objects: the choice of the selected object.
        """
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        chosen = [self.effect, self.which, self.feather, objects]
        self.make.click(self.on_make, chosen, self.outputs, **quiet)
        self.convert.click(self.on_convert, self.format, self.outputs, **quiet)

    @property
    def outputs(self) -> list[Any]:
        """The outputs of the callbacks."""
        return [self.status, self.made, self.preview, self.effect_file, self.format_file]

    @property
    def files(self) -> list[Any]:
        """The components that offer files, which are out of date when the objects change."""
        return [self.status, self.made, self.format_file]

    @staticmethod
    def without_files() -> list[Any]:
        """Return the updates of `files` that hide them."""
        return [said(""), gr.update(visible=False), gr.update(visible=False)]

    @answered
    def on_make(self, effect: str, which: str, feather: float, selected: str, request: gr.Request) -> Answer:
        """Write the picture with the effect, and show it."""
        path, picture = write_image_effect(self._work_of(request), chosen_effect(effect, which, feather, selected))
        height, width = picture.shape[:2]
        shown = resize_image(on_pattern(picture), limited_size((height, width), PREVIEW_SIDE))
        return {
            self.status: said(f"The picture is ready: {width}×{height} pixels."),
            self.made: gr.update(visible=True),
            self.preview: shown,
            self.effect_file: str(path),
            self.format_file: gr.update(visible=False),
        }

    @answered
    def on_convert(self, name: str, request: gr.Request) -> Answer:
        """Write the annotations in a format."""
        path = write_image_format(self._work_of(request), name)
        return {
            self.status: said(f"The annotations are ready: {path.name}."),
            self.format_file: gr.update(value=str(path), visible=True),
            self.made: gr.update(visible=False),
        }

"""The camera tab: it receives frames from the browser one by one and returns them with masks; see `live_work`."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
from click_image import click_image
from common_ui import PAGE_EVENT, Place, answered, camera, click_place, place_in, said, status_line, with_place
from model_store import shown_name
from settings import Settings
from visitors import Visitors


SECONDS_BETWEEN_FRAMES = 0.1


class LiveTab:
    """The layout of the camera tab and its callbacks. It is constructed within a `gr.Tab`.

    Args:
        visitors: all visitors of the demo.
        settings: the settings of the demo.
    """

    def __init__(self, visitors: Visitors, settings: Settings):
        self.visitors = visitors
        gr.Markdown(
            "**1** let the page use your camera and press *Record* · **2** click on an object in the second picture; "
            "it is tracked from there. Another click adds another object. Nothing is stored."
        )
        self.status = status_line("live-status")
        with gr.Row():
            self.camera = gr.Image(
                sources=["webcam"],
                streaming=True,
                type="numpy",
                webcam_options=camera(640),
                label="Camera",
                height=320,
                elem_id="live-camera",
            )
            with gr.Column(min_width=320):
                self.canvas = click_image(label="With masks: click here", elem_id="live-canvas", elem_classes="canvas")
                self.place = click_place()
                self.restart = gr.Button("Start anew (u)", elem_classes="key-u", elem_id="live-restart")
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        self.camera.stream(
            self.on_frame,
            self.camera,
            [self.canvas, self.status],
            stream_every=SECONDS_BETWEEN_FRAMES,
            time_limit=settings.live_seconds,
            concurrency_id="live",
            concurrency_limit=settings.tracking_at_once,
            **quiet,
        )
        self.canvas.select(self.on_click, self.place, self.status, trigger_mode="multiple", js=with_place(), **quiet)
        self.restart.click(self.on_restart, None, self.status, **quiet)
        self.model_inputs: list[Any] = []
        self.model_outputs = [self.status]

    # Each callback is decorated with `answered`: if it refuses, the status line gives the reason and nothing else
    # changes.

    @answered
    def on_frame(self, frame: np.ndarray | None, request: gr.Request) -> Any:
        """Track the objects on a frame of the camera."""
        if frame is None:
            return {self.canvas: gr.skip()}
        return {self.canvas: self.visitors.of(request.session_hash).live.frame(frame)}

    @answered
    def on_click(self, event: gr.SelectData, place: Place, request: gr.Request) -> dict:
        """Add an object at the click."""
        live = self.visitors.of(request.session_hash).live
        object_id = live.click(place_in(live.size, place, event))
        return {self.status: said(f"Object {object_id} is tracked from here on.")}

    @answered
    def on_model(self, request: gr.Request) -> dict:
        """Tell the visitor that another model is used, if it was changed."""
        live = self.visitors.of(request.session_hash).live
        if not live.model_is_new:
            return {self.status: gr.skip()}
        live.model_is_new = False
        return {self.status: said(f"You work with {shown_name(live.model)} now. Click on an object to begin again.")}

    @answered
    def on_restart(self, request: gr.Request) -> dict:
        """Remove all objects."""
        self.visitors.of(request.session_hash).live.reset()
        return {self.status: said("Nothing is tracked any more.")}

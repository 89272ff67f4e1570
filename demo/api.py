"""The endpoint `/track` for programs: it takes a video and prompts and returns masks. docs/demo.md describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from common_ui import friendly
from given_prompts import parse_prompts
from settings import Settings
from uploads import UserError
from video_tab import DIRECTIONS
from visitors import Visitors


class TrackEndpoint:
    """Adds the endpoint to the page, without visible components. It is constructed within the `gr.Blocks`.

    Args:
        visitors: all visitors of the demo.
        settings: the settings of the demo.
    """

    def __init__(self, visitors: Visitors, settings: Settings):
        self.visitors = visitors
        self.settings = settings
        with gr.Column(visible=False):
            inputs = [
                gr.File(label="video", type="filepath"),
                gr.JSON(label="prompts"),
                gr.Radio(DIRECTIONS, value="forward", label="direction"),
            ]
            outputs = [gr.File(label="masks_json"), gr.File(label="masks_zip"), gr.File(label="overlay")]
            gr.Button().click(
                self.track,
                inputs,
                outputs,
                api_name="track",
                concurrency_id="track",
                concurrency_limit=settings.tracking_at_once,
            )

    def track(self, video: str, prompts: Any, direction: str, request: gr.Request) -> tuple[str, str, str]:
        """Track objects through a video.

        Args:
            video: the path of a video file.
            prompts: objects in the form of `given_prompts.EXPECTED`, in pixels and frame numbers of the video. Label 1
                is a point on the object, and label 0 a point beside it. Points or the box may be left out.
            direction: "forward", "backward" or "both"; tracking begins at each object's first prompted frame.

        Returns:
            The paths of `NAME_masks.json` (COCO run lengths), `NAME_masks.zip` (indexed PNGs) and `NAME_overlay.mp4`,
            where NAME is the name of the video.

        Raises:
            gr.Error: if the video or the prompts cannot be used, or a limit is exceeded.
        """
        with friendly():
            visitor = self.visitors.of(request.session_hash)
        with friendly():
            if video is None:
                raise UserError("There is no video: give one as the first input.")
            work = visitor.new_call()
            try:
                clip = work.load(Path(video), self.settings.result_sides[0], 1)
                work.add_prompts(parse_prompts(prompts, clip, self.settings))
                for _ in work.track(direction):
                    visitor.seen()
                results = work.write_results()
                if results is None:
                    raise UserError("Tracking was stopped before the first frame was done.")
            except BaseException:
                work.close()
                raise
            work.release()
        return str(results.masks_json), str(results.masks_zip), str(results.overlay)

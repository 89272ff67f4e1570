"""The endpoint `/track` for programs: a video and prompts in, masks out. docs/demo.md of the project describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from common_ui import friendly
from settings import Settings
from uploads import UserError
from video_clip import Clip
from video_tab import DIRECTIONS
from video_work import VideoWork
from visitors import Visitors

from efficienttam_hf.prompts import ObjectPrompts, Prompts, prompts_from_json


EXPECTED = '[{"id": 1, "prompts": [{"frame": 0, "points": [[x, y]], "labels": [1], "box": [x0, y0, x1, y1]}]}]'


class TrackEndpoint:
    """Call within the `gr.Blocks`: adds the endpoint, and nothing that is seen."""

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
            video: a video file.
            prompts: objects in the form of `EXPECTED`, in pixels and frame numbers of the video; label 1 is on the
                object, 0 beside it; points or a box may be left out.
            direction: "forward", "backward" or "both", from each object's first prompted frame.

        Returns:
            masks.json (COCO run lengths), masks.zip (indexed PNGs) and overlay.mp4.
        """
        visitor = self.visitors.of(request.session_hash)
        work = VideoWork(visitor.new_folder(), self.settings)
        with friendly():
            if video is None:
                raise UserError("Give a video.")
            clip = work.load(Path(video), self.settings.result_sides[0], 1)
            try:
                work.add_prompts(parse_prompts(prompts, clip, self.settings))
                for _ in work.track(direction):
                    visitor.seen()
                results = work.write_results()
            except UserError:
                work.close()
                raise
        return str(results.masks_json), str(results.masks_zip), str(results.overlay)


def parse_prompts(given: Any, clip: Clip, settings: Settings) -> Prompts:
    """Prompts of a call, in the form of `EXPECTED`, by frame and object and in pixels of the video.

    Raises:
        UserError: if they have another form, or do not fit the video.
    """
    try:
        prompts = prompts_from_json(given)
    except ValueError as error:
        raise UserError(f"prompts must have the form {EXPECTED}. {error}") from error
    for frame, on_frame in prompts.items():
        for object_id, one in on_frame.items():
            _check(object_id, frame, one, clip)
    if len({i for on_frame in prompts.values() for i in on_frame}) > settings.max_objects:
        raise UserError(f"Up to {settings.max_objects} objects at once.")
    return prompts


def _check(object_id: int, frame: int, given: ObjectPrompts, clip: Clip) -> None:
    where = f" for object {object_id} on frame {frame}"
    if not 1 <= object_id <= 255:
        raise UserError(f"Object ids are 1 to 255, got {object_id}.")
    if not 0 <= frame < clip.count:
        raise UserError(f"Frame {frame} is not one of the frames 0 to {clip.count - 1} that are used.")
    if given.is_empty:
        raise UserError(f"There is neither a point nor a box{where}.")
    try:
        given.check(clip.original, where)
    except ValueError as error:
        raise UserError(str(error)) from error

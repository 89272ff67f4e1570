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
            `NAME_masks.json` (COCO run lengths), `NAME_masks.zip` (indexed PNGs) and `NAME_overlay.mp4`, where NAME is
            that of the video.
        """
        with friendly():
            visitor = self.visitors.of(request.session_hash)
        with friendly():
            if video is None:
                raise UserError("Give a video.")
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


def parse_prompts(given: Any, clip: Clip, settings: Settings) -> Prompts:
    """Prompts of a call, in the form of `EXPECTED`, by frame and object and in pixels of the video.

    Raises:
        UserError: if they have another form, do not fit the video, or are more than allowed.
    """
    _check_amount(given, settings)
    try:
        prompts = prompts_from_json(given)
    except ValueError as error:
        raise UserError(f"prompts must have the form {EXPECTED}. {error}") from error
    for frame, on_frame in prompts.items():
        for object_id, one in on_frame.items():
            _check(object_id, frame, one, clip)
    return prompts


def _check_amount(given: Any, settings: Settings) -> None:
    """Count before anything is read: each point is more work for the model."""
    objects = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    lists = [one["prompts"] for one in objects if isinstance(one.get("prompts"), list)]
    if len(objects) > settings.max_objects:
        raise UserError(f"Up to {settings.max_objects} objects at once, got {len(objects)}.")
    if sum(map(len, lists)) > settings.max_prompts:
        raise UserError(f"Up to {settings.max_prompts} prompts in all, got {sum(map(len, lists))}.")
    for prompt in (prompt for prompts in lists for prompt in prompts if isinstance(prompt, dict)):
        points = prompt.get("points")
        if isinstance(points, list) and len(points) > settings.max_points:
            raise UserError(f"Up to {settings.max_points} points for an object on a frame, got {len(points)}.")


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

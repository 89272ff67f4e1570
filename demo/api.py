"""The endpoint `/track` for programs: it takes a video and prompts and returns masks. docs/demo.md describes it."""

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
            prompts: objects in the form of `EXPECTED`, in pixels and frame numbers of the video. Label 1 is a point on
                the object, and label 0 a point beside it. Points or the box may be left out.
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


def parse_prompts(given: Any, clip: Clip, settings: Settings) -> Prompts:
    """Convert the prompts of a call to `Prompts`, by frame and object and in pixels of the video.

    Args:
        given: the parsed JSON, in the form of `EXPECTED`.
        clip: the part of the video that is used.
        settings: the settings of the demo, with the limits.

    Raises:
        UserError: if the prompts have another form, do not fit the video, or exceed a limit.
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
    """Check the numbers of objects, prompts and points before anything else, because each point costs time."""
    objects = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    lists = [one["prompts"] for one in objects if isinstance(one.get("prompts"), list)]
    if len(objects) > settings.max_objects:
        raise UserError(f"At most {settings.max_objects} objects are accepted in a call, got {len(objects)}.")
    if sum(map(len, lists)) > settings.max_prompts:
        raise UserError(f"At most {settings.max_prompts} prompts in all are accepted, got {sum(map(len, lists))}.")
    for prompt in (prompt for prompts in lists for prompt in prompts if isinstance(prompt, dict)):
        points = prompt.get("points")
        if isinstance(points, list) and len(points) > settings.max_points:
            raise UserError(
                f"At most {settings.max_points} points for an object on a frame are accepted, got {len(points)}."
            )


def _check(object_id: int, frame: int, given: ObjectPrompts, clip: Clip) -> None:
    """Raise `UserError` if a prompt is empty, or its object id, frame or coordinates are not in the clip."""
    where = f" for object {object_id} on frame {frame}"
    if not 1 <= object_id <= 255:
        raise UserError(f"Object ids are whole numbers from 1 to 255, got {object_id}.")
    if not 0 <= frame < clip.count:
        raise UserError(f"Frame {frame} is not one of the frames 0 to {clip.count - 1} that are used.")
    if given.is_empty:
        raise UserError(f"There is neither a point nor a box{where}: give at least one.")
    try:
        given.check(clip.original, where)
    except ValueError as error:
        raise UserError(str(error)) from error

"""Prompts that come from outside: in a call of the API, in a link or in a file of results. All are hostile input."""

from __future__ import annotations

from typing import Any

from settings import Settings
from uploads import UserError
from video_clip import Clip

from efficienttam_hf.prompts import ObjectPrompts, Prompts, prompts_from_json
from efficienttam_hf.safe_names import reason_of
from efficienttam_hf.structured_files import parse_json


EXPECTED = '[{"id": 1, "prompts": [{"frame": 0, "points": [[x, y]], "labels": [1], "box": [x0, y0, x1, y1]}]}]'
MOST_CHARACTERS = 8000  # of the prompts in a link; browsers and mail programs cut longer addresses


def parse_prompts(given: Any, clip: Clip, settings: Settings) -> Prompts:
    """Convert the prompts of a call to `Prompts`, by frame and object and in pixels of the video.

    Args:
        given: the parsed JSON, in the form of `EXPECTED`.
        clip: the part of the video that is used.
        settings: the settings of the demo, with the limits.

    Raises:
        UserError: if the prompts have another form, do not fit the video, or exceed a limit.
    """
    check_amount(given, settings)
    try:
        prompts = prompts_from_json(given)
    except ValueError as error:
        raise UserError(f"prompts must have the form {EXPECTED}. {reason_of(error)}") from error
    for frame, on_frame in prompts.items():
        for object_id, one in on_frame.items():
            _check(object_id, frame, one, clip)
    return prompts


def check_amount(given: Any, settings: Settings) -> None:
    """Check the numbers of objects, prompts and points before anything else, because each point costs time."""
    objects = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    lists = [one["prompts"] for one in objects if isinstance(one.get("prompts"), list)]
    if len(objects) > settings.max_objects:
        raise UserError(f"At most {settings.max_objects} objects are accepted, got {len(objects)}.")
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


def parse_link(text: str, settings: Settings) -> list[Any]:
    """Read the prompts that a link carries, before it is known which video they are for.

    Args:
        text: JSON in the form of `EXPECTED`, with frame numbers and pixels of the video.
        settings: the settings of the demo, with the limits.

    Raises:
        UserError: if it is no such JSON, or there is too much of it.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"The prompts of this link have more than {MOST_CHARACTERS} characters.")
    given = parse_json(text, "What this link carries", error=_LinkError)
    check_amount(given, settings)
    try:
        prompts_from_json(given)
    except ValueError as error:
        raise UserError(f"The prompts of a link must have the form {EXPECTED}. {reason_of(error)}") from error
    return list(given)


class _LinkError(UserError, ValueError):
    """A link carries no JSON."""


def on_clip(given: list[Any], clip: Clip) -> list[Any]:
    """Convert checked prompts from frames of the video to frames of the clip; those on other frames are left out."""
    kept = []
    for one in given:
        prompts = [
            {**prompt, "frame": clip.index(prompt["frame"])}
            for prompt in one["prompts"]
            if prompt["frame"] % clip.stride == 0 and 0 <= clip.index(prompt["frame"]) < clip.count
        ]
        if prompts:
            kept.append({**one, "prompts": prompts})
    return kept

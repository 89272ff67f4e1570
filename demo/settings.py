"""Every number of the demo: which model, how fast, and what a visitor may upload.

Each is read from the environment, so a Space is configured in its settings page (Variables) without a change to its
files: `EFFICIENTTAM_MODEL=someone/a-model`, `EFFICIENTTAM_MAX_FRAMES=600`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The demo's settings; the environment variable of each is its name in capitals after `EFFICIENTTAM_`.

    Attributes:
        model: that the page begins with: a folder, an id on the Hub, or a name that `efficienttam models` lists; by
            default as of the commands.
        models: those that visitors may choose among, with commas; `all` stands for every one that has a name. By
            default all of them, and where `model` is set, that one alone.
        models_in_memory: at a time, whatever visitors choose. Each that is tracked with needs one of its own.
        device: `cpu`, `cuda`, `mps`; `auto` is the best there is.
        dtype: `float32`, `bfloat16`, `float16`; `auto` is bfloat16 on a GPU and float32 elsewhere.
        memory: how memories are chosen, a name of docs/memory.md; `auto` is as the model's configuration says.
        result_sides: choices for the longer side of frames and masks in pixels; the first is the default.
        strides: choices for "every n-th frame"; the first is the default.
        max_frames: frames of a video that are used; what follows is left out, and the visitor is told.
        max_upload_mb: of an uploaded file.
        max_pixels: of a frame or an image before it is scaled down.
        max_result_side: longer side of results in pixels where they are to be as large as the video.
        max_objects: per visitor.
        max_points: per object and frame.
        max_prompts: per visitor; one is what is said of an object on a frame.
        image_side: longer side of an image in pixels; larger ones are scaled down.
        live_side: longer side of camera frames in pixels.
        live_seconds: of camera in one go; then whoever waits has a turn.
        grid: clicks along each side for "everything" in an image.
        tracking_at_once: visitors whose videos are tracked at the same time; others wait in the queue.
        clicks_at_once: clicks answered at the same time. They do not wait for tracking.
        max_visitors: at the same time. Those who have loaded nothing make room for others.
        requests_per_visitor: that wait or run at the same time.
        requests_per_address: likewise, of all visitors from one network address.
        requests_per_minute: of a visitor, that wait or run: clicks, sliders, calls of `/track`.
        address_requests_per_minute: of all visitors from one network address, uploads and camera frames too.
        queue_size: requests that wait, of all visitors.
        results_per_visitor: calls of `/track` whose files are kept; the oldest make room for new ones.
        idle_minutes: after this long without a sign of life, a visitor's files are deleted.
    """

    model: str = ""
    models: tuple[str, ...] = ()
    models_in_memory: int = 2
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    result_sides: tuple[int, ...] = (640, 480, 960)
    strides: tuple[int, ...] = (1, 2, 4)
    max_frames: int = 300
    max_upload_mb: int = 100
    max_pixels: int = 4096 * 2304
    max_result_side: int = 1920
    max_objects: int = 12
    max_points: int = 50
    max_prompts: int = 200
    image_side: int = 1024
    live_side: int = 480
    live_seconds: int = 120
    grid: int = 16
    tracking_at_once: int = 1
    clicks_at_once: int = 2
    max_visitors: int = 100
    requests_per_visitor: int = 16
    requests_per_address: int = 48
    requests_per_minute: int = 900
    address_requests_per_minute: int = 3600
    queue_size: int = 256
    results_per_visitor: int = 4
    idle_minutes: int = 30

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings from environment variables; a list of choices is numbers or names with commas.

        Raises:
            ValueError: if a number is not a whole number above 0.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            name = f"EFFICIENTTAM_{field.name.upper()}"
            if name in os.environ:
                given[field.name] = _parse(name, os.environ[name], field.default)
        return cls(**given)


def _parse(name: str, text: str, default: object) -> object:
    if isinstance(default, str):
        return text
    if default == ():  # names
        return tuple(filter(None, (part.strip() for part in text.split(","))))
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1 or (isinstance(default, int) and len(numbers) != 1):
        accepted = "a whole number above 0" if isinstance(default, int) else "whole numbers above 0 with commas"
        raise ValueError(f"{name} is {accepted}, got {text!r}.")
    return numbers[0] if isinstance(default, int) else numbers

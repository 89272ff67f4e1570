"""All settings of the demo: the models, the speed and the limits of uploads.

Each setting can be given as an environment variable, so that a Space is configured on its settings page (Variables)
without a change of files: `EFFICIENTTAM_MODEL=someone/a-model`, `EFFICIENTTAM_MAX_FRAMES=600`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from efficienttam_hf.discovery.transformers_detectors import DEFAULT_TEXT_DETECTOR


# A hawk in the rain, 10 s, 960 x 540 (Pexels video 1581; CC0 1.0, as `licenses.txt` beside it says).
HAWK = (
    "https://raw.githubusercontent.com/nealvis/media/907dde5b733558c63de166407afd070c271a5909/"
    "animal_vid/wet_hawk_960x540_CC0.mp4"
)


@dataclass(frozen=True)
class Settings:
    """The settings of the demo. The environment variable of a setting is `EFFICIENTTAM_` and its name in capitals.

    Attributes:
        model: the model that the page begins with: a folder, an id on the Hub, or a name that `efficienttam models`
            lists. The default is the default of the commands.
        models: the models that visitors may choose; `all` stands for every model that has a name. The default is all of
            them, or only `model` if it is set.
        models_in_memory: the largest number of models that are loaded at a time. Visitors who use different models at
            the same time need one each.
        device: `cpu`, `cuda` or `mps`; `auto` is the best that is available.
        dtype: `float32`, `bfloat16` or `float16`; `auto` is bfloat16 on a GPU, and on a CPU if it
            is faster there and the masks stay the same; otherwise it is float32.
        memory: the memory selection strategy, by its name in docs/memory.md; `auto` uses the model's configuration.
        text_detector: the model that finds what a visitor's text says: a folder or an id on the Hub, for Transformers'
            `zero-shot-object-detection`. It is fetched when the first visitor looks for a text. `off`: visitors cannot
            look for texts.
        example_video: the path or the address of a real video, the first example of the page; by default a clip of a
            hawk (CC0), which is fetched once into the user's cache directory. `off`: only clips that the package draws.
        result_sides: the choices for the longer side of frames and masks, in pixels; the first is the default.
        strides: the choices for "every n-th frame"; the first is the default.
        max_frames: the largest number of frames of a video that are used. The visitor is told that the others are left
            out.
        max_upload_mb: the largest size of an uploaded file, in MiB.
        max_pixels: the largest number of pixels of a frame or an image before it is scaled down.
        max_result_side: the largest longer side, in pixels, of results that are as large as the video.
        max_objects: the largest number of objects of a visitor.
        max_points: the largest number of points of an object on a frame.
        max_prompts: the largest number of prompts of a visitor; a prompt is everything given for one object on one
            frame.
        image_side: the longer side of an image in pixels; larger images are scaled down.
        live_side: the longer side of camera frames in pixels; larger frames are scaled down.
        live_seconds: the number of seconds after which a camera stops, so that other visitors have a turn.
        grid: the number of points along each side of an image for *Everything*.
        tracking_at_once: the number of videos that are tracked at the same time; others wait in the queue.
        clicks_at_once: the number of clicks that are answered at the same time. Clicks do not wait for tracking.
        max_visitors: the largest number of visitors at the same time. Visitors who have loaded nothing make room for
            others.
        requests_per_visitor: the largest number of requests of a visitor that wait or run at the same time.
        requests_per_address: the same, for all visitors from one network address.
        requests_per_minute: the largest number of queued requests of a visitor per minute: clicks, sliders, calls of
            `/track`.
        address_requests_per_minute: the same, for all visitors from one network address, with uploads and camera
            frames.
        queue_size: the largest number of requests of all visitors that wait.
        results_per_visitor: the number of calls of `/track` whose files are kept; the oldest are deleted first.
        idle_minutes: the number of minutes without activity after which a visitor's files are deleted.
    """

    model: str = ""
    models: tuple[str, ...] = ()
    models_in_memory: int = 2
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    text_detector: str = DEFAULT_TEXT_DETECTOR
    example_video: str = HAWK
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
        """Read the settings from environment variables; several choices are numbers or names separated by commas.

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
    """Parse the text of an environment variable to the type of the setting's default."""
    if isinstance(default, str):
        return text
    if default == ():  # a list of names
        return tuple(filter(None, (part.strip() for part in text.split(","))))
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1 or (isinstance(default, int) and len(numbers) != 1):
        accepted = (
            "a whole number above 0" if isinstance(default, int) else "whole numbers above 0, separated by commas"
        )
        raise ValueError(f"{name} must be {accepted}, got {text!r}.")
    return numbers[0] if isinstance(default, int) else numbers

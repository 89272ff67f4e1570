"""Files beside the overlay: a video or an image with an effect, and annotations in the formats of other tools."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from image_work import ImageWork
from uploads import UserError
from video_work import VideoWork

from efficienttam_hf.app.effect_output import EffectOutput, write_png
from efficienttam_hf.effects import EFFECTS, Effect, EffectStream
from efficienttam_hf.formats.registry import FORMATS, write_annotations
from efficienttam_hf.formats.result_files import read_results
from efficienttam_hf.video_writer import VideoWriter


# The effects that the page offers, by name. The overlay is not among them: it is there already.
EFFECT_TITLES = {
    "cutout": "Cut-out, transparent background",
    "mask": "Black-and-white mask",
    "blur-background": "Blurred background",
    "green-screen": "Green screen",
    "replace-background": "White background",
    "spotlight": "Spotlight: the rest dark and grey",
    "outline": "Outline",
    "pixelate": "Objects pixelated",
    "blur": "Objects blurred",
    "fill": "Objects black",
}
CONTAINERS = {
    "auto": "MP4, or WebM if it is transparent",
    "mov": "ProRes 4444 (MOV), for video editors",
}
CHECK = 12  # pixels, the squares of the pattern behind a transparent preview
ANNOTATIONS = {name: f"{name}: {form.text}" for name, form in FORMATS.items() if form.media != "image"}
IMAGE_ANNOTATIONS = {name: f"{name}: {form.text}" for name, form in FORMATS.items() if form.media != "video"}


def make_effect(name: str, object_ids: tuple[int, ...] | None, feather: float, smooth: float) -> Effect:
    """Make an effect from what the page sends.

    Args:
        name: a key of `EFFECT_TITLES`.
        object_ids: the objects that it is for; `None` stands for all.
        feather: the softness of edges in pixels.
        smooth: how strongly edges are averaged over time, from 0 to 0.95.

    Raises:
        UserError: if the name or a number is not accepted.
    """
    if name not in EFFECT_TITLES:
        raise UserError(f"There is no such effect; accepted are {', '.join(EFFECT_TITLES)}.")
    try:
        return EFFECTS[name](objects=object_ids, feather=feather, smooth=smooth)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def preview(work: VideoWork, frame: int, effect: Effect) -> np.ndarray:
    """Draw a frame of the clip with an effect, uint8 (height, width, 3); a pattern stands for transparency.

    Raises:
        UserError: if there is no video, or it ends before this frame.
    """
    image, masks = work.frame_with_masks(frame)
    return on_pattern(effect(image, masks))


def on_pattern(picture: np.ndarray) -> np.ndarray:
    """Put a picture, uint8 (height, width, 3 or 4), on a pattern that stands for transparency."""
    if picture.shape[2] == 3:
        return picture
    rows, columns = np.indices(picture.shape[:2]) // CHECK
    pattern = np.where((rows + columns) % 2, 204, 255)[..., None]
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + pattern * (255 - alpha)) // 255).astype(np.uint8)


def write_effect(work: VideoWork, effect: Effect, container: str) -> Iterator[tuple[int, int, Path | None]]:
    """Write the tracked frames with an effect, at the size of the video and with its sound.

    Args:
        work: the visitor's work.
        effect: the effect.
        container: a key of `CONTAINERS`.

    Yields:
        The number of frames that are done, their total, and at the end the path of the file.

    Raises:
        UserError: if nothing is tracked, the effect is not written in this container, or another video is chosen.
    """
    if container not in CONTAINERS:
        raise UserError(f"There is no such kind of file; accepted are {', '.join(CONTAINERS)}.")
    work.check_not_tracking()
    clip, numbers = work.clip, work.tracked_frames
    if clip is None or not numbers:
        raise UserError("Track an object first.")
    try:
        output = EffectOutput.choose([effect], None if container == "auto" else container)
    except ValueError as error:
        raise UserError(str(error)) from error
    stream = EffectStream(effect, work.objects)
    large = replace(clip, size=work.full_size)
    path = work.export_path(f"{effect.name}.{output.format}")
    height, width = large.size
    with large.open() as frames:
        alpha = stream.channels == 4
        with VideoWriter(path, large.fps, width, height, audio_from=frames.sound, alpha=alpha) as writer:
            for done, number in enumerate(numbers):
                if work.clip is not clip:
                    raise UserError("Another video was chosen meanwhile.")
                masks = work.masks_on(number)
                index = clip.index(number)
                enlarged = {i: _enlarged(mask, large.size) for i, mask in masks.items()}
                writer.write(stream(frames[index], enlarged), *frames.times(index))
                yield done + 1, len(numbers), None
    yield len(numbers), len(numbers), path


def _enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask, bool (height, width), to another size; its edge is interpolated, so that it has no steps."""
    if mask.shape == size:
        return mask
    import cv2

    values = cv2.resize(mask.astype(np.uint8) * 255, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(values) > 127


def write_format(work: VideoWork, name: str) -> Path:
    """Write the annotations in a format of another tool, as a ZIP.

    Args:
        work: the visitor's work.
        name: a key of `ANNOTATIONS`.

    Raises:
        UserError: if the format does not exist or cannot hold the annotations, or nothing is tracked.
    """
    _check_format(name, ANNOTATIONS)
    return _zip_annotations(name, work.write_json(), work.export_path(f"{name}.zip"))


def write_image_effect(work: ImageWork, effect: Effect) -> tuple[Path, np.ndarray]:
    """Write an image with an effect, as a PNG.

    Args:
        work: the visitor's work.
        effect: the effect.

    Returns:
        The path of the file, and the picture in it, uint8 (height, width, 3 or 4).

    Raises:
        UserError: if there are no objects.
    """
    image, masks = work.image_with_masks()
    picture = effect(image, masks)
    path = work.export_path(f"{effect.name}.png")
    write_png(path, picture)
    return path, picture


def write_image_format(work: ImageWork, name: str) -> Path:
    """Write the annotations of an image in a format of another tool, as a ZIP.

    Args:
        work: the visitor's work.
        name: a key of `IMAGE_ANNOTATIONS`.

    Raises:
        UserError: if the format does not exist or cannot hold the annotations, or there are no objects.
    """
    _check_format(name, IMAGE_ANNOTATIONS)
    return _zip_annotations(name, work.json_file, work.export_path(f"{name}.zip"))


def _check_format(name: str, accepted: Mapping[str, str]) -> None:
    """Raise `UserError` if a format is not among those that are accepted."""
    if name not in accepted:
        raise UserError(f"There is no such format; accepted are {', '.join(accepted)}.")


def _zip_annotations(name: str, json_file: Path, path: Path) -> Path:
    """Convert results to a format, and put the files into a ZIP with this path."""
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)

    def add(relative: str) -> Path:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    try:
        write_annotations(name, read_results(json_file), add)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))
    except ValueError as error:
        raise UserError(f"The format {name} cannot hold these results. {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def titles(choices: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (title, key) of each choice, as Gradio wants them."""
    return [(str(title), key) for key, title in choices.items()]

"""Going on from results that the demo or `efficienttam track` wrote: `masks.json`, or a ZIP that contains it.

The file is hostile input. A ZIP is never extracted by the names in it: one member is copied to a file of the demo's
own, up to a size. The masks are read frame by frame, and what was there before is replaced when all is checked.
"""

from __future__ import annotations

import secrets
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from clip_masks import ClipMasks
from given_prompts import on_clip, parse_prompts
from settings import Settings
from uploads import Upload, UserError
from video_clip import Clip
from video_work import VideoWork

from efficienttam_hf.discovery import FoundObject, Sighting
from efficienttam_hf.formats.annotations import AnnotatedMedia, Annotation
from efficienttam_hf.formats.result_files import NAME, read_header, read_results
from efficienttam_hf.mask_io import box_and_area
from efficienttam_hf.prompts import Box, ObjectPrompts, Prompts, scaled_prompts
from efficienttam_hf.safe_names import one_line, reason_of


MOST_MEGABYTES = 32  # of a file of masks or a ZIP: parsed JSON takes many times as much RAM
BLOCK = 2**20  # bytes that are copied at a time
LONGEST_LABEL = 200  # characters
# Python decompresses other methods without a limit.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass
class GivenResults:
    """Results of a video, checked against the clip.

    Attributes:
        media: the masks.
        prompts: the prompts by frame of the clip and object, in pixels of the clip's frames, without masks.
        from_masks: (frame of the clip, object id) where the mask is a prompt.
        labels: the label and the score of objects that were found.
        complete: whether tracking reached its end.
    """

    media: AnnotatedMedia
    prompts: Prompts = field(default_factory=dict)
    from_masks: set[tuple[int, int]] = field(default_factory=set)
    labels: dict[int, tuple[str, float]] = field(default_factory=dict)
    complete: bool = False


def take_results(work: VideoWork, cached: Path) -> tuple[int, int]:
    """Go on from uploaded results in place of the prompts and masks so far. The file is deleted.

    Args:
        work: the visitor's work, with the video that the results are of.
        cached: the path of the uploaded file.

    Returns:
        The number of objects, and of frames with masks.

    Raises:
        UserError: if there is no video, tracking is under way, the file has no results that can be read, or they are
            of another video. What was there before is kept.
    """
    upload = Upload(cached, work.folder / f"given-{secrets.token_hex(4)}", work.settings)
    copy = upload.path.with_name(f"{secrets.token_hex(8)}.json")
    try:
        work.check_not_tracking()
        if work.clip is None:
            raise UserError("Choose the video that the results are of first.")
        clip, path = work.clip, upload.path
        _check_size(path.stat().st_size, "This file")
        if zipfile.is_zipfile(path):
            _copy_member(path, copy)
            path = copy
        try:
            given = _read(path, clip, work.settings)
            return _take(work, given, clip)
        except (ValueError, OSError) as error:
            reason = reason_of(ValueError(str(error).replace(str(path), NAME)))  # without the server's folders
            raise UserError(f"These results cannot be read. {reason}") from error
    finally:
        copy.unlink(missing_ok=True)
        upload.delete()


def _check_size(size: int, what: str) -> None:
    """Raise `UserError` if a file has more than `MOST_MEGABYTES`."""
    if size > MOST_MEGABYTES * 2**20:
        raise UserError(
            f"{what} has more than {MOST_MEGABYTES} MB, and up to {MOST_MEGABYTES} MB are accepted. Give {NAME} alone, "
            "or track again."
        )


def _copy_member(archive: Path, target: Path) -> None:
    """Copy the one `masks.json` of a ZIP to a file of at most `MOST_MEGABYTES`, whatever size the ZIP states."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = [one for one in file.infolist() if PurePosixPath(one.filename).name.endswith(NAME)]
            if len(members) != 1:
                raise UserError(f"The ZIP must contain one {NAME}, but this one has {len(members)}.")
            if members[0].compress_type not in METHODS:
                raise NotImplementedError
            with file.open(members[0]) as source, target.open("wb") as copy:
                while block := source.read(BLOCK):
                    copy.write(block)
                    _check_size(copy.tell(), f"The file {NAME} in this ZIP")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError("This ZIP is damaged, encrypted or of an unusual kind. Make it again.") from error


def _read(path: Path, clip: Clip, settings: Settings) -> GivenResults:
    """Read a file of results and check that it is of the clip and within the limits."""
    header = read_header(path)
    _check_video(header, clip, settings)
    media = read_results(path)
    given = GivenResults(media, complete=header.get("complete") is True)
    objects = header.get("objects")
    parsed: list[dict[str, Any]] = []
    for one in objects if isinstance(objects, list) else []:
        if not isinstance(one, dict) or type(one.get("id")) is not int or not isinstance(one.get("prompts"), list):
            raise ValueError('Each of "objects" must have an "id" and "prompts".')
        plain = []
        for prompt in one["prompts"]:
            if not isinstance(prompt, dict) or type(prompt.get("frame")) is not int:
                raise ValueError('Each prompt must have a "frame".')
            if prompt.get("mask") and prompt["frame"] % clip.stride == 0:
                given.from_masks.add((clip.index(prompt["frame"]), one["id"]))
            rest = {key: value for key, value in prompt.items() if key in ("frame", "points", "labels", "box")}
            if len(rest) > 1:
                plain.append(rest)
        parsed.append({"id": one["id"], "prompts": plain})
        if isinstance(one.get("label"), str):
            score = one.get("detection_score")
            score = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 1.0
            given.labels[one["id"]] = one_line(one["label"].strip())[:LONGEST_LABEL], score
    if len({*media.object_ids, *(one["id"] for one in parsed)}) > settings.max_objects:
        raise UserError(f"At most {settings.max_objects} objects are accepted, and these results have more.")
    prompts = parse_prompts(on_clip(parsed, clip), clip, settings)
    given.prompts = scaled_prompts(prompts, clip.original, clip.size)
    return given


def _check_video(header: dict[str, Any], clip: Clip, settings: Settings) -> None:
    """Raise `UserError` if the sizes that the results state are not those of a clip of the same video."""
    (height, width), masks = clip.original, _size(header.get("video"))
    same_shape = masks is not None and abs(masks[0] * width - masks[1] * height) <= max(*masks, height, width)
    if _size(header.get("prompt_size")) != clip.original or not same_shape:
        raise UserError(
            f"These results are not of this video, which has {width}x{height} pixels. Choose the video that they are "
            "of, then give them again."
        )
    assert masks is not None  # it has the same shape
    if masks[0] * masks[1] > settings.max_pixels:
        raise UserError(f"The masks of these results have more than {settings.max_pixels} pixels.")


def _size(stated: Any) -> tuple[int, int] | None:
    """Return the (height, width) that results state, or `None` if they are not two whole numbers."""
    if not isinstance(stated, dict):
        return None
    height, width = stated.get("height"), stated.get("width")
    return (height, width) if type(height) is int and type(width) is int else None


def _take(work: VideoWork, given: GivenResults, clip: Clip) -> tuple[int, int]:
    """Put checked results on the visitor's video; see `take_results`."""
    prompts, found = _with_masks(given, clip)
    object_ids = {i for on_frame in prompts.values() for i in on_frame}
    masks = work.new_masks(clip)
    try:
        for frame, on_frame in _on_clip(given.media, clip):
            _keep(masks, frame, [one for one in on_frame if one.object_id in object_ids], clip)
        count = len(masks.numbers)
        if not count:
            raise UserError("These results have no masks on the frames of this video that are used.")
        work.take_results(clip, masks, prompts, found, given.complete)
    except BaseException:
        masks.delete()
        raise
    return len(object_ids), count


def _keep(masks: ClipMasks, frame: int, objects: list[Annotation], clip: Clip) -> None:
    """Store the masks of objects on a frame."""
    if objects:
        stacked = np.stack([_mask(one, clip) for one in objects])
        scores = [min(max(one.score, 0.0), 1.0) for one in objects]
        logits = np.where(stacked, np.float32(1), np.float32(-1))
        masks.keep(frame, [one.object_id for one in objects], logits, scores)


def _with_masks(given: GivenResults, clip: Clip) -> tuple[Prompts, list[tuple[FoundObject, int]]]:
    """Return the prompts with their masks, and the found objects with the frame on which each was found.

    An object without a prompt is prompted with its first mask.
    """
    prompts = {frame: dict(on_frame) for frame, on_frame in given.prompts.items()}
    first: dict[int, tuple[int, np.ndarray]] = {}
    for frame, objects in _on_clip(given.media, clip):
        for one in objects:
            object_id = one.object_id
            is_prompt = (frame, object_id) in given.from_masks
            if not one.is_visible or (object_id in first and not is_prompt):
                continue
            mask = _mask(one, clip)
            if not mask.any():
                continue
            first.setdefault(object_id, (frame, mask))
            if is_prompt:
                before = prompts.setdefault(frame, {}).get(object_id, ObjectPrompts())
                prompts[frame][object_id] = ObjectPrompts(before.points, before.labels, before.box, mask)
    prompted = {i for on_frame in prompts.values() for i in on_frame}
    found = []
    for object_id, (frame, mask) in first.items():
        if object_id not in prompted:
            prompts.setdefault(frame, {})[object_id] = ObjectPrompts(mask=mask)
        if object_id in given.labels:
            label, score = given.labels[object_id]
            x, y, width, height = box_and_area(mask)["bbox"]
            sighting = Sighting(clip.number(frame), score, Box(x, y, x + width, y + height), has_mask=True)
            found.append((FoundObject(object_id, label or None, score, [sighting]), frame))
    return dict(sorted(prompts.items())), found


def _on_clip(media: AnnotatedMedia, clip: Clip) -> Iterator[tuple[int, list[Annotation]]]:
    """Yield each annotated frame of the clip with its objects."""
    for frame in media.frames():
        index = clip.index(frame.index)
        if frame.index % clip.stride == 0 and index < clip.count:
            yield index, frame.objects


def _mask(annotation: Annotation, clip: Clip) -> np.ndarray:
    """Return a mask at the size of the clip's frames."""
    mask = annotation.pixels()
    scaled = ObjectPrompts(mask=mask).scaled((mask.shape[0], mask.shape[1]), clip.size).mask
    assert scaled is not None  # it was given
    return scaled

"""A machine learning backend for Label Studio: clicks and boxes on images give brushes, a box on a video is tracked.

Label Studio calls a backend over HTTP: `/health`, `/setup`, `/predict` and `/webhook` are its documented contract
(https://labelstud.io/guide/ml_create). `attach` adds them to the HTTP service, which has `/health` already, with its
guard, its worker and its limits. Images and videos are fetched from the one Label Studio that the operator configured,
with its token, and from nowhere else: a task may name any address, and a backend that followed it would open the
operator's network to whoever writes tasks.

Label Studio gives places in per cent, and frames are counted from 1 at the frame rate of the labeling configuration.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from .. import __version__
from ..app.clips import Clip, clip_of_file
from ..app.plan import plan_tracking
from ..formats.label_studio import encode_brush
from ..image_io import read_image
from ..mask_io import box_and_area
from ..prompts import Box, ObjectPrompts
from ..safe_names import one_line
from ..serving.app import Service, ServiceOf
from ..serving.errors import Refusal
from ..serving.sessions import check_prompts
from ..video_io import MediaLimits
from .label_studio_files import LabelStudioFiles


logger = logging.getLogger(__name__)
router = APIRouter(tags=["Label Studio"])

MAX_CONFIG = 200_000  # characters of a labeling configuration
MAX_REGIONS = 500  # regions of an annotation that are looked at
MAX_KEYFRAMES = 20  # of the keyframes of a track, the last ones are prompts


class Loose(BaseModel):
    """What Label Studio sends: fields that are not used here are ignored, as its versions differ in them."""

    model_config = ConfigDict(extra="ignore")


class SetupRequest(Loose):
    """A project is connected."""

    project: str | int | None = None
    schema_: Annotated[str, Field(alias="schema")] = ""


class ModelVersion(BaseModel):
    """The version of the model, which Label Studio shows beside predictions."""

    model_version: str


class Versions(BaseModel):
    """The versions of the model that can be chosen."""

    versions: list[str]


class PredictRequest(Loose):
    """Tasks to predict. `params.context` holds what the annotator has drawn."""

    tasks: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
    label_config: Annotated[str, Field(max_length=MAX_CONFIG)] = ""
    params: dict[str, Any] | None = None


class Prediction(BaseModel):
    """The regions of a task."""

    result: list[dict[str, Any]]
    score: float
    model_version: str


class PredictAnswer(BaseModel):
    """A prediction for each task."""

    results: list[Prediction]


@router.post("/setup")
async def setup(given: SetupRequest, service: ServiceOf) -> ModelVersion:
    """Label Studio connects a project."""
    if given.schema_:
        Labeling.parse(given.schema_)
    return ModelVersion(model_version=_version(service))


@router.api_route("/versions", methods=["GET", "POST"], include_in_schema=False)
async def versions(service: ServiceOf) -> Versions:
    """The versions of the model."""
    return Versions(versions=[_version(service)])


@router.post("/webhook")
async def webhook() -> dict[str, str]:
    """An event in Label Studio. Nothing is trained here, so nothing is done."""
    return {"status": "ignored"}


@router.post("/predict")
async def predict(given: PredictRequest, request: Request, service: ServiceOf) -> PredictAnswer:
    """Predict tasks. Without anything drawn by the annotator, a prediction is empty."""
    context = (given.params or {}).get("context")
    regions = context.get("result") if isinstance(context, dict) else None
    empty = Prediction(result=[], score=0.0, model_version=_version(service))
    if not isinstance(regions, list) or not regions:
        return PredictAnswer(results=[empty for _ in given.tasks])
    labeling = Labeling.parse(given.label_config)
    drawn = [one for one in regions[:MAX_REGIONS] if isinstance(one, dict) and isinstance(one.get("value"), dict)]
    try:
        predicted = [await _predict_task(task, labeling, drawn, request, service) for task in given.tasks]
    except Refusal as error:  # Label Studio shows its annotators the status only
        logger.warning("Label Studio's task was refused: %s", error)
        raise
    return PredictAnswer(results=[empty.model_copy(update=one) for one in predicted])


async def _predict_task(
    task: dict[str, Any], labeling: Labeling, drawn: list[dict[str, Any]], request: Request, service: Service
) -> dict[str, Any]:
    """The `result` and the `score` of one task."""
    files: LabelStudioFiles = request.app.state.label_studio_files
    data = task.get("data")
    address = data.get(labeling.variable) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise Refusal(f"The task has no {'video' if labeling.is_video else 'image'} {labeling.variable!r}.")
    folder = service.root / f"label-studio-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        path = await asyncio.to_thread(files.fetch, address, folder, service.settings.max_upload_mb)
        if labeling.is_video:
            clip = await asyncio.to_thread(_open_clip, path, service)
            tracks = [track for one in drawn if (track := Track.read(one, clip, labeling)) is not None]
            if not tracks:
                return {"result": [], "score": 0.0}
            if len(tracks) > service.settings.max_objects:
                raise Refusal(f"Up to {service.settings.max_objects} objects are tracked at once, got {len(tracks)}.")
            job = service.worker.submit(lambda: _track(service, clip, tracks), is_long=True)
            async for _ in job.values(1.0):
                if await request.is_disconnected():  # Label Studio waits for a limited time
                    job.cancel()
            return {"result": [track.region() for track in tracks], "score": _mean([t.score for t in tracks])}
        image = await asyncio.to_thread(_read_image, path, service)
        prompts, label = prompts_on_image(drawn, (image.shape[0], image.shape[1]))
        if prompts.is_empty:
            return {"result": [], "score": 0.0}
        check_prompts(prompts, (image.shape[0], image.shape[1]), "", service.settings.max_points)
        return await service.worker.submit(lambda: _segment(service, image, prompts, label, labeling)).result()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------- the labeling configuration


@dataclass(frozen=True)
class Labeling:
    """What is needed of a labeling configuration.

    Attributes:
        is_video: whether it is for videos.
        variable: the name of the task's field with the address of the image or video.
        from_name, to_name: the names of the control of brushes or video rectangles, and of what it belongs to.
        frame_rate: the frames per second at which Label Studio counts a video's frames.
    """

    is_video: bool
    variable: str
    from_name: str
    to_name: str
    frame_rate: float = 24.0

    @classmethod
    def parse(cls, text: str) -> Labeling:
        """Read a labeling configuration.

        Raises:
            Refusal: if it is not one, or it has neither `BrushLabels` on an `Image` nor `VideoRectangle` on a `Video`.
        """
        if "<!" in text.replace("<!--", ""):  # no document types, which may define entities
            raise Refusal("The labeling configuration has a document type, which is not accepted.")
        try:
            root = ElementTree.fromstring(text[:MAX_CONFIG])
        except ElementTree.ParseError as error:
            raise Refusal(f"The labeling configuration is not XML: {error}.") from error
        named = {tag.get("name"): tag for tag in root.iter() if tag.get("name")}
        for control, kind in (("BrushLabels", "Image"), ("Brush", "Image"), ("VideoRectangle", "Video")):
            for tag in root.iter(control):
                target = named.get(tag.get("toName"))
                if target is None or target.tag != kind:
                    continue
                variable = (target.get("value") or "").removeprefix("$")
                rate = _number(target.get("frameRate") or target.get("framerate"), 24.0)
                return cls(kind == "Video", variable, tag.get("name", ""), target.get("name", ""), rate)
        raise Refusal(
            "The labeling configuration needs <BrushLabels> on an <Image>, or <VideoRectangle> on a <Video>; "
            "docs/tools.md has examples."
        )


# --------------------------------------------------------------------------------------------------------------- images


def prompts_on_image(regions: list[dict[str, Any]], size: tuple[int, int]) -> tuple[ObjectPrompts, str | None]:
    """The clicks and the box that an annotator has drawn, in pixels, and their label.

    The label is that of the last region. Of several boxes, the last one counts.

    Args:
        regions: regions in Label Studio's form, of the types `keypointlabels` and `rectanglelabels` (or without
            labels, `keypoint` and `rectangle`); others are ignored.
        size: (height, width) of the image.

    Raises:
        Refusal: if a number is missing or not finite.
    """
    height, width = size
    prompts, label = ObjectPrompts(), None
    for region in regions:
        kind, value = region.get("type"), region["value"]
        if kind in ("keypointlabels", "keypoint"):
            x, y = (_percent(value, name) for name in ("x", "y"))
            prompts.points.append((min(x, 100.0) * width / 100, min(y, 100.0) * height / 100))
            prompts.labels.append(int(_is_positive(region)))
        elif kind in ("rectanglelabels", "rectangle"):
            prompts.box = _box(value, size)
        else:
            continue
        names = value.get(kind) or value.get("labels")
        if isinstance(names, list) and names and isinstance(names[0], str):
            label = names[0]
    return prompts, label


def _is_positive(region: Mapping[str, Any]) -> bool:
    """Whether a click is on the object. Label Studio says so, unless the click was made without a smart tool."""
    given = region.get("is_positive")
    return True if given is None else bool(given)


def _segment(
    service: Service, image: np.ndarray, prompts: ObjectPrompts, label: str | None, labeling: Labeling
) -> Iterator[dict[str, Any]]:
    """The one step of a click: the best mask as a brush, on the worker's thread."""
    best = service.engine.propose_masks(image, {1: prompts})[1][0]
    height, width = image.shape[:2]
    value: dict[str, Any] = {"format": "rle", "rle": encode_brush(best["mask"])}
    region = {
        "id": secrets.token_hex(5),
        "type": "brush" if label is None else "brushlabels",
        "from_name": labeling.from_name,
        "to_name": labeling.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(best["score"], 4),
        "readonly": False,
        "value": value if label is None else {**value, "brushlabels": [label]},
    }
    yield {"result": [region] if best["mask"].any() else [], "score": round(best["score"], 4)}


def _read_image(path: Path, service: Service) -> np.ndarray:
    try:
        return read_image(path, limits=MediaLimits(max_pixels=service.settings.max_pixels))
    except (ValueError, OSError) as error:
        raise Refusal(f"The image of the task cannot be read: {_without_path(error, path)}") from error


# --------------------------------------------------------------------------------------------------------------- videos


@dataclass
class Track:
    """A rectangle on the timeline of a video.

    Attributes:
        given: the region as Label Studio sent it.
        prompts: a box by frame of the clip.
        rate: the frames per second at which Label Studio counts.
        count: the number of frames by Label Studio's count.
        last: the last keyframe that was given, by Label Studio's count; tracking adds those after it.
        found: what was tracked, by frame of the clip: the box in per cent, or `None` where the object is not seen.
        scores: the probability that the object is in the frame, for each tracked frame.
    """

    given: dict[str, Any]
    prompts: dict[int, ObjectPrompts]
    rate: float
    fps: float
    count: int
    last: int
    found: dict[int, dict[str, float] | None]
    scores: list[float]

    @classmethod
    def read(cls, region: dict[str, Any], clip: Clip, labeling: Labeling) -> Track | None:
        """Read a region of the type `videorectangle`; `None` for another type, or if it has no keyframe.

        Raises:
            Refusal: if a number is missing or not finite, or a keyframe is beyond the frames that are used.
        """
        value = region["value"]
        sequence = value.get("sequence")
        if region.get("type") != "videorectangle" or not isinstance(sequence, list):
            return None
        keyframes = [one for one in sequence if isinstance(one, dict) and isinstance(one.get("frame"), int)]
        if not keyframes:
            return None
        keyframes = sorted(keyframes, key=lambda one: one["frame"])
        count, seconds = _number(value.get("framesCount"), 0.0), _number(value.get("duration"), 0.0)
        rate = count / seconds if count > 0 and seconds > 0 else labeling.frame_rate
        count = count if count > 0 else round(clip.count / clip.fps * rate)
        track = cls(region, {}, rate, clip.fps, min(int(count), 10**6), keyframes[-1]["frame"], {}, [])
        for one in keyframes[-MAX_KEYFRAMES:]:
            index = track.index(one["frame"])
            if not 0 <= index < clip.count:
                raise Refusal(
                    f"Frame {one['frame']} is beyond the {clip.count} frames of the video that are used here."
                )
            box = ObjectPrompts(box=_box(one, clip.original))
            check_prompts(box, clip.original, f" on frame {one['frame']}", 0)
            track.prompts[index] = box.scaled(clip.original, clip.size)
        return track

    def index(self, frame: int) -> int:
        """The frame of the clip, from 0, that Label Studio shows as a frame, from 1."""
        return math.floor((frame - 1) / self.rate * self.fps + 0.5)

    def add(self, index: int, mask: np.ndarray, score: float) -> None:
        """Keep what was found on a frame of the clip."""
        height, width = mask.shape
        entry = box_and_area(mask)
        x, y, w, h = entry["bbox"]
        place = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height}
        self.found[index] = place if entry["area"] else None
        self.scores.append(score)

    @property
    def score(self) -> float:
        """The mean probability that the object is in the frame."""
        return _mean(self.scores)

    def region(self) -> dict[str, Any]:
        """The region with the tracked keyframes after those that were given.

        Where the object is not seen, the keyframe before is the last one that is shown.
        """
        value = self.given["value"]
        sequence = [dict(one) for one in value["sequence"] if isinstance(one, dict)]
        sequence.sort(key=lambda one: one.get("frame", 0))
        for frame in range(self.last + 1, self.count + 1):
            index = self.index(frame)
            if index not in self.found:
                continue
            place = self.found[index]
            if place is None:
                sequence[-1]["enabled"] = False
            else:
                sequence.append({"frame": frame, "enabled": True, "rotation": 0, "time": frame / self.rate, **place})
        kept = {key: one for key, one in self.given.items() if key in ("id", "from_name", "to_name", "type", "meta")}
        return {**kept, "origin": "prediction", "score": self.score, "value": {**value, "sequence": sequence}}


def _track(service: Service, clip: Clip, tracks: list[Track]) -> Iterator[int]:
    """Track the boxes through the clip, on the worker's thread; a step for each frame."""
    prompts: dict[int, dict[int, ObjectPrompts]] = {}
    for number, track in enumerate(tracks, start=1):
        for index, given in track.prompts.items():
            prompts.setdefault(index, {})[number] = given
    plan = plan_tracking({index: list(on_frame) for index, on_frame in prompts.items()}, "forward")
    for done in service.engine.track(clip, prompts, plan):
        for number, logits, score in zip(done.object_ids, done.logits, done.scores, strict=True):
            tracks[number - 1].add(done.index, logits > 0, score)
        yield done.index


def _open_clip(path: Path, service: Service) -> Clip:
    try:
        return replace(clip_of_file(path, service.settings.clip), name="video")
    except ValueError as error:
        raise Refusal(f"The video of the task cannot be read: {_without_path(error, path)}") from error


# -------------------------------------------------------------------------------------------------------------- numbers


def _box(value: Mapping[str, Any], size: tuple[int, int]) -> Box:
    """A rectangle in per cent as a box in pixels, cut at the edges of a frame of (height, width) `size`."""
    x, y, w, h = (_percent(value, name) for name in ("x", "y", "width", "height"))
    height, width = size
    right, bottom = min(x + w, 100.0), min(y + h, 100.0)
    return Box(x * width / 100, y * height / 100, right * width / 100, bottom * height / 100)


def _percent(value: Mapping[str, Any], name: str) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise Refusal(f"A region has no number {name!r}.")
    return max(0.0, float(number))


def _number(given: Any, default: float) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) and number > 0 else default


def _mean(numbers: list[float]) -> float:
    return round(sum(numbers) / len(numbers), 4) if numbers else 0.0


def _without_path(error: Exception, path: Path) -> str:
    return one_line(str(error).replace(str(path), path.name))


def _version(service: Service) -> str:
    return f"{service.engine.name} ({__version__})"


# ------------------------------------------------------------------------------------------------------------- to start


def attach(app: FastAPI, files: LabelStudioFiles) -> list[str]:
    """Add the backend to the application of the service; return lines for the operator.

    Args:
        files: fetches the data of tasks.
    """
    app.state.label_studio_files = files
    app.include_router(router)
    return [
        f"Label Studio at {files.address}: add ADDRESS under Settings > Model of a project. If the service has a "
        "token, choose basic authentication, with any user name and the token as the password."
    ]

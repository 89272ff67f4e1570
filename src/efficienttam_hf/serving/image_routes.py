"""The route that segments an image."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError

from ..app.clips import check_pixels, readable
from ..app.frames import limited_size, resize_image
from ..image_io import read_image
from ..mask_io import box_and_area, encode_rle
from ..prompts import ObjectPrompts
from ..video_io import MediaLimits
from .app import Service, ServiceOf, said_of
from .errors import Refusal
from .schemas import ImageObject, ImagePrompt, ImageResult, Size, object_result
from .sessions import check_prompts
from .uploads import UploadedFile, form_schema, receive_upload


router = APIRouter()

GRID = 16  # points along each side, to segment everything
IMAGE_FORM = form_schema(
    "image",
    {
        "image": {"type": "string", "format": "binary", "description": "An image file."},
        "prompts": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "array", "items": ImagePrompt.model_json_schema()},
            "description": "The objects, as a JSON list. Without it, everything is segmented.",
            "example": '[{"id": 1, "points": [[480, 300]], "labels": [1]}]',
        },
    },
)


@router.post("/v1/segment", tags=["image"], openapi_extra=IMAGE_FORM)
async def segment(request: Request, service: ServiceOf) -> ImageResult:
    """Segment objects in an image from points and boxes or, without prompts, everything.

    An object with a single point may be several things: the best mask is answered, and the others as `proposals`.
    """
    settings = service.settings
    folder = service.root / f"image-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        upload = await receive_upload(request, folder, "image", ("prompts",), 1, settings.max_upload_mb)
        prompts = _parse(upload.fields.get("prompts"))
        original, image = await asyncio.to_thread(_read, upload.files[0], service)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    if prompts is not None:
        _check(prompts, original, service)
    job = service.worker.submit(lambda: _segment(service, image, original, prompts))
    height, width = image.shape[:2]
    return ImageResult(
        size=Size(width=width, height=height),
        prompt_size=Size(width=original[1], height=original[0]),
        objects=await job.result(),
    )


def _parse(text: str | None) -> dict[int, ObjectPrompts] | None:
    """The field `prompts` by object id, or `None` for everything."""
    if text is None or not text.strip():
        return None
    try:
        given = TypeAdapter(list[ImagePrompt]).validate_json(text)
    except ValidationError as error:
        raise Refusal(f"prompts: {said_of(error.errors())}") from error
    prompts = {one.id: one.to_prompts() for one in given}
    if len(prompts) < len(given):
        raise Refusal("prompts: an id is given twice; join the points of an object.")
    if not prompts:
        raise Refusal("prompts: the list is empty; leave the field out to segment everything.")
    return prompts


def _check(prompts: dict[int, ObjectPrompts], size: tuple[int, int], service: Service) -> None:
    settings = service.settings
    if len(prompts) > settings.max_objects:
        raise Refusal(f"Up to {settings.max_objects} objects are accepted, got {len(prompts)}.")
    for object_id, given in prompts.items():
        check_prompts(given, size, f" for object {object_id}", settings.max_points)


def _read(file: UploadedFile, service: Service) -> tuple[tuple[int, int], np.ndarray]:
    """The (height, width) of an image, and the image scaled down to the limit of the service."""
    settings = service.settings
    try:
        image = read_image(file.path, limits=MediaLimits(max_pixels=settings.max_pixels))
        original = (image.shape[0], image.shape[1])
        check_pixels(*original, settings.max_pixels)
    except (ValueError, OSError) as error:
        raise Refusal(f"This file cannot be read as an image. {readable(error)}") from error
    return original, resize_image(image, limited_size(original, settings.max_side))


def _segment(
    service: Service, image: np.ndarray, original: tuple[int, int], prompts: dict[int, ObjectPrompts] | None
) -> Iterator[list[ImageObject]]:
    """The one step of the job: the objects with their masks."""
    if prompts is None:
        found = service.engine.segment_everything(image, GRID)
        yield [ImageObject(**_entry(one["id"], one)) for one in found]
        return
    size = (image.shape[0], image.shape[1])
    scaled = {object_id: given.scaled(original, size) for object_id, given in prompts.items()}
    objects = []
    for object_id, (best, *others) in service.engine.propose_masks(image, scaled).items():
        proposals = [object_result(_entry(object_id, one)) for one in others]
        objects.append(ImageObject(**_entry(object_id, best), proposals=proposals))
    yield objects


def _entry(object_id: int, found: dict[str, Any]) -> dict[str, Any]:
    mask = found["mask"]
    return {"id": object_id, "score": round(found["score"], 4), **box_and_area(mask), "segmentation": encode_rle(mask)}

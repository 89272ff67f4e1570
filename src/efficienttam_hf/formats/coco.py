"""COCO's instance annotations: one image, or the frames of a video as images (as in CocoVID, TAO and MMTracking).

https://cocodataset.org/#format-data. Each annotation is one object on one image, with compressed run lengths. For a
video, `images` have a `video_id` and a `frame_id`, and `annotations` a `track_id`, the id of the object; for an image,
the id of an annotation is that of its object. pycocotools reads both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..mask_io import checked_rle
from ..polygons import rle_of_polygons
from ..safe_names import safe_name, shown
from ..structured_files import field
from .annotations import (
    MAX_FRAMES,
    AddFile,
    AnnotatedFrame,
    AnnotatedMedia,
    Annotation,
    AnnotationError,
    ObjectIds,
    checked_box,
    of_rle,
    write_json,
)


__all__ = ["read_coco", "write_coco"]

NAME = "annotations.json"
INFO = {"description": "written by efficienttam-hf"}


def write_coco(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `annotations.json`."""
    height, width = media.known_size
    categories = media.categories
    header: dict[str, Any] = {"info": INFO, "licenses": [], "categories": category_list(categories)}
    if media.is_video:
        header["videos"] = [{"id": 1, "name": media.name, "width": width, "height": height, "fps": media.fps}]

    def images() -> Iterator[dict[str, Any]]:
        for frame in media.frames():
            image = {"id": frame.index + 1, "file_name": media.name, "width": width, "height": height}
            if media.is_video:
                image |= {"file_name": frame_file(media, frame.index, frame.name), "video_id": 1}
                image["frame_id"] = frame.index
            yield image

    def annotations() -> Iterator[dict[str, Any]]:
        number = 0
        for frame in media.frames():
            for one in frame.visible:
                number += 1
                entry = {
                    "id": number if media.is_video else one.object_id,
                    "image_id": frame.index + 1,
                    "category_id": categories[media.label(one.object_id)],
                    "bbox": list(one.box),
                    "area": int(one.pixels().sum()) if one.mask else one.box[2] * one.box[3],
                    "segmentation": one.mask or [],
                    "iscrowd": 0,
                    "score": one.score,
                }
                yield entry | ({"video_id": 1, "track_id": one.object_id} if media.is_video else {})

    write_json(add(NAME), header, {"images": images(), "annotations": annotations()})


def read_coco(content: Any, where: str, video: str) -> AnnotatedMedia:
    """Read the parsed content of a COCO file.

    Args:
        content: the content.
        where: the name of the file, for messages.
        video: the name of the video, if the file has several.

    Raises:
        AnnotationError: if a field is invalid.
    """
    labels_by_category = read_categories(content, where)
    images, size = _read_images(content, where, video)
    ids, labels = ObjectIds(), {}
    frames = []
    for number, entry in enumerate(field(content, "annotations", list, where, error=AnnotationError)):
        place = f"{where}, annotations[{number}]"
        image_id = field(entry, "image_id", int, place, error=AnnotationError)
        if image_id not in images:
            continue  # of another video
        track = next((entry[k] for k in ("track_id", "instance_id") if isinstance(entry.get(k), int)), None)
        key = ("annotation", number) if track is None else ("track", track)
        object_id = ids.of(key, entry.get("id") if track is None else track)
        labels[object_id] = labels_by_category.get(entry.get("category_id"), "")
        one = read_annotation(object_id, entry.get("segmentation"), entry.get("bbox"), size, place)
        frames.append(AnnotatedFrame(*images[image_id], [one]))
    labels = {object_id: label for object_id, label in labels.items() if label}
    return AnnotatedMedia.of_frames(where, size, frames, labels)


def _read_images(content: Any, where: str, video: str) -> tuple[dict[int, tuple[int, str]], tuple[int, int] | None]:
    """The number and the name of each image's frame by id, and the size of all images."""
    wanted = choose_video(content, where, video)
    entries = field(content, "images", list, where, error=AnnotationError)
    images: dict[int, tuple[int, str]] = {}
    size = None
    for number, entry in enumerate(entries):
        place = f"{where}, images[{number}]"
        if wanted is not None and isinstance(entry, Mapping) and entry.get("video_id", wanted) != wanted:
            continue
        size = read_size(entry, place, size)
        index = field(entry, "frame_id", int, place, error=AnnotationError, default=-1, least=-1, most=MAX_FRAMES)
        name = PurePosixPath(field(entry, "file_name", str, place, error=AnnotationError, default="")).stem
        if len(entries) == 1 and index < 0:
            index = 0
        images[field(entry, "id", int, place, error=AnnotationError)] = (index, name)
    return images, size


# ------------------------------------------------------------------------------------------- shared with `youtube_vis`


def category_list(categories: Mapping[str, int]) -> list[dict[str, Any]]:
    """The `categories` of a file."""
    return [{"id": number, "name": label, "supercategory": "object"} for label, number in categories.items()]


def frame_file(media: AnnotatedMedia, index: int, name: str = "") -> str:
    """The name of a frame's image, in a folder named as the video."""
    return f"{safe_name(media.name)}/{safe_name(name or f'{index:05d}')}.jpg"


def read_categories(content: Any, where: str) -> dict[Any, str]:
    """The names of categories by id."""
    entries = field(content, "categories", list, where, error=AnnotationError, default=[])
    return {
        entry["id"]: entry["name"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("name"), str)
    }


def read_size(entry: Any, where: str, known: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (height, width) of an image or video, which must be the known one."""
    height, width = (
        field(entry, n, int, where, error=AnnotationError, least=1, most=2**20) for n in ("height", "width")
    )
    if known is not None and (height, width) != known:
        raise AnnotationError(
            f"{where} is {width}x{height} pixels, others are {known[1]}x{known[0]}: one size, please."
        )
    return height, width


def choose_video(content: Any, where: str, name: str) -> int | None:
    """The id of the video that is meant: the only one, or the one of this name. `None` if the file lists no videos.

    Raises:
        AnnotationError: if there are several and none has the name.
    """
    videos = field(content, "videos", list, where, error=AnnotationError, default=[])
    ids = [field(v, "id", int, f"{where}, videos[{i}]", error=AnnotationError) for i, v in enumerate(videos)]
    if len(ids) <= 1:
        return ids[0] if ids else None
    for video, video_id in zip(videos, ids, strict=True):
        files = video.get("file_names")
        first = files[0] if isinstance(files, list) and files else ""
        folder = PurePosixPath(first).parent.name if isinstance(first, str) else ""
        names = {video.get("name"), folder, PurePosixPath(str(video.get("name", ""))).stem}
        if name in names or safe_name(name) in names:
            return video_id
    raise AnnotationError(f"{where} has {len(ids)} videos, and none is named {shown(name)}.")


def read_annotation(
    object_id: int, segmentation: Any, box: Any, size: tuple[int, int] | None, where: str
) -> Annotation:
    """An annotation with a mask in any of COCO's forms, or with a box alone."""
    if not segmentation:
        return Annotation(object_id, checked_box(box, where))
    if isinstance(segmentation, list):
        if size is None:
            raise AnnotationError(f"{where} has polygons, but no size.")
        try:
            rle = rle_of_polygons(segmentation, size, where)
        except ValueError as error:
            raise AnnotationError(str(error)) from error
        return of_rle(object_id, rle)
    return of_rle(object_id, checked_rle(segmentation, size, where, AnnotationError)[0])

"""YouTube-VIS JSON: a video's objects with a mask, a box and an area for each frame, or null where an object is absent.

https://youtube-vos.org/dataset/vis/. A list has an item for each frame of the video from the first on, so that the
position in it is the number of the frame. One object at a time is in RAM, as run lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..structured_files import field
from .annotations import AddFile, AnnotatedFrame, AnnotatedMedia, AnnotationError, ByObject, ObjectIds, write_json
from .coco import INFO, category_list, choose_video, frame_file, read_annotation, read_categories, read_size


__all__ = ["read_youtube_vis", "write_youtube_vis"]

NAME = "instances.json"


def write_youtube_vis(media: AnnotatedMedia, add: AddFile) -> None:
    """Write `instances.json`."""
    height, width = media.known_size
    length, categories = media.num_frames, media.categories
    names = {frame.index: frame.name for frame in media.frames()}
    files = [frame_file(media, index, names.get(index, "")) for index in range(length)]
    video = {"id": 1, "name": media.name, "width": width, "height": height, "length": length, "file_names": files}
    header = {"info": INFO, "licenses": [], "videos": [video], "categories": category_list(categories)}
    path: Path = add(NAME)
    with ByObject(media, path.parent) as objects:

        def annotations() -> Iterator[dict[str, Any]]:
            for object_id in objects:
                lists: dict[str, list[Any]] = {n: [None] * length for n in ("segmentations", "bboxes", "areas")}
                scores = []
                for index, one in objects.annotations(object_id):
                    lists["segmentations"][index] = one.mask
                    lists["bboxes"][index] = list(one.box)
                    lists["areas"][index] = int(one.pixels().sum()) if one.mask else one.box[2] * one.box[3]
                    scores.append(one.score)
                yield {
                    "id": object_id,
                    "video_id": 1,
                    "category_id": categories[media.label(object_id)],
                    "iscrowd": 0,
                    "height": height,
                    "width": width,
                    "length": length,
                    "score": round(sum(scores) / len(scores), 4),
                    **lists,
                }

        write_json(path, header, {"annotations": annotations()})


def read_youtube_vis(content: Any, where: str, video: str) -> AnnotatedMedia:
    """Read the parsed content of a YouTube-VIS file; see :func:`.coco.read_coco`."""
    wanted = choose_video(content, where, video)
    videos = field(content, "videos", list, where, error=AnnotationError)
    entry = next((v for v in videos if v["id"] == wanted), None)
    if entry is None:
        raise AnnotationError(f"{where} has no videos.")
    size = read_size(entry, f"{where}, videos")
    names, ids, labels, frames = read_categories(content, where), ObjectIds(), {}, []
    for number, one in enumerate(field(content, "annotations", list, where, error=AnnotationError)):
        place = f"{where}, annotations[{number}]"
        if field(one, "video_id", int, place, error=AnnotationError) != wanted:
            continue
        object_id = ids.of(number, one.get("id"))
        if name := names.get(one.get("category_id")):
            labels[object_id] = name
        masks = field(one, "segmentations", list, place, error=AnnotationError)
        boxes = field(one, "bboxes", list, place, error=AnnotationError, default=[])
        for index in range(max(len(masks), len(boxes))):
            mask = masks[index] if index < len(masks) else None
            box = boxes[index] if index < len(boxes) else None
            if mask or box:
                found = read_annotation(object_id, mask, box, size, f"{place}, frame {index}")
                frames.append(AnnotatedFrame(index, "", [found]))
    return AnnotatedMedia.of_frames(where, size, frames, labels)

"""Writes pseudo-labels as `load_records("folder", ...)` and `efficienttam finetune` read them, with sheets to look at.

    root/frames/<video>/00000.jpg     the labelled frames
    root/masks/<video>/00000.png      indexed PNGs; a frame on which an object is unknown has none
    root/sheets/<video>.jpg           the masks drawn over the frames
    root/labels/<video>.json          scores and source of each object

A pixel of an indexed PNG belongs to at most one object, and a frame with a PNG shows for each object of the video where
it is, or that it is absent. So objects that overlap, such as a whole and its part, and objects that are known on
different frames are written to different videos with the same frames: `<name>`, `<name>-2` and so on.

All files are listed as written by this package (`output_folders`), and only listed files are replaced or removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...atomic_file import atomic_path
from ...mask_io import read_indexed_png, write_indexed_png
from ...output_folders import OutputFolder
from ...safe_names import safe_name
from ...structured_files import field, read_json
from ...visualization import contact_sheet, overlay_masks
from ..schema import DatasetError
from .tracks import Track


__all__ = ["remove_objects", "split_into_layers", "write_labels"]

JPEG_QUALITY = 92
SHEET_FRAMES = 8
OVERLAP = 0.1  # the fraction of the smaller of two objects that the other one may cover
SHARED_FRAMES = 0.8  # the fraction of a video's known frames on which an object must be known to join it


def split_into_layers(tracks: Sequence[Track]) -> list[list[int]]:
    """Group objects that one indexed video can contain: they do not overlap, and are known on mostly the same frames.

    Returns:
        The positions of the tracks, by group.
    """
    layers: list[list[int]] = []
    shared: list[set[int]] = []  # the frames on which all objects of a layer are known
    for place in sorted(range(len(tracks)), key=lambda k: (tracks[k].part_of is not None, -len(tracks[k].masks), k)):
        frames = set(tracks[place].masks)
        for number, layer in enumerate(layers):
            both = shared[number] & frames
            largest = max(len(tracks[other].masks) for other in (*layer, place))
            if len(both) >= SHARED_FRAMES * largest and not any(
                _overlap(tracks[place], tracks[other], both) for other in layer
            ):
                layer.append(place)
                shared[number] = both
                break
        else:
            layers.append([place])
            shared.append(frames)
    return layers


def write_labels(
    folder: OutputFolder,
    name: str,
    images: Sequence[np.ndarray],
    tracks: Sequence[Track],
    described: Mapping[str, object],
) -> list[str]:
    """Write the objects of one clip or photograph.

    Args:
        folder: the folder of labels.
        name: the name of the clip.
        images: its labelled frames, uint8 (height, width, 3) RGB.
        tracks: its objects.
        described: facts for the file in `labels/` beside the objects, such as the source and the teacher.

    Returns:
        The names of the videos that were written.

    Raises:
        FileExistsError: if a file is in the way and was not written by this package.
    """
    names: list[str] = []
    for number, layer in enumerate(split_into_layers(tracks)):
        video = name if number == 0 else f"{name}-{number + 1}"
        if number == 0:
            _write_frames(folder, f"frames/{video}", images)
        else:
            _link_frames(folder, f"frames/{name}", f"frames/{video}")
        frames = sorted(set.intersection(*(set(tracks[place].masks) for place in layer)))
        # If two objects overlap, the smaller one is drawn over the larger one.
        drawn = sorted(layer, key=lambda place: -int(tracks[place].masks[frames[0]].sum()))
        ids = {place: object_id for object_id, place in enumerate(layer, start=1)}
        shown: dict[int, dict[int, np.ndarray]] = {}
        for frame in frames:
            labels = np.zeros(images[0].shape[:2], dtype=np.uint8)
            for place in drawn:
                labels[tracks[place].masks[frame]] = ids[place]
            write_indexed_png(folder.add(f"masks/{video}/{frame:05d}.png"), labels)
            shown[frame] = {ids[place]: labels == ids[place] for place in layer}
        objects = {ids[place]: _description(tracks[place]) for place in layer}
        _write_json(folder.add(f"labels/{video}.json"), {**described, "objects": objects})
        _write_sheet(folder.add(f"sheets/{video}.jpg"), video, images, shown)
        names.append(video)
    return names


def remove_objects(root: Path, chosen: Sequence[str]) -> None:
    """Remove labels that are wrong.

    Args:
        root: the folder of labels.
        chosen: `VIDEO` removes a video, and `VIDEO:ID` one object of it.

    Raises:
        DatasetError: if there is no such video or object, or the video's file in `labels/` is damaged.
        FileExistsError: if files of the video were not written by this package. Then nothing of it is changed.
    """
    folder = OutputFolder(root)
    for entry in chosen:
        video, _, object_id = entry.partition(":")
        notes = root / "labels" / f"{video}.json"
        if safe_name(video) != video or not notes.is_file():
            raise DatasetError(f"'{root}' has no labels of a video '{video}'. Its sheets/ show what there is.")
        described = read_json(notes, error=DatasetError, what="labels of a video")
        objects = field(described, "objects", dict, f"The labels of a video '{notes}'", error=DatasetError)
        if object_id and not (object_id in objects and object_id.isdecimal()):
            there = ", ".join(objects)
            raise DatasetError(f"The video '{video}' has no object {object_id!r}; it has {there}.")
        kept = {key: value for key, value in objects.items() if object_id and key != object_id}
        names = (f"frames/{video}", f"masks/{video}", f"sheets/{video}.jpg", f"labels/{video}.json")
        folder.check(*names, overwrite=True)
        if kept:
            for file in sorted((root / "masks" / video).glob("*.png")):
                labels = read_indexed_png(file)
                write_indexed_png(file, np.where(labels == int(object_id), 0, labels))
            _write_json(notes, {**described, "objects": kept})
        else:
            folder.claim(*names, overwrite=True)


def _overlap(a: Track, b: Track, frames: set[int]) -> bool:
    """Whether two objects overlap on any of the frames."""
    return any(
        (a.masks[k] & b.masks[k]).sum() > OVERLAP * min(a.masks[k].sum(), b.masks[k].sum()) for k in sorted(frames)
    )


def _description(track: Track) -> dict[str, object]:
    """Return the entry of an object in `labels/`."""
    return {
        "kind": "whole" if track.part_of is None else "part",
        "known_frames": len(track.masks),
        "seed_frame": track.seed_frame,
        "predicted_iou": round(track.iou, 3),
        "stability": round(track.stability, 3),
        "agreement": round(track.agreement, 3),
    }


def _write_frames(folder: OutputFolder, name: str, images: Sequence[np.ndarray]) -> None:
    """Write the frames of a video."""
    for number, image in enumerate(images):
        with atomic_path(folder.add(f"{name}/{number:05d}.jpg")) as temporary:
            Image.fromarray(image).save(temporary, format="JPEG", quality=JPEG_QUALITY)


def _link_frames(folder: OutputFolder, source: str, target: str) -> None:
    """Give a video the frames of another one, as hard links if possible."""
    for file in sorted((folder.path / source).iterdir()):
        link = folder.add(f"{target}/{file.name}")
        link.unlink(missing_ok=True)
        try:
            os.link(file, link)
        except OSError:  # the file system has no hard links
            shutil.copyfile(file, link)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_sheet(
    path: Path, video: str, images: Sequence[np.ndarray], shown: Mapping[int, Mapping[int, np.ndarray]]
) -> None:
    """Write a sheet with some frames of a video and the masks drawn over them."""
    frames = sorted(shown)
    frames = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int))]
    pictures = [overlay_masks(images[frame], shown[frame], labels=True) for frame in frames]
    captions = [f"{video}, frame {frame}" for frame in frames]
    sheet = contact_sheet(pictures, columns=min(4, len(pictures)), captions=captions, cell_width=320)
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="JPEG", quality=85)

"""What tracking leaves behind, written so that memory stays bounded and an interruption loses nothing.

Masks arrive in the order of tracking, forward and then perhaps backward. Each frame's PNG is written at once. The
run-length masks go to a temporary file on disk, of which only offsets are held; from there the JSON file is written at
the end, in the order of frames. So is the overlay, unless tracking goes in that order itself: then each frame is drawn
as it is done. The demo keeps a visitor's masks the same way, and changes them.

The JSON file:

    {
      "video": {"name", "width", "height", "fps"},      size and rate of the outputs
      "complete": true,                                 false where tracking was stopped before the end
      "model": as given,
      "objects": [{"id", "prompts": [{"frame", "points": [[x, y]], "labels", "box", "mask"}]}],
      "frames": [
        {"frame": 0, "name": "00000", "objects": [
          {"id": 1, "score": 0.98, "area": 1200, "bbox": [x, y, width, height],
           "segmentation": {"size": [height, width], "counts": "..."}}
        ]}
      ]
    }

`score` is the probability that the object is in the frame. `segmentation` is COCO's compressed run-length encoding and
`bbox` and `area` are COCO's too, so that pycocotools reads them. Frames are numbered as in the whole video. Prompts are
in pixels of the original. Every object has an entry in every tracked frame, of area 0 where it is not seen. Masks of
different objects may overlap here; in the PNGs a pixel belongs to the object that scores highest there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import decode_rle, encode_rle, read_indexed_png, write_indexed_png
from ..prompts import Prompts
from ..video_writer import VideoWriter
from ..visualization import overlay_masks
from .background import Background


class TrackFolder:
    """The folder of one tracked video: `overlay.mp4`, `masks.json` and `Annotations/<video>/<frame>.png`.

    Args:
        path: the folder.
        name: of the video.

    Attributes:
        frames: the frames that have masks, ascending.
    """

    def __init__(self, path: Path, name: str):
        self.path = path
        self.annotations = path / "Annotations" / name
        self.json = path / "masks.json"
        self.overlay = path / "overlay.mp4"
        self._records: Any = None
        self._offsets: dict[int, int] = {}

    def prepare(self, overwrite: bool) -> None:
        """Make the folder, and clear away what an earlier run left there if `overwrite`.

        Raises:
            FileExistsError: if an earlier run left something, and not `overwrite`.
        """
        earlier = [p for p in (self.annotations, self.json, self.overlay) if p.exists()]
        if earlier and not overwrite:
            raise FileExistsError(
                f"'{earlier[0]}' exists already: choose another --out, or replace the results there with --overwrite."
            )
        for path in earlier:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.annotations.mkdir(parents=True)
        self._records = tempfile.TemporaryFile(dir=self.path)  # noqa: SIM115 -- lives as long as this object

    @property
    def frames(self) -> list[int]:
        return sorted(self._offsets)

    def add(self, frame: int, name: str, object_ids: list[int], logits: np.ndarray, scores: list[float]) -> None:
        """Take the masks of some objects on a frame.

        Where the frame has masks already these join them (as after tracking the other way), and replace those of the
        same objects.

        Args:
            frame: its number.
            name: its name in file names.
            object_ids: ids, at most 255.
            logits: (objects, height, width); above 0 is the object.
            scores: for each object the probability that it is in the frame.
        """
        masks = logits > 0
        labels, highest = np.zeros(logits.shape[1:], np.uint8), np.zeros(logits.shape[1:], logits.dtype)
        for object_id, own in zip(object_ids, logits, strict=True):
            labels[own > highest] = object_id
            np.maximum(highest, own, out=highest)
        objects = [
            {"id": object_id, "score": round(score, 4), **box_and_area(mask), "segmentation": encode_rle(mask)}
            for object_id, mask, score in zip(object_ids, masks, scores, strict=True)
        ]
        if frame in self._offsets:
            before, others = self._without(frame, object_ids)
            labels = np.where(before > 0, before, labels)
            objects += others
        self._write(frame, name, objects, labels)

    def remove(self, frame: int, object_id: int) -> None:
        """Take back the mask of an object on a frame, if it has one there."""
        if frame not in self._offsets:
            return
        name = self.record(frame)["name"]
        labels, others = self._without(frame, [object_id])
        if others:
            self._write(frame, name, others, labels)
        else:
            del self._offsets[frame]
            self._png(name).unlink()

    def _without(self, frame: int, object_ids: list[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """A frame's labels and entries without some objects. Pixels that they hid go back to the others."""
        record = self.record(frame)
        others = [o for o in record["objects"] if o["id"] not in object_ids]
        labels = read_indexed_png(self._png(record["name"]))
        if len(others) < len(record["objects"]):
            labels = np.where(np.isin(labels, object_ids), 0, labels)
            for other in others:
                labels[decode_rle(other["segmentation"]) & (labels == 0)] = other["id"]
        return labels, others

    def _write(self, frame: int, name: str, objects: list[dict[str, Any]], labels: np.ndarray) -> None:
        write_indexed_png(self._png(name), labels)
        objects = sorted(objects, key=lambda o: o["id"])
        self._offsets[frame] = self._records.seek(0, 2)
        self._records.write(json.dumps({"frame": frame, "name": name, "objects": objects}).encode() + b"\n")

    def _png(self, name: str) -> Path:
        return self.annotations / f"{name}.png"

    def record(self, frame: int) -> dict[str, Any]:
        """A frame's entry of the JSON file."""
        self._records.seek(self._offsets[frame])
        return json.loads(self._records.readline())

    def masks(self, frame: int) -> dict[int, np.ndarray]:
        """A frame's masks by object id, bool (height, width)."""
        return {o["id"]: decode_rle(o["segmentation"]) for o in self.record(frame)["objects"]}

    def write_json(self, header: dict[str, Any]) -> None:
        """Write `masks.json`, frame by frame."""
        with atomic_path(self.json) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write("{\n")
            file.writelines(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in header.items())
            file.write('"frames": [\n')
            file.writelines(_separated(json.dumps(self.record(frame)) for frame in self.frames))
            file.write("\n]}\n")

    def write_overlay(
        self,
        read: Callable[[int], np.ndarray],
        size: tuple[int, int],
        fps: float,
        prompts: Prompts,
        frames: Iterable[int],
    ) -> None:
        """Write `overlay.mp4`: the video once more with masks and prompts drawn, as tracking may go in another order.

        Args:
            read: gives the frame of a number, uint8 (height, width, 3) RGB.
            size: (height, width) of these frames, and of the masks.
            prompts: by number of the frame, in pixels of these frames.
            frames: their numbers, ascending.
        """
        with OverlayWriter(self.overlay, size, fps, prompts) as overlay, Background() as drawing:
            for frame in frames:
                drawing.submit(overlay.add, frame, read(frame), self.masks(frame))

    def discard(self) -> None:
        """Remove the folders made for a run that came to nothing, as far as they are empty."""
        self._records.close()
        for folder in (self.annotations, self.annotations.parent, self.path):
            if any(folder.iterdir()):
                return
            folder.rmdir()


class OverlayWriter(VideoWriter):
    """A `VideoWriter` of frames with their masks and prompts drawn.

    Args:
        path: of the video.
        size: (height, width) of its frames.
        fps: frames per second.
        prompts: by number of the frame, in pixels of these frames.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, prompts: Prompts):
        super().__init__(path, fps, size[1], size[0])
        self._prompts = prompts
        self._several = len({object_id for on_frame in prompts.values() for object_id in on_frame}) > 1

    def add(self, frame: int, image: np.ndarray, masks: dict[int, np.ndarray]) -> None:
        """Draw on a frame and append it; see `draw`."""
        self.write(self.draw(frame, image, masks))

    def draw(self, frame: int, image: np.ndarray, masks: dict[int, np.ndarray]) -> np.ndarray:
        """The frame of a number, uint8 (height, width, 3) RGB, with its masks by object id and its prompts."""
        here = self._prompts.get(frame, {}).values()
        return overlay_masks(
            image,
            masks,
            labels=self._several,
            prompts=here,
        )


def _separated(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield (",\n" if number else "") + line


def box_and_area(mask: np.ndarray) -> dict[str, Any]:
    """COCO's `bbox` and `area` of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return {"area": 0, "bbox": [0, 0, 0, 0]}
    x, y = int(columns[0]), int(rows[0])
    return {"area": int(mask.sum()), "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]}

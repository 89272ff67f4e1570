"""What `efficienttam track` leaves behind, written so that memory stays bounded and an interruption loses nothing.

Masks arrive in the order of tracking, forward and then perhaps backward. Each frame's PNG is written at once. The
run-length masks go to a temporary file on disk, of which only offsets are held; from there the JSON file and the
overlay are written at the end, in the order of frames.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..mask_io import decode_rle, encode_rle, read_indexed_png, write_indexed_png


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
        self._offsets: dict[int, list[int]] = {}

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

        Where the frame has masks already (of other objects, from tracking the other way) these join them.

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
        png = self.annotations / f"{name}.png"
        if frame in self._offsets:
            before = read_indexed_png(png)
            labels = np.where(before > 0, before, labels)
        write_indexed_png(png, labels)
        objects = [
            {"id": object_id, "score": round(score, 4), **box_and_area(mask), "segmentation": encode_rle(mask)}
            for object_id, mask, score in zip(object_ids, masks, scores, strict=True)
        ]
        offset = self._records.seek(0, 2)
        self._records.write(json.dumps({"frame": frame, "name": name, "objects": objects}).encode() + b"\n")
        self._offsets.setdefault(frame, []).append(offset)

    def record(self, frame: int) -> dict[str, Any]:
        """A frame's entry of the JSON file."""
        entries = []
        for offset in self._offsets[frame]:
            self._records.seek(offset)
            entries.append(json.loads(self._records.readline()))
        objects = sorted((o for entry in entries for o in entry["objects"]), key=lambda o: o["id"])
        return {**entries[0], "objects": objects}

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

    def discard(self) -> None:
        """Remove the folders made for a run that came to nothing, as far as they are empty."""
        self._records.close()
        for folder in (self.annotations, self.annotations.parent, self.path):
            if any(folder.iterdir()):
                return
            folder.rmdir()


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

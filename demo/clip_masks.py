"""The masks on the frames of a visitor's clip, stored in a folder as `efficienttam track` writes them."""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from timeline import Row, seen_on, timeline_rows
from video_clip import Clip

from efficienttam_hf.app.results import TrackFolder
from efficienttam_hf.prompts import Prompts


class ClipMasks:
    """The masks of objects by frame. Frames are those of the clip; `numbers` are those of the video.

    Args:
        folder: the folder of the masks and of the result files. It must not exist yet.
        clip: the clip.

    Attributes:
        folder: the folder, with the methods that write result files.
    """

    def __init__(self, folder: Path, clip: Clip):
        self._clip = clip
        self.folder = TrackFolder(folder, clip.name)
        self.folder.prepare(overwrite=True)

    @property
    def numbers(self) -> list[int]:
        """The numbers in the video of the frames that have masks, ascending."""
        return self.folder.frames

    def on(self, number: int) -> dict[int, np.ndarray]:
        """Return the masks, bool (height, width), by object id on the frame with this number in the video."""
        return self.folder.masks(number) if number in self.folder.frames else {}

    def result(self, frame: int, object_id: int) -> dict[str, Any] | None:
        """Return the entry of an object on a frame in the JSON file, or `None` if the object has no mask there."""
        number = self._clip.number(frame)
        if number not in self.folder.frames:
            return None
        return next((one for one in self.folder.record(number)["objects"] if one["id"] == object_id), None)

    def keep(self, frame: int, object_ids: list[int], logits: np.ndarray, scores: list[float]) -> None:
        """Store the masks of objects on a frame, in place of earlier masks of the same objects.

        Args:
            frame: the frame of the clip.
            object_ids: the ids of the objects.
            logits: (objects, height, width) mask logits.
            scores: for each object, the probability that it is in the frame.
        """
        number = self._clip.number(frame)
        self.folder.add(number, f"{number:05d}", object_ids, logits, scores)

    def remove(self, frame: int, object_id: int) -> None:
        """Remove the mask of an object on a frame, if it has one."""
        self.folder.remove(self._clip.number(frame), object_id)

    def has_object(self, object_id: int) -> bool:
        """Whether an object has a mask on any frame."""
        return any(one["id"] == object_id for record in self.folder.records() for one in record["objects"])

    def remove_object(self, object_id: int) -> None:
        """Remove the masks of an object on all frames."""
        for number in self.folder.frames:
            self.folder.remove(number, object_id)

    def remove_all(self, but: Container[int] = ()) -> None:
        """Remove all masks, except those on the frames `but` of the clip."""
        for number in self.folder.frames:
            if self._clip.index(number) not in but:
                for one in self.folder.record(number)["objects"]:
                    self.folder.remove(number, one["id"])

    def scores(self) -> list[tuple[int, int, float]]:
        """Return (number of the frame in the video, object id, probability of presence) of each mask."""
        return [
            (record["frame"], one["id"], one["score"]) for record in self.folder.records() for one in record["objects"]
        ]

    def timeline(self, prompts: Prompts) -> dict[int, Row]:
        """Return the rows of the timeline by object id, in frames of the clip.

        Args:
            prompts: the prompts by frame and object.
        """
        seen = [(self._clip.index(record["frame"]), seen_on(record)) for record in self.folder.records()]
        return timeline_rows(seen, prompts)

    def close(self) -> None:
        """Stop reading and storing masks. Result files that were written stay."""
        self.folder.close()

    def delete(self) -> None:
        """Delete the folder."""
        self.folder.close()
        shutil.rmtree(self.folder.path, ignore_errors=True)

"""A video with its masks for training and evaluation: frames and masks by number, decoded on demand.

A record is made either from the files of a published dataset (`layouts/`) or from a row of a table
(:func:`.schema.video_features`), and can be converted to such a row. It is small and picklable.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..mask_io import decode_rle, encode_rle
from .frames import Frames, ImageFrames, VideoFrames
from .masks import Annotation, Mask, Masks, Segmentations
from .run_lengths import RunLengths, area_of
from .schema import DatasetError


__all__ = ["VideoRecord"]


class VideoRecord:
    """One video of a dataset.

    Attributes:
        video_id, source, split, licence, fps, complete: see :func:`.schema.video_features`.
        frames, masks_source: the stored frames and masks, for uses beyond the methods of this class.
        categories: the categories of objects by object id; empty if the dataset has none.
    """

    def __init__(
        self,
        video_id: str,
        frames: Frames,
        masks: Masks,
        *,
        source: str,
        split: str = "",
        licence: str = "",
        fps: float | None = None,
        complete: bool = True,
    ) -> None:
        self.video_id, self.source, self.split = video_id, source, split
        self.licence, self.fps, self.complete = licence, fps, complete
        self.frames, self.masks_source = frames, masks
        self._object_ids: list[int] | None = None
        self._size: tuple[int, int] | None = None
        self._last: tuple[int, Annotation] | None = None  # masks, void and areas of one frame are requested in turn

    def __repr__(self) -> str:
        return f"VideoRecord({self.video_id!r} of {self.source})"

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame, in pixels."""
        if self._size is None:
            self._size = self.frames.size
        return self._size

    @property
    def annotated_frames(self) -> list[int]:
        """The numbers of the annotated frames, ascending."""
        return self.masks_source.frames

    @property
    def categories(self) -> dict[int, str]:
        return self.masks_source.categories

    @property
    def object_ids(self) -> list[int]:
        """The ids of all objects in the annotated frames. The first call reads all masks of the video."""
        if self._object_ids is None:
            self._object_ids = sorted({i for frame in self.annotated_frames for i in self._annotation(frame).masks})
        return self._object_ids

    def frame(self, index: int) -> np.ndarray:
        """Decode a frame: uint8 (height, width, 3), RGB.

        Raises:
            IndexError: if there is no such frame.
            DatasetError: if it is missing, damaged or of another size than the first frame.
        """
        if not 0 <= index < len(self.frames):
            raise IndexError(f"Frame {index} is outside {self!r}, whose frames are 0 to {len(self.frames) - 1}.")
        pixels = self.frames.read(index)
        if pixels.shape[:2] != self.size:
            raise DatasetError(
                f"{self.frames.name(index)} is {pixels.shape[1]}x{pixels.shape[0]} pixels, "
                f"but the video '{self.video_id}' is {self.size[1]}x{self.size[0]}."
            )
        return pixels

    def masks(self, index: int) -> dict[int, np.ndarray]:
        """Return the masks of the objects that are visible in an annotated frame: bool (height, width) by object id.

        Raises:
            IndexError: if the frame is not annotated.
            DatasetError: if a mask is missing, damaged or of another size than its frame.
        """
        return {object_id: _pixels(mask) for object_id, mask in self._annotation(index).masks.items()}

    def void(self, index: int) -> np.ndarray | None:
        """Return the pixels of an annotated frame without annotation, bool (height, width); None if there are none."""
        void = self._annotation(index).void
        return None if void is None else _pixels(void)

    def objects_in(self, index: int) -> dict[int, int]:
        """Return the area in pixels of each visible object of an annotated frame, without decoding run lengths."""
        return {
            object_id: area_of(mask) if isinstance(mask, dict) else int(mask.sum())
            for object_id, mask in self._annotation(index).masks.items()
        }

    def _annotation(self, index: int) -> Annotation:
        if self._last is None or self._last[0] != index:
            if index not in self.masks_source.frames:
                raise IndexError(
                    f"Frame {index} of {self!r} is not annotated; `annotated_frames` lists those that are."
                )
            self._last = index, self.masks_source.read(index, self.size)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    # --- rows of a table

    def to_row(self) -> dict[str, Any]:
        """Convert the video to a row of :func:`.schema.video_features`. All masks and the first frame are read."""
        annotations: list[dict[str, Any]] = []
        for index in self.annotated_frames:
            annotation = self._annotation(index)
            annotations.append(
                {
                    "frame_index": index,
                    "object_ids": list(annotation.masks),
                    "masks": [_run_lengths(mask) for mask in annotation.masks.values()],
                    "void": None if annotation.void is None else _run_lengths(annotation.void),
                }
            )
        self._object_ids = sorted({object_id for entry in annotations for object_id in entry["object_ids"]})
        height, width = self.size
        return {
            "video_id": self.video_id,
            "source": self.source,
            "split": self.split,
            "licence": self.licence,
            "fps": self.fps,
            "height": height,
            "width": width,
            "num_frames": self.num_frames,
            "frames": self.frames.references if isinstance(self.frames, ImageFrames) else [],
            "video": self.frames.reference if isinstance(self.frames, VideoFrames) else None,
            "objects": [{"object_id": i, "category": self.categories.get(i)} for i in self._object_ids],
            "annotations": annotations,
            "complete": self.complete,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> VideoRecord:
        """Make a record from a row of :func:`.schema.video_features`."""
        size = row["height"], row["width"]
        frames = ImageFrames(row["frames"]) if row["frames"] else VideoFrames(row["video"], row["num_frames"], size)
        name = f"{row['source']}/{row['video_id']}"
        masks = Segmentations(
            {a["frame_index"]: dict(zip(a["object_ids"], a["masks"], strict=True)) for a in row["annotations"]},
            name,
            void={a["frame_index"]: [a["void"]] for a in row["annotations"] if a["void"] and a["void"]["counts"]},
            categories={o["object_id"]: o["category"] for o in row["objects"] if o["category"] is not None},
        )
        described = ("source", "split", "licence", "fps", "complete")
        return cls(row["video_id"], frames, masks, **{key: row[key] for key in described})


def _pixels(mask: Mask) -> np.ndarray:
    return decode_rle(mask) if isinstance(mask, dict) else mask


def _run_lengths(mask: Mask) -> RunLengths:
    return mask if isinstance(mask, dict) else encode_rle(mask)

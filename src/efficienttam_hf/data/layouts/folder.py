"""The user's own videos: folders of frames, or video files, with indexed PNGs.

    root/frames/<video>/00000.jpg                 or JPEGImages; or the file <video>.mp4 instead of the folder
    root/masks/<video>/00000.png                  or Annotations

For a single video, ``frames`` and ``masks`` may contain the images themselves. Some frames may have no mask. The name
of a mask has the number of its frame; frames of a video file are numbered from 0, as in the output of `efficienttam
track`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...image_io import IMAGE_SUFFIXES
from ..frames import Frames, VideoFrames, reference
from ..masks import LabelImages, Masks
from ..records import VideoRecord
from ..schema import DatasetError
from .common import (
    Layout,
    contents,
    existing_root,
    find_folder,
    folder_names,
    label_video,
    mask_coding,
    numbered_images,
    read_names,
)


VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".avi", ".mkv", ".gif")


class Folder(Layout):
    """Any folder of videos and masks.

    Args:
        root: the folder with ``frames`` and ``masks``, or ``JPEGImages`` and ``Annotations``.
        split: the name of a folder ``root/<split>`` with this layout, or of a file ``root/<split>.txt`` with names of
            videos. None selects all videos.
        binary: everything except the background of a mask is one object; at soft edges, these are the values of at
            least half the largest value. Masks that have only the values 0 and 255 are always binary.
        fps: frames per second, if known.
        licence: the licence of the videos, which is kept in the records.
        threshold: values of at least this are one object.
        colors: the object id of each colour, for coloured masks: ``{"#ff0000": 1, (0, 255, 0): 2}`` or ``"#ff0000=1
            0,255,0=2"``. Black is background, and id 255 is void.

    Raises:
        DatasetError: if the folder does not have this layout, or the split does not exist.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        binary: bool = False,
        fps: float | None = None,
        licence: str = "",
        threshold: int | None = None,
        colors: Mapping[Any, int] | str | None = None,
    ) -> None:
        self.root, self.split = existing_root(root), split
        self._coding, self._fps, self._licence = mask_coding(binary, threshold, colors), fps, licence
        listed = self.root / f"{split}.txt"
        base = self.root / split if split and (self.root / split).is_dir() else self.root
        if split and base == self.root and not listed.is_file():
            raise DatasetError(
                f"There is neither a folder '{base / split}' nor a list '{listed}' for the split '{split}'."
            )
        dataset = "a folder of videos (frames/<video>/*.jpg, masks/<video>/*.png)"
        self._frames = find_folder(base, "frames", "JPEGImages", dataset=dataset)
        self._masks = find_folder(base, "masks", "Annotations", dataset=dataset)
        self._single = any(p.suffix.lower() in IMAGE_SUFFIXES for p in self._frames.iterdir())
        self._files = {
            p.stem: p for p in sorted(self._frames.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()
        }
        self.names = [base.name] if self._single else sorted({*folder_names(self._frames), *self._files})
        if not self.names:
            raise DatasetError(f"'{self._frames}' holds neither folders of frames nor videos. {contents(self._frames)}")
        if split and base == self.root:
            known, self.names = set(self.names), read_names(listed)
            if missing := [name for name in self.names if name not in known]:
                raise DatasetError(f"'{listed}' names {', '.join(missing[:5])}, which '{self._frames}' does not have.")

    def record(self, name: str) -> VideoRecord:
        frames, masks = self._places(name)
        stored: tuple[Frames, Masks]
        if frames.is_file():
            labels = LabelImages(numbered_images(masks, "masks", gaps=True), coding=self._coding)
            stored = VideoFrames(reference(frames)), labels
        else:
            stored = label_video(frames, masks, coding=self._coding)
        return VideoRecord(name, *stored, source="folder", split=self.split or "", licence=self._licence, fps=self._fps)

    def _places(self, name: str) -> tuple[Path, Path]:
        """Return the frames and the masks of a video."""
        if self._single:
            return self._frames, self._masks
        return self._files.get(name, self._frames / name), self._masks / name

    def files(self, name: str) -> Iterable[Path]:
        frames, masks = self._places(name)
        return [frames, *sorted(masks.glob("*"))]

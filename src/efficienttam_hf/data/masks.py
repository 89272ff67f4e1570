"""The masks of one video, in the three formats that datasets use.

The formats are label images (DAVIS, YouTube-VOS, MOSE, LVOS, your own), a binary image for each object (SA-V's
validation sets), and run lengths or polygons (SA-V, SA-1B, COCO, and tables). The constructors read no mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .._media import VideoError
from ..mask_io import decode_rle, read_mask_pixels
from ..mask_values import VOID, MaskCoding, labels_of
from .run_lengths import RunLengths, run_lengths_of
from .schema import DatasetError


Mask = np.ndarray | RunLengths
ONE = MaskCoding(binary=True)  # a file that holds one object


@dataclass
class Annotation:
    """The annotation of one frame.

    Attributes:
        masks: the masks of all visible objects by object id: bool ``(height, width)``, or the run lengths of the file.
        void: the pixels without annotation, in the same form; None if there are none.
    """

    masks: dict[int, Mask] = field(default_factory=dict)
    void: Mask | None = None


class Masks(Protocol):
    """The interface of the masks of a record.

    Attributes:
        frames: the numbers of the annotated frames, ascending.
        categories: the categories of objects by object id, if the dataset names them.
    """

    frames: list[int]
    categories: dict[int, str]

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        """Read the masks of a frame of this (height, width). Raises DatasetError for a damaged mask or another size."""
        ...

    def name(self, frame: int) -> str:
        """Return the name of the file or object that holds the masks of a frame, for messages."""
        ...


class LabelImages:
    """Masks as one image for each frame, whose values are object ids.

    Args:
        files: the files by frame.
        coding: the meaning of the values, if they are not object ids.
        categories: the categories by object id.
    """

    def __init__(
        self, files: Mapping[int, Path], *, coding: MaskCoding | None = None, categories: dict[int, str] | None = None
    ) -> None:
        self.frames = sorted(files)
        self.categories = categories or {}
        self._files, self._coding = files, coding

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        labels = _read_labels(self._files[frame], size, self._coding)
        ids = np.unique(labels)
        void = labels == VOID if ids[-1] == VOID else None
        return Annotation({int(i): labels == i for i in ids if i not in (0, VOID)}, void)

    def name(self, frame: int) -> str:
        return f"'{self._files[frame]}'"


class ObjectImages:
    """Masks as one binary image for each object and frame; they may overlap.

    Args:
        files: the files by frame, then by object id. An object without a file on an annotated frame is absent from it.
    """

    def __init__(self, files: Mapping[int, Mapping[int, Path]]) -> None:
        self.frames = sorted(files)
        self.categories: dict[int, str] = {}
        self._files = files

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        masks = {object_id: _read_labels(file, size, ONE) > 0 for object_id, file in self._files[frame].items()}
        return Annotation({object_id: mask for object_id, mask in masks.items() if mask.any()})

    def name(self, frame: int) -> str:
        return " and ".join(f"'{file}'" for file in self._files[frame].values())


class Segmentations:
    """Masks as run lengths or polygons from a JSON file or a table.

    Args:
        segmentations: the run lengths or polygons by frame, then by object id.
        file: their file, for errors.
        void: the regions without annotation, by frame.
        categories: the categories by object id.
    """

    def __init__(
        self,
        segmentations: Mapping[int, Mapping[int, Any]],
        file: str,
        *,
        void: Mapping[int, list[Any]] | None = None,
        categories: dict[int, str] | None = None,
    ) -> None:
        self.frames = sorted(segmentations)
        self.categories = categories or {}
        self._segmentations, self._file, self._void = segmentations, file, void or {}

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        annotation = Annotation()
        for object_id, segmentation in self._segmentations[frame].items():
            rle, area = run_lengths_of(segmentation, size, self._name(frame, object_id))
            if area:
                annotation.masks[object_id] = rle
        regions = [run_lengths_of(s, size, f"A void region in {self.name(frame)}") for s in self._void.get(frame, [])]
        if len(regions) == 1:
            annotation.void = regions[0][0]
        elif regions:
            annotation.void = np.any([decode_rle(rle) for rle, _ in regions], axis=0)
        return annotation

    def name(self, frame: int) -> str:
        return f"'{self._file}', frame {frame}"

    def _name(self, frame: int, object_id: int) -> str:
        return f"The mask of object {object_id} in {self.name(frame)},"


def _read_labels(file: Path, size: tuple[int, int], coding: MaskCoding | None) -> np.ndarray:
    """Read the object ids of an annotation image, uint8 ``(height, width)``."""
    try:
        return labels_of(read_mask_pixels(file, size), coding)
    except VideoError as error:
        message = str(error)
        raise DatasetError(
            message if message.startswith("The mask") else f"The mask '{file}' cannot be used: {message}"
        ) from error
    except OSError as error:
        raise DatasetError(f"The mask '{file}' cannot be read: {error}") from error

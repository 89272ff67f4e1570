"""The masks of one video, in the three formats that datasets use.

Label images (DAVIS, YouTube-VOS, MOSE, LVOS, your own), a binary image for each object (SA-V's validation sets), and
run lengths or polygons (SA-V, SA-1B, COCO, and tables). Making these objects reads no mask.
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
    """What is known of one frame.

    Attributes:
        masks: of every visible object by its id, bool ``(height, width)`` or run lengths, whichever the file holds.
        void: pixels that nobody judged, likewise; None if there are none.
    """

    masks: dict[int, Mask] = field(default_factory=dict)
    void: Mask | None = None


class Masks(Protocol):
    """What a record needs of its masks.

    Attributes:
        frames: the annotated ones, ascending.
        categories: of objects, by id, where the dataset names them.
    """

    frames: list[int]
    categories: dict[int, str]

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        """The masks of a frame of this (height, width); DatasetError if one is damaged or of another size."""
        ...

    def name(self, frame: int) -> str:
        """Of what holds the masks of a frame, for messages."""
        ...


class LabelImages:
    """One image a frame whose values are object ids.

    Args:
        files: by frame.
        coding: what the values mean, where they are not object ids.
        categories: by object id.
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
    """One binary image for each object and frame; they may overlap.

    Args:
        files: by frame, then by object id. An object that has none on an annotated frame is absent from it.
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
    """Run lengths or polygons, as they stand in a JSON file or a table.

    Args:
        segmentations: by frame, then by object id.
        file: where they come from, for errors.
        void: by frame, the regions that nobody judged.
        categories: by object id.
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
    """Object ids uint8 ``(height, width)`` of an annotation image."""
    try:
        return labels_of(read_mask_pixels(file, size), coding)
    except VideoError as error:
        message = str(error)
        raise DatasetError(
            message if message.startswith("The mask") else f"The mask '{file}' cannot be used: {message}"
        ) from error
    except OSError as error:
        raise DatasetError(f"The mask '{file}' cannot be read: {error}") from error

"""The evaluation and submission rules of a dataset, as data that each layout defines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


__all__ = ["BenchmarkRules"]


@dataclass(frozen=True)
class BenchmarkRules:
    """The rules of a dataset's benchmark for its predictions.

    Attributes:
        scoring: the scoring convention, a name of `evaluation.conventions`.
        is_drawn: whether the package draws the videos, so that the dataset needs no folder.
        images: whether the records are single images rather than videos.
        default_split: the split that is evaluated by default if the dataset lists it; `None` for all videos.
        annotates_every_frame: whether a frame without a mask is a missing file.
        prediction_files: the files of predictions: ``"labels"``, a palette PNG per frame; ``"binary"``, 0 and 255; or
            ``"objects"``, a folder of masks for each object.
        first_object_folder: the number of the folder of object 1, if each object has a folder.
        zip_folder: the folder of the videos in an archive for the server; empty if they are at its top.
        judged_every: the frames whose numbers are multiples of this are judged in splits with hidden annotations.
        judged_every_in: the ending of the names of these splits; in other splits, all frames are judged.
    """

    scoring: str = "semi_supervised"
    is_drawn: bool = False
    images: bool = False
    default_split: str | None = None
    annotates_every_frame: bool = False
    prediction_files: Literal["labels", "binary", "objects"] = "labels"
    first_object_folder: int = 0
    zip_folder: str = ""
    judged_every: int = 1
    judged_every_in: str = ""

    @property
    def masks_overlap(self) -> bool:
        """Whether each object has its own files, so that masks may overlap."""
        return self.prediction_files == "objects"

    def judged_stride(self, split: str) -> int:
        """Return the step between the judged frames of a split with hidden annotations."""
        return self.judged_every if split.endswith(self.judged_every_in) else 1

"""How a dataset is evaluated and submitted, as data that each layout defines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


__all__ = ["BenchmarkRules"]


@dataclass(frozen=True)
class BenchmarkRules:
    """What the benchmark of a dataset asks of its predictions.

    Attributes:
        scoring: the convention by which it is scored, a name of `evaluation.conventions`.
        is_drawn: whether its videos are drawn rather than read, so that it needs no folder.
        images: whether its records are single images rather than videos.
        default_split: what is evaluated where no split is given and this one is listed; `None` for everything.
        annotates_every_frame: whether a frame without a mask is a missing file.
        prediction_files: how predictions lie on disk: ``"labels"``, a palette PNG a frame; ``"binary"``, 0 and 255; or
            ``"objects"``, a folder of masks for each object.
        first_object_folder: the number of the folder of object 1, where each object has a folder.
        zip_folder: the folder that holds the videos in an archive for the server; empty where they are at its top.
        judged_every: which frames are judged where the truth is hidden: those whose numbers are multiples of this,
        judged_every_in: in splits whose names end like this; all frames elsewhere.
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
        """Whether objects are kept apart in files, so that masks need not compete for pixels."""
        return self.prediction_files == "objects"

    def judged_stride(self, split: str) -> int:
        """Every how manyth frame number of a split is judged where the truth is hidden."""
        return self.judged_every if split.endswith(self.judged_every_in) else 1

"""From the agreement of single masks to the numbers that papers report: of an object, of a sequence, of a data set.

The conventions are those of DAVIS-2017's semi-supervised evaluation. An object's first frame is where it was prompted
and does not count, nor does the last frame of the sequence. A data set's score is the mean over its objects, so that a
sequence with many objects weighs more. All scores are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .region_boundary import boundary_accuracy, region_similarity


__all__ = ["DatasetScores", "ObjectScores", "SequenceScorer", "SequenceScores", "Statistics", "statistics", "summary"]


@dataclass(frozen=True)
class Statistics:
    """What DAVIS says of a measure over the frames of an object.

    Attributes:
        mean: over the frames.
        recall: share of the frames in which it is above one half.
        decay: mean of the first quarter of the frames less that of the last; small is good.
    """

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float] | np.ndarray) -> Statistics:
    """Mean, recall and decay of a measure's values, frame by frame.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"Statistics are of one value a frame, for at least one frame; got shape {values.shape}.")
    # Halves up, neighbouring quarters share a frame: as DAVIS's evaluator cuts a sequence.
    first, second, _, fourth, last = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    decay = values[first : second + 1].mean() - values[fourth : last + 1].mean()
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(decay))


@dataclass
class ObjectScores:
    """J and F of one object, on the frames that count.

    Attributes:
        object_id: as annotated.
        j, f: float64 (frames,), at least one.
    """

    object_id: int
    j: np.ndarray
    f: np.ndarray


def summary(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """J&F, and mean, recall and decay of J and of F, each the mean over the objects; NaN without objects."""
    means = {}
    for name in ("J", "F"):
        of_objects = [statistics(getattr(scores, name.lower())) for scores in objects]
        for key, field in ((name, "mean"), (f"{name}_recall", "recall"), (f"{name}_decay", "decay")):
            values = [getattr(s, field) for s in of_objects]
            means[key] = float(np.mean(values)) if values else float("nan")
    return {"J&F": (means["J"] + means["F"]) / 2, **means}


class _MeanOverObjects:
    """The measures of whatever has `objects`."""

    objects: list[ObjectScores]

    @property
    def j(self) -> float:
        """Region similarity."""
        return summary(self.objects)["J"]

    @property
    def f(self) -> float:
        """Boundary accuracy."""
        return summary(self.objects)["F"]

    @property
    def j_and_f(self) -> float:
        """The mean of both: the number by which trackers are ranked."""
        return summary(self.objects)["J&F"]


@dataclass
class SequenceScores(_MeanOverObjects):
    """The scores of one video.

    Attributes:
        name: of the sequence.
        objects: those with frames that count, in the order in which they appear.
        num_frames: how many were tracked.
        seconds: that tracking took: from decoded frames to masks of their size, without decoding and scoring.
    """

    name: str
    objects: list[ObjectScores]
    num_frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Of tracking alone."""
        return self.num_frames / self.seconds if self.seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the summary, the speed, and for each object its own summary and its J and F of every frame."""
        objects = {
            scores.object_id: {
                **summary([scores]),
                "J_per_frame": scores.j.tolist(),
                "F_per_frame": scores.f.tolist(),
            }
            for scores in self.objects
        }
        speed = {"num_frames": self.num_frames, "frames_per_second": self.frames_per_second}
        return {**summary(self.objects), **speed, "objects": objects}


@dataclass
class DatasetScores(_MeanOverObjects):
    """The scores of several videos; J and F are means over all their objects."""

    sequences: list[SequenceScores]

    @property
    def objects(self) -> list[ObjectScores]:
        """Those of all sequences."""
        return [scores for sequence in self.sequences for scores in sequence.objects]

    @property
    def frames_per_second(self) -> float:
        """Of tracking alone, over all frames."""
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.num_frames for sequence in self.sequences) / seconds if seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the summary, the speed, and `SequenceScores.to_dict` of each sequence by its name."""
        sequences = {sequence.name: sequence.to_dict() for sequence in self.sequences}
        return {**summary(self.objects), "frames_per_second": self.frames_per_second, "sequences": sequences}

    def to_markdown(self) -> str:
        """A table, a row a sequence and the mean over objects below, in percent."""
        lines = ["| sequence | objects | J&F | J | F | frames/s |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for name, row in [(sequence.name, sequence) for sequence in self.sequences] + [("all", self)]:
            numbers = " | ".join(f"{100 * value:.1f}" for value in (row.j_and_f, row.j, row.f))
            lines.append(f"| {name} | {len(row.objects)} | {numbers} | {row.frames_per_second:.1f} |")
        return "\n".join(lines)


class SequenceScorer:
    """Scores a sequence frame by frame, so that no more than one frame's masks need to be at hand.

    An object counts from the frame after the first in which the truth shows it, to the last but one of the sequence.
    """

    def __init__(self) -> None:
        self._values: dict[int, list[tuple[float, float]]] = {}

    def add(self, truth: Mapping[int, np.ndarray], predicted: Mapping[int, np.ndarray]) -> None:
        """The next frame.

        Args:
            truth, predicted: for each object id a mask, bool ``(height, width)``. An object that is not named, or has
                an empty mask, is absent. Objects that the truth has not shown yet are ignored.

        Raises:
            ValueError: masks of another type, or of another size in the prediction than in the truth.
            ImportError: OpenCV is not installed.
        """
        masks = [*truth.values(), *predicted.values()]
        absent = np.zeros(masks[0].shape if masks else (1, 1), dtype=bool)
        for object_id, mask in truth.items():
            if object_id not in self._values and mask.any():
                self._values[object_id] = []
        for object_id, values in self._values.items():
            pair = predicted.get(object_id, absent), truth.get(object_id, absent)
            values.append((region_similarity(*pair), boundary_accuracy(*pair)))

    def scores(self) -> list[ObjectScores]:
        """Of the objects that have frames that count, if the frame added last is the last of the sequence."""
        counted = {object_id: np.array(values[1:-1]) for object_id, values in self._values.items() if len(values) > 2}
        return [ObjectScores(object_id, values[:, 0], values[:, 1]) for object_id, values in counted.items()]

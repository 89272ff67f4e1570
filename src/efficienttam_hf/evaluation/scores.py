"""Combines the J and F of single masks into the scores of an object, a video and a dataset.

A `SequenceScorer` measures one frame after another and keeps a few numbers of each. At the end, a `ScoringConvention`
decides which of them count. All scores are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np

from ..safe_names import markdown_text
from .conventions import SEMI_SUPERVISED, ScoringConvention
from .region_boundary import ABSENT, Agreement, agreement, import_cv2


__all__ = ["DatasetScores", "ObjectScores", "SequenceScorer", "SequenceScores", "Statistics"]
__all__ += ["frame_agreements", "numbers_in", "object_masks", "statistics", "summary"]

# The number with which datasets mark pixels that could not be annotated.
VOID = 255


@dataclass(frozen=True)
class Statistics:
    """The statistics that DAVIS uses for a measure over the frames of an object.

    Attributes:
        mean: the mean over the frames.
        recall: the fraction of frames in which the measure is above one half.
        decay: the mean over the first quarter of the frames minus that over the last quarter; small is good.
    """

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float] | np.ndarray) -> Statistics:
    """Compute mean, recall and decay from a measure's values, one for each frame.

    They are as in DAVIS's evaluator, except that the decay of more than 256 frames follows the definition (in the
    evaluator, frame numbers beyond 255 wrap around).

    Raises:
        ValueError: if there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"Statistics are of one value a frame, for at least one frame; got shape {values.shape}.")
    # As in DAVIS's evaluator, halves are rounded up, and neighbouring quarters share a frame.
    first, second, _, fourth, last = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    decay = values[first : second + 1].mean() - values[fourth : last + 1].mean()
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(decay))


@dataclass
class ObjectScores:
    """J and F of one object, on the frames that count.

    Attributes:
        object_id: the annotated object id.
        j, f: float64 (frames,), with at least one value.
        group: the object's group, if a dataset's score is a mean over groups: `"seen"` or `"unseen"`.
        frames: the numbers of these frames from 0, in the order in which they were scored.
    """

    object_id: int
    j: np.ndarray
    f: np.ndarray
    group: str | None = None
    frames: Sequence[int] = ()


def summary(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """J&F, and mean, recall and decay of J and of F, each the mean over the objects; NaN without objects."""
    means = {}
    for name in ("J", "F"):
        of_objects = [statistics(getattr(scores, name.lower())) for scores in objects]
        for key, field in ((name, "mean"), (f"{name}_recall", "recall"), (f"{name}_decay", "decay")):
            values = [getattr(s, field) for s in of_objects]
            means[key] = float(np.mean(values)) if values else float("nan")
    return {"J&F": (means["J"] + means["F"]) / 2, **means}


def _mean(summaries: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each value; NaN without summaries."""
    if not summaries:
        return summary([])
    return {key: float(np.mean([each[key] for each in summaries])) for key in summaries[0]}


class _Measures:
    """Mixin with J, F and their mean, for classes that have a `summary`."""

    def summary(self) -> dict[str, float]:
        raise NotImplementedError

    @property
    def j(self) -> float:
        """Region similarity."""
        return self.summary()["J"]

    @property
    def f(self) -> float:
        """Boundary accuracy."""
        return self.summary()["F"]

    @property
    def j_and_f(self) -> float:
        """The mean of J and F, by which trackers are ranked."""
        return self.summary()["J&F"]


@dataclass
class SequenceScores(_Measures):
    """The scores of one video.

    Attributes:
        name: the name of the sequence.
        objects: the objects with frames that count, in the order in which they appear.
        num_frames: number of tracked frames.
        seconds: time of tracking, from decoded frames to masks of their size, without decoding and scoring.
    """

    name: str
    objects: list[ObjectScores]
    num_frames: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """The mean over its objects; see `summary`."""
        return summary(self.objects)

    @property
    def frames_per_second(self) -> float:
        """The speed of tracking alone."""
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
        return {**self.summary(), **speed, "objects": objects}


@dataclass
class DatasetScores(_Measures):
    """The scores of several videos.

    Attributes:
        sequences: the scores of each sequence.
        convention: defines the means of J and F; its other rules have been applied to the sequences already.
        failures: the reasons, by name, why sequences could not be scored; the means do not include these.
    """

    sequences: list[SequenceScores]
    convention: ScoringConvention = SEMI_SUPERVISED
    failures: dict[str, str] = dataclass_field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """The values of `summary`, averaged over the items that the convention names.

        If these are groups, there are also J and F of each group (`J_seen`), and `J&F`, which is the mean over all of
        them, also under YouTube-VOS's name `G`.

        Raises:
            ValueError: if some objects have a group and others have none.
        """
        objects = self.objects
        groups = sorted({str(scores.group) for scores in objects})
        if self.convention.mean_over == "sequences":
            return _mean([sequence.summary() for sequence in self.sequences if sequence.objects])
        if self.convention.mean_over == "objects" or groups in ([], ["None"]):
            return summary(objects)
        if "None" in groups:
            raise ValueError("A mean over groups needs a group for every object; some have none.")
        of_groups = {group: summary([scores for scores in objects if scores.group == group]) for group in groups}
        of_all = _mean(list(of_groups.values()))
        parts = {f"{name}_{group}": of_groups[group][name] for name in ("J", "F") for group in groups}
        return {**of_all, "G": of_all["J&F"], **parts}

    @property
    def objects(self) -> list[ObjectScores]:
        """The objects of all sequences."""
        return [scores for sequence in self.sequences for scores in sequence.objects]

    @property
    def frames_per_second(self) -> float:
        """The speed of tracking alone, over all frames."""
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.num_frames for sequence in self.sequences) / seconds if seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the summary, the speed, `SequenceScores.to_dict` of each sequence by its name, and the failures."""
        sequences = {sequence.name: sequence.to_dict() for sequence in self.sequences}
        rest = {"frames_per_second": self.frames_per_second, "sequences": sequences, "failures": self.failures}
        return {**self.summary(), **rest}

    def to_markdown(self) -> str:
        """A table in percent with a row for each sequence and one for all; then the failures with their reasons."""
        lines = ["| sequence | objects | J&F | J | F | frames/s |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for name, row in [(sequence.name, sequence) for sequence in self.sequences] + [("all", self)]:
            numbers = " | ".join(f"{100 * value:.1f}" for value in (row.j_and_f, row.j, row.f))
            lines.append(f"| {markdown_text(name)} | {len(row.objects)} | {numbers} | {row.frames_per_second:.1f} |")
        if self.failures:
            total = len(self.sequences) + len(self.failures)
            lines += ["", f"{len(self.sequences)} of {total} sequences are scored. Left out:", ""]
            lines += [f"- {markdown_text(name)}: {markdown_text(reason)}" for name, reason in self.failures.items()]
        return "\n".join(lines)


def numbers_in(labels: np.ndarray) -> list[int]:
    """The numbers other than 0 in an array of integers, ascending."""
    largest = int(labels.max(initial=0))
    if largest < 16:  # the usual case, in which searching for each number is faster than counting all
        return [number for number in range(1, largest + 1) if (labels == number).any()]
    if labels.dtype == np.uint8:
        counts = import_cv2().calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])
        return (1 + np.flatnonzero(counts[1:])).tolist()
    return [int(number) for number in np.unique(labels) if number]


def object_masks(
    labels: np.ndarray, convention: ScoringConvention = SEMI_SUPERVISED
) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
    """Split an annotation into the masks of its objects, and its void pixels if the convention excludes them.

    Args:
        labels: integers (height, width), the object number of each pixel, 0 for the background, 255 for void pixels.
        convention: decides the meaning of 255.

    Returns:
        The mask of each number, bool (height, width), and a mask of void pixels, or `None`.
    """
    masks = {number: labels == number for number in numbers_in(labels)}
    if convention.void == "object":
        return masks, None
    void = masks.pop(VOID, None)
    return masks, void if convention.void == "excluded" else None


def frame_agreements(
    truth: Mapping[int, np.ndarray],
    predicted: Mapping[int, np.ndarray],
    void: np.ndarray | None = None,
    convention: ScoringConvention = SEMI_SUPERVISED,
) -> dict[int, Agreement]:
    """Compute the agreement of truth and prediction in one frame, for each object that either of them shows.

    Args:
        truth, predicted: masks, bool ``(height, width)``, by object id. An object without a mask, or with an empty one,
            is absent.
        void: pixels that do not count, bool ``(height, width)``, for a convention that excludes them. Other conventions
            ignore it.
        convention: defines the use of `void`, whether all objects are one, and the tolerance of outlines.

    Raises:
        ValueError: if masks have another type, or the prediction has another size than the truth.
        ImportError: if OpenCV is not installed.
    """
    if convention.single_object:
        truth, predicted = ({1: np.any(list(m.values()), axis=0)} if m else {} for m in (truth, predicted))
    if void is not None and convention.void == "excluded":
        truth, predicted = ({i: mask.astype(bool) & ~void for i, mask in m.items()} for m in (truth, predicted))
    masks = [*truth.values(), *predicted.values()]
    absent = np.zeros(masks[0].shape if masks else (), dtype=bool)
    found = {
        object_id: agreement(predicted.get(object_id, absent), truth.get(object_id, absent), convention.tolerance)
        for object_id in {**truth, **predicted}
    }
    return {object_id: value for object_id, value in found.items() if value != ABSENT}


class SequenceScorer:
    """Scores a sequence frame by frame, so that only the masks of one frame are in RAM.

    Args:
        convention: defines the frames and objects that count.
    """

    def __init__(self, convention: ScoringConvention = SEMI_SUPERVISED) -> None:
        self.convention = convention
        self._num_frames = 0
        self._values: dict[int, dict[int, Agreement]] = {}  # by object and frame, if either shows it

    def add(
        self,
        truth: Mapping[int, np.ndarray],
        predicted: Mapping[int, np.ndarray],
        void: np.ndarray | None = None,
    ) -> None:
        """Add the next frame; see `frame_agreements`."""
        self.add_agreements(frame_agreements(truth, predicted, void, self.convention))

    def add_agreements(self, agreements: Mapping[int, Agreement]) -> None:
        """Add the next frame by the output of `frame_agreements`."""
        for object_id, value in agreements.items():
            self._values.setdefault(object_id, {})[self._num_frames] = value
        self._num_frames += 1

    def scores(self, groups: str | Mapping[int, str] | None = None) -> list[ObjectScores]:
        """The scores of the objects that have frames that count, after the last frame was added.

        Args:
            groups: the group of all objects, or of each object id; see `ObjectScores`.

        Raises:
            ValueError: if the prediction has objects that the truth does not have and the convention does not allow
                this, or an object has no group.
        """
        object_ids = self._object_ids()
        if self.convention.extra_objects == "error":
            self._refuse_extra(object_ids)
        scores = []
        for object_id in object_ids:
            values = {t: self._values.get(object_id, {}).get(t, ABSENT) for t in self._counted(object_id)}
            if self.convention.empty == "skipped":
                values = {t: value for t, value in values.items() if value.in_truth or value.in_prediction}
            if values:
                j, f = (np.array([getattr(value, name) for value in values.values()]) for name in ("j", "f"))
                scores.append(ObjectScores(object_id, j, f, _group_of(object_id, groups), list(values)))
        return scores

    def _object_ids(self) -> list[int]:
        """The objects that are scored."""
        if self.convention.objects == "first_frame":
            largest = max((i for i, values in self._values.items() if values.get(0, ABSENT).in_truth), default=0)
            return list(range(1, largest + 1))
        if self.convention.objects == "counted":
            return [i for i in self._values if set(self._annotated(i)) & set(self._counted(i))]
        return [i for i in self._values if self._annotated(i)]

    def _annotated(self, object_id: int) -> list[int]:
        """The frames in which the truth shows an object."""
        return [frame for frame, value in self._values[object_id].items() if value.in_truth]

    def _counted(self, object_id: int) -> range:
        """The frames in which an object counts."""
        rules = self.convention
        first = self._annotated(object_id)[0] if rules.begins == "annotated" else 0
        last = self._annotated(object_id)[-1] if rules.ends == "annotated" else self._num_frames - 1
        first, last = first + rules.skip_first, last - rules.skip_last
        if rules.begins == "seen":
            first = next((frame for frame in self._values[object_id] if frame >= first), self._num_frames)
        return range(first, last + 1)

    def _refuse_extra(self, object_ids: list[int]) -> None:
        frames = range(int(self.convention.skip_first), self._num_frames - self.convention.skip_last)
        for object_id in sorted(set(self._values) - set(object_ids)):
            for frame in frames:
                if self._values[object_id].get(frame, ABSENT).in_prediction:
                    raise ValueError(
                        f"The prediction has object {object_id} (first in its frame {frame}, counted from 0), but the "
                        f"annotation's objects are {', '.join(map(str, object_ids)) or 'none'}. The convention "
                        f"{self.convention.name!r} takes no others."
                    )


def _group_of(object_id: int, groups: str | Mapping[int, str] | None) -> str | None:
    if groups is None or isinstance(groups, str):
        return groups
    if object_id not in groups:
        raise ValueError(f"Object {object_id} has no group; those that have are {', '.join(map(str, groups))}.")
    return groups[object_id]

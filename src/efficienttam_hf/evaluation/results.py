"""The results of an evaluation as plain data: per object, per video and per run, with JSON input and output.

Every evaluation returns an :class:`EvaluationResult`; reports, comparisons and resumed runs read one. It has the score
of every scored frame, so that a later plot, a list of the worst videos or another mean needs no second run. Scores are
from 0 to 1.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..atomic_file import atomic_path
from ..structured_files import build, read_json


__all__ = ["EvaluationResult", "ObjectResult", "VideoResult"]


@dataclass
class ObjectResult:
    """The scores of one object of a video, on the frames that count.

    Attributes:
        object_id: the annotated object id.
        frames: numbers of the scored frames, ascending, counted from 0 in the video.
        j: region similarity (IoU), one value for each of `frames`.
        f: boundary accuracy, one value for each of `frames`; empty if outlines are not scored, as in images.
        category: the category of the object, if the dataset has categories.
        group: the group for which the convention computes a separate mean, such as `"seen"`.
        clicks: the IoU after each click on an object in an image (`j` has the last); otherwise empty.
        best_of_three: the IoU of the best of the three proposals after the first click in an image; otherwise `None`.
        presence: the reported probability that the object is in the frame, for each of `frames`; empty if the tracker
            reports none.
        predicted_iou: the reported IoU, likewise.
        present: whether the object is annotated in the frame, likewise.
    """

    object_id: int
    frames: list[int]
    j: list[float]
    f: list[float] = field(default_factory=list)
    category: str | None = None
    group: str | None = None
    clicks: list[float] = field(default_factory=list)
    best_of_three: float | None = None
    presence: list[float] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)

    @property
    def j_mean(self) -> float:
        """The mean of J over frames; NaN without frames."""
        return _mean(self.j)

    @property
    def f_mean(self) -> float:
        """The mean of F over frames; NaN without frames."""
        return _mean(self.f)

    @property
    def j_and_f(self) -> float:
        """The mean of J and F; J alone if outlines are not scored."""
        return (self.j_mean + self.f_mean) / 2 if self.f else self.j_mean


@dataclass
class VideoResult:
    """The result of one video, or of an image, which counts as a video of one frame.

    Attributes:
        name: the name of the video in its dataset.
        num_frames: number of frames; 0 if it could not be read.
        height, width: size of the frames in pixels; 0 if it could not be read.
        tracked_frames: number of frames in which at least one object was tracked.
        seconds: time of tracking, from decoded frames to masks of their size, without decoding and scoring.
        objects: the objects with frames that count, by ascending id. Empty if the truth is not public.
        picture: path, within the folder of results, of a picture of tracked above annotated masks; `None` without one.
        error: the reason why the video could not be evaluated and has no objects; `None` if it was evaluated.
    """

    name: str
    num_frames: int = 0
    height: int = 0
    width: int = 0
    tracked_frames: int = 0
    seconds: float = 0.0
    objects: list[ObjectResult] = field(default_factory=list)
    picture: str | None = None
    error: str | None = None

    @property
    def j(self) -> float:
        """The mean of J over objects; NaN if nothing could be scored."""
        return _mean([o.j_mean for o in self.objects])

    @property
    def f(self) -> float:
        """The mean of F over objects; NaN if nothing could be scored."""
        return _mean([o.f_mean for o in self.objects])

    @property
    def j_and_f(self) -> float:
        """The mean over objects of J&F (of J if outlines are not scored); NaN if nothing could be scored."""
        return _mean([o.j_and_f for o in self.objects])

    @property
    def frames_per_second(self) -> float:
        """Of tracking alone; NaN if nothing was tracked."""
        return self.tracked_frames / self.seconds if self.seconds else math.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> VideoResult:
        """What `to_dict` gave.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        return build(cls, stored, "The result of a video")


@dataclass
class EvaluationResult:
    """A model on a dataset.

    Attributes:
        protocol: `"vos"`, `"prompted-video"` or `"images"`.
        dataset: the kind of dataset, as in `data.loading.load_records`, such as `"davis2017"`.
        split: the dataset's name for the split; empty if none was chosen.
        model: the name that the user gave: a folder, an id on the Hub or an included model.
        prompt: the prompt of each object: `"mask"`, `"box"`, `"1-click"`, `"3-click"`, `"5-click"`.
        convention: the convention of the scores, a name of `evaluation.conventions`.
        settings: other settings that decide the scores, by name: `image_size`, `dtype`, `device`, `attention`,
            `parameters`, `max_frames`, `weights` (a digest), versions of libraries. The values are JSON values.
        videos: the results of all videos in the dataset's order, including those that failed.
        summary: the scores of the whole dataset under `convention`, such as `"J&F"`, `"J"`, `"F"`, `"J_recall"`, `"G"`
            or `"mIoU"`. Empty if nothing could be scored.
    """

    protocol: str
    dataset: str
    split: str
    model: str
    prompt: str
    convention: str
    settings: dict[str, Any] = field(default_factory=dict)
    videos: list[VideoResult] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> list[VideoResult]:
        """The videos that have scores."""
        return [video for video in self.videos if video.objects]

    @property
    def failures(self) -> list[VideoResult]:
        """The videos that could not be evaluated; `error` has the reason."""
        return [video for video in self.videos if video.error is not None]

    @property
    def coverage(self) -> dict[str, int]:
        """The numbers of all videos and of those that are `scored` and `failed`. The truth of the others is hidden."""
        return {"videos": len(self.videos), "scored": len(self.scored), "failed": len(self.failures)}

    @property
    def frames_per_second(self) -> float:
        """The speed of tracking alone, over all videos; NaN if nothing was tracked."""
        seconds = sum(video.seconds for video in self.videos)
        return sum(video.tracked_frames for video in self.videos) / seconds if seconds else math.nan

    def worst(self, count: int) -> list[VideoResult]:
        """The videos with the lowest J&F, the lowest first."""
        return sorted(self.scored, key=lambda video: video.j_and_f)[:count]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> EvaluationResult:
        """What `to_dict` gave.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        return build(cls, stored, "The result")

    def write(self, path: str | os.PathLike) -> None:
        """Write the result as a JSON file, atomically."""
        with atomic_path(path) as temporary:
            content = {"coverage": self.coverage, **self.to_dict()}
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike) -> EvaluationResult:
        """Read a file of `write`.

        Raises:
            ValueError: if it is not such a file.
        """
        try:
            content = read_json(path, what="result")
            return cls.from_dict({k: v for k, v in content.items() if k != "coverage"})
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{path}' is not a result of `efficienttam evaluate` ({error}).") from error


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

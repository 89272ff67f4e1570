"""The results of an evaluation as plain data: per object, per video and per run, with JSON input and output.

Everything that evaluates ends in an :class:`EvaluationResult`, and everything that reports, compares or resumes begins
with one. It holds the score of every frame that was judged, so that whatever is asked later (a plot, the worst videos,
another mean) needs no second run. Scores are from 0 to 1.
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
        object_id: as annotated.
        frames: numbers of the frames that were judged, ascending, counted from 0 in the video.
        j: region similarity (IoU), one value for each of `frames`.
        f: boundary accuracy, likewise; empty where outlines are not judged, as in images.
        category: of the object, where the dataset names it.
        group: over which the convention takes a mean of its own, such as `"seen"`.
        clicks: of an object in an image, the IoU after each click; `j` has the last. Else empty.
        best_of_three: and the IoU of the best of the three masks that the first click gave; else `None`.
    """

    object_id: int
    frames: list[int]
    j: list[float]
    f: list[float] = field(default_factory=list)
    category: str | None = None
    group: str | None = None
    clicks: list[float] = field(default_factory=list)
    best_of_three: float | None = None

    @property
    def j_mean(self) -> float:
        """J, the mean over frames; NaN without any."""
        return _mean(self.j)

    @property
    def f_mean(self) -> float:
        """F, the mean over frames; NaN without any."""
        return _mean(self.f)

    @property
    def j_and_f(self) -> float:
        """The mean of J and F; J alone where outlines are not judged."""
        return (self.j_mean + self.f_mean) / 2 if self.f else self.j_mean


@dataclass
class VideoResult:
    """One video (or image: a video of one frame), evaluated.

    Attributes:
        name: of the video in its dataset.
        num_frames: of the video; 0 if not even that could be read.
        height, width: of its frames in pixels; 0 likewise.
        tracked_frames: frames in which at least one object was tracked.
        seconds: that tracking took: from decoded frames to masks of their size, without decoding and scoring.
        objects: those with frames that count, by ascending id. Empty where the truth is not public.
        picture: a picture of tracked above annotated masks, as a path within the folder of results; `None` without one.
        error: why the video could not be evaluated, in which case it has no objects; `None` if it could.
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
        """J, the mean over objects; NaN where nothing could be scored."""
        return _mean([o.j_mean for o in self.objects])

    @property
    def f(self) -> float:
        """F, the mean over objects; NaN where nothing could be scored."""
        return _mean([o.f_mean for o in self.objects])

    @property
    def j_and_f(self) -> float:
        """The mean over objects of J&F (of J where outlines are not judged); NaN where nothing could be scored."""
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
        dataset: its kind, as in `data.loading.load_records`, such as `"davis2017"`.
        split: as the dataset calls it; empty where none was chosen.
        model: as the user named it: a folder, an id on the Hub or an included model.
        prompt: what was shown of each object: `"mask"`, `"box"`, `"1-click"`, `"3-click"`, `"5-click"`.
        convention: by which frames were judged and means taken, a name of `evaluation.conventions`.
        settings: whatever else decides the numbers, by name: `image_size`, `dtype`, `device`, `attention`,
            `parameters`, `max_frames`, `weights` (a digest), versions of libraries. Values are JSON's.
        videos: in the dataset's order, those that failed among them.
        summary: the numbers of the whole dataset under `convention`, such as `"J&F"`, `"J"`, `"F"`, `"J_recall"`, `"G"`
            or `"mIoU"`. Empty where nothing could be scored.
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
        """The videos that could not be evaluated; each says why in `error`."""
        return [video for video in self.videos if video.error is not None]

    @property
    def coverage(self) -> dict[str, int]:
        """What the score is over: how many videos there are, are `scored`, and `failed`. The rest has hidden truth."""
        return {"videos": len(self.videos), "scored": len(self.scored), "failed": len(self.failures)}

    @property
    def frames_per_second(self) -> float:
        """Of tracking alone, over all videos; NaN if nothing was tracked."""
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
        """Write as a JSON file, whole or not at all."""
        with atomic_path(path) as temporary:
            content = {"coverage": self.coverage, **self.to_dict()}
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike) -> EvaluationResult:
        """A file of `write`.

        Raises:
            ValueError: it is not such a file.
        """
        try:
            content = read_json(path, what="result")
            return cls.from_dict({k: v for k, v in content.items() if k != "coverage"})
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{path}' is not a result of `efficienttam evaluate` ({error}).") from error


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

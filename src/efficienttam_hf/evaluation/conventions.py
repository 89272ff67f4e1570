"""Evaluation conventions: how datasets combine the J and F of single masks into a score.

All of them measure the same J and F (see `region_boundary`), yet one set of predictions gets a different number from
each, because they disagree on which frames count, on when an object that appears late begins to count, on what the
pixels mean that nobody could annotate, and on what is averaged. Here each convention is data, so that `scores` has
one way of scoring and no special cases by name. `CONVENTIONS` has the named ones; others are made with
`dataclasses.replace`.

Those of DAVIS, vos-benchmark, SA-V and LVOS follow their published evaluators. The servers of YouTube-VOS and MOSE run
code that is not published; their conventions follow what their papers and challenge pages say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..structured_files import field, read_json


__all__ = ["CONVENTIONS", "DAVIS_2016", "DAVIS_2017", "LVOS", "MOSE", "SAV", "SEMI_SUPERVISED", "VOS_BENCHMARK"]
__all__ += ["VOS_BENCHMARK_ALL_FRAMES", "YOUTUBE_VOS", "Groups", "ScoringConvention", "convention_named"]
__all__ += ["seen_and_unseen_categories", "seen_and_unseen_videos"]

# For each sequence the group of all its objects, or for each of its object ids a group.
Groups = dict[str, str | dict[int, str]]


@dataclass(frozen=True)
class ScoringConvention:
    """How a dataset is scored.

    Attributes:
        name: by which `convention_named` finds it.
        source: whose evaluator it follows.
        objects: which objects are scored: those `"annotated"` in any frame; those annotated in a frame that is
            `"counted"`; or of the `"first_frame"`, all numbers from 1 to its largest, whether shown or not.
        begins: from when on an object counts: the first frame of the `"sequence"`; where it is `"seen"` first, in the
            truth or, wrongly, in the prediction; or where it is first `"annotated"`.
        ends: until when it counts: the last frame of the `"sequence"`, or the last in which it is `"annotated"`.
        skip_first: leave out the first frame, in which the object was shown to the tracker: that of the sequence, or
            the object's own if it begins where it is annotated.
        skip_last: leave out the last frame: that of the sequence, or the object's own if it ends where it is annotated.
        empty: frames in which neither truth nor prediction show the object: they `"agree"` and score 1, or are
            `"skipped"`.
        void: pixels that the truth marks with 255: `"background"`, so that predicting them is wrong; `"excluded"` from
            J and F; or `"object"`, a number like any other.
        extra_objects: what a prediction of numbers that the truth does not have is: an `"error"`, or `"ignored"`.
        single_object: take everything that is not background for one object.
        mean_over: what the score of a dataset is the mean of: its `"objects"`, its `"sequences"`, or its `"groups"`
            (of seen and of unseen things), each of which is a mean over objects. If no groups are known, the mean
            over objects.
        tolerance: how close outlines must lie to match, as a share of the image's diagonal, rounded up to pixels.
    """

    name: str
    source: str
    objects: Literal["annotated", "counted", "first_frame"] = "annotated"
    begins: Literal["sequence", "seen", "annotated"] = "annotated"
    ends: Literal["sequence", "annotated"] = "sequence"
    skip_first: bool = True
    skip_last: bool = True
    empty: Literal["agree", "skipped"] = "agree"
    void: Literal["background", "excluded", "object"] = "background"
    extra_objects: Literal["error", "ignored"] = "ignored"
    single_object: bool = False
    mean_over: Literal["objects", "sequences", "groups"] = "objects"
    tolerance: float = 0.008


SEMI_SUPERVISED = ScoringConvention(
    "semi_supervised",
    "DAVIS-2017's, for videos in which objects may appear late: the same where all of them are in the first frame",
)
DAVIS_2017 = ScoringConvention(
    "davis2017",
    "https://github.com/davisvideochallenge/davis2017-evaluation, task semi-supervised",
    objects="first_frame",
    begins="sequence",
    extra_objects="error",
)
DAVIS_2016 = ScoringConvention(
    "davis2016",
    "DAVIS-2017's evaluator, all objects of a sequence taken for one",
    begins="sequence",
    single_object=True,
    mean_over="sequences",
)
VOS_BENCHMARK = ScoringConvention(
    "vos_benchmark",
    "https://github.com/hkchengrex/vos-benchmark, as it is by default",
    objects="counted",
    begins="seen",
    void="object",
)
VOS_BENCHMARK_ALL_FRAMES = ScoringConvention(
    "vos_benchmark_all_frames",
    "https://github.com/hkchengrex/vos-benchmark with --do_not_skip_first_and_last_frame",
    objects="counted",
    begins="seen",
    skip_first=False,
    skip_last=False,
    void="object",
)
SAV = ScoringConvention(
    "sav",
    "https://github.com/facebookresearch/sam2, sav_dataset/sav_evaluator.py",
    objects="counted",
    begins="seen",
    void="object",
)
YOUTUBE_VOS = ScoringConvention(
    "youtube_vos",
    "Xu et al. (https://arxiv.org/abs/1809.03327): annotated frames after an object's first, G over seen and unseen",
    skip_last=False,
    mean_over="groups",
)
MOSE = ScoringConvention(
    "mose",
    "Ding et al. (https://arxiv.org/abs/2302.01872), section 4: J and F as DAVIS-2017 has them",
    begins="sequence",
)
LVOS = ScoringConvention(
    "lvos",
    "https://github.com/LingyiHongfd/lvos-evaluation, task semi-supervised: from an object's first frame to its last",
    ends="annotated",
    mean_over="groups",
)

CONVENTIONS: dict[str, ScoringConvention] = {
    convention.name: convention
    for convention in (
        SEMI_SUPERVISED,
        DAVIS_2017,
        DAVIS_2016,
        VOS_BENCHMARK,
        VOS_BENCHMARK_ALL_FRAMES,
        SAV,
        YOUTUBE_VOS,
        MOSE,
        LVOS,
    )
}


def convention_named(convention: str | ScoringConvention) -> ScoringConvention:
    """A convention by its name; one that is given as such comes back as it is.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(convention, ScoringConvention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(f"There is no scoring convention {convention!r}; there are {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[convention]


def seen_and_unseen_categories(meta: str | os.PathLike, training_meta: str | os.PathLike) -> Groups:
    """For YouTube-VOS: an object is `"seen"` if the training set has its category, else `"unseen"`.

    Args:
        meta, training_meta: the `meta.json` of the split that is scored and of the training split:
            ``{"videos": {sequence: {"objects": {id: {"category": str}}}}}``.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is not such a table; the message names the field.
    """
    objects, training = _categories_in(meta), _categories_in(training_meta)
    categories = {category for video in training.values() for category in video.values()}
    return {
        name: {number: "seen" if category in categories else "unseen" for number, category in video.items()}
        for name, video in objects.items()
    }


def _categories_in(path: str | os.PathLike) -> dict[str, dict[int, str]]:
    """The category of each object of each video in a `meta.json`."""
    where = f"'{path}' is not a table of videos and their objects: it"
    videos = field(read_json(path, what="table of videos"), "videos", dict, where)
    found: dict[str, dict[int, str]] = {}
    for name in videos:
        objects = field(field(videos, name, dict, where), "objects", dict, f"{where}, {name!r}")
        for number in objects:
            if not number.isdecimal() or len(number) > 9:
                raise ValueError(f"{where}, {name!r} has an object {number!r}, which is no number.")
            about = field(objects, number, dict, f"{where}, {name!r}")
            found.setdefault(name, {})[int(number)] = field(about, "category", str, f"{where}, {name!r}, {number}")
    return found


def seen_and_unseen_videos(sequences: list[str], unseen: str | os.PathLike) -> Groups:
    """For LVOS: all objects of a video are `"unseen"` if a text file, a name a line, has the video's; else `"seen"`."""
    names = set(Path(unseen).read_text().split())
    return {name: "unseen" if name in names else "seen" for name in sequences}

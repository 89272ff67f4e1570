"""Evaluation conventions: how datasets combine the J and F of single masks into a score.

All datasets measure the same J and F (see `region_boundary`), but give different scores to the same predictions. They
differ in the frames that count, in the frame from which a late object counts, in the meaning of pixels that could not
be annotated, and in the averages. Here each convention is data, so that `scores` needs no special cases for names.
`CONVENTIONS` has the named conventions; others are made with `dataclasses.replace`.

The conventions of DAVIS, vos-benchmark, SA-V and LVOS follow their published evaluators. The servers of YouTube-VOS and
MOSE run code that is not published; their conventions follow the papers and the pages of the challenges.
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

# For each sequence, the group of all its objects, or the group of each object id.
Groups = dict[str, str | dict[int, str]]


@dataclass(frozen=True)
class ScoringConvention:
    """The rules by which a dataset is scored.

    Attributes:
        name: the name for `convention_named`.
        source: the evaluator that it follows.
        objects: the objects that are scored: those `"annotated"` in any frame; those annotated in a frame that is
            `"counted"`; or, with `"first_frame"`, all numbers from 1 to the largest number in the first frame.
        begins: the frame from which an object counts: the first frame of the `"sequence"`; the frame where it is
            `"seen"` first, in the truth or, wrongly, in the prediction; or the frame where it is first `"annotated"`.
        ends: the last frame that counts: that of the `"sequence"`, or the last in which the object is `"annotated"`.
        skip_first: whether to leave out the first frame, in which the object was prompted: that of the sequence, or the
            object's own if `begins` is `"annotated"`.
        skip_last: whether to leave out the last frame: that of the sequence, or the object's own if `ends` is
            `"annotated"`.
        empty: the rule for frames in which neither truth nor prediction show the object: they `"agree"` and score 1, or
            are `"skipped"`.
        void: the meaning of pixels that the truth marks with 255: `"background"`, so that predicting them is wrong;
            `"excluded"` from J and F; or `"object"`, an object number like any other.
        extra_objects: the rule for predicted numbers that the truth does not have: an `"error"`, or `"ignored"`.
        single_object: whether everything that is not background is one object.
        mean_over: the items whose mean is the score of a dataset: its `"objects"`, its `"sequences"`, or its
            `"groups"` (seen and unseen categories), each of which is a mean over objects. If no groups are known, the
            score is the mean over objects.
        tolerance: largest distance of outlines that match, as a fraction of the image's diagonal, rounded up to pixels.
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
    """Return the convention with a name; a convention itself is returned as it is.

    Raises:
        ValueError: if there is no convention with this name.
    """
    if isinstance(convention, ScoringConvention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(f"There is no scoring convention {convention!r}; there are {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[convention]


def seen_and_unseen_categories(meta: str | os.PathLike, training_meta: str | os.PathLike) -> Groups:
    """Group the objects of YouTube-VOS: `"seen"` if the training set has the object's category, else `"unseen"`.

    Args:
        meta, training_meta: the `meta.json` of the split that is scored and of the training split:
            ``{"videos": {sequence: {"objects": {id: {"category": str}}}}}``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if it is not such a table; the message names the field.
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
    """Group the objects of LVOS: `"unseen"` if a text file, with one name per line, has the video; else `"seen"`."""
    names = set(Path(unseen).read_text().split())
    return {name: "unseen" if name in names else "seen" for name in sequences}

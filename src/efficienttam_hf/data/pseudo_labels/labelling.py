"""Draws pseudo-labels for a folder: one photograph or clip after another, resumable at any point.

The labels of a file are complete before the next file begins (`writing`), and a file that is labelled already is
skipped, so a run of hours may be stopped and started again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..._media import VideoError
from ...atomic_file import atomic_path
from ...image_io import IMAGE_SUFFIXES, read_image
from ...output_folders import OutputFolder
from ...prompts import ObjectPrompts, prompts_from_json
from ...safe_names import shown
from ...structured_files import build, read_json
from ...structured_files import field as checked_field
from ...video_io import open_video
from ..layouts.folder import VIDEO_SUFFIXES
from ..schema import DatasetError
from .proposals import ProposalOptions, inner_point, prompted_object, propose_objects
from .teachers import OnnxTeacher, Prompt, Teacher
from .tracks import ClipFrames, Track, TrackOptions, track_clip
from .writing import write_labels


__all__ = ["LabelledFile", "LabellingOptions", "find_media", "label_folder", "load_teacher", "read_prompts"]


@dataclass(frozen=True)
class LabellingOptions:
    """What is labelled in each file.

    Attributes:
        fps: labelled frames per second of a clip. Frames between them are only used for the flow.
        max_frames: the largest number of labelled frames of a clip, from its beginning.
        max_side: the longer side of a picture in pixels; larger pictures are scaled down.
        seed_every: objects are searched on the first frame and on every n-th labelled frame after it; with 0, on the
            first frame only.
        proposals: which of the teacher's masks are objects; see `ProposalOptions`.
        tracks: how objects are followed; see `TrackOptions`.

    Raises:
        ValueError: if a number is too small.
    """

    fps: float = 6.0
    max_frames: int = 48
    max_side: int = 960
    seed_every: int = 16
    proposals: ProposalOptions = field(default_factory=ProposalOptions)
    tracks: TrackOptions = field(default_factory=TrackOptions)

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"`fps` must be above 0, got {self.fps}.")
        for name, least in (("max_frames", 2), ("max_side", 32), ("seed_every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")


@dataclass(frozen=True)
class LabelledFile:
    """The outcome for a file.

    Attributes:
        file: the photograph or clip.
        videos: the names of the videos that were written; empty if no object was found or there is a `problem`.
        objects: the number of objects in them.
        problem: the reason why the file could not be read, or None.
        is_known: whether an earlier run labelled the file.
    """

    file: Path
    videos: list[str]
    objects: int
    problem: str | None = None
    is_known: bool = False


def load_teacher(names: list[str], device: str = "cpu", threads: int | None = None) -> Teacher:
    """Load a teacher.

    Args:
        names: one model (a folder, an id on the Hub, or a name that `efficienttam models` lists), or two ONNX files:
            the encoder and the decoder.
        device: the device of a model; ONNX files always run on the CPU.
        threads: the number of threads of ONNX Runtime; None is its default.

    Raises:
        DatasetError: if it cannot be loaded, or the number of names is another one.
        ImportError: if ONNX Runtime is needed and not installed.
    """
    if len(names) == 2:
        encoder, decoder = names
        return OnnxTeacher(encoder, decoder, threads=threads)
    if len(names) == 1 and not names[0].endswith(".onnx"):
        from .transformers_teacher import TransformersTeacher

        return TransformersTeacher(names[0], device)
    raise DatasetError(
        f"A teacher is the name of a model, or two ONNX files, encoder and decoder; got {' '.join(names)}."
    )


def find_media(folder: Path) -> list[Path]:
    """Return the photographs and clips in a folder and its subfolders. A subfolder of numbered frames is a clip.

    Raises:
        DatasetError: if the folder does not exist, or has no photographs and clips.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder '{folder}' of photographs and clips.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and path.is_file()
    )
    if not found:
        kinds = " ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise DatasetError(f"'{folder}' holds neither photographs nor clips ({kinds}).")
    media: list[Path] = []
    for path in found:
        is_frame = path.suffix.lower() in IMAGE_SUFFIXES and path.parent != folder and path.stem.isdigit()
        entry = path.parent if is_frame else path
        if entry not in media[-1:]:
            media.append(entry)
    return media


@dataclass(frozen=True)
class _Done:
    """The entry of a labelled file in `pseudo_labels.json`."""

    source: str
    videos: list[str]
    objects: int


Proposer = Callable[[np.ndarray], list[Prompt]]


def read_prompts(file: Path, folder: Path) -> dict[str, dict[int, ObjectPrompts]]:
    """Read the objects that a person prompted on first frames: for each file name, the prompts of each object id.

    The file is a JSON object whose keys are names of media in `folder` and whose values list objects as the results of
    `track` do: `{"dog.mp4": [{"id": 1, "prompts": [{"frame": 0, "box": [10, 20, 110, 220]}]}]}`.

    Raises:
        DatasetError: if the file does not exist, a name is not among the media, or a prompt cannot be read, is not on
            frame 0, or has negative points, which a teacher does not take.
    """
    names = {media.name for media in find_media(folder)}
    prompts = {}
    for name, listed in read_json(file, error=DatasetError, what="file of prompts").items():
        if name not in names:
            raise DatasetError(f"'{file}' has prompts for {shown(name)}, which is not in '{folder}'.")
        try:
            by_frame = prompts_from_json(listed)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"The prompts for {shown(name)} in '{file}' cannot be read: {error}") from error
        if set(by_frame) != {0}:
            raise DatasetError(
                f"'{file}' has prompts for {shown(name)} on frames {shown(sorted(by_frame))}. Give prompts on frame 0, "
                "from which objects are followed."
            )
        if any(0 in prompt.labels for prompt in by_frame[0].values()):
            raise DatasetError(
                f"'{file}' has negative clicks (label 0) for {shown(name)}. Give positive clicks, a box or a mask."
            )
        prompts[name] = dict(by_frame[0])
    return prompts


def label_folder(
    folder: Path,
    output: Path,
    teacher: Teacher,
    options: LabellingOptions,
    proposer: Proposer | None = None,
    prompts: Mapping[str, Mapping[int, ObjectPrompts]] | None = None,
) -> Iterator[LabelledFile]:
    """Label a folder, and yield the outcome of each file.

    Args:
        folder: the folder of photographs and clips.
        output: the folder of the labels. Existing labels are kept.
        teacher: the model that draws the masks.
        options: what is labelled.
        proposer: returns prompts for whole objects (`SaliencyProposer`), which are used before a grid of clicks.
        prompts: objects that a person prompted on the first frame of a clip, by file name (`read_prompts`). In these
            clips no other objects are searched.

    Raises:
        DatasetError: if there is nothing to label, if `output` has labels of another teacher, or if their list is
            damaged.
        FileExistsError: if a file in `output` is in the way and was not written by this package.
    """
    files = find_media(folder)
    names = _names(files, folder)
    notes = output / "pseudo_labels.json"
    done: dict[str, _Done] = {}
    written = OutputFolder(output)
    if notes.is_file():
        where = f"The list of labels '{notes}'"
        known = read_json(notes, error=DatasetError, what="list of labels")
        if checked_field(known, "teacher", str, where, error=DatasetError) != teacher.name:
            raise DatasetError(
                f"'{output}' has labels of the teacher '{known['teacher']}', not of '{teacher.name}'; give another "
                "output folder."
            )
        done = {
            name: build(_Done, found, f"{where}, {shown(name)}", error=DatasetError)
            for name, found in checked_field(known, "files", dict, where, error=DatasetError).items()
        }
    for file in files:
        name = names[file]
        if name in done:
            yield LabelledFile(file, done[name].videos, done[name].objects, is_known=True)
            continue
        try:
            images, tracks = _label_file(file, teacher, options, proposer, (prompts or {}).get(file.name, {}))
        except (VideoError, _PromptError) as error:
            yield LabelledFile(file, [], 0, problem=str(error))
            continue
        described = {"source": str(file.relative_to(folder)), "teacher": teacher.name}
        videos = write_labels(written, name, images, tracks, described) if tracks else []
        done[name] = _Done(described["source"], videos, len(tracks))
        listed = {"teacher": teacher.name, "files": {name: asdict(found) for name, found in done.items()}}
        with atomic_path(written.add(notes.name)) as temporary:
            temporary.write_text(json.dumps(listed, indent=2) + "\n", "utf-8")
        yield LabelledFile(file, videos, len(tracks))


def _label_file(
    file: Path,
    teacher: Teacher,
    options: LabellingOptions,
    proposer: Proposer | None,
    prompts: Mapping[int, ObjectPrompts],
) -> tuple[list[np.ndarray], list[Track]]:
    """Return the labelled frames of a file and its objects."""
    if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
        image = read_image(file)
        size = image.shape[:2]
        clip = ClipFrames([_limited(image, options.max_side)])
    else:
        clip, size = read_clip(file, options)
    first = clip.images[0]
    given = [_teacher_prompt(prompt, size, first.shape[:2]) for prompt in prompts.values()]
    if len(clip.images) == 1:
        view = teacher.look_at(first)
        if given:
            found = [prompted_object(view, prompt) for prompt in given]
        else:
            found = propose_objects(view, first.shape[:2], options.proposals, proposer(first) if proposer else [])
        return clip.images, [Track({0: p.mask}, p.iou, p.stability, 1.0, 0, p.part_of) for p in found]
    seeds = range(0, len(clip.images), options.seed_every or len(clip.images))
    return clip.images, track_clip(clip, teacher, options.proposals, options.tracks, seeds, proposer, given)


class _PromptError(ValueError):
    """A person's prompt does not fit the frame that it is on."""


def _teacher_prompt(prompt: ObjectPrompts, size: tuple[int, int], new_size: tuple[int, int]) -> Prompt:
    """Convert a person's prompt to the form that teachers take, in pixels of the scaled picture."""
    try:
        prompt.check(size)
    except ValueError as error:
        raise _PromptError(str(error)) from error
    prompt = prompt.scaled(size, new_size)
    if prompt.mask is not None:
        return Prompt(inner_point(prompt.mask), mask=prompt.mask)
    return Prompt(np.asarray(prompt.points, dtype=np.float32).reshape(-1, 2), prompt.box)


def read_clip(file: Path, options: LabellingOptions) -> tuple[ClipFrames, tuple[int, int]]:
    """Read the labelled frames of a clip, and one frame between each two of them if there is one.

    Args:
        file: a video file or a folder of frames.
        options: what is labelled.

    Returns:
        The frames, and (height, width) of the video in pixels.

    Raises:
        VideoError: if the clip cannot be read.
    """
    with open_video(file, prefetch=0, threads=1) as source:
        step = max(1, round(source.fps / options.fps))
        wanted = list(range(0, len(source), step))[: options.max_frames]
        images, between, size = [], [], source[0].shape[:2]
        for k, frame in enumerate(wanted):
            if k and step > 1:
                between.append([_limited(source[frame - step + step // 2], options.max_side)])
            elif k:
                between.append([])
            images.append(_limited(source[frame], options.max_side))
    return ClipFrames(images, between), size


def _limited(image: np.ndarray, max_side: int) -> np.ndarray:
    """Scale a picture down so that its longer side has at most `max_side` pixels."""
    import cv2

    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _names(files: list[Path], folder: Path) -> dict[Path, str]:
    """Return a unique name for each file: its name without suffix, with its folders if that name is not unique."""
    stems = [file.stem for file in files]
    return {
        file: stem if stems.count(stem) == 1 else "_".join(file.relative_to(folder).parts).replace(".", "_")
        for file, stem in zip(files, stems, strict=True)
    }

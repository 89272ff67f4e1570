"""Code that the layouts share: their base class, lists of files by number, and errors that name the wrong folder."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..._media import VideoError
from ...image_io import IMAGE_SUFFIXES, list_frames
from ...mask_values import MaskCoding
from ...structured_files import read_json
from ..frames import ImageFrames, reference
from ..masks import LabelImages
from ..records import VideoRecord
from ..schema import DatasetError


class Layout(ABC):
    """A dataset in the layout in which its authors publish it. The constructor lists the videos and reads no image.

    Attributes:
        names: the names of the videos, in the dataset's order.
    """

    names: list[str]

    @abstractmethod
    def record(self, name: str) -> VideoRecord:
        """Return the video with a name.

        Its files are listed, and annotations in JSON are read, but no image is decoded.

        Raises:
            DatasetError: if a file is missing or annotations have another form.
        """

    @abstractmethod
    def files(self, name: str) -> Iterable[Path]:
        """Return the files and folders of a video. If the size or time of one changes, the record may have changed."""


def existing_root(root: str | Path) -> Path:
    """Return the absolute path of a dataset's folder, or raise DatasetError if it is not a folder."""
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DatasetError(f"The dataset folder '{root}' {what}; give the folder that holds the unpacked dataset.")
    return root.absolute()


def find_folder(root: Path, *choices: str, dataset: str) -> Path:
    """Return the first of several folders that exists.

    Args:
        root: the dataset's folder.
        choices: paths of the folders relative to ``root``.
        dataset: the description of the layout, for the message.

    Raises:
        DatasetError: if none exists. The message lists the content of ``root`` and names the right folder if it is one
            level higher or lower.
    """
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    expected = "' or '".join(choices)
    message = f"'{root}' is not laid out as {dataset}: it has no folder '{expected}'. {contents(root)}"
    below = sorted(p for p in root.iterdir() if p.is_dir())
    for other in (*below, *list(root.parents)[:3]):
        if any((other / choice).is_dir() for choice in choices):
            side = "one level down" if other.parent == root else "further up"
            raise DatasetError(f"{message} The folder that does is {side}: give '{other}'.")
    raise DatasetError(message)


def contents(folder: Path) -> str:
    """Return a sentence that lists the first entries of a folder."""
    found = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"It holds {', '.join(found[:8])}{more}." if found else "It is empty."


def folder_names(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders that are not hidden."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def check_names(names: Iterable[str], folder: Path, listed_in: Path) -> None:
    """Raise DatasetError if a list names videos that have no folder.

    Args:
        names: the names in the list.
        folder: the folder of the videos.
        listed_in: the file of the list, for the message.
    """
    present = set(folder_names(folder))
    if missing := [name for name in names if name not in present]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DatasetError(
            f"'{listed_in}' names {', '.join(missing[:5])}{more}, which '{folder}' does not have. "
            "The dataset is unpacked in part; unpack all of it, or choose from it with `videos`."
        )


def read_names(path: Path) -> list[str]:
    """Return the names in a split file, one per line, without repetitions.

    Raises:
        DatasetError: if the file cannot be read or names no video.
    """
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The split file '{path}' cannot be read: {error}") from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise DatasetError(f"The split file '{path}' names no video.")
    return names


def read_annotations(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DatasetError: if the file does not exist or cannot be parsed.
    """
    try:
        return read_json(path, error=DatasetError, what="annotation file")
    except FileNotFoundError as error:
        raise DatasetError(str(error)) from error


def numbered_images(folder: Path, what: str, *, gaps: bool) -> dict[int, Path]:
    """Return the images of a folder by the number in their names, in ascending order.

    Args:
        folder: the folder.
        what: the kind of images, for messages.
        gaps: whether numbers may be missing.

    Raises:
        DatasetError: if the folder does not exist or has no images, if a name has no number, if a number occurs twice,
            or if numbers are not evenly spaced and ``gaps`` is false.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder of {what} '{folder}'.")
    if not gaps:
        try:
            return {number_in(file, i): file for i, file in enumerate(list_frames(folder))}
        except VideoError as error:
            raise DatasetError(str(error)) from error
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            other = files.setdefault(number_in(file), file)
            if other is not file:
                raise DatasetError(f"'{other}' and '{file.name}' beside it both have the number {number_in(file)}.")
    if not files:
        raise DatasetError(f"The folder of {what} '{folder}' has no images. {contents(folder)}")
    return dict(sorted(files.items()))


def number_in(file: Path, default: int | None = None) -> int:
    """Return the last number in a file's name.

    Raises:
        DatasetError: if there is no number and no default.
    """
    digits = re.findall(r"\d+", file.stem)
    if digits:
        return int(digits[-1])
    if default is None:
        raise DatasetError(f"'{file}' has no frame number in its name, such as 00000.png.")
    return default


def by_frame(masks: dict[int, Path], frames: dict[int, Path]) -> dict[int, Path]:
    """Return masks by the position of their frames; a mask and its frame have the same number in their names.

    Args:
        masks: the mask files by number.
        frames: the frame files by number, in order.

    Raises:
        DatasetError: if a mask has no frame.
    """
    position = {number: index for index, number in enumerate(frames)}
    for number, mask in masks.items():
        if number not in position:
            example = next(iter(frames.values()))
            raise DatasetError(
                f"The mask '{mask}' has no frame: '{example.parent}' holds no image numbered {number} "
                f"(its first is '{example.name}', and it has {len(frames)})."
            )
    return {position[number]: mask for number, mask in masks.items()}


def label_video(
    frames: Path,
    masks: Path,
    *,
    gaps: bool = False,
    coding: MaskCoding | None = None,
    categories: dict[int, str] | None = None,
) -> tuple[ImageFrames, LabelImages]:
    """Return the frames and masks of a video that consists of a folder of frames and a folder of label images.

    Args:
        frames: the folder of frames.
        masks: the folder of masks.
        gaps: whether frame numbers may be missing.
        coding: the meaning of the masks' values, if they are not object ids.
        categories: the categories of objects by id.

    Raises:
        DatasetError: if a file is missing or has no number in its name.
    """
    images = numbered_images(frames, "frames", gaps=gaps)
    labels = by_frame(numbered_images(masks, "masks", gaps=True), images)
    return ImageFrames([reference(p) for p in images.values()]), LabelImages(
        labels, coding=coding, categories=categories
    )


def mask_coding(
    binary: bool = False, threshold: int | None = None, colors: Mapping[Any, int] | str | None = None
) -> MaskCoding | None:
    """Return the meaning of mask values from a dataset's options; see :class:`efficienttam_hf.mask_values.MaskCoding`.

    Raises:
        DatasetError: if an option is not valid.
    """
    try:
        return MaskCoding.of(binary, threshold, colors)
    except VideoError as error:
        raise DatasetError(str(error)) from error

"""DAVIS on disk, evaluated: the sequences of a folder, tracked one after another, with scores and pictures.

The layout is that of DAVIS-2016 and DAVIS-2017, and of any data set kept like them:

    JPEGImages/480p/<sequence>/00000.jpg
    Annotations/480p/<sequence>/00000.png     0 and 255, or an indexed PNG with a number for each object
    ImageSets/2017/val.txt                    names of sequences; may be missing
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .._media import VideoError
from ..atomic_file import atomic_path
from ..image_io import list_frames, read_image
from ..mask_io import read_indexed_png
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..visualization import contact_sheet, overlay_masks
from .scores import DatasetScores
from .semi_supervised import AnnotatedFrame, Prompt, TrackedFrame, track_and_score


__all__ = ["DavisSequence", "davis_sequences", "evaluate_davis_folder"]

RESOLUTION = "480p"
VOID = 255
FRAMES_ON_SHEET = 6


def davis_sequences(root: str | os.PathLike, names: Sequence[str] | None = None) -> list[DavisSequence]:
    """Sequences of a folder in DAVIS's layout.

    Args:
        root: the folder with `JPEGImages` and `Annotations` in it.
        names: which; by default those of the validation list of DAVIS-2017, or else of DAVIS-2016, and without a list
            all that are annotated.

    Raises:
        FileNotFoundError: no such folder, or a frame without an annotation.
        VideoError: a sequence that is not there.
    """
    root = Path(root)
    annotations = root / "Annotations" / RESOLUTION
    for folder in (annotations, root / "JPEGImages" / RESOLUTION):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"'{root}' is not laid out as DAVIS is: there is no folder '{folder}'. Give the folder that holds "
                f"JPEGImages/{RESOLUTION} and Annotations/{RESOLUTION}."
            )
    there = sorted(folder.name for folder in annotations.iterdir() if folder.is_dir())
    if names is None:
        lists = [path for year in ("2017", "2016") if (path := root / "ImageSets" / year / "val.txt").is_file()]
        names = lists[0].read_text().split() if lists else there
    if not names:
        raise VideoError(f"There are no sequences to evaluate in '{annotations}'.")
    missing = [name for name in names if name not in there]
    if missing:
        raise VideoError(f"'{annotations}' has no sequence {', '.join(missing)}; it has {', '.join(there) or 'none'}.")
    return [DavisSequence(root, name) for name in names]


class DavisSequence:
    """One sequence: iterating over it reads frames and masks one by one. `len` is the number of frames."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.frames = list_frames(root / "JPEGImages" / RESOLUTION / name)
        self.annotations = [root / "Annotations" / RESOLUTION / name / f"{frame.stem}.png" for frame in self.frames]
        for path in self.annotations:
            if not path.is_file():
                raise FileNotFoundError(f"There is no annotation '{path}': DAVIS has one for every frame.")

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[AnnotatedFrame]:
        for frame_path, annotation_path in zip(self.frames, self.annotations, strict=True):
            frame, labels = read_image(frame_path), read_indexed_png(annotation_path)
            if labels.shape != frame.shape[:2]:
                raise VideoError(
                    f"'{annotation_path}' is {labels.shape[1]}x{labels.shape[0]} pixels, its frame is "
                    f"{frame.shape[1]}x{frame.shape[0]}. An annotation has the size of its frame."
                )
            present = np.flatnonzero(np.bincount(labels.ravel(), minlength=VOID + 1))
            yield frame, {int(i): labels == i for i in present if i not in (0, VOID)}


def evaluate_davis_folder(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    root: str | os.PathLike,
    sequences: Sequence[str] | None = None,
    prompt: Prompt = "mask",
    progress: bool = True,
    out: str | os.PathLike | None = None,
) -> DatasetScores:
    """Track the objects of each sequence from their first frame and score them as DAVIS-2017's evaluator does.

    Args:
        root: see `davis_sequences`; it is looked through before anything is tracked.
        sequences: names; see `davis_sequences`.
        prompt: `"mask"`, `"click"` or `"box"`; see `semi_supervised.track`.
        progress: whether to show a progress bar.
        out: a folder for one picture a sequence, `<sequence>.jpg`: tracked masks above, annotated ones below.

    Raises:
        FileNotFoundError, VideoError: data that is missing or does not fit, by its path.
        ValueError: another `prompt`.
        ImportError: OpenCV is not installed.
    """
    scores = DatasetScores([])
    for sequence in tqdm(davis_sequences(root, sequences), desc="evaluating", disable=not progress):
        sheet = _Sheet(len(sequence)) if out is not None else None
        scores.sequences.append(
            track_and_score(model, processor, sequence, prompt=prompt, name=sequence.name, on_frame=sheet)
        )
        if sheet is not None:
            sheet.save(Path(out) / f"{sequence.name}.jpg")
    return scores


class _Sheet:
    """A few frames of a sequence, evenly spaced: what was tracked above what is true."""

    def __init__(self, num_frames: int) -> None:
        self._chosen = set(np.linspace(0, num_frames - 1, FRAMES_ON_SHEET).round().astype(int).tolist())
        self._tracked: dict[str, np.ndarray] = {}
        self._true: dict[str, np.ndarray] = {}

    def __call__(self, tracked: TrackedFrame) -> None:
        if tracked.index in self._chosen:
            self._tracked[f"{tracked.index}"] = overlay_masks(tracked.frame, tracked.predicted)
            self._true[f"{tracked.index} annotated"] = overlay_masks(tracked.frame, tracked.truth)

    def save(self, path: Path) -> None:
        pictures = {**self._tracked, **self._true}
        sheet = contact_sheet(
            list(pictures.values()), columns=len(self._tracked), captions=list(pictures), cell_width=320
        )
        with atomic_path(path) as temporary:
            Image.fromarray(sheet).save(temporary, format="JPEG", quality=90)

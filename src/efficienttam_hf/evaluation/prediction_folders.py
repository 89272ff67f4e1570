"""Evaluates predicted masks of any tracker, stored as PNGs, against a folder of annotations.

Both folders have a folder for each sequence, with one of these layouts:

    <sequence>/00000.png             object numbers, or 0 and 255 if there is one object
    <sequence>/<object>/00000.png    a mask for each object, as in SA-V; objects may then overlap

The annotated frames are scored; other predictions are ignored. Files are read as by the published evaluators, which use
the number of a pixel and never its colour. If this would give a wrong score (because of colours, of 0 and 255 in place
of object numbers, or of a folder that is too high or too low), a `VideoError` names the file and the expected content.
All file names are checked before the first frame is scored. Only one frame is in RAM at a time.

If a file cannot be decoded, its sequence is left out with a warning, and the scores list it. An error in the way a
folder was written, such as colours in place of numbers, stops the scoring, because other sequences have it too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .._media import VideoError
from ..mask_io import read_mask_pixels
from ..mask_values import why_not_ids
from .conventions import DAVIS_2017, Groups, ScoringConvention, convention_named
from .scores import VOID, DatasetScores, ObjectScores, SequenceScorer, SequenceScores, numbers_in, object_masks


__all__ = ["find_sequences", "score_prediction_folder"]

logger = logging.getLogger(__name__)

# Pillow's modes of PNGs whose pixels are numbers.
KINDS = {"P": "indexed", "L": "greyscale", "1": "black and white"}


def score_prediction_folder(
    predictions: str | os.PathLike,
    annotations: str | os.PathLike,
    convention: str | ScoringConvention = DAVIS_2017,
    sequences: Sequence[str] | None = None,
    groups: Groups | None = None,
) -> DatasetScores:
    """Score a folder of predicted PNGs against a folder of annotated ones.

    Args:
        predictions, annotations: folders of sequences with the same layout.
        convention: one of `conventions`, or its name.
        sequences: names of the sequences to score; by default all annotated ones.
        groups: the group of each sequence's objects (`"seen"`, `"unseen"`), for conventions that need groups.

    Returns:
        The scores. Their speed is NaN, because nothing was tracked. Sequences with a damaged or too large file are
        among their `failures`.

    Raises:
        FileNotFoundError: if a folder, a sequence or a frame is missing.
        VideoError: if a folder has another level; if a file has no object numbers, has another size than its
            annotation, or has objects that are not annotated and not allowed by the convention; or if no sequence can
            be read.
        ValueError: if the convention is unknown, or a sequence has no group.
        ImportError: if OpenCV is not installed.
    """
    convention = convention_named(convention)
    annotated = find_sequences(annotations)
    names = list(annotated) if sequences is None else list(sequences)
    if unknown := [name for name in names if name not in annotated]:
        raise FileNotFoundError(f"'{annotations}' has no annotations of {_listed(unknown)}.")
    predictions = _checked_level(Path(predictions), names)
    todo = {name: _pair(annotated[name], predictions / name, convention) for name in names}

    scores = DatasetScores([], convention)
    for name, parts in todo.items():
        if groups is not None and name not in groups:
            raise ValueError(f"Sequence '{name}' has no group; those that have are {_listed(groups)}.")
        group = groups[name] if groups is not None else None
        try:
            objects = [scores for part in parts for scores in part.scores(convention, group)]
        except _UnreadableError as error:
            logger.warning("The sequence '%s' is not scored: %s", name, error)
            scores.failures[name] = str(error)
            continue
        scores.sequences.append(SequenceScores(name, objects, max(len(part.frames) for part in parts), 0.0))
    if scores.failures and not scores.sequences:
        raise VideoError(f"No sequence can be scored. {next(iter(scores.failures.values()))}")
    return scores


def find_sequences(root: str | os.PathLike) -> dict[str, Path]:
    """The folders of sequences in a folder of annotations or predictions, by name.

    Raises:
        FileNotFoundError: if there is no such folder.
        VideoError: if it has no sequences; the message names the expected level and a folder nearby that fits.
    """
    root = Path(root)
    _require_folder(root)
    sequences = _sequences(root)
    if not sequences:
        raise _wrong_level(root, _sequences)
    return sequences


# ------------------------------------------------------------------------------------------------ what lies where


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pngs(path: Path) -> dict[str, Path]:
    return {entry.name: entry for entry in sorted(path.glob("*.png")) if not entry.name.startswith(".")}


def _parts(sequence: Path) -> dict[int | None, Path]:
    """The folders of PNGs of a sequence by object number; the number of the sequence's own folder is `None`."""
    if _pngs(sequence):
        return {None: sequence}
    return {int(folder.name): folder for folder in _folders(sequence) if folder.name.isdigit() and _pngs(folder)}


def _sequences(root: Path) -> dict[str, Path]:
    return {} if _pngs(root) else {folder.name: folder for folder in _folders(root) if _parts(folder)}


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder '{path}'.")


def _wrong_level(root: Path, fits: Callable[[Path], object]) -> VideoError:
    """An error that names the expected level, and a folder above or below for which `fits` is true."""
    below = [folder for child in _folders(root) for folder in (child, *_folders(child))]
    above = [root.resolve().parent, root.resolve().parent.parent]
    for near in [*below, *above]:
        if fits(near):
            place = "below" if near in below else "above"
            return VideoError(
                f"'{root}' is not the folder that holds a folder for each sequence (<sequence>/<frame>.png, or "
                f"<sequence>/<object>/<frame>.png); '{near}', {place} it, is. Give that one."
            )
    return VideoError(
        f"'{root}' holds no sequences; expected is the folder that holds a folder for each of them, with "
        "<sequence>/<frame>.png or <sequence>/<object>/<frame>.png. No folder near it does either."
    )


def _checked_level(predictions: Path, names: Iterable[str]) -> Path:
    """Check that the folder of predictions has all sequences, and return it."""
    _require_folder(predictions)
    names = list(names)
    missing = [name for name in names if not (predictions / name).is_dir()]
    if len(missing) == len(names):
        wrong = _wrong_level(predictions, lambda folder: any((folder / name).is_dir() for name in names))
        raise VideoError(f"There are no predictions of {_listed(missing)}. {wrong}")
    if missing:
        raise FileNotFoundError(
            f"'{predictions}' has no predictions of {len(missing)} of {len(names)} sequences: {_listed(missing)}. "
            "Predict them, or name the sequences to score."
        )
    return predictions


def _pair(annotated: Path, predicted: Path, convention: ScoringConvention) -> list[_Part]:
    """Check the file names of a sequence and return the parts to read."""
    truth, guess = _parts(annotated), _parts(predicted)
    if (None in truth) != (None in guess) and guess:
        layouts = {True: "<frame>.png", False: "<object>/<frame>.png"}
        raise VideoError(
            f"'{predicted}' has {layouts[None in guess]}, its annotation '{annotated}' has {layouts[None in truth]}. "
            "Predictions are laid out as the annotation is."
        )
    if missing := [folder.name for number, folder in truth.items() if number not in guess]:
        what = "frames" if None in truth else f"folders of objects {_listed(missing)}"
        raise FileNotFoundError(f"'{predicted}' has no {what}, which '{annotated}' has.")
    if extra := sorted(set(guess) - set(truth), key=str):
        message = f"'{predicted}' has objects {_listed(extra)}, which '{annotated}' has not."
        if convention.extra_objects == "error":
            raise VideoError(message)
        logger.warning("%s They are ignored.", message)
    return [_Part(number, folder, guess[number], convention) for number, folder in truth.items()]


class _Part:
    """Frames that are scored together: those of a sequence, or of one object if each object has its own folder."""

    def __init__(self, number: int | None, annotated: Path, predicted: Path, convention: ScoringConvention) -> None:
        self.number, self.annotated, self.predicted = number, annotated, predicted
        self.frames = list(_pngs(annotated))
        # Frames that never count need no prediction: many tools do not write the first frame, which was given to them.
        last = len(self.frames) - (convention.skip_last and convention.ends == "sequence")
        needed = self.frames[int(convention.skip_first) : last]
        there = _pngs(predicted)
        if missing := [name for name in needed if name not in there]:
            raise FileNotFoundError(
                f"'{predicted}' lacks {len(missing)} of {len(needed)} frames that are scored: {_listed(missing)}; it "
                f"has {_listed(there)}. File names are those of the annotation."
            )

    def scores(self, convention: ScoringConvention, groups: str | Mapping[int, str] | None) -> list[ObjectScores]:
        """Read and score one frame after another; only one frame is kept."""
        scorer = SequenceScorer(convention)
        truth, prediction = _LabelReader(self.annotated), _LabelReader(self.predicted)
        annotated_numbers, predicted_numbers = set(), set()
        for name in self.frames:
            true_labels, numbers = truth.read(name)
            labels = np.zeros_like(true_labels)
            guessed: list[int] = []
            if (self.predicted / name).is_file():  # a frame without prediction does not count, see above
                labels, guessed = prediction.read(name)
                prediction.check_order(truth)
            if labels.shape != true_labels.shape:
                raise VideoError(
                    f"'{self.predicted / name}' is {labels.shape[1]}x{labels.shape[0]} pixels, its annotation "
                    f"{true_labels.shape[1]}x{true_labels.shape[0]}. Bring predictions to the annotation's size."
                )
            if self.number is not None and max(len(numbers), len(guessed)) > 1:
                folder = self.annotated if len(numbers) > 1 else self.predicted
                raise VideoError(f"'{folder / name}' has several numbers; in '{folder}' each is a mask of one object.")
            if self.number is not None or convention.single_object:
                true_labels, labels = (np.not_equal(values, 0).view(np.uint8) for values in (true_labels, labels))
                numbers, guessed = numbers[:1] and [1], guessed[:1] and [1]
            if guessed == [VOID] and VOID not in numbers:
                raise VideoError(
                    f"'{self.predicted / name}' holds 0 and 255 only, as masks of one object do; its annotation has "
                    f"object numbers ({_listed(numbers)}). Write an object's number into its pixels."
                )
            annotated_numbers.update(numbers)
            predicted_numbers.update(guessed)
            true_masks, void = object_masks(true_labels, convention)
            # Only annotations have void pixels: in a prediction, 255 is an object number.
            scorer.add(true_masks, {number: labels == number for number in guessed}, void)
        if annotated_numbers == {VOID} and convention.void != "object":
            raise VideoError(
                f"The annotation '{self.annotated}' holds 0 and 255 only, and for the convention {convention.name!r} "
                "255 is void. For masks of one object take the convention 'davis2016'."
            )
        if (extra := predicted_numbers - annotated_numbers) and convention.extra_objects == "ignored":
            logger.warning("'%s' has objects %s, which are not annotated; ignored.", self.predicted, _listed(extra))
        return self._numbered(scorer, groups)

    def _numbered(self, scorer: SequenceScorer, groups: str | Mapping[int, str] | None) -> list[ObjectScores]:
        """The scores; if the folder is that of one object, they have its number."""
        if self.number is None:
            try:
                return scorer.scores(groups)
            except ValueError as error:
                raise VideoError(f"'{self.predicted}': {error}") from error
        return [replace(scores, object_id=self.number) for scores in scorer.scores(_of_one(groups, self.number))]


def _of_one(groups: str | Mapping[int, str] | None, number: int) -> str | None:
    return groups if groups is None or isinstance(groups, str) else groups.get(number)


class _UnreadableError(VideoError):
    """A file is damaged, too large, or no image. Other sequences can still be scored."""


class _LabelReader:
    """Reads the PNGs of one folder, which must all encode object numbers in the same way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kind: tuple[str, str] | None = None  # the kind and the name of the first file
        self.colours: dict[int, tuple[tuple[int, ...], str]] = {}  # by number: colour, and first file with it

    def read(self, name: str) -> tuple[np.ndarray, list[int]]:
        """Read a file's labels, uint8 (height, width), and list its numbers other than 0.

        Raises:
            VideoError: if the file is in colour, or has another kind or palette than the files before; an
                `_UnreadableError` if it cannot be decoded.
        """
        path = self._folder / name
        try:
            pixels = read_mask_pixels(path)
        except (VideoError, OSError) as error:
            raise _UnreadableError(str(error)) from error
        if pixels.mode not in KINDS:
            raise VideoError(
                f"'{path}' is {pixels.mode}, but object numbers are wanted: an indexed or greyscale PNG of 8 bits. "
                "Colours are not taken for numbers; if they are DAVIS's, convert the file: "
                "write_indexed_png(path, read_indexed_png(path)), both in efficienttam_hf.mask_io. For other values "
                "give read_indexed_png a MaskCoding (binary, a threshold, or a map from colour to id)."
            )
        kind, first = self._kind = self._kind or (KINDS[pixels.mode], name)
        if KINDS[pixels.mode] != kind:
            raise VideoError(
                f"'{self._folder}' mixes kinds of PNG: '{first}' is {kind}, '{name}' {KINDS[pixels.mode]}. Write "
                "all frames alike, so that numbers mean the same in each."
            )
        labels = pixels.values.astype(np.uint8)
        numbers = numbers_in(labels)
        self._check_palette(name, pixels.used_colors)
        if (reason := why_not_ids(pixels)) is not None:
            raise VideoError(
                f"'{path}' {reason}. Such values are not object numbers. Convert the files: write_indexed_png(path, "
                "read_indexed_png(path, coding)), both in efficienttam_hf.mask_io, where coding says what the values "
                "mean: MaskCoding(binary=True), a threshold, or a map from colour to id."
            )
        return labels, numbers

    def check_order(self, truth: _LabelReader) -> None:
        """Raise VideoError if all files have the colours of the annotations, but under other numbers."""
        number_of = {colour: number for number, (colour, _) in truth.colours.items()}
        for number, (colour, name) in self.colours.items():
            if number_of.get(colour, number) != number:
                raise VideoError(
                    f"'{self._folder}' has another order of colours than the annotation: in '{name}' the colour "
                    f"{colour} is number {number}, in '{truth.colours[number_of[colour]][1]}' of the annotation it is "
                    f"number {number_of[colour]}. A palette that was sorted anew loses the object numbers; write files "
                    "with the annotation's palette, or read them with a map from colour to id (MaskCoding)."
                )

    def _check_palette(self, name: str, colours: Mapping[int, tuple[int, ...]]) -> None:
        """Raise an error if a number changes its colour, as when a tool sorts the palette of each file."""
        for number, colour in colours.items():
            if number == 0:
                continue
            known, first = self.colours.setdefault(number, (colour, name))
            if colour != known:
                raise VideoError(
                    f"'{self._folder}' mixes palettes: number {number} has the colour {known} in '{first}' and "
                    f"{colour} in '{name}'. Write all frames with one palette, such as DAVIS's, so that a number is "
                    "the same object in each."
                )


def _listed(names: Iterable) -> str:
    """Join the first few names."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown

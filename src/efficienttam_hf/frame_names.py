"""Chooses which images of a folder are the frames of a video, and orders them.

The order is the one in which a person reads the names: by all their numbers, the leftmost first. Where only one number
changes it is the number of the frame, and a gap in it is a missing file. Where several change, they are either a time
of day (``12-00-50``, ``12-01-00``) or leave room for doubt, and are refused then: two videos in one folder look alike.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, islice, pairwise
from pathlib import Path

from ._media import VideoError


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
_WAY_OUT = "name frames by number, such as 00000.jpg, 00001.jpg, and keep one video's frames in one folder."


def list_frames(folder: Path) -> list[Path]:
    """The images of a folder in the order of their numbers, which must be evenly spaced unless they are times of day.

    Raises:
        VideoError: there are no images, a name has no number, two names have the same, the order is open to doubt, or
            numbers are missing.
    """
    entries = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        found = f"it holds {len(entries)} other files, such as '{entries[0].name}'" if entries else "it is empty"
        raise VideoError(f"The folder '{folder}' has no images ({found}); accepted are {', '.join(IMAGE_SUFFIXES)}.")
    if len(files) == 1:
        return files

    groups: dict[Path, list[str]] = {}
    for file in files:
        groups[file] = re.findall(r"\d+", file.stem)
        if not groups[file]:
            raise VideoError(
                f"'{file}' has no frame number in its name, so its place in the video is unknown; "
                "name frames by number, such as 00000.jpg, 00001.jpg."
            )
    place = _frame_number_group(groups)
    if place is None:
        return _in_order_of_time(folder, groups)

    numbered: dict[int, Path] = {}
    for file in files:
        number = int(groups[file][place])
        other = numbered.setdefault(number, file)
        if other is not file:
            raise VideoError(
                f"'{other.name}' and '{file.name}' in '{folder}' both have the frame number {number}; "
                "keep one video's frames in one folder."
            )
    _check_spacing(folder, numbered, place)
    return [numbered[n] for n in sorted(numbered)]


def _frame_number_group(groups: dict[Path, list[str]]) -> int | None:
    """Which of the numbers in the names is that of the frame, counted from the left or (-1) the last; None if unclear.

    It is the only one that changes; or the last, if the frames are in the same order by it as by all numbers.
    """
    texts = {tuple(re.split(r"\d+", file.stem)) for file in groups}
    if len(texts) == 1:
        columns = list(zip(*groups.values(), strict=True))
        changing = [place for place, column in enumerate(columns) if len(set(map(int, column))) > 1]
        if len(changing) <= 1:
            return changing[0] if changing else -1
    by_last = sorted(groups, key=lambda file: int(groups[file][-1]))
    last = [int(groups[file][-1]) for file in by_last]
    if len(texts) > 1 and len(set(map(len, groups.values()))) == 1 and len(groups[by_last[0]]) == 1:
        return -1  # the only number, whatever the words around it
    if len(set(last)) == len(last) and by_last == sorted(groups, key=_natural):
        return -1
    return None


def _natural(file: Path) -> list[tuple[int, int, str]]:
    """A key that sorts names as a person does: numbers by their value, the rest as text."""
    parts = re.split(r"(\d+)", file.stem)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _in_order_of_time(folder: Path, groups: dict[Path, list[str]]) -> list[Path]:
    """Names with the time of day, in order of time.

    Raises:
        VideoError: they have none, so that it is not known what their numbers mean.
    """
    files = sorted(groups, key=_natural)
    texts = {tuple(re.split(r"\d+", file.stem)) for file in files}
    columns = list(zip(*(groups[file] for file in files), strict=False))
    if len(texts) == 1 and _is_time(columns):
        for first, second in pairwise(files):
            if [*map(int, groups[first])] == [*map(int, groups[second])]:
                raise VideoError(
                    f"'{first.name}' and '{second.name}' in '{folder}' both have the same numbers; "
                    "keep one video's frames in one folder."
                )
        return files
    first, second = _in_doubt(files, groups)
    raise VideoError(
        f"The order of the images in '{folder}' is open to doubt: their names differ in more than one number, as in "
        f"'{first.name}' and '{second.name}'. To be read as a video, {_WAY_OUT}"
    )


def _is_time(columns: list[tuple[str, ...]]) -> bool:
    """Whether what changes in the names is a time of day, perhaps with a date before it and a fraction after it."""

    def within(column: tuple[str, ...], digits: tuple[int, ...], least: int, most: int) -> bool:
        return all(len(value) in digits and least <= int(value) <= most for value in column)

    changing = [place for place, column in enumerate(columns) if len(set(map(int, column))) > 1]
    for hour in range(len(columns) - 2):
        hours, minutes, seconds = columns[hour : hour + 3]
        if not (within(hours, (2,), 0, 23) and within(minutes, (2,), 0, 59) and within(seconds, (2,), 0, 60)):
            continue
        first, last = hour, hour + 2
        if hour >= 3 and within(columns[hour - 3], (4,), 1900, 2999) and within(columns[hour - 2], (2,), 1, 12):
            first = hour - 3 if within(columns[hour - 1], (2,), 1, 31) else first
        elif hour >= 1 and within(columns[hour - 1], (8,), 1900_00_00, 2999_99_99):
            first = hour - 1
        if last + 1 < len(columns) and len(set(map(len, columns[last + 1]))) == 1:
            last += 1  # a fraction of a second, of a constant number of digits
        if first <= changing[0] and changing[-1] <= last:
            return True
    # 20260131_235959: the date and the time as one number each, perhaps with a fraction after them.
    for date in range(len(columns) - 1):
        if within(columns[date], (8,), 1900_00_00, 2999_99_99) and all(map(_is_clock, columns[date + 1])):
            last = date + 1
            if last + 1 < len(columns) and len(set(map(len, columns[last + 1]))) == 1:
                last += 1
            return date <= changing[0] and changing[-1] <= last
    return False


def _is_clock(digits: str) -> bool:
    return len(digits) == 6 and int(digits[:2]) < 24 and int(digits[2:4]) < 60 and int(digits[4:]) <= 60


def _in_doubt(files: list[Path], groups: dict[Path, list[str]]) -> tuple[Path, Path]:
    """Two files that show best what is unclear: neighbours whose last number does not grow, else the first two."""
    for first, second in pairwise(files):
        if int(groups[first][-1]) >= int(groups[second][-1]):
            return first, second
    return files[0], files[1]


def _check_spacing(folder: Path, numbered: dict[int, Path], place: int) -> None:
    """Refuse gaps in the numbers, and name some of the missing files.

    Raises:
        VideoError: the numbers are not evenly spaced.
    """
    numbers = sorted(numbered)
    steps = Counter(b - a for a, b in pairwise(numbers))
    if len(steps) == 1 or _are_clocks(numbered, place):
        return
    stride = max(steps, key=lambda step: (steps[step], -step))
    before, after = next((a, b) for a, b in pairwise(numbers) if b - a != stride)
    # Counted, not listed: a file named after the second it was made in is ten digits away from one named 0.
    gaps = [range(a + stride, b, stride) for a, b in pairwise(numbers)]
    missing = sum(max(0, -(-(gap.stop - gap.start) // stride)) for gap in gaps)
    example = numbered[numbers[0]]
    shown = ", ".join(_numbered_like(example, n, place) for n in islice(chain.from_iterable(gaps), 5))
    more = f" and {missing - 5} more" if missing > 5 else ""
    raise VideoError(
        f"The frames in '{folder}' are not evenly numbered: '{numbered[before].name}' is followed by "
        f"'{numbered[after].name}', while frames elsewhere are {stride} apart"
        + (f". Missing: {shown}{more}. Add the missing frames" if missing else "")
        + ", or number the frames without gaps."
    )


def _are_clocks(numbered: dict[int, Path], place: int) -> bool:
    """Whether the numbers are times of day after a date (``IMG_20260131_235959``), which need not be evenly spaced."""
    for file in numbered.values():
        groups = re.findall(r"\d+", file.stem)
        at = place % len(groups)
        if not at or not _is_clock(groups[at]) or not re.fullmatch(r"(19|2\d)\d\d[01]\d[0-3]\d", groups[at - 1]):
            return False
    return True


def _numbered_like(example: Path, number: int, place: int) -> str:
    digits = list(re.finditer(r"\d+", example.stem))[place]
    before, after = example.stem[: digits.start()], example.stem[digits.end() :]
    return f"{before}{number:0{len(digits.group())}d}{after}{example.suffix}"

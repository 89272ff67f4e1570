"""Interprets the pixel values of an annotation image: as object ids if that is possible, or as the user defines them.

Annotation images have many forms, and most of them can be decoded to *some* small integers. If these were used as
object ids, a mask with soft edges would have dozens of objects, and in a file with a reordered palette the background
would be an object. So values are only used as ids if there is no sign against it. If there is one, :func:`labels_of`
refuses the file and says what to do. With a :class:`MaskCoding`, the user defines the meaning: one object, a threshold,
or a map from colours to ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ._media import VideoError


__all__ = ["MaskCoding", "MaskPixels", "davis_palette", "labels_of", "why_not_ids"]

VOID = 255  # the id of unannotated pixels in DAVIS, and in most datasets after it
LEAST_GREY_LEVEL = 32  # beside the value 255, smaller values can be ids, and larger ones are levels of grey
Color = tuple[int, int, int]
Pixels = np.ndarray


@lru_cache(maxsize=1)
def _davis() -> np.ndarray:
    """Return the colours of DAVIS as a read-only array, which is computed once."""
    indices = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        palette[:, channel] |= ((indices >> bit) & 1) << place
    palette.flags.writeable = False
    return palette


def davis_palette() -> np.ndarray:
    """Return the colours of DAVIS (and PASCAL VOC) annotations: uint8 ``(256, 3)`` RGB; row 0 is the black background.

    The bits of an index, from the lowest, go to red, green and blue in turn, and fill each of them from its highest
    bit.
    """
    return _davis().copy()


@dataclass(frozen=True)
class MaskCoding:
    """The meaning of the values of annotation images that are not object ids.

    Attributes:
        binary: everything except the background is object 1. Background is 0 or, in an image of a few colours, black.
            With soft edges and levels of grey, object 1 is at least half as bright as the brightest value; in an alpha
            channel, at least half opaque.
        threshold: values of at least this are object 1: the brightness from 0 to 255 (to 65535 with 16 bits), or the
            alpha channel if it contains the mask. It implies `binary`.
        colors: the object id of each RGB colour; a grey value may be given as one number. Black is the background
            unless it is listed, and id 255 is void. Colours that are not listed are an error.
    """

    binary: bool = False
    threshold: int | None = None
    colors: Mapping[Color, int] | None = None

    @classmethod
    def of(
        cls, binary: bool = False, threshold: int | None = None, colors: Mapping[Any, int] | str | None = None
    ) -> MaskCoding | None:
        """Make a coding from options as users write them.

        Args:
            binary, threshold: see the class.
            colors: a mapping whose keys are RGB tuples, numbers, ``"#ff0000"`` or ``"255,0,0"``; or one text,
                ``"#ff0000=1 0,255,0=2"``.

        Returns:
            The coding; `None` if there are no options.

        Raises:
            VideoError: if a colour or an id is not valid, or options contradict each other.
        """
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 1):
            raise VideoError(f"The threshold of masks must be a whole number of at least 1, got {threshold!r}.")
        if colors is not None and (binary or threshold is not None):
            raise VideoError("Masks are read with a map of colours, or as one object (binary, threshold); give one.")
        if colors is not None:
            return cls(colors=_parsed_colors(colors))
        return cls(bool(binary), threshold) if binary or threshold is not None else None


def _parsed_colors(colors: Mapping[Any, int] | str) -> dict[Color, int]:
    """Convert the colours of an option to ids by RGB colour, or raise VideoError."""
    if isinstance(colors, str):
        pairs: list[tuple[Any, Any]] = []
        for part in colors.split():
            color, equals, given = part.rpartition("=")
            if not equals:
                raise VideoError(f"A colour of masks is written colour=id, such as #ff0000=1, got {part!r}.")
            pairs.append((color, given))
    elif isinstance(colors, Mapping):
        pairs = list(colors.items())
    else:
        raise VideoError(f"Colours of masks are a mapping from colour to object id, got {type(colors).__name__}.")
    found: dict[Color, int] = {}
    for color, given in pairs:
        number: Any = int(given) if isinstance(given, str) and given.isdecimal() else given
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 255:
            raise VideoError(f"The id of the colour {color!r} must be a whole number from 0 to 255, got {number!r}.")
        found[_parsed_color(color)] = number
    if not found:
        raise VideoError("The map of colours of masks is empty; give at least one colour and its object id.")
    return found


def _parsed_color(color: Any) -> Color:
    """Convert one colour of an option to RGB, or raise VideoError."""
    values: Any = color
    if isinstance(color, str):
        if match := re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", color.strip()):
            values = tuple(int(part, 16) for part in match.groups())
        else:
            parts = color.split(",")
            values = tuple(int(part) for part in parts) if all(p.strip().isdecimal() for p in parts) else ()
    if isinstance(values, int) and not isinstance(values, bool):
        values = (values,)
    if isinstance(values, tuple | list) and len(values) == 1:
        values = (values[0],) * 3
    if (
        not isinstance(values, tuple | list)
        or len(values) != 3
        or not all(isinstance(v, int | np.integer) and 0 <= v <= 255 for v in values)
    ):
        raise VideoError(f"{color!r} is not a colour; accepted are #rrggbb, r,g,b or a grey value, from 0 to 255.")
    return int(values[0]), int(values[1]), int(values[2])


@dataclass(frozen=True)
class MaskPixels:
    """A decoded annotation image.

    Attributes:
        name: the name of its file, for messages.
        mode: Pillow's name of its mode: ``P``, ``L``, ``1``, ``I;16``, ``RGB``, ...
        values: indices or grey values ``(height, width)``, or uint8 RGB ``(height, width, 3)``.
        palette: the palette of indices, uint8 ``(256, 3)``; otherwise `None`.
        alpha: the alpha channel, uint8 ``(height, width)``; `None` if there is none.
        lossy: whether its format changes values, as JPEG does.
    """

    name: str
    mode: str
    values: np.ndarray
    palette: np.ndarray | None = None
    alpha: np.ndarray | None = None
    lossy: bool = False

    @property
    def used_colors(self) -> dict[int, Color]:
        """The colour of every index that occurs in a palette image."""
        if self.palette is None:
            return {}
        numbers = np.flatnonzero(np.bincount(self.values.ravel(), minlength=256))
        return {int(n): (int(r), int(g), int(b)) for n, (r, g, b) in zip(numbers, self.palette[numbers], strict=True)}


def labels_of(pixels: MaskPixels, coding: MaskCoding | None = None) -> np.ndarray:
    """Return the object ids of an annotation image.

    Args:
        pixels: the decoded image.
        coding: the meaning of its values; `None` if they are ids.

    Returns:
        uint8 ``(height, width)``.

    Raises:
        VideoError: if its values cannot be ids and `coding` does not define their meaning, or a colour is not listed.
    """
    if coding is not None and coding.colors is not None:
        return _by_color(pixels, coding.colors)
    if coding is not None and coding.threshold is not None:
        if coding.threshold > (65535 if _is_wide(pixels) else 255):
            raise VideoError(f"No value of '{pixels.name}' can reach the threshold {coding.threshold}.")
        return (_brightness(pixels) >= coding.threshold).astype(np.uint8)
    labels, reason = _as_ids(pixels)
    if reason is None:
        if coding is None or not coding.binary:
            return labels
        numbers = np.unique(labels)
        if numbers.size and numbers[-1] == VOID and not numbers[:-1].any():  # 0 and 255 in a palette image
            return (labels == VOID).astype(np.uint8)
        return np.where(labels == VOID, VOID, labels > 0).astype(np.uint8)
    if coding is not None and coding.binary:
        if (colors := _few_colors(pixels)) is not None:
            return np.asarray(colors.any(axis=2), np.uint8)
        brightness = _brightness(pixels)
        return (2 * brightness.astype(np.int64) >= max(1, int(brightness.max()))).astype(np.uint8)
    raise VideoError(f"'{pixels.name}' {reason}. {WAY_OUT}")


WAY_OUT = (
    "Such values are not object ids. Save masks as indexed PNGs, or say what the values mean: as one object (binary, "
    "or a threshold), or by a map from colour to id (colors)."
)


LOSSY = "is in a lossy format that changes values, as JPEG does"


def why_not_ids(pixels: MaskPixels) -> str | None:
    """Return a phrase without subject that says why an image's values cannot be object ids; `None` if they can."""
    return _as_ids(pixels)[1]


def _as_ids(pixels: MaskPixels) -> tuple[np.ndarray, str | None]:
    """Return the values as ids, and the reason against it, if there is one."""
    values, nothing = pixels.values, np.zeros((0, 0), np.uint8)
    if pixels.alpha is not None and (reason := _alpha_reason(pixels)):
        return nothing, reason
    if pixels.palette is not None:
        return values, _palette_reason(pixels)
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            return (nothing, LOSSY) if pixels.lossy else _davis_ids(values)
        values = values[..., 0]
    numbers = np.unique(values)
    if len(numbers) <= 2 and numbers[-1] in (255, 65535) and numbers[0] in (0, numbers[-1]):
        return (values > 0).astype(np.uint8), None
    if pixels.mode == "1":
        return values.astype(np.uint8), None
    if pixels.lossy:
        if not numbers.any():
            return values.astype(np.uint8), None
        return nothing, LOSSY
    if numbers[0] < 0 or numbers[-1] > 255:
        return nothing, f"has labels from {numbers[0]} to {numbers[-1]}, but object ids go from 0 to 255"
    return values.astype(np.uint8), _grey_reason(values.astype(np.uint8), numbers)


def _alpha_reason(pixels: MaskPixels) -> str | None:
    """Return the reason if the mask is in the alpha channel, else `None`."""
    assert pixels.alpha is not None
    transparent = pixels.alpha < 255
    if not transparent.any():
        return None
    values = pixels.values if pixels.values.ndim == 3 else pixels.values[..., None]
    # A background that is also transparent is no contradiction. Other transparency means that alpha contains the mask.
    if not values[transparent].any() and ((pixels.alpha == 0) | ~transparent).all() and values[~transparent].any():
        return None
    return "has an alpha channel that varies, so that the mask is there and not in its colours"


def _palette_reason(pixels: MaskPixels) -> str | None:
    """Return the reason why the indices of a palette image cannot be ids, or `None`."""
    assert pixels.palette is not None
    used, davis = pixels.used_colors, _davis()
    colors = np.array(list(used.values()), dtype=np.int64)
    if all(tuple(davis[i]) == color for i, color in used.items()):
        return _soft_reason(pixels.values, np.array(list(used)), sparse=True)
    black = next((i for i, color in used.items() if i and not any(color)), None)
    if black is not None and any(used.get(0, ())):
        return (
            f"has a palette that was sorted anew: index 0 is the colour {used[0]}, and black, the background, is index "
            f"{black}"
        )
    known = {tuple(color): index for index, color in enumerate(davis.tolist())}
    if len(used) > (0 in used) and all(color in known for color in used.values()):
        wrong = next(i for i, color in used.items() if known[color] != i)
        return (
            f"has a palette that was sorted anew: its colours are those of DAVIS, but {used[wrong]}, which is object "
            f"{known[used[wrong]]} there, is index {wrong}"
        )
    if (colors == colors[:, :1]).all():  # a greyscale image that was stored with a palette
        grey = pixels.palette[pixels.values][..., 0]
        return _soft_reason(grey, np.unique(grey), sparse=False)
    interior = _extremes(pixels.values)
    solid = np.unique(pixels.values[interior[0] == interior[1]])
    if len(used) >= 12 and len(solid) < len(used) / 3:
        return f"has {len(used)} colours, most of which occur on edges only, as smooth scaling or a photo makes them"
    return None


def _grey_reason(values: np.ndarray, numbers: np.ndarray) -> str | None:
    """Return the reason why grey values cannot be ids, or `None`."""
    between = numbers[(numbers > 0) & (numbers < VOID)]
    if numbers[-1] == VOID and len(between) and between[0] >= LEAST_GREY_LEVEL:
        shown = ", ".join(map(str, numbers[:6])) + (" ..." if len(numbers) > 6 else "")
        return f"has the values {shown}, which are levels of grey"
    return _soft_reason(values, numbers, sparse=False)


def _soft_reason(values: np.ndarray, numbers: np.ndarray, sparse: bool) -> str | None:
    """Return a reason if most values only occur between a lower and a higher value, as after smooth resizing.

    Args:
        values: uint8 (height, width).
        numbers: the values that occur.
        sparse: whether such pixels must in any case be a small fraction of all.
    """
    if values.size < 64 or np.count_nonzero(numbers) < 3:
        return None
    low, high = _extremes(values)
    passing = (low < values) & (values < high)
    of_each = np.bincount(values.ravel(), minlength=256)
    passing_of_each = np.bincount(values[passing], minlength=256)
    soft = [n for n in numbers if n and passing_of_each[n] >= 0.75 * of_each[n]]
    few = passing.mean() < 0.4
    if len(soft) < 2 or len(soft) < np.count_nonzero(numbers) / 2 or not (few or (len(numbers) > 24 and not sparse)):
        return None
    return (
        f"has soft edges: {len(soft)} of its {np.count_nonzero(numbers)} values occur only between a lower and a "
        "higher one, as in masks that were scaled smoothly or saved with losses"
    )


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value in the 3x3 neighbourhood of each pixel, in the shape of `values`."""
    low, high = values, values
    for axis in (0, 1):
        before, after = np.roll(low, 1, axis), np.roll(low, -1, axis)
        first, last = (slice(None),) * axis + (0,), (slice(None),) * axis + (-1,)
        before[first], after[last] = low[first], low[last]
        lower = np.minimum(np.minimum(before, after), low)
        before, after = np.roll(high, 1, axis), np.roll(high, -1, axis)
        before[first], after[last] = high[first], high[last]
        low, high = lower, np.maximum(np.maximum(before, after), high)
    return low, high


def _packed(colors: np.ndarray) -> np.ndarray:
    """Combine RGB to one number per colour, int64."""
    wide = colors.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _davis_ids(values: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Return the ids of RGB pixels in the colours of DAVIS, and the reason against it, if there is one."""
    colors = _packed(_davis())
    order = np.argsort(colors)
    packed = _packed(values)
    place = np.searchsorted(colors[order], packed).clip(0, 255)
    if (colors[order][place] != packed).any():
        shown = values[colors[order][place] != packed][0].tolist()
        return values, (
            f"has colours that are not of the DAVIS palette, such as ({', '.join(map(str, shown))}); palette or "
            "greyscale PNG is accepted"
        )
    return order[place].astype(np.uint8), None


def _by_color(pixels: MaskPixels, colors: Mapping[Color, int]) -> np.ndarray:
    """Return the ids of any kind of image by a map of colours."""
    values = pixels.values
    if pixels.palette is not None:
        values = pixels.palette[values]
    elif values.ndim == 2:
        wide = values.astype(np.int64) * (255 if pixels.mode == "1" else 1)
        if wide.max(initial=0) > 255:
            raise VideoError(f"'{pixels.name}' has values up to {wide.max()}; a map of colours is of 8-bit images.")
        values = np.repeat(wide.astype(np.uint8)[..., None], 3, axis=2)
    table = {0: 0, **{(r << 16) | (g << 8) | b: number for (r, g, b), number in colors.items()}}
    keys = np.array(sorted(table), dtype=np.int64)
    ids = np.array([table[int(key)] for key in keys], dtype=np.uint8)
    packed = _packed(values)
    if pixels.alpha is not None:
        packed = np.where(pixels.alpha < 128, 0, packed)
    place = np.searchsorted(keys, packed).clip(0, len(keys) - 1)
    unknown = keys[place] != packed
    if unknown.any():
        found = np.unique(packed[unknown])
        shown = ", ".join(f"#{int(color):06x}" for color in found[:4]) + (" ..." if len(found) > 4 else "")
        raise VideoError(
            f"'{pixels.name}' has {len(found)} colour{'s' * (len(found) > 1)} that the map does not list: {shown}. "
            "Add them (id 0 is background, 255 void), or save masks without losses and soft edges."
        )
    return ids[place]


def _few_colors(pixels: MaskPixels) -> np.ndarray | None:
    """Return the image as RGB if it has few, not only grey colours, so that black is background; else `None`."""
    values = pixels.values if pixels.palette is None else pixels.palette[pixels.values]
    if values.ndim != 3 or pixels.lossy or (pixels.alpha is not None and _alpha_reason(pixels)):
        return None
    if (values == values[..., :1]).all() or len(np.unique(_packed(values))) > 32:
        return None
    return values


def _is_wide(pixels: MaskPixels) -> bool:
    """Whether an image is greyscale with more than 8 bits."""
    return pixels.palette is None and pixels.values.ndim == 2 and pixels.values.dtype.itemsize > 1


def _brightness(pixels: MaskPixels) -> np.ndarray:
    """Return the brightness of each pixel, or its opacity if the mask is in the alpha channel: ``(height, width)``."""
    if pixels.alpha is not None and _alpha_reason(pixels):
        return pixels.alpha
    values = pixels.values if pixels.palette is None else pixels.palette[pixels.values]
    if values.ndim == 3:
        return values.max(axis=2)
    return values.astype(np.uint8) * 255 if pixels.mode == "1" else values

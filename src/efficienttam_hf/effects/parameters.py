"""Parameters of effects: what each accepts, from Python and from text.

A parameter is a dataclass field with a reader: a function that takes what was given, a value or its text on the command
line, and returns the value. If it is not accepted, the reader raises ``ValueError`` with what is accepted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..safe_names import shown


Color = tuple[int, int, int]

HIGHEST_ID = 2**31 - 1
_TRUTH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def parameter(default: Any, read: Callable[[Any], Any]) -> Any:
    """Return a dataclass field with a reader. If the default is None, None is accepted too."""
    return field(default=default, metadata={"read": read})


def check_parameters(effect: Any, name: str) -> None:
    """Replace each field of a frozen dataclass by what its reader returns.

    Args:
        effect: a dataclass whose fields were made by :func:`parameter`.
        name: the name of the effect for messages.

    Raises:
        ValueError: if a value is not accepted.
    """
    for one in fields(effect):
        value = getattr(effect, one.name)
        if value is None and one.default is None:
            continue
        try:
            object.__setattr__(effect, one.name, one.metadata["read"](value))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"Effect {name}: {one.name} must be {error}, got {shown(value)}.") from error


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(value: Any) -> int:
        text = isinstance(value, str) and value.strip().removeprefix("-").isdecimal()
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not (text or is_whole) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return read


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a reader of finite numbers from ``low`` to ``high``."""

    def read(value: Any) -> float:
        try:
            given = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            given = math.nan
        if not low <= given <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return given

    return read


def truth(value: Any) -> bool:
    """Read True or False; as text: yes or no."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise ValueError("yes or no")


def one_of(*names: str) -> Callable[[Any], str]:
    """Return a reader of names."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(" or ".join(names))
        return str(value)

    return read


def object_ids(value: Any) -> tuple[int, ...]:
    """Read object ids: a text such as 1+3 or, in Python, any iterable. The result is sorted, without duplicates."""
    if isinstance(value, str):
        value = value.split("+")
    elif isinstance(value, int | np.integer):
        value = [value]
    read = whole(0, HIGHEST_ID)
    try:
        given = sorted({read(one) for one in value}) if isinstance(value, Iterable) else []
    except ValueError:
        given = []
    if not given:
        raise ValueError("object ids, joined by + as in 1+3")
    return tuple(given)


def color(value: Any) -> Color:
    """Read a colour: red, green and blue from 0 to 255, or a text such as #00b140 or a CSS name."""
    accepted = "a colour such as #00b140, white or (0, 177, 64)"
    if isinstance(value, str):
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(value)[:3]
        except ValueError as error:
            raise ValueError(accepted) from error
    read = whole(0, 255)
    try:
        red, green, blue = (read(one) for one in value)
    except (TypeError, ValueError) as error:
        raise ValueError(accepted) from error
    return red, green, blue


def picture(value: Any) -> np.ndarray:
    """Read a picture: uint8 ``(height, width, 3)`` RGB, or the path of an image file, which is decoded."""
    from ..image_io import read_image

    if isinstance(value, str | os.PathLike):
        try:
            return read_image(Path(value))
        except (OSError, ValueError) as error:
            raise ValueError(f"an image file that can be read ({str(error).rstrip('.')})") from error
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ValueError("the path of an image, or a uint8 array of shape (height, width, 3) in RGB")
    if value.size == 0:
        raise ValueError("a picture of at least one pixel")
    return value

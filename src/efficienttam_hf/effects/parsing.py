"""Effects as text: ``NAME`` or ``NAME:key=value,key=value``, as in ``pixelate:objects=1+3,grow=8``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..safe_names import shown
from .background import BlackAndWhite, BlurBackground, Cutout, GreenScreen, ReplaceBackground
from .effect import Effect
from .hiding import Blur, Fill, Pixelate
from .highlighting import Outline, Overlay, Spotlight


# By name, in the order in which they are documented.
EFFECTS: dict[str, type[Effect]] = {
    effect.name: effect
    for effect in (
        Overlay,
        Outline,
        Spotlight,
        BlurBackground,
        ReplaceBackground,
        GreenScreen,
        Cutout,
        BlackAndWhite,
        Pixelate,
        Blur,
        Fill,
    )
}


def parse_effect(text: str) -> Effect:
    """Make an effect from text.

    Args:
        text: the name of the effect; after a colon, parameters as ``key=value``, separated by commas. The path of an
            image may contain commas, equals signs and colons.

    Raises:
        ValueError: if the name, a parameter or a value is not accepted.
    """
    name, colon, rest = text.partition(":")
    if name not in EFFECTS:
        raise ValueError(f"There is no effect {shown(name)}; accepted are {', '.join(EFFECTS)}.")
    names = [one.name for one in fields(EFFECTS[name])]
    given: dict[str, Any] = {}
    last = ""
    for piece in rest.split(",") if colon else ():
        key, equals, value = piece.partition("=")
        if last == "image" and key not in names:  # the rest of a path with a comma
            given[last] += f",{piece}"
            continue
        if not equals or key not in names:
            raise ValueError(
                f"Effect {name} has no parameter {shown(piece if not equals else key)}; accepted are "
                f"{', '.join(f'{one}=' for one in names)} separated by commas."
            )
        if key in given:
            raise ValueError(f"Effect {name}: {key} is given twice; give it once.")
        given[key] = value
        last = key
    return EFFECTS[name](**given)

"""The range checks of option dataclasses: one message for all of them."""

from __future__ import annotations

import math
from typing import Any

from ..safe_names import shown


__all__ = ["check_range"]


def check_range(options: Any, *names: str, least: float = 0, most: float = math.inf) -> None:
    """Check fields of `options` that are numbers; `None` passes.

    Raises:
        ValueError: a value below `least` or above `most`; the message has the field's name.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            accepted = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            raise ValueError(f"`{name}` must be {accepted}, got {shown(value)}.")

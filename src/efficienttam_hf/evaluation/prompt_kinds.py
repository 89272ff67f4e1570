"""The names of the prompts that an evaluation can use."""

from __future__ import annotations

from typing import Literal, get_args


__all__ = ["PROMPTS", "Prompt", "check_prompt"]

Prompt = Literal["mask", "box", "1-click", "3-click", "5-click"]
PROMPTS: tuple[str, ...] = get_args(Prompt)


def check_prompt(prompt: str) -> None:
    """Raise ValueError if there is no such prompt."""
    if prompt not in PROMPTS:
        raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, got {prompt!r}.")

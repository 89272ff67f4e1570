"""Object competition: resolves overlapping masks of several objects.

Each object is tracked independently, so the masks of two objects can end on the same thing. With
`TrackingRules.object_competition` they compete on every frame on which they are tracked, by the rules of SAM 3's video
model. If two masks are nearly the same, the object that was hidden more recently loses its mask. Then each pixel goes
to the object with the highest logit, and a mask that keeps only a small part of its area is dropped. Masks that come
from prompts do not change.

- `"none"`: as published; masks may overlap.
- `"shown"`: the masks of the output are resolved; the masks in memory are not.
- `"remembered"`: the masks are resolved before they enter memory.

This file uses no tensor library.
"""

from __future__ import annotations

import numpy as np


__all__ = ["COMPETITIONS", "NEVER", "check_competition", "compete"]


COMPETITIONS = ("none", "shown", "remembered")
NEVER = -np.inf  # the value of `hidden_at` for an object that was never hidden
SAME_IOU, LEAST_LEFT = 0.7, 0.3  # SAM 3's values
BACKGROUND = -10.0  # upper bound of an object's logits on pixels that it loses, as in the published rule


def check_competition(name: str) -> str:
    """Check the name of a competition and return it.

    Raises:
        ValueError: if there is no such competition.
    """
    if name not in COMPETITIONS:
        raise ValueError(f"There is no object competition {name!r}; choose one of {', '.join(COMPETITIONS)}.")
    return name


def compete(
    logits: np.ndarray,
    hidden_at: np.ndarray,
    stands: np.ndarray,
    same_iou: float = SAME_IOU,
    least_left: float = LEAST_LEFT,
) -> np.ndarray:
    """Resolve the overlapping masks of objects on one frame.

    Args:
        logits: (N, h, w) float32 mask logits.
        hidden_at: (N,) the last time at which each object was hidden, as a number that grows in the direction of
            tracking; `NEVER` if it was never hidden.
        stands: (N,) bool, true for masks that must not change.
        same_iou: masks with at least this IoU count as the same.
        least_left: a mask that keeps less than this fraction of its area is dropped.

    Returns:
        (N, h, w) logits; an object's logits are at most `BACKGROUND` on the pixels that it loses.
    """
    masks = logits > 0
    areas = masks.sum(axis=(1, 2))
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    shared = flat @ flat.T
    union = areas[:, None] + areas - shared
    same = (shared >= same_iou * union) & (union > 0)
    gives_way = (same & (hidden_at[:, None] > hidden_at)).any(axis=1) & ~stands

    claims = masks & ~gives_way[:, None, None]
    won = _highest(logits, claims, stands)
    dropped = (won.sum(axis=(1, 2)) < least_left * areas) & ~stands
    won = _highest(logits, claims & ~dropped[:, None, None], stands)
    return np.where(won | ~masks, logits, np.minimum(logits, BACKGROUND)).astype(logits.dtype)


def _highest(logits: np.ndarray, claims: np.ndarray, stands: np.ndarray) -> np.ndarray:
    """The claimed pixels that each object keeps: all of them if its mask stands, else those with the highest logit."""
    fixed = stands[:, None, None]
    order = np.where(claims, np.where(fixed, np.inf, logits), -np.inf)
    is_highest = order.argmax(axis=0) == np.arange(len(logits))[:, None, None]
    return claims & (fixed | is_highest)

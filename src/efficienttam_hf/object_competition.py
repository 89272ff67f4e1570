"""Object competition: resolves overlapping masks of several objects.

Objects are tracked by themselves, so two of them can end on the same thing. With `TrackingRules.object_competition`
they compete on every frame on which they are tracked, by the rules of SAM 3's video model: of two masks that are nearly
the same, the object that was hidden more recently gives way; then each pixel goes to the highest logit, and a mask that
is left with little of itself is dropped. Masks from prompts are a user's word and stand.

- `"none"`: as published; masks may overlap.
- `"shown"`: what is put out is decided like this, what is remembered is not.
- `"remembered"`: masks are decided first, then remembered.

Nothing here uses a tensor library.
"""

from __future__ import annotations

import numpy as np


__all__ = ["COMPETITIONS", "NEVER", "check_competition", "compete"]


COMPETITIONS = ("none", "shown", "remembered")
NEVER = -np.inf  # when an object was hidden that never was
SAME_IOU, LEAST_LEFT = 0.7, 0.3  # SAM 3's numbers
BACKGROUND = -10.0  # logits of pixels that an object does not get are at most that, as in the published rule


def check_competition(name: str) -> str:
    """The name, if it is one.

    Raises:
        ValueError: for another.
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
    """Decide between the masks of objects on one frame.

    Args:
        logits: (N, h, w) float32; above 0 is the object.
        hidden_at: (N,) when each object was hidden last, growing in the direction of tracking; `NEVER` if it never was.
        stands: (N,) bool, masks that are not to be changed.
        same_iou: masks of at least this IoU are the same.
        least_left: a mask with less than this part of its area left is dropped.

    Returns:
        (N, h, w) logits; of pixels that an object does not get they are at most `BACKGROUND`.
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
    """The pixels that each object gets of those it claims: where it stands, or its logit is the highest."""
    fixed = stands[:, None, None]
    order = np.where(claims, np.where(fixed, np.inf, logits), -np.inf)
    is_highest = order.argmax(axis=0) == np.arange(len(logits))[:, None, None]
    return claims & (fixed | is_highest)

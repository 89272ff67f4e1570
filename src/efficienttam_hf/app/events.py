"""The frames on which objects were lost and found again, and a plot of their probabilities over time.

An object is seen on a frame if its mask is not empty. It is lost on the first frame on which it is no longer seen, and
found on the first frame on which it is seen again. `score` is the probability that the object is in the frame. If a
model always predicts that the object is present, there are no events, even if the masks are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path


__all__ = ["LossWatch", "object_events", "write_timeline"]


LABEL, ROW, WIDTH, MARGIN = 90, 60, 900, 12  # sizes in pixels: width of names, height of a row, width of curves, gap


def object_events(frames: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The events of a video.

    Args:
        frames: entries of `masks.json`, ascending.

    Returns:
        The events in the order of frames: `{"frame", "object", "kind", "score"}`; the kind is "lost" or "found".
    """
    seen: dict[int, bool] = {}
    events = []
    for frame in frames:
        for entry in frame["objects"]:
            object_id, is_seen = entry["id"], entry["area"] > 0
            if seen.get(object_id, is_seen) != is_seen:
                kind = "found" if is_seen else "lost"
                events.append({"frame": frame["frame"], "object": object_id, "kind": kind, "score": entry["score"]})
            seen[object_id] = is_seen
    return events


class LossWatch:
    """Detects lost objects during tracking, in either direction."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._last: int | None = None

    def lost(self, frame: int, seen: Mapping[int, bool]) -> list[int]:
        """Return the objects that are lost on a frame.

        Args:
            frame: the number of the frame. If it does not follow the last one, tracking has started again.
            seen: whether each object is seen, by object id.
        """
        if self._last is None or abs(frame - self._last) != 1:
            self._seen.clear()
        self._last = frame
        lost = [object_id for object_id, is_seen in seen.items() if not is_seen and object_id in self._seen]
        self._seen = {object_id for object_id, is_seen in seen.items() if is_seen}
        return lost


def write_timeline(path: Path, frames: Iterable[Mapping[str, Any]], names: Mapping[int, str] | None = None) -> None:
    """Draw the scores of each object over the frames as a PNG. The background is grey where an object is not seen.

    Args:
        path: the path of the PNG.
        frames: entries of `masks.json`, ascending.
        names: what to call objects, by id.
    """
    from PIL import Image, ImageDraw

    from ..visualization import object_color, plain_text

    curves: dict[int, list[tuple[int, float, bool]]] = {}
    for frame in frames:
        for entry in frame["objects"]:
            curves.setdefault(entry["id"], []).append((frame["frame"], entry["score"], entry["area"] > 0))
    first = min(curve[0][0] for curve in curves.values())
    last = max(curve[-1][0] for curve in curves.values())
    step = WIDTH / max(last - first + 1, 1)
    height = MARGIN + len(curves) * (ROW + MARGIN) + 20
    image = Image.new("RGB", (LABEL + WIDTH + 2 * MARGIN, height), "white")
    draw = ImageDraw.Draw(image)
    for row, (object_id, curve) in enumerate(sorted(curves.items())):
        top = MARGIN + row * (ROW + MARGIN)
        name = plain_text((names or {}).get(object_id, ""), most=LABEL // 7) or f"object {object_id}"
        draw.text((MARGIN, top + ROW // 2 - 6), name, fill="black")
        points = []
        for number, score, is_seen in curve:
            left = LABEL + (number - first) * step
            if not is_seen:
                draw.rectangle((left, top, left + step, top + ROW), fill=(215, 215, 215))
            points.append((left + step / 2, top + ROW * (1 - score)))
        draw.line((LABEL, top + ROW / 2, LABEL + WIDTH, top + ROW / 2), fill=(190, 190, 190))
        draw.rectangle((LABEL, top, LABEL + WIDTH, top + ROW), outline=(120, 120, 120))
        if len(points) > 1:
            draw.line(points, fill=object_color(object_id), width=2)
        draw.text((LABEL + WIDTH + 2, top - 2), "1", fill="black")
        draw.text((LABEL + WIDTH + 2, top + ROW - 10), "0", fill="black")
    for tick in _ticks(first, last):
        draw.text((LABEL + (tick - first) * step, height - 18), f"{tick}", fill="black")
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def _ticks(first: int, last: int) -> Iterator[int]:
    """About ten round frame numbers between the first and the last."""
    step = next(
        (s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if (last - first) / s <= 12), (last - first) // 10 or 1
    )
    yield from range(first, last + 1, step)

"""The timeline below the picture: a row for each object, and a picture of each moment at which one is lost.

A row shows where an object is seen, where it is lost, and where it is prompted. Its parts are buttons, which carry the
number of a frame; page.html sends it along when one is clicked. A part clicked with the mouse leads to the place of the
click, and with the keyboard to its first frame. `Timeline` is plain data, and `timeline_html` writes it.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common_ui import object_title
from PIL import Image

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.prompts import Prompts
from efficienttam_hf.visualization import object_color


MOST_PARTS = 60  # of a row; shorter ones are merged, since each is a stop of the Tab key
MOST_MOMENTS = 12  # pictures of lost moments
PICTURE_SIDE = 160  # pixels
SEEN, LOST = "seen", "lost"


@dataclass
class Row:
    """An object on the timeline.

    Attributes:
        parts: (kind, first frame, last frame) of stretches in which the object is `SEEN` or `LOST`, ascending; there is
            none where it was not tracked.
        prompted: the frames with prompts, ascending.
    """

    parts: list[tuple[str, int, int]] = field(default_factory=list)
    prompted: list[int] = field(default_factory=list)


def timeline_rows(seen: Iterable[tuple[int, Mapping[int, bool]]], prompts: Prompts) -> dict[int, Row]:
    """Return the rows of the timeline by object id.

    Args:
        seen: frames of the clip, ascending, and whether each object that has a mask there is seen.
        prompts: prompts by frame and object.
    """
    rows: dict[int, Row] = {}
    for frame, objects in seen:
        for object_id, is_seen in objects.items():
            parts = rows.setdefault(object_id, Row()).parts
            kind = SEEN if is_seen else LOST
            if parts and parts[-1][0] == kind and parts[-1][2] == frame - 1:
                parts[-1] = (kind, parts[-1][1], frame)
            else:
                parts.append((kind, frame, frame))
    for frame, on_frame in sorted(prompts.items()):
        for object_id in on_frame:
            rows.setdefault(object_id, Row()).prompted.append(frame)
    return {object_id: rows[object_id] for object_id in sorted(rows)}


def lost_moments(rows: Mapping[int, Row]) -> list[tuple[int, int]]:
    """Return (frame, object id) of the moments at which an object that was seen is lost, ascending."""
    return sorted(
        (part[1], object_id)
        for object_id, row in rows.items()
        for before, part in zip(row.parts, row.parts[1:], strict=False)
        if part[0] == LOST and before[0] == SEEN and before[2] == part[1] - 1
    )


def timeline_html(rows: Mapping[int, Row], count: int, labels: Mapping[int, str]) -> str:
    """Return the timeline as HTML; it is empty if there are no rows.

    Args:
        rows: see `timeline_rows`.
        count: the number of frames of the clip.
        labels: the labels of objects that have one.
    """
    if not rows:
        return ""
    lines = []
    for object_id, row in rows.items():
        title = object_title(object_id, labels)
        parts = "".join(_part(title, part, count) for part in _merged(row.parts))
        marks = "".join(
            _button(f"{title} is prompted on frame {frame}", frame, "mark", _place(frame, 1, count))
            for frame in row.prompted
        )
        colour = "#{:02x}{:02x}{:02x}".format(*object_color(object_id))
        name = html.escape(title)
        lines.append(
            f'<div class="row" role="group" aria-label="{name}" style="--object:{colour}">'
            f'<span class="name" title="{name}">{name}</span><div class="track">{parts}{marks}</div></div>'
        )
    legend = (
        '<p class="legend"><span class="key seen"></span>seen <span class="key lost"></span>lost '
        '<span class="key mark"></span>prompted · click to go there</p>'
    )
    return f'<div class="timeline" data-count="{count}">{"".join(lines)}{legend}</div>'


def moments_html(moments: Sequence[tuple[int, int, np.ndarray]], more: int, labels: Mapping[int, str]) -> str:
    """Return pictures of lost moments as HTML; it is empty if there are none.

    Args:
        moments: frame, object id, and the picture of the frame, uint8 (height, width, 3) RGB.
        more: the number of further moments, which are not shown.
        labels: the labels of objects that have one.
    """
    if not moments:
        return ""
    pictures = []
    for frame, object_id, picture in moments:
        text = html.escape(f"{object_title(object_id, labels)} is lost on frame {frame}")
        small = resize_image(picture, limited_size(picture.shape[:2], PICTURE_SIDE))
        jpeg = io.BytesIO()
        Image.fromarray(small).save(jpeg, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode('ascii')}"
        pictures.append(
            f'<button type="button" data-frame="{frame}"><img alt="" src="{source}"><span>{text}</span></button>'
        )
    rest = f"<p>{more} more {'is' if more == 1 else 'are'} on the timeline.</p>" if more else ""
    return f'<div class="moments" role="group" aria-label="Lost moments">{"".join(pictures)}</div>{rest}'


def seen_on(record: Mapping[str, Any]) -> dict[int, bool]:
    """Return whether each object of a frame's entry in the JSON file is seen."""
    return {entry["id"]: entry["area"] > 0 for entry in record["objects"]}


def _merged(parts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Join the shortest parts with their predecessors until there are at most `MOST_PARTS`."""
    while len(parts) > MOST_PARTS:
        shortest = min(range(1, len(parts)), key=lambda i: parts[i][2] - parts[i][1])
        kind, first, _ = parts[shortest - 1]
        parts = [*parts[: shortest - 1], (kind, first, parts[shortest][2]), *parts[shortest + 1 :]]
    return parts


def _part(title: str, part: tuple[str, int, int], count: int) -> str:
    kind, first, last = part
    where = f"on frame {first}" if first == last else f"from frame {first} to {last}"
    return _button(f"{title} is {kind} {where}", first, kind, _place(first, last - first + 1, count), last)


def _place(first: int, length: int, count: int) -> str:
    return f"left:{100 * first / count:.3f}%;width:{100 * length / count:.3f}%"


def _button(text: str, frame: int, kind: str, style: str, last: int | None = None) -> str:
    text = html.escape(text)
    end = "" if last is None else f' data-last="{last}"'
    return (
        f'<button type="button" class="{kind}" style="{style}" data-frame="{frame}"{end} '
        f'aria-label="{text}" title="{text}"></button>'
    )

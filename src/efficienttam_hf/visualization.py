"""Draws masks: overlays on frames, and contact sheets of several pictures.

A mask must be visible on any background, such as a red object on a red carpet. So it has a contour in the object's
colour on a dark line. Drawing must not slow down a live preview, so every step works on the bounding box of an object
and in OpenCV; a 720p frame with several objects takes a few milliseconds.

Frames are uint8 RGB, as :mod:`video_io` returns them. OpenCV is imported where it is used.
"""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

import numpy as np

from .prompts import ObjectPrompts


__all__ = ["contact_sheet", "draw_legend", "object_color", "overlay_masks", "plain_text"]

# The hues have the order of the DAVIS palette, but are bright enough for an overlay.
COLORS = (
    (235, 64, 52),  # red
    (60, 190, 75),  # green
    (255, 215, 25),  # yellow
    (50, 115, 245),  # blue
    (225, 60, 220),  # magenta
    (40, 205, 215),  # cyan
    (250, 140, 30),  # orange
    (145, 75, 225),  # purple
    (175, 230, 50),  # lime
    (250, 155, 195),  # pink
    (0, 145, 130),  # teal
    (170, 105, 50),  # brown
)
DARK = (25, 25, 25)
WHITE = (255, 255, 255)
POSITIVE = (30, 170, 60)
NEGATIVE = (220, 40, 40)


def _import_cv2() -> ModuleType:
    """Import OpenCV, or raise ImportError with the name of the extra to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Drawing overlays needs OpenCV: pip install efficienttam-hf[video].") from error
    return cv2


def object_color(object_id: int) -> tuple[int, int, int]:
    """Return the colour of an object. It only depends on the id, and differs between neighbouring ids.

    Returns:
        Red, green and blue, from 0 to 255. The colour is never dark, because black is the background.
    """
    if 1 <= object_id <= len(COLORS):
        return COLORS[object_id - 1]
    # Steps of the golden ratio around the colour wheel keep a distance from recent hues.
    hue = object_id * 0.618033988749895 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.6)[object_id % 2], (0.95, 0.75)[object_id // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay_masks(
    frame: np.ndarray,
    masks: Mapping[int, np.ndarray],
    alpha: float = 0.5,
    contour: bool = True,
    labels: bool | Mapping[int, str] = False,
    points: Sequence[Sequence[float]] | np.ndarray | None = None,
    boxes: Sequence[Sequence[float]] | np.ndarray | None = None,
    prompts: Iterable[ObjectPrompts] = (),
) -> np.ndarray:
    """Draw masks and their prompts on a copy of a frame.

    Args:
        frame: uint8 ``(height, width, 3)``, RGB. It is not changed.
        masks: the mask of each object id, bool ``(height, width)`` (or integers 0 and 1). Empty masks draw nothing; if
            masks overlap, later ones are on top.
        alpha: the opacity of masks, from 0 (invisible) to 1 (opaque).
        contour: whether the outline of each object is drawn.
        labels: whether each object's id is written on it, or the text for each object id.
        points: point prompts ``(n, 3)``: x and y in pixels, and 1 for a positive point (green, plus) or 0 for a
            negative point (red, minus).
        boxes: box prompts ``(n, 4)``: left, top, right and bottom in pixels.
        prompts: prompts of objects, in pixels of the frame, whose points and boxes are drawn too.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        ValueError: if a frame, mask, point or box has another shape or dtype, or ``alpha`` is not from 0 to 1.
        ImportError: if OpenCV is not installed.
    """
    cv2 = _import_cv2()
    frame = checked_image(frame, "The frame")
    height, width = frame.shape[:2]
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 (invisible) and 1 (opaque), got {alpha}.")
    prompts = list(prompts)
    points = [*(() if points is None else points), *(row for given in prompts for row in _point_rows(given))]
    boxes = [*(() if boxes is None else boxes), *(given.box for given in prompts if given.box is not None)]
    point_rows = _checked_rows(points, 3, "points", "x, y and 1 (positive) or 0 (negative)")
    box_rows = _checked_rows(boxes, 4, "boxes", "left, top, right and bottom")
    if not (np.isin(point_rows[:, 2], (0, 1))).all():
        raise ValueError(
            f"The third value of a point is 1 (positive) or 0 (negative), got {point_rows[:, 2].tolist()}."
        )

    image = np.array(frame, order="C")
    line = max(1, round(min(height, width) / 300))  # 2 pixels for 480p and 720p
    cut_outs: list[tuple[int, np.ndarray, int, int]] = []
    for object_id, mask in masks.items():
        cut_out = checked_mask(mask, object_id, height, width)
        left, top, box_width, box_height = cv2.boundingRect(cut_out)
        if box_width and box_height:
            cut_out = cut_out[top : top + box_height, left : left + box_width]
            cut_outs.append((object_id, cut_out, left, top))

    shades = np.arange(256, dtype=np.float32)[:, None] * (1 - alpha)
    for object_id, mask, left, top in cut_outs:
        region = image[top : top + mask.shape[0], left : left + mask.shape[1]]
        # Blending with one colour maps each channel's 256 values to other ones, so it is a table look-up and a masked
        # copy.
        table = np.rint(shades + alpha * np.asarray(object_color(object_id), dtype=np.float32)).astype(np.uint8)
        cv2.copyTo(cv2.LUT(region, table[None]), mask, region)
    if contour:
        for object_id, mask, left, top in cut_outs:
            lines = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))[0]
            cv2.drawContours(image, lines, -1, DARK, line + 2, cv2.LINE_AA)
            cv2.drawContours(image, lines, -1, object_color(object_id), line, cv2.LINE_AA)

    if labels:
        for object_id, mask, left, top in cut_outs:
            text = plain_text(str(labels.get(object_id, ""))) if isinstance(labels, Mapping) else ""
            text = text or str(object_id)
            x, y = _innermost(cv2, mask)
            _draw_label(cv2, image, text, left + x, top + y, object_color(object_id))

    for left, top, right, bottom in np.rint(box_rows).astype(int).tolist():
        cv2.rectangle(image, (left, top), (right, bottom), DARK, line + 2)
        cv2.rectangle(image, (left, top), (right, bottom), WHITE, line)
    for x, y, positive in np.rint(point_rows).astype(int).tolist():
        _draw_point(cv2, image, x, y, bool(positive), line)
    return image


def draw_legend(frame: np.ndarray, entries: Mapping[int, str], most: int = 12) -> np.ndarray:
    """Draw a list of objects, each with its colour, into the top left corner of a copy of a frame.

    Args:
        frame: uint8 ``(height, width, 3)``, RGB. Not changed.
        entries: For each object id what to write.
        most: Entries that are written; a last line counts the others.

    Returns:
        uint8 ``(height, width, 3)``, RGB.

    Raises:
        ValueError: a frame of another shape or type.
        ImportError: OpenCV is not installed.
    """
    cv2 = _import_cv2()
    image = np.array(checked_image(frame, "The frame"), order="C")
    if not entries:
        return image
    shown = list(entries.items())[:most]
    lines: list[tuple[tuple[int, int, int] | None, str]] = [(object_color(i), text) for i, text in shown]
    if len(entries) > most:
        lines.append((None, f"and {len(entries) - most} more"))
    texts = [plain_text(text) for _, text in lines]
    size = max(0.4, min(image.shape[:2]) / 1100)
    thickness = max(1, round(size * 1.4))
    sizes = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness) for text in texts]
    row = max(height + baseline for (_, height), baseline in sizes) + 2
    margin = max(3, row // 3)
    width = min(row + margin + max(width for (width, _), _ in sizes) + 2 * margin, image.shape[1])
    height = min(row * len(lines) + margin, image.shape[0])
    plate = image[:height, :width]
    plate[:] = plate // 3  # dark, and what is behind still shows
    for number, ((color, _), text) in enumerate(zip(lines, texts, strict=True)):
        top = margin // 2 + number * row
        if color is not None:
            cv2.rectangle(image, (margin, top + row // 6), (margin + 2 * row // 3, top + row - row // 6), color, -1)
        origin = (margin + row, top + row - row // 4)
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, WHITE, thickness, cv2.LINE_AA)
    return image


def plain_text(text: str, most: int = 40) -> str:
    """Convert a text to what OpenCV's font can write, ASCII of at most `most` characters; accents are left out."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    cell_width: int | None = None,
    gap: int = 4,
    background: tuple[int, int, int] = (32, 32, 32),
) -> np.ndarray:
    """Arrange several pictures in one, row by row.

    Args:
        images: uint8 ``(height, width, 3)``, RGB. Pictures of another size than the first are scaled to fit its cell.
        columns: the number of pictures in a row.
        captions: the text in the top left corner of each picture.
        cell_width: the width of a cell in pixels; None is that of the first picture. Cells have the first picture's
            proportions.
        gap: the number of pixels between and around the pictures.
        background: the colour of the gaps and of empty cells.

    Returns:
        uint8 ``(sheet height, sheet width, 3)``, RGB.

    Raises:
        ValueError: if there are no images, or images, ``columns``, ``cell_width`` or ``captions`` do not fit.
        ImportError: if OpenCV is not installed.
    """
    cv2 = _import_cv2()
    if len(images) == 0:
        raise ValueError("A contact sheet needs at least one image, got none.")
    images = [checked_image(image, f"Image {number}") for number, image in enumerate(images)]
    if columns < 1 or gap < 0 or (cell_width is not None and cell_width < 1):
        raise ValueError(
            f"columns and cell_width must be at least 1 and gap at least 0, got {columns}, {cell_width}, {gap}."
        )
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"There are {len(captions)} captions for {len(images)} images; give one for each.")

    height, width = images[0].shape[:2]
    if cell_width is not None:
        height, width = max(1, round(height * cell_width / width)), cell_width
    rows = -(-len(images) // columns)
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), dtype=np.uint8)
    sheet[:] = background
    for number, image in enumerate(images):
        scale = min(height / image.shape[0], width / image.shape[1])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        if size != (image.shape[1], image.shape[0]):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top = gap + number // columns * (height + gap) + (height - size[1]) // 2
        left = gap + number % columns * (width + gap) + (width - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = image
        if captions is not None and captions[number]:
            cell = sheet[top : top + size[1], left : left + size[0]]
            _draw_label(cv2, cell, captions[number], 0, 0, DARK, centred=False)
    return sheet


# ---------------------------------------------------------------------------------------------------------------- parts


def _point_rows(prompts: ObjectPrompts) -> list[tuple[float, float, int]]:
    """Return an object's points as rows of x, y and label."""
    return [(x, y, label) for (x, y), label in zip(prompts.points, prompts.labels, strict=True)]


def _draw_point(cv2: ModuleType, image: np.ndarray, x: int, y: int, positive: bool, line: int) -> None:
    """Draw a point prompt."""
    radius = 3 * line + 1
    cv2.circle(image, (x, y), radius + line + 1, DARK, -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius + line, WHITE, -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius, POSITIVE if positive else NEGATIVE, -1, cv2.LINE_AA)
    # The sign is for people who cannot distinguish red from green.
    arm = radius - line
    cv2.line(image, (x - arm, y), (x + arm, y), WHITE, line)
    if positive:
        cv2.line(image, (x, y - arm), (x, y + arm), WHITE, line)


def _draw_label(
    cv2: ModuleType, image: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int], centred: bool = True
) -> None:
    """Draw text on a plate of ``color`` inside the image, centred on (x, y) or with its top left corner there."""
    height, width = image.shape[:2]
    size = max(0.45, min(height, width) / 900)
    thickness = max(1, round(size * 1.6))
    (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    margin = max(2, round(6 * size))
    plate_width, plate_height = text_width + 2 * margin, text_height + baseline + margin
    left = min(max(0, x - centred * plate_width // 2), max(0, width - plate_width))
    top = min(max(0, y - centred * plate_height // 2), max(0, height - plate_height))
    cv2.rectangle(image, (left, top), (left + plate_width - 1, top + plate_height - 1), color, -1)
    if centred:
        cv2.rectangle(image, (left, top), (left + plate_width - 1, top + plate_height - 1), DARK, 1)
    light = np.dot(color, (0.299, 0.587, 0.114)) > 140
    origin = (left + margin, top + margin // 2 + text_height + baseline // 2)
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, DARK if light else WHITE, thickness, cv2.LINE_AA)


def _innermost(cv2: ModuleType, mask: np.ndarray) -> tuple[int, int]:
    """Return the pixel (x, y) of a mask that is farthest from its edge, with the precision of a 64-pixel thumbnail."""
    step = max(1, max(mask.shape) // 64)
    small = np.pad(mask[::step, ::step], 1)
    if not small.any():
        ys, xs = np.nonzero(mask)
        return int(xs[0]), int(ys[0])
    y, x = np.unravel_index(cv2.distanceTransform(small, cv2.DIST_L2, 3).argmax(), small.shape)
    return int(x - 1) * step, int(y - 1) * step


def checked_image(image: np.ndarray, what: str) -> np.ndarray:
    """Return an image as an array, or raise ValueError if it is not uint8 RGB."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{what} must be uint8 of shape (height, width, 3) in RGB, got {image.dtype} {image.shape}.")
    return image


def checked_mask(mask: np.ndarray, object_id: int, height: int, width: int) -> np.ndarray:
    """Return a mask as uint8 of 0 and 1, or raise ValueError if it does not fit the frame."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bui":
        raise ValueError(f"The mask of object {object_id} must be bool, got {mask.dtype}; threshold logits at 0 first.")
    if mask.shape != (height, width):
        raise ValueError(
            f"The mask of object {object_id} has shape {mask.shape}, the frame has height and width {(height, width)}; "
            "resize the mask to the frame."
        )
    if mask.dtype == bool:
        return np.ascontiguousarray(mask).view(np.uint8)
    return (mask != 0).astype(np.uint8)


def _checked_rows(
    rows: Sequence[Sequence[float]] | np.ndarray | None, columns: int, what: str, meaning: str
) -> np.ndarray:
    """Return rows of finite numbers as float64 ``(n, columns)``, or raise ValueError."""
    if rows is None or len(rows) == 0:
        return np.zeros((0, columns))
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
        raise ValueError(f"{what} must be rows of {columns} finite numbers ({meaning}), got shape {array.shape}.")
    return array

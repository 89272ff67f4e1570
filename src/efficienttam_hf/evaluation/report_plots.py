"""The plots of a report: scores over the frames, scores by number of clicks, and a sheet of the worst videos.

The plots do not use matplotlib's global state, so they can be drawn in any thread and do not appear in a notebook.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..atomic_file import atomic_path
from ..image_io import read_image
from ..safe_names import contained_path, one_line, plot_text
from ..visualization import contact_sheet, object_color
from .region_boundary import import_cv2
from .reliability import Reliability
from .results import VideoResult


if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_clicks", "plot_reliability", "plot_video", "worst_sheet"]

logger = logging.getLogger(__name__)

MOST_NAMED = 12  # objects in a legend
CAPTION_HEIGHT = 46  # pixels above each picture of the sheet
BACKGROUND = (32, 32, 32)


def plot_video(video: VideoResult, path: str | os.PathLike) -> None:
    """Plot J and F of each object over the frames of a video, as a PNG, in the colours of the overlays.

    Raises:
        ValueError: if the video has no scores. ImportError: if matplotlib is not installed.
    """
    if not video.objects:
        raise ValueError(f"The video '{video.name}' has no scores to plot.")
    measures = {"J, region similarity": "j", "F, boundary accuracy": "f"}
    figure = _figure(9, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    for panel, (title, attribute) in zip(panels, measures.items(), strict=True):
        for scores in video.objects:
            values = [100 * value for value in getattr(scores, attribute)]
            # The yellow and lime of the overlays are too light for lines on white.
            color = tuple(channel / 255 * 0.85 for channel in object_color(scores.object_id))
            frames, values = _with_gaps(scores.frames, values)
            panel.plot(frames, values, color=color, linewidth=1.4, marker="." if len(frames) < 15 else None)
        panel.set_ylabel(title)
        panel.set_ylim(-3, 103)
        panel.set_yticks(range(0, 101, 25))
        panel.grid(alpha=0.3)
    panels[1].set_xlabel("frame")
    means = "  ".join(f"{name} {100 * v:.1f}" for name, v in (("J&F", video.j_and_f), ("J", video.j), ("F", video.f)))
    count = f"{len(video.objects)} object{'' if len(video.objects) == 1 else 's'}"
    figure.suptitle(f"{plot_text(video.name)}    {means}    ({count})", fontsize=11)
    if 1 < len(video.objects) <= MOST_NAMED:
        names = [
            f"{o.object_id} {plot_text(o.category)}" if o.category else f"object {o.object_id}" for o in video.objects
        ]
        figure.legend(panels[0].lines, names, loc="outside right center", fontsize=8)
    _save(figure, path)


def plot_reliability(found: Reliability, path: str | os.PathLike) -> None:
    """Plot reported scores beside measured ones, as a PNG: predicted IoU on the left, presence on the right.

    The area of a dot is the number of frames in its bin. Dots below the diagonal are overconfident.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(8, 4)
    sides = (
        ("predicted IoU", "measured IoU (J)", found.iou),
        ("object score", "object is in the frame", found.presence),
    )
    for panel, (across, up, calibration) in zip(figure.subplots(1, 2), sides, strict=True):
        panel.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle="--")
        if calibration is not None:
            share = calibration.counts / calibration.counts.sum()
            panel.scatter(100 * calibration.reported, 100 * calibration.measured, s=12 + 500 * share, color="#2563a8")
            panel.set_title(f"mean error {100 * calibration.error:.1f}", fontsize=10)
        panel.set_xlabel(f"{across}, percent")
        panel.set_ylabel(f"{up}, percent")
        panel.set_xlim(-5, 105)
        panel.set_ylim(-5, 105)
        panel.grid(alpha=0.3)
    _save(figure, path)


def plot_clicks(summary: Mapping[str, float], path: str | os.PathLike) -> None:
    """Plot mIoU over the number of clicks, as a PNG.

    Args:
        summary: the summary of an evaluation of images; see `image_protocol.summarize_images`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    after: list[float] = []
    while (key := f"{len(after) + 1}-click mIoU") in summary:
        after.append(100 * summary[key])
    figure = _figure(5, 3.4)
    panel = figure.subplots()
    panel.plot(range(1, len(after) + 1), after, marker="o", color="#2563a8", label="predicted best mask")
    panel.plot([1], [100 * summary["1-click best-of-three mIoU"]], "D", color="#c2571a", label="best of three masks")
    panel.set_xticks(range(1, len(after) + 1))
    panel.set_xlabel("clicks")
    panel.set_ylabel("mIoU")
    panel.set_ylim(0, 100)
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def worst_sheet(videos: Sequence[VideoResult], folder: Path, path: str | os.PathLike) -> bool:
    """Write the pictures of videos below each other as a JPEG, each under its name and score.

    Args:
        videos: the results of the videos, the worst first.
        folder: the folder to which each `picture` is relative.

    Returns:
        Whether there were any pictures.
    """
    images = []
    for video in videos:
        try:  # a result that was read from a file may contain any path
            picture = folder if video.picture is None else contained_path(folder, video.picture)
            if not picture.is_file():
                continue
            pixels = read_image(picture)
        except (ValueError, OSError) as error:
            logger.warning("The picture of '%s' is left out of the sheet: %s", one_line(video.name), error)
            continue
        images.append(np.concatenate([_caption(video, pixels.shape[1]), pixels]))
    if not images:
        return False
    sheet = contact_sheet(images, columns=1, background=BACKGROUND)
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="JPEG", quality=88)
    return True


def _caption(video: VideoResult, width: int) -> np.ndarray:
    """Draw the name and the score of a video, uint8 (CAPTION_HEIGHT, width, 3)."""
    cv2 = import_cv2()
    band = np.full((CAPTION_HEIGHT, width, 3), BACKGROUND, dtype=np.uint8)
    text = f"{one_line(video.name)[:60]}   J&F {100 * video.j_and_f:.1f}"
    place = (8, CAPTION_HEIGHT - 14)
    return cv2.putText(band, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.95, (255, 255, 255), 2, cv2.LINE_AA)


def _with_gaps(frames: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the points of a line, with NaN between frames that are farther apart, so that the line has gaps there."""
    step = min((b - a for a, b in zip(frames, frames[1:], strict=False)), default=1)
    xs: list[float] = []
    ys: list[float] = []
    for frame, value in zip(frames, values, strict=True):
        if xs and frame - xs[-1] > step:
            xs.append(xs[-1] + step)
            ys.append(float("nan"))
        xs.append(frame)
        ys.append(value)
    return xs, ys


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots of scores need matplotlib: pip install efficienttam-hf[eval].") from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")

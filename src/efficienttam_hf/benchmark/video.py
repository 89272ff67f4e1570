"""The video on which all contenders are timed: a folder of frames, which are drawn once, and boxes as prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..synthetic_clip import make_clip


__all__ = ["BenchmarkVideo", "draw_video"]

DRAWN_FRAMES = 16  # longer videos repeat these frames forward and backward


@dataclass(frozen=True)
class BenchmarkVideo:
    """A folder of numbered JPEG frames, all of `width` by `height` pixels.

    Attributes:
        folder: the folder.
        num_frames: the number of frames.
        width, height: the size of the frames in pixels.
    """

    folder: Path
    num_frames: int
    width: int
    height: int

    @property
    def frames(self) -> list[Path]:
        """The paths of the frames, in order."""
        return [self.folder / f"{number:05d}.jpg" for number in range(self.num_frames)]

    def boxes(self, num_objects: int) -> list[list[float]]:
        """Return a box (x_min, y_min, x_max, y_max) in pixels for each object, side by side across the frame."""
        step, top, bottom = self.width / num_objects, 0.3 * self.height, 0.7 * self.height
        return [[round(x, 1) for x in ((i + 0.2) * step, top, (i + 0.8) * step, bottom)] for i in range(num_objects)]


def draw_video(folder: Path, num_frames: int, size: tuple[int, int]) -> BenchmarkVideo:
    """Draw a synthetic clip of (width, height) pixels and write its frames to a folder."""
    width, height = size
    clip = make_clip(min(num_frames, DRAWN_FRAMES), width, height)
    video = BenchmarkVideo(folder, num_frames, width, height)
    count = len(clip.frames)
    for number, path in enumerate(video.frames):
        turn, place = divmod(number, count)
        Image.fromarray(clip.frames[count - 1 - place if turn % 2 else place]).save(path, quality=95)
    return video

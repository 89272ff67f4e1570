"""The synthetic stress set (`data.synthetic.stress`) as a dataset. It needs no files, because its videos are drawn.

The name of a video is its kind of event and its seed, such as ``crossing-2``. The kind is also the category of its
objects.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...image_io import open_image
from ..benchmark_rules import BenchmarkRules
from ..frames import ImageFrames
from ..masks import Annotation
from ..records import VideoRecord
from ..schema import DatasetError
from .common import Layout


__all__ = ["RULES", "DrawnMasks", "Stress"]


KINDS = (
    "occlusion",
    "reentry",
    "crossing",
    "cut",
)  # as in `synthetic.stress`, which loads OpenCV
RULES = {"stress": BenchmarkRules(annotates_every_frame=True, is_drawn=True)}


class Stress(Layout):
    """Drawn videos of each kind of event.

    Args:
        root: without effect.
        split: one kind of event; None selects all kinds in turns.
        seeds: the number of videos of each kind; their seeds begin with 0.
        size: (height, width) of the frames in pixels.
        num_frames: the number of frames of each video.

    Raises:
        DatasetError: if the split is not a kind of event.
    """

    def __init__(
        self,
        root: str | Path = "",
        split: str | None = None,
        *,
        seeds: int = 5,
        size: tuple[int, int] = (216, 384),
        num_frames: int = 48,
    ) -> None:
        if split is not None and split not in KINDS:
            raise DatasetError(f"The stress set has no split '{split}'; it has {', '.join(KINDS)}.")
        self.split, self._size, self._num_frames = split, tuple(size), num_frames
        self.names = [f"{kind}-{seed}" for seed in range(seeds) for kind in ([split] if split else KINDS)]

    def record(self, name: str) -> VideoRecord:
        kind, seed = name.rsplit("-", 1)
        frames, masks = _drawn(kind, int(seed), self._size, self._num_frames)
        return VideoRecord(name, frames, masks, source="stress", split=self.split or "")

    def files(self, name: str) -> Iterable[Path]:
        return []


class DrawnMasks:
    """Masks that were drawn, which are kept in RAM as PNGs.

    Args:
        labels: uint8 (frames, height, width) of object ids; 0 is background.
        kind: the kind of event.

    Attributes:
        frames, categories: as in `masks.Masks`; the category of all objects is the kind of event.
    """

    def __init__(self, labels: np.ndarray, kind: str) -> None:
        self.frames = list(range(len(labels)))
        self.categories = {int(i): kind for i in np.unique(labels) if i}
        self._files = [_png(frame) for frame in labels]

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        """Return the masks of a frame."""
        with open_image(io.BytesIO(self._files[frame])) as image:
            labels = np.asarray(image)
        return Annotation({int(i): labels == i for i in np.unique(labels) if i})

    def name(self, frame: int) -> str:
        """Return the name of a frame's mask for messages."""
        return f"the drawn frame {frame}"


@lru_cache(maxsize=2)
def _drawn(kind: str, seed: int, size: tuple[int, int], num_frames: int) -> tuple[ImageFrames, DrawnMasks]:
    """Draw a video. The most recent ones are cached, because a video is often requested several times in a row."""
    from ..synthetic.stress import stress_video

    video = stress_video(kind, seed, size, num_frames)
    frames = ImageFrames([{"path": None, "bytes": _png(frame)} for frame in video.frames])
    return frames, DrawnMasks(video.labels, kind)


def _png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()

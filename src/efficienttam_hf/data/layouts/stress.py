"""The synthetic stress set (`data.synthetic.stress`) as a dataset: it needs no files, as its videos are drawn.

A video is called by its kind of event and its seed, such as ``crossing-2``. The kind is also its objects' category.
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


KINDS = ("occlusion", "reentry", "crossing", "cut")  # those of `synthetic.stress`, which loads more than a list needs
RULES = {"stress": BenchmarkRules(annotates_every_frame=True, is_drawn=True)}


class Stress(Layout):
    """Drawn videos of each kind of event.

    Args:
        root: of no meaning here.
        split: one kind of event; all if None, in turns.
        seeds: videos of each kind, with the seeds from 0 up.
        size: (height, width) of frames.
        num_frames: of each video.
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
    """Masks that were drawn, uint8 (frames, height, width) of object ids; kept as PNGs, which are small.

    Attributes:
        frames, categories: as in `masks.Masks`; all objects are of the kind of the event.
    """

    def __init__(self, labels: np.ndarray, kind: str) -> None:
        self.frames = list(range(len(labels)))
        self.categories = {int(i): kind for i in np.unique(labels) if i}
        self._files = [_png(frame) for frame in labels]

    def read(self, frame: int, size: tuple[int, int]) -> Annotation:
        with open_image(io.BytesIO(self._files[frame])) as image:
            labels = np.asarray(image)
        return Annotation({int(i): labels == i for i in np.unique(labels) if i})

    def name(self, frame: int) -> str:
        return f"the drawn frame {frame}"


@lru_cache(maxsize=2)
def _drawn(kind: str, seed: int, size: tuple[int, int], num_frames: int) -> tuple[ImageFrames, DrawnMasks]:
    """The frames and masks of a video; the last ones are kept, as a video is asked for several times in a row."""
    from ..synthetic.stress import stress_video

    video = stress_video(kind, seed, size, num_frames)
    frames = ImageFrames([{"path": None, "bytes": _png(frame)} for frame in video.frames])
    return frames, DrawnMasks(video.labels, kind)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()

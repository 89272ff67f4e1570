"""Files with effects: what `track --effect` writes instead of the overlay, a video or a PNG for each frame.

The overlay is not written beside it, because it would show what an effect is to hide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .._video_encoding import choose_encoding
from ..atomic_file import atomic_path
from ..effects import Effect, EffectStream
from ..output_folders import OutputFolder
from ..video_writer import VideoWriter


if TYPE_CHECKING:
    from typing import Self


FOLDER = "effect"  # the PNGs of a video
FORMATS = {"mp4": "effect.mp4", "mov": "effect.mov", "webm": "effect.webm", "png": FOLDER}
FAST = 1  # the compression level of zlib for the frames of a video


@dataclass(frozen=True)
class EffectOutput:
    """The effects of a run, and the format in which the frames are written.

    Attributes:
        effects: the effects, in the order in which they are applied.
        format: a key of `FORMATS`.
    """

    effects: tuple[Effect, ...]
    format: str

    @classmethod
    def choose(cls, effects: Sequence[Effect], name: str | None = None) -> EffectOutput:
        """Check, before anything is computed, that the effects can be written.

        Args:
            effects: the effects, in the order in which they are applied.
            name: the format; None is "webm" if the picture has an alpha channel, and otherwise "mp4".

        Raises:
            ValueError: if the effects do not fit together, the format does not fit them, or no encoder is available.
            ImportError: if PyAV is not installed and a video is to be written.
        """
        alpha = EffectStream(effects).channels == 4
        name = name or ("webm" if alpha else "mp4")
        accepted = ("webm", "mov", "png") if alpha else ("mp4", "png")
        if name not in accepted:
            raise ValueError(
                f"Effect {effects[-1].name} makes {'a transparent' if alpha else 'an opaque'} picture, which is not "
                f"written as {name}; accepted are {', '.join(accepted)}"
                + (", or the effect green-screen for an opaque one." if alpha else ".")
            )
        if name != "png":
            choose_encoding(Path(FORMATS[name]), alpha)
        return cls(tuple(effects), name)

    @property
    def name(self) -> str:
        """The name of the file, or of the folder of PNGs."""
        return FORMATS[self.format]

    def check_objects(self, object_ids: Iterable[int]) -> None:
        """Check that the objects that effects are for are among those of the video.

        Raises:
            ValueError: if one is not.
        """
        known = sorted(set(object_ids))
        for effect in self.effects:
            missing = [object_id for object_id in effect.objects or () if object_id not in known]
            if missing:
                raise ValueError(
                    f"Effect {effect.name} is for object {missing[0]}, which has no prompt; the objects are "
                    f"{', '.join(map(str, known))}."
                )

    def open(
        self, folder: OutputFolder, size: tuple[int, int], fps: float, sound: Path | None, object_ids: Iterable[int]
    ) -> EffectWriter:
        """Start to write; see `EffectWriter` for the arguments."""
        return EffectWriter(self, folder, size, fps, sound, object_ids)


class EffectWriter:
    """Writes frames with effects.

    Args:
        output: the effects and the format.
        folder: the folder of results.
        size: (height, width) of the frames.
        fps: frames per second.
        sound: a file whose sound is kept in a video.
        object_ids: the ids of all objects of the video.
    """

    def __init__(
        self,
        output: EffectOutput,
        folder: OutputFolder,
        size: tuple[int, int],
        fps: float,
        sound: Path | None,
        object_ids: Iterable[int],
    ) -> None:
        self._folder = folder
        self._stream = EffectStream(output.effects, object_ids)
        self._video: VideoWriter | None = None
        if output.format != "png":
            path, alpha = folder.add(output.name), self._stream.channels == 4
            self._video = VideoWriter(path, fps, size[1], size[0], audio_from=sound, alpha=alpha)

    def add(
        self,
        frame: int,
        image: np.ndarray,
        masks: dict[int, np.ndarray],
        time: float | None = None,
        until: float | None = None,
    ) -> None:
        """Draw the next frame and write it.

        Args:
            frame: the number of the frame, which names its PNG.
            image: uint8 (height, width, 3) RGB.
            masks: masks by object id, bool (height, width).
            time: the time of the frame in a video; see `VideoWriter.write`.
            until: the end of the frame in a video.
        """
        picture = self._stream(image, masks)
        if self._video is not None:
            self._video.write(picture, time, until)
        else:
            write_png(self._folder.add(f"{FOLDER}/{frame:05d}.png"), picture, FAST)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()

    def abort(self) -> None:
        """Discard the video. PNGs that are written stay."""
        if self._video is not None:
            self._video.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.__exit__(kind, error, trace)


def write_png(path: Path, picture: np.ndarray, compression: int = 6) -> None:
    """Write uint8 (height, width, 3 or 4), RGB or RGBA, as a PNG, atomically; `compression` is zlib's level, 0 to 9."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=compression)

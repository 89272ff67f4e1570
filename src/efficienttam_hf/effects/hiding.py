"""Effects that hide objects, such as faces and number plates: pixelated, blurred or filled.

They are made so that a mistake shows too little rather than too much. Growing, feathering and smoothing only ever hide
more than the mask. In a video (:class:`~efficienttam_hf.effects.EffectStream`), a lost object stays hidden where it was
last seen for `hold` frames, and `lost="blank"` blackens frames on which an object is not seen at all. Both trust the
tracker where it does return a mask: no effect can know that a mask is on the wrong thing or covers half a face.

Pixelated and blurred pictures are averages of what they hide, and averages over many frames of a moving object can be
turned back in part; only a filled object leaves nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .effect import Effect
from .mattes import Matte, blend, import_cv2, plain
from .parameters import Color, color, number, one_of, parameter, whole


ACROSS = 8  # blocks, and standard deviations of the blur, across an object by default


@dataclass(frozen=True, eq=False, kw_only=True)
class Hiding(Effect):
    """What the effects that hide objects share.

    Args:
        grow: by how many pixels masks are grown.
        hold: for how many frames of a video a lost object stays hidden where it was last seen.
        lost: what happens on frames of a video on which an object is not seen and `hold` is over: "show" draws them as
            they are, "blank" makes them black.
    """

    covers: ClassVar[bool] = True
    grow: int = parameter(0, whole(0, 1000))
    hold: int = parameter(15, whole(0, 1_000_000))
    lost: str = parameter("show", one_of("show", "blank"))

    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw the frame with the objects hidden."""
        picture = np.array(frame, order="C")
        for matte in mattes.values():
            picture[matte.box] = blend(picture[matte.box], self.hidden(picture, matte), matte.values)
        return picture

    @abstractmethod
    def hidden(self, picture: np.ndarray, matte: Matte) -> np.ndarray:
        """Return what is seen instead of an object: the picture of the matte's box."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixelate(Hiding):
    """Each object becomes blocks of one colour, which is the mean of the frame in the block.

    The blocks lie on a fixed grid that begins in the top left corner of the frame.

    Args:
        block: the side of a block in pixels; by default, the smallest power of two, from 8 on, with which the longer
            side of an object has at most 8 blocks, so that large faces are not less hidden than small ones.
    """

    name: ClassVar[str] = "pixelate"
    block: int | None = parameter(None, whole(2, 2048))

    def hidden(self, picture: np.ndarray, matte: Matte) -> np.ndarray:
        """Return the blocks."""
        cv2 = import_cv2()
        height, width = matte.values.shape
        block = self.block or max(8, 1 << int(np.ceil(np.log2(max(height, width) / ACROSS))))
        top, left = matte.top // block * block, matte.left // block * block
        rows, columns = -(-(matte.top + height - top) // block), -(-(matte.left + width - left) // block)
        covered = picture[top : top + rows * block, left : left + columns * block]
        # Blocks at the edge of the frame are completed with its last pixels.
        missing = (rows * block - covered.shape[0], columns * block - covered.shape[1])
        whole_blocks = cv2.copyMakeBorder(covered, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        means = cv2.resize(whole_blocks, (columns, rows), interpolation=cv2.INTER_AREA)
        blocks = means.repeat(block, axis=0).repeat(block, axis=1)
        return blocks[matte.top - top :, matte.left - left :][:height, :width]


@dataclass(frozen=True, eq=False, kw_only=True)
class Blur(Hiding):
    """Each object is blurred.

    Args:
        sigma: the strength: the standard deviation of the Gaussian in pixels; by default, 1/8 of the longer side of the
            object, and at least 4.
    """

    name: ClassVar[str] = "blur"
    sigma: float | None = parameter(None, number(0.5, 500))

    def hidden(self, picture: np.ndarray, matte: Matte) -> np.ndarray:
        """Return the blurred box."""
        cv2 = import_cv2()
        sigma = self.sigma or max(4.0, max(matte.values.shape) / ACROSS)
        wide = matte.padded(int(2 * sigma), picture.shape[:2])
        covered = picture[wide.box]
        height, width = covered.shape[:2]
        scale = min(1.0, 2.5 / sigma)  # a strong blur has no fine detail
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(covered, size, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma * scale, borderType=cv2.BORDER_REPLICATE)
        blurred = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        rows, columns = matte.values.shape
        return blurred[matte.top - wide.top :, matte.left - wide.left :][:rows, :columns]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fill(Hiding):
    """Each object is filled with a colour.

    Args:
        color: the colour.
    """

    name: ClassVar[str] = "fill"
    color: Color = parameter((0, 0, 0), color)

    def hidden(self, picture: np.ndarray, matte: Matte) -> np.ndarray:
        """Return the colour."""
        return plain(matte.values.shape, self.color)

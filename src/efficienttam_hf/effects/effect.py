"""The class that all effects share: which objects, how their masks become mattes, and one picture for one frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..visualization import checked_image
from .mattes import Matte, feathered, grown, matte_of_mask
from .parameters import check_parameters, number, object_ids, parameter, whole


@dataclass(frozen=True, eq=False, kw_only=True)
class Effect(ABC):
    """An effect with its parameters. Calling it draws a frame; it keeps no state.

    Args:
        objects: the ids of the objects that it is for; None means all. Other objects belong to the background.
        grow: by how many pixels masks are grown, or shrunk if it is negative.
        feather: the softness of edges: the standard deviation of a Gaussian in pixels. With 0, edges are as hard as in
            the mask.
        smooth: how strongly edges are averaged over time, from 0 (not at all) to 0.95; see :class:`EffectStream`. It
            has no effect on a single frame.

    Raises:
        ValueError: if a parameter is not accepted.
    """

    name: ClassVar[str]
    channels: ClassVar[int] = 3
    covers: ClassVar[bool] = False

    objects: tuple[int, ...] | None = parameter(None, object_ids)
    grow: int = parameter(0, whole(-1000, 1000))
    feather: float = parameter(0.0, number(0, 100))
    smooth: float = parameter(0.0, number(0, 0.95))

    def __post_init__(self) -> None:
        check_parameters(self, self.name)

    def __call__(self, frame: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """Draw a frame.

        Args:
            frame: uint8 ``(height, width, 3)``, RGB. It is not changed.
            masks: the mask of each object id, bool ``(height, width)``. Objects without a mask, and empty masks, are
                not on this frame.

        Returns:
            uint8 ``(height, width, channels)``: RGB or, if ``channels`` is 4, RGB with an alpha channel that is not
            premultiplied.

        Raises:
            ValueError: if the frame or a mask has another shape or dtype.
            ImportError: if OpenCV is not installed.
        """
        frame = checked_image(frame, "The frame")
        size = frame.shape[:2]
        mattes = {object_id: self.softened(self.grown(mask, size), size) for object_id, mask in self.hard(masks, size)}
        return self.draw(frame, mattes)

    def applies_to(self, object_id: int) -> bool:
        """Whether the effect is for an object."""
        return self.objects is None or object_id in self.objects

    def hard(self, masks: Mapping[int, np.ndarray], size: tuple[int, int]) -> list[tuple[int, Matte]]:
        """Return the hard mattes of the objects that the effect is for and that are on the frame."""
        mattes = (
            (object_id, matte_of_mask(mask, object_id, size))
            for object_id, mask in masks.items()
            if self.applies_to(object_id)
        )
        return [(object_id, matte) for object_id, matte in mattes if matte is not None]

    def grown(self, matte: Matte, size: tuple[int, int]) -> Matte:
        """Return a hard matte grown by ``grow``."""
        return grown(matte, self.grow, size)

    def softened(self, matte: Matte, size: tuple[int, int]) -> Matte:
        """Return a matte whose edge is softened by ``feather``."""
        return feathered(matte, self.feather, size, self.covers)

    @abstractmethod
    def draw(self, frame: np.ndarray, mattes: Mapping[int, Matte]) -> np.ndarray:
        """Draw a frame with mattes that are ready; see :meth:`__call__`."""

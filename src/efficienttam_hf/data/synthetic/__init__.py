"""Synthetic videos with exact masks, in any number, each determined by a seed.

They show textured shapes, drawings and jointed figures among similar things. Objects deform, turn in depth, occlude one
another, leave and return. A moving camera films them over photographs or procedural scenery, with the faults of real
videos. Drawings and photographs are read from a folder of ingredients; without one, everything is procedural.

    options.py    all parameters
    textures.py   surfaces                shapes.py    outlines
    bodies.py     outlines with surfaces  figures.py   bodies of several parts
    motion.py     paths, deformations, cameras
    render.py     drawing a layer over others
    scene.py      the layers of a frame, and the effects of the camera
    compose.py    the random choices of a scene

Drawing needs OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..clip import Clip
from ..seeding import derive_seed, generator_of
from .options import SyntheticOptions


if TYPE_CHECKING:
    from ..ingredients import Ingredients
    from .bodies import Wardrobe


__all__ = ["SyntheticClips", "SyntheticOptions"]


# If no tracked object is visible enough in the first frame, another scene is drawn, up to this number of times.
ATTEMPTS = 20


class SyntheticClips:
    """A source of synthetic clips (`ClipSource`).

    `clips[index]` is determined by these arguments and the index, for any index from 0. The same index gives the same
    pixels in any process; other versions of OpenCV or NumPy may round differently.

    Args:
        image_size: the side of square frames, or (height, width), in pixels; at least 32.
        num_frames: the number of frames of each clip; 1 gives single images.
        max_objects: the largest number of tracked objects, at least 1.
        seed: the seed of all random choices.
        ingredients: cutouts and photographs, or their folder. With `None`, everything is procedural.
        options: the parameters of scenes, as `SyntheticOptions` or a mapping with some of its fields.
        more: fields of the options, as keywords.

    Raises:
        ValueError: if a size is too small, or an option does not exist.
        ImportError: if OpenCV is not installed.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        num_frames: int,
        max_objects: int = 3,
        seed: int = 0,
        ingredients: Ingredients | str | Path | None = None,
        options: SyntheticOptions | Mapping | None = None,
        **more: Any,
    ) -> None:
        try:
            import cv2  # noqa: F401
        except ImportError as error:
            raise ImportError("Synthetic clips are drawn with OpenCV: pip install efficienttam-hf[video].") from error
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, width
        if min(self.image_size) < 32 or num_frames < 1:
            raise ValueError(
                f"A synthetic clip has at least 1 frame of 32x32 pixels, got num_frames={num_frames} and "
                f"image_size={image_size}."
            )
        if not 1 <= max_objects <= 255:
            raise ValueError(f"A synthetic clip has 1 to 255 objects, got max_objects={max_objects}.")
        self.num_frames, self.max_objects, self.seed = num_frames, max_objects, seed
        self.options = SyntheticOptions.of(options, **more)
        if isinstance(ingredients, (str, Path)):
            from ..ingredients import Ingredients

            ingredients = Ingredients(ingredients)
        self.ingredients = ingredients

    def __getitem__(self, index: int) -> Clip:
        import cv2

        from .compose import compose

        if index < 0:
            raise IndexError(f"Synthetic clips are numbered from 0 without end, got {index}.")
        height, width = self.image_size
        least = self.options.min_visible * height * width
        for attempt in range(ATTEMPTS):
            rng = generator_of(self.seed, index, attempt)
            scene = compose(rng, self.image_size, self.num_frames, self.max_objects, self._wardrobe(rng))
            first = scene.frame(0)
            shown = np.bincount(first.seen.ravel(), minlength=256)[1:]
            visible = (shown >= max(1, least)) & (shown >= self.options.min_shown_part * first.whole[1:])
            if visible.any():
                break
        else:
            raise ValueError(
                f"Synthetic clip {index} (seed {self.seed}): in {ATTEMPTS} scenes no object showed {least:.0f} pixels "
                "in the first frame; choose a smaller min_visible or larger objects (object_side)."
            )
        drawn = [first, *(scene.frame(time) for time in range(1, self.num_frames))]
        frames = np.stack([cv2.split(frame.image) for frame in drawn])
        labels = np.stack([frame.seen for frame in drawn])
        # Objects that are not visible enough in the first frame are part of the scene but are not tracked.
        chosen = (np.flatnonzero(visible) + 1).astype(np.uint8)
        masks = labels[:, None] == chosen[None, :, None, None]
        return Clip(
            frames=torch.from_numpy(frames),
            masks=torch.from_numpy(masks),
            name=f"synthetic clip {index} of seed {self.seed}",
            seed=derive_seed(self.seed, index),
            object_ids=list(range(1, len(chosen) + 1)),
            frame_indices=list(range(self.num_frames)),
        )

    def _wardrobe(self, rng: np.random.Generator) -> Wardrobe:
        """Return the ingredients of the scene of one clip: all cutouts, and three photographs, which open slowly."""
        from .bodies import Wardrobe

        given = self.ingredients
        photos, cutout = [], None
        if given is not None and given.num_photos:
            photos = [given.photo(int(i)) for i in rng.integers(given.num_photos, size=3)]
        if given is not None and given.num_cutouts:

            def cutout() -> np.ndarray:
                return given.cutout(int(rng.integers(given.num_cutouts)))

        return Wardrobe(photos, cutout, self.options)

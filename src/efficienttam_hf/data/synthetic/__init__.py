"""Synthetic videos with exact masks, endless and seeded.

Textured shapes, drawings and jointed figures that deform, turn in depth, occlude one another, leave and return, among
things like them, filmed by a moving camera over photographs or procedural scenery, with the faults of real video.
Drawings and photographs come from a folder of ingredients; without one, everything is procedural.

    options.py    every number of it
    textures.py   surfaces                shapes.py    outlines
    bodies.py     outlines with surfaces  figures.py   bodies of several parts
    motion.py     paths, deformations, cameras
    render.py     drawing one layer over others
    scene.py      all the layers of a frame, and what the camera makes of it
    compose.py    the random choices that make a scene

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


# Scenes in which no tracked object is visible enough in the first frame are drawn anew, with this many tries.
ATTEMPTS = 20


class SyntheticClips:
    """A source of synthetic clips (`ClipSource`).

    `clips[index]` is a function of the settings here and the index alone, for any index from 0 up. The same index gives
    the same pixels in any process; other versions of OpenCV or NumPy may round otherwise.

    Args:
        image_size: side of the square frames, or their (height, width), in pixels.
        num_frames: of each clip; 1 gives single images.
        max_objects: so many objects are tracked at most, at least 1.
        seed: of everything.
        ingredients: cut-outs and photographs, or the folder that has them. `None`: all is procedural.
        options: numbers of the scenes, as `SyntheticOptions` or a mapping of some of its fields.
        more: fields of the options, by keyword.

    Raises:
        ValueError: for sizes that are too small, and options that do not exist.
        ImportError: without OpenCV.
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
        # What does not show enough of itself at first is part of the scene, but nobody tracks it.
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
        """What the scene of one clip may use: three photographs, as opening them takes time, and all cut-outs."""
        from .bodies import Wardrobe

        given = self.ingredients
        photos, cutout = [], None
        if given is not None and given.num_photos:
            photos = [given.photo(int(i)) for i in rng.integers(given.num_photos, size=3)]
        if given is not None and given.num_cutouts:

            def cutout() -> np.ndarray:
                return given.cutout(int(rng.integers(given.num_cutouts)))

        return Wardrobe(photos, cutout, self.options)

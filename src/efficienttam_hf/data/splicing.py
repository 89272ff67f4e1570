"""Cuts training clips to another video for some frames, so that a model learns to say that an object is absent.

In annotated videos most objects are seen on most frames, and a model trained on them says that its objects are present
even where nothing of them is left. After a cut, nothing of an object is there. A clip that returns after the cut also
teaches the model to find its objects again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .clip import Clip, ClipSource
from .seeding import generator_of


__all__ = ["SplicedClips"]


# The number of clips that are looked at to find one of another video.
_ATTEMPTS = 4


class SplicedClips:
    """A source of clips, in some of which a run of frames is replaced by frames of another video.

    The first frame is never replaced, because objects are prompted there. On replaced frames all masks are empty. A
    clip of one frame stays as it is, and so does a clip for which no clip of another video is found.

    Args:
        source: the source of all clips; clips with different `video` must not show the same object.
        probability: the share of clips with replaced frames, from 0 to 1.
        seed: the seed of all random choices.

    Raises:
        ValueError: if the probability is not from 0 to 1, or the seed is negative.
    """

    def __init__(self, source: ClipSource, probability: float, seed: int = 0):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {probability!r}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}.")
        self.source = source
        self.probability = probability
        self.seed = seed

    def __getitem__(self, index: int) -> Clip:
        clip = self.source[index]
        generator = generator_of(self.seed, index)
        if len(clip.frames) < 2 or generator.random() >= self.probability:
            return clip
        begin = int(generator.integers(1, len(clip.frames)))
        end = int(generator.integers(begin + 1, len(clip.frames), endpoint=True))
        other = self._of_another_video(clip, generator)
        if other is None:
            return clip
        frames, masks = clip.frames.clone(), clip.masks.clone()
        frames[begin:end] = other.frames[begin:end]
        masks[begin:end] = False
        void = None if clip.void is None else clip.void.clone()
        if void is not None:
            void[begin:end] = False
        name = f"{clip.name}, of which frames {begin} to {end - 1} are replaced by {other.name}"
        return replace(clip, frames=frames, masks=masks, void=void, name=name)

    def _of_another_video(self, clip: Clip, generator: np.random.Generator) -> Clip | None:
        for _ in range(_ATTEMPTS):
            other = self.source[int(generator.integers(2**31))]
            if other.video != clip.video or not clip.video:
                return other
        return None

"""Samples training clips from annotated videos: the video, its frames and its objects.

A clip is a function of the settings and its index, as in every `ClipSource`. For V videos, index i is position i mod V
of epoch i // V, and an epoch is a permutation of the videos. Only annotated frames are used, and a stride counts
annotated frames, as in SAM 2: in SA-V, every fourth frame is annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .augmentation import SAM2_AUGMENTATION, Augmentation, AugmentationOptions
from .clip import Clip
from .schema import DatasetError
from .seeding import derive_seed, generator_of


__all__ = ["AnnotatedVideo", "RecordClips"]


class AnnotatedVideo(Protocol):
    """The interface of a video (`records.VideoRecord` has it). An image is a video of one frame."""

    @property
    def video_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame in pixels."""
        ...

    @property
    def annotated_frames(self) -> Sequence[int]:
        """The numbers of the annotated frames, ascending."""
        ...

    def objects_in(self, index: int) -> Mapping[int, int]:
        """Return the area in pixels of each visible object. This must be fast, because it is called for many frames."""
        ...

    def frame(self, index: int) -> np.ndarray:
        """Return a frame: uint8 (height, width, 3), RGB."""
        ...

    def masks(self, index: int) -> Mapping[int, np.ndarray]:
        """Return bool (height, width) masks by object id; absent objects may be missing."""
        ...

    def void(self, index: int) -> np.ndarray | None:
        """Return the pixels without annotation, bool (height, width)."""
        ...


class RecordClips:
    """Endless clips from annotated videos: `clips[index]` for any index from 0 up.

    The length is that of an epoch, in which every video yields one clip. A video that is too short for a clip is
    sampled with a smaller stride; if it is still too short, it is played forward and backward. An image becomes a clip
    of the same image, which moves if `augmentation` is given (its `still_` fields).

    Args:
        records: annotated videos.
        image_size: side of the clips' square frames in pixels.
        num_frames: T of every clip.
        max_objects: the maximum N of a clip. If a video has more objects, they are chosen at random.
        seed: the seed of all random choices.
        stride: the lowest and highest step between the frames of a clip, in annotated frames.
        reverse_probability: the probability of playing a clip backward.
        augmentation: the augmentation; with `None`, clips are only resized.
        min_area: the minimum area of an object in the first frame of a clip, in pixels of the clip. If no frame of a
            video has such an object, a smaller one is used.

    Raises:
        ValueError: if a setting is out of its range, or there are no records.
        DatasetError: raised by `[index]` if a video has no object; errors of the record are raised too.
    """

    def __init__(
        self,
        records: Sequence[AnnotatedVideo],
        image_size: int,
        num_frames: int,
        max_objects: int,
        seed: int = 0,
        stride: tuple[int, int] = (1, 3),
        reverse_probability: float = 0.5,
        augmentation: AugmentationOptions | None = SAM2_AUGMENTATION,
        min_area: int = 16,
    ):
        if len(records) == 0:
            raise ValueError("There are no videos to sample clips from.")
        for name, value, lowest in (
            ("num_frames", num_frames, 1),
            ("max_objects", max_objects, 1),
            ("min_area", min_area, 1),
            ("seed", seed, 0),
        ):
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value!r}.")
        if not 1 <= stride[0] <= stride[1]:
            raise ValueError(f"stride must be (lowest, highest) with 1 <= lowest <= highest, got {stride!r}.")
        if not 0 <= reverse_probability <= 1:
            raise ValueError(f"reverse_probability must be from 0 to 1, got {reverse_probability!r}.")
        self.records = records
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.seed = seed
        self.stride = tuple(stride)
        self.reverse_probability = reverse_probability
        self.min_area = min_area
        self.augment = Augmentation(image_size, augmentation)

    def __len__(self) -> int:
        return len(self.records)

    def record_of(self, index: int) -> int:
        """Return the position in `records` of the video for this index."""
        if index < 0:
            raise IndexError(f"Clips are numbered from 0, got {index}.")
        epoch, place = divmod(index, len(self.records))
        return int(_permutation(self.seed, epoch, len(self.records))[place])

    def __getitem__(self, index: int) -> Clip:
        record = self.records[self.record_of(index)]
        generator = generator_of(self.seed, *divmod(index, len(self.records)))
        candidates = self._draw_frames(record.annotated_frames, generator)
        for min_area in (self.min_area, 1):
            for frame_indices in candidates:
                object_ids = self._draw_objects(record, frame_indices[0], min_area, generator)
                clip = self._load(record, frame_indices, object_ids, min_area, generator) if object_ids else None
                if clip is not None:
                    return replace(clip, seed=derive_seed(self.seed, index))
        raise DatasetError(
            f"The video '{record.video_id}' of {record.source} has no object that can be seen at "
            f"{self.augment.image_size} pixels in any of its {len(candidates)} annotated frames; "
            "leave it out of the records."
        )

    def _draw_frames(self, annotated: Sequence[int], generator: np.random.Generator) -> list[list[int]]:
        """Return the clip's frames for every possible start, in random order; those that fit into the video first."""
        last = len(annotated) - 1
        stride = int(generator.integers(self.stride[0], self.stride[1], endpoint=True))
        stride = min(stride, max(1, last // max(1, self.num_frames - 1)))
        direction = -1 if generator.random() < self.reverse_probability else 1
        places = generator.permutation(len(annotated))[:, None] + np.arange(self.num_frames) * stride * direction
        is_beyond = (places[:, -1] < 0) | (places[:, -1] > last)
        places = places[np.argsort(is_beyond, kind="stable")]
        # The direction changes at the ends of the video: -1 becomes 1, and last + 1 becomes last - 1.
        places = np.abs(places) % max(1, 2 * last)
        places = np.minimum(places, 2 * last - places)
        return np.asarray(annotated)[places].tolist()

    def _draw_objects(
        self, record: AnnotatedVideo, index: int, min_area: int, generator: np.random.Generator
    ) -> list[int]:
        """Choose at most `max_objects` objects with at least `min_area` pixels of the output in this frame."""
        height, width = record.size
        least = min_area * height * width / self.augment.image_size**2
        visible = sorted(object_id for object_id, area in record.objects_in(index).items() if area >= least)
        if len(visible) > self.max_objects:
            visible = sorted(generator.choice(visible, self.max_objects, replace=False).tolist())
        return visible

    def _load(
        self,
        record: AnnotatedVideo,
        frame_indices: list[int],
        object_ids: list[int],
        min_area: int,
        generator: np.random.Generator,
    ) -> Clip | None:
        """Return the augmented clip; `None` if the objects are too thin to leave a pixel in its first frame."""
        # Each frame is read once, in the order in which a video file is decoded.
        loaded = {index: self._load_frame(record, index, object_ids) for index in sorted(set(frame_indices))}
        frames, labels = (torch.stack([loaded[index][part] for index in frame_indices]) for part in range(2))
        is_still = len(record.annotated_frames) == 1 and self.num_frames > 1
        frames, masks, void = self.augment(frames, labels[:, :-1], labels[:, -1], generator, is_still, min_area)
        is_visible = masks[0].flatten(1).any(dim=1)
        if not is_visible.any():
            return None
        return Clip(
            frames=frames,
            masks=masks[:, is_visible],
            name=f"{record.source} {record.video_id}, frames {' '.join(map(str, frame_indices))}",
            void=void if void is not None and void.any() else None,
            object_ids=[object_id for object_id, kept in zip(object_ids, is_visible.tolist(), strict=True) if kept],
            frame_indices=frame_indices,
            video=record.video_id,
        )

    def _load_frame(self, record: AnnotatedVideo, index: int, object_ids: list[int]) -> tuple[Tensor, Tensor]:
        """Return a shrunk frame, uint8 (3, height, width), and its N masks and void, bool (N + 1, height, width)."""
        frame, masks, void = record.frame(index), record.masks(index), record.void(index)
        labels = np.zeros((len(object_ids) + 1, *frame.shape[:2]), dtype=np.uint8)
        for place, mask in enumerate([*map(masks.get, object_ids), void]):
            if mask is not None:
                labels[place] = mask
        shrunk = self.augment.shrink(torch.from_numpy(labels), is_mask=True)
        # A copy: arrays of decoders can be read-only, and tensors cannot.
        return self.augment.shrink(torch.tensor(frame).permute(2, 0, 1)), shrunk.bool()


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return generator_of(seed, epoch).permutation(length)

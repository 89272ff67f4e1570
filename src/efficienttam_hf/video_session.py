"""One video being tracked: its frames, the objects and their prompts, and what each object remembers.

A session is the state that `EfficientTamVideoModel` works on, with the interface of Transformers'
`Sam2VideoInferenceSession`. It takes a whole video (processed, or decoded frame by frame as needed) or a stream of
frames of unknown length. It stays bounded: pixels of a frame go when the frame is done, and entries of memory go when
they are out of reach, as `keep_history` says.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .memory import FrameMemory, ObjectMemory


class EndOfVideoError(IndexError):
    """A video ended before the length it announced (a truncated file)."""


@dataclass
class FramePrompts:
    """What a user said of one object on one frame, in the model's input pixels.

    Attributes:
        points: (1, K, 2) float32, (x, y); a box is its first two points. `None` where there is a mask.
        labels: (1, K) int64: 1 positive, 0 negative, 2 and 3 the corners of a box.
        mask: (1, 1, height, width) float32 of 0 and 1 at the model's input size.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None


@dataclass
class TrackedObject:
    """One object: its prompts by frame, the frames whose prompts wait to be run, and its memory."""

    object_id: int
    prompts: dict[int, FramePrompts] = field(default_factory=dict)
    unrun: set[int] = field(default_factory=set)
    memory: ObjectMemory = field(default_factory=ObjectMemory)


class FeatureCache:
    """The image features of the last `capacity` frames looked at, so that a click costs no encoding."""

    def __init__(self, capacity: int, storage_device: torch.device | str, inference_device: torch.device | str):
        self.capacity = capacity
        self.storage_device = storage_device
        self.inference_device = inference_device
        self._features: OrderedDict[int, Tensor] = OrderedDict()

    def __contains__(self, frame_idx: int) -> bool:
        return frame_idx in self._features

    def get(self, frame_idx: int) -> Tensor | None:
        """(1, C, H, W) on the inference device, or `None`."""
        if frame_idx not in self._features:
            return None
        self._features.move_to_end(frame_idx)
        return self._features[frame_idx].to(self.inference_device)

    def put(self, frame_idx: int, features: Tensor) -> None:
        """Keep a frame's features, letting the least recently used go."""
        self._features[frame_idx] = features.to(self.storage_device)
        self._features.move_to_end(frame_idx)
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)

    def clear_all(self) -> None:
        """Forget all."""
        self._features.clear()


class EfficientTamVideoInferenceSession:
    r"""
    The state of tracking in one video or stream.

    Args:
        video (`Tensor` of shape `(num_frames, 3, height, width)`, *optional*):
            Processed frames at the model's input size. Not for a stream.
        video_height, video_width (`int`, *optional*):
            Size of the original frames in pixels, to which prompts refer.
        inference_device (`torch.device` or `str`, defaults to `"cpu"`): Where the model runs.
        inference_state_device (`torch.device` or `str`, defaults to `"cpu"`): Where memories and masks are kept.
        video_storage_device (`torch.device` or `str`, defaults to `"cpu"`): Where processed frames are kept.
        dtype (`torch.dtype` or `str`, defaults to `"float32"`): Dtype of processed frames.
        max_vision_features_cache_size (`int`, defaults to 1): Frames whose image features are kept.
        frames (`Sequence`, *optional*):
            In place of `video`: original frames by index, each decoded and processed when it is its turn. Needs `len`.
        process_frame (`Callable`, *optional*):
            Original frame to `(pixels (3, height, width), (original height, original width))`; needed with `frames` and
            to stream raw images.
        keep_history (`bool` or `int`, defaults to 32):
            How far back a user can return, in frames. A number: that many frames on either side of the frame being
            tracked and of every prompted frame can be looked at and corrected, so memory is bounded whatever the
            length of the video. `False`: only what tracking itself looks at (16 frames). `True`: every frame, beyond
            the window offloaded to the CPU; per object and frame that is `N * c * 2 + h * w * 2 + 4 * C` bytes for a
            memory of N tokens of c channels in bfloat16, masks of h by w in float16 and a pointer of C: 641 KiB at
            1024 pixels, 161 KiB at 512 (and, when streaming, the frame's own pixels in float16).
    """

    def __init__(
        self,
        video: Tensor | None = None,
        video_height: int | None = None,
        video_width: int | None = None,
        inference_device: torch.device | str = "cpu",
        inference_state_device: torch.device | str = "cpu",
        video_storage_device: torch.device | str = "cpu",
        dtype: torch.dtype | str = "float32",
        max_vision_features_cache_size: int = 1,
        frames: Sequence[Any] | None = None,
        process_frame: Callable[[Any], tuple[Tensor, tuple[int, int]]] | None = None,
        keep_history: bool | int = 32,
    ):
        if video is not None and frames is not None:
            raise ValueError("Give either `video` (processed frames) or `frames` (original frames), not both.")
        if frames is not None and process_frame is None:
            raise ValueError(
                "`frames` need `process_frame` to become pixels; a processor's init_video_session has one."
            )
        if not isinstance(keep_history, bool) and keep_history < 0:
            raise ValueError(f"keep_history must be True, False or a number of frames, got {keep_history}.")
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.inference_device = inference_device
        self.inference_state_device = inference_state_device
        self.video_storage_device = video_storage_device
        self.video_height = video_height
        self.video_width = video_width
        self.keep_history = keep_history
        self.process_frame = process_frame
        self.cache = FeatureCache(max_vision_features_cache_size, inference_state_device, inference_device)
        self.objects: OrderedDict[int, TrackedObject] = OrderedDict()

        self._video = None if video is None else video.to(video_storage_device, self.dtype)
        self._frames = frames
        self._streamed: dict[int, Tensor] = {}
        self._num_streamed = 0

    # --------------------------------------------------------------------------------------------------- objects

    @property
    def obj_ids(self) -> list[int]:
        """The objects' ids, in the order of outputs' rows."""
        return list(self.objects)

    @property
    def obj_with_new_inputs(self) -> list[int]:
        """Ids of objects that have prompts not run yet."""
        return [object_id for object_id, obj in self.objects.items() if obj.unrun]

    def get_obj_num(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def obj_id_to_idx(self, obj_id: int) -> int:
        """Row of an object in outputs; an unknown id becomes a new object."""
        self.get_or_add_object(obj_id)
        return self.obj_ids.index(obj_id)

    def obj_idx_to_id(self, obj_idx: int) -> int:
        """Id of the object in a row of outputs."""
        return self.obj_ids[obj_idx]

    def get_or_add_object(self, obj_id: int) -> TrackedObject:
        """The object of an id, made if it is new."""
        return self.objects.setdefault(obj_id, TrackedObject(obj_id))

    def get_object(self, obj_id: int) -> TrackedObject:
        """The object of an id.

        Raises:
            ValueError: if there is none.
        """
        if obj_id not in self.objects:
            raise ValueError(f"There is no object {obj_id!r} in this session; its objects are {self.obj_ids}.")
        return self.objects[obj_id]

    def remove_object(self, obj_id: int) -> None:
        """Forget an object, its prompts and its memory. Others are not touched.

        Raises:
            ValueError: if there is no such object.
        """
        self.get_object(obj_id)
        del self.objects[obj_id]

    # --------------------------------------------------------------------------------------------------- prompts

    def add_prompts(self, obj_id: int, frame_idx: int, prompts: FramePrompts) -> None:
        """Set what is said of an object on a frame. It counts when the frame is run, or propagation starts."""
        self.check_frame_idx(frame_idx, upcoming=True)
        obj = self.get_or_add_object(obj_id)
        obj.prompts[frame_idx] = prompts
        obj.unrun.add(frame_idx)

    def add_point_inputs(self, obj_idx: int, frame_idx: int, inputs: dict[str, Tensor]) -> None:
        """As `Sam2VideoInferenceSession`: `point_coords` (1, 1, K, 2) and `point_labels` (1, 1, K), model pixels."""
        points = inputs["point_coords"].reshape(1, -1, 2).float()
        labels = inputs["point_labels"].reshape(1, -1).long()
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(points, labels))

    def add_mask_inputs(self, obj_idx: int, frame_idx: int, inputs: Tensor) -> None:
        """As `Sam2VideoInferenceSession`: a (1, 1, height, width) mask at the model's input size."""
        mask = inputs.reshape(1, 1, *inputs.shape[-2:]).float()
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(mask=mask))

    def clear_prompts(self, frame_idx: int, obj_id: int) -> None:
        """Take back all prompts for an object on a frame.

        If the frame defined the object, its result there stays as that of a frame like any other. An object left
        without prompts must be prompted anew or removed before tracking goes on.

        Raises:
            ValueError: for an unknown object, or a frame that is not there.
        """
        obj = self.get_object(obj_id)
        self.check_frame_idx(frame_idx, upcoming=True)
        obj.prompts.pop(frame_idx, None)
        obj.unrun.discard(frame_idx)
        obj.memory.clear_prompts(frame_idx)

    # ---------------------------------------------------------------------------------------------------- frames

    @property
    def is_streaming(self) -> bool:
        """Whether frames arrive one by one."""
        return self._video is None and self._frames is None

    @property
    def num_frames(self) -> int | None:
        """Frames of the video; of a stream, how many have arrived (`None` before the first)."""
        if self._video is not None:
            return len(self._video)
        if self._frames is not None:
            return len(self._frames)
        return self._num_streamed or None

    def has_frame(self, frame_idx: int) -> bool:
        """Whether a frame can be run: it is in the video, or still kept of a stream."""
        if self.is_streaming:
            return frame_idx in self._streamed or frame_idx in self.cache
        return 0 <= frame_idx < self.num_frames

    def check_frame_idx(self, frame_idx: int, upcoming: bool = False) -> None:
        """Raise `ValueError` if a frame is not there. `upcoming`: a stream's later frames count as there."""
        if not isinstance(frame_idx, int) or isinstance(frame_idx, bool):
            raise ValueError(f"A frame index is a whole number, got {frame_idx!r}.")
        if self.is_streaming:
            if not (self.has_frame(frame_idx) or (upcoming and frame_idx >= self._num_streamed)):
                raise ValueError(
                    f"Frame {frame_idx} is not at hand: {self._num_streamed} frames of this stream have arrived, and "
                    "only the last is kept. Prompt the current or the next frame, or start the session with "
                    "keep_history=True to be able to return."
                )
        elif not self.has_frame(frame_idx):
            raise ValueError(
                f"Frame {frame_idx} is out of range: the video has {self.num_frames} frames, 0 to "
                f"{self.num_frames - 1}."
            )

    def check_original_size(self, height: int, width: int) -> None:
        """Raise `ValueError` if the original frames are known to have another size."""
        known = (self.video_height, self.video_width)
        if None not in known and known != (height, width):
            raise ValueError(
                f"A frame of {width}x{height} pixels does not belong to this session, whose frames are "
                f"{known[1]}x{known[0]}. Start a session for each size of frames."
            )

    def set_original_size(self, height: int, width: int) -> None:
        """State the size of the original frames; see `check_original_size`."""
        self.check_original_size(height, width)
        self.video_height, self.video_width = height, width

    def add_new_frame(self, frame: Any, frame_idx: int | None = None) -> int:
        """Take the next frame of a stream and let the last one go.

        Args:
            frame: pixels (3, height, width) or (1, 3, height, width) as the processor gives them, or a raw image
                (uint8 array (height, width, 3) or PIL image) in a session made by a processor.
            frame_idx: its index; by default one more than the last.

        Returns:
            Its index.

        Raises:
            ValueError: if the session has a video, or the frame's size or type does not fit.
        """
        if not self.is_streaming:
            raise ValueError("This session has a video; frames can be streamed into a session made without one.")
        original_size = None
        if not (isinstance(frame, Tensor) and frame.is_floating_point()):
            if self.process_frame is None:
                raise ValueError(
                    f"A frame of type {type(frame).__name__} needs a session made by a processor's "
                    "init_video_session; otherwise give its `pixel_values`."
                )
            frame, original_size = self.process_frame(frame)
        if frame.ndim == 4 and frame.shape[0] == 1:
            frame = frame[0]
        if frame.ndim != 3:
            raise ValueError(f"A frame's pixels have shape (3, height, width), got {tuple(frame.shape)}.")
        if self._streamed:
            last_idx, last = next(reversed(self._streamed.items()))
            if last.shape != frame.shape:
                raise ValueError(
                    f"The frames of a stream have one size: this one's pixels are {tuple(frame.shape)}, the last one's "
                    f"{tuple(last.shape)}."
                )
        if frame_idx is None:
            frame_idx = self._num_streamed
        if original_size is not None:
            self.set_original_size(*original_size)
        if self.keep_history is True and self._streamed:
            compact = torch.float16 if last.dtype == torch.float32 else last.dtype
            self._streamed[last_idx] = last.to("cpu", compact)
        else:
            self._streamed.clear()
        self._streamed[frame_idx] = frame.to(self.video_storage_device, self.dtype)
        self._num_streamed = max(self._num_streamed, frame_idx + 1)
        return frame_idx

    def get_frame(self, frame_idx: int) -> Tensor:
        """Processed pixels (3, height, width) of a frame, on the inference device.

        Raises:
            ValueError: if the frame is not there.
            EndOfVideoError: if the video turns out to end before it.
        """
        self.check_frame_idx(frame_idx)
        if self._video is not None:
            pixels = self._video[frame_idx]
        elif self._frames is not None:
            try:
                frame = self._frames[frame_idx]
            except IndexError as error:
                raise EndOfVideoError(str(error)) from error
            pixels, size = self.process_frame(frame)
            self.set_original_size(*size)
        else:
            pixels = self._streamed[frame_idx]
        return pixels.to(self.inference_device, self.dtype)

    def frames_to_track(self, start: int, max_frames: int | None, reverse: bool) -> range:
        """The frames from `start` on, at most `max_frames` after it. Backwards from frame 0 there are none.

        Raises:
            ValueError: if `max_frames` is negative.
        """
        if max_frames is not None and max_frames < 0:
            raise ValueError(f"max_frame_num_to_track must not be negative, got {max_frames}.")
        count = self.num_frames if max_frames is None else max_frames
        if not reverse:
            return range(start, min(start + count, self.num_frames - 1) + 1)
        return range(start, max(start - count, 0) - 1, -1) if start > 0 else range(0)

    # --------------------------------------------------------------------------------------------------- results

    def store_prompted(self, obj: TrackedObject, frame_idx: int, entry: FrameMemory, conditioning: bool) -> None:
        """Keep the result of a frame's prompts, to count when propagation goes on."""
        pending = obj.memory.pending_conditioning if conditioning else obj.memory.pending_tracked
        pending[frame_idx] = entry
        obj.unrun.discard(frame_idx)

    def commit(self) -> None:
        """Let the results of prompts count, before tracking goes on.

        Raises:
            ValueError: if there is no object, or one that nothing defines.
        """
        if not self.objects:
            raise ValueError("No objects are provided for tracking; please add inputs first.")
        for obj in self.objects.values():
            if not (obj.memory.conditioning or obj.memory.pending_conditioning or obj.unrun):
                raise ValueError(
                    f"Object {obj.object_id} has no prompts (they were cleared): prompt it on a frame, or remove it "
                    f"with remove_object({obj.object_id})."
                )
        for obj in self.objects.values():
            obj.memory.commit()

    def mark_tracked(self, frame_idx: int, reverse: bool, horizon: int) -> None:
        """Note that propagation passed a frame, and let go what is out of reach.

        Args:
            horizon: how many frames back tracking looks, at the least.
        """
        for obj in self.objects.values():
            entry = obj.memory.conditioning.get(frame_idx) or obj.memory.tracked.get(frame_idx)
            if entry is not None:
                entry.tracked_in_reverse = reverse
            if self.keep_history is True:
                obj.memory.offload(frame_idx, max(32, horizon))
            else:
                obj.memory.forget(frame_idx, max(int(self.keep_history), horizon))

    def reset_tracking_data(self) -> None:
        """Forget all objects; the video and its cached features stay."""
        self.objects.clear()

    def reset_inference_session(self) -> None:
        """Forget all objects and cached features; the video stays."""
        self.reset_tracking_data()
        self.cache.clear_all()


__all__ = ["EfficientTamVideoInferenceSession"]

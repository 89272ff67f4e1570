"""What is tracked in one video: objects, the prompts that wait, which frames there are.

A `TrackingSession` is the book-keeping of a session: no tensor is computed with here, so that the session of the model
(`video_session.py`) and that of the tracker which runs on exported graphs without torch (`export/`) are one. Each adds
how it keeps pixels and features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .object_memory import MemoryEntry, ObjectMemory
from .prompts import FramePrompts


class EndOfVideoError(IndexError):
    """A video ended before the length it announced (a truncated file)."""


@dataclass
class TrackedObject:
    """One object: its prompts by frame, the frames whose prompts wait to be run, and its memory."""

    object_id: int
    prompts: dict[int, FramePrompts] = field(default_factory=dict)
    unrun: set[int] = field(default_factory=set)
    memory: ObjectMemory = field(default_factory=ObjectMemory)


class FeatureCache:
    """The image features of the last `capacity` frames looked at, so that a click costs no encoding."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._features: OrderedDict[int, Any] = OrderedDict()

    def __contains__(self, frame_idx: int) -> bool:
        return frame_idx in self._features

    def get(self, frame_idx: int) -> Any | None:
        """A frame's features, or `None`."""
        if frame_idx not in self._features:
            return None
        self._features.move_to_end(frame_idx)
        return self._features[frame_idx]

    def put(self, frame_idx: int, features: Any) -> None:
        """Keep a frame's features, letting the least recently used go."""
        self._features[frame_idx] = features
        self._features.move_to_end(frame_idx)
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)

    def clear_all(self) -> None:
        """Forget all."""
        self._features.clear()


class TrackingSession:
    """Objects, prompts and frames of one video or stream.

    Args:
        frames: by index, with `len`; `None` for a stream.
        process_frame: a frame to the network's pixels, and its own (height, width); `None` where frames are pixels.
        video_height, video_width: of the original frames, to which prompts refer.
        cache: what keeps image features.
        keep_history: how far back a user can return; see `EfficientTamVideoInferenceSession`.
    """

    def __init__(
        self,
        frames: Sequence[Any] | None,
        process_frame: Callable[[Any], tuple[Any, tuple[int, int]]] | None,
        video_height: int | None,
        video_width: int | None,
        cache: FeatureCache,
        keep_history: bool | int,
    ):
        if not isinstance(keep_history, bool) and keep_history < 0:
            raise ValueError(f"keep_history must be True, False or a number of frames, got {keep_history}.")
        self.video_height = video_height
        self.video_width = video_width
        self.keep_history = keep_history
        self.process_frame = process_frame
        self.cache = cache
        self.objects: OrderedDict[int, TrackedObject] = OrderedDict()
        self._frames = frames
        self._streamed: dict[int, Any] = {}
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
        return self._frames is None

    @property
    def num_frames(self) -> int | None:
        """Frames of the video; of a stream, how many have arrived (`None` before the first)."""
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
            frame: a raw image (uint8 array (height, width, 3) or PIL image) in a session made by a processor; in the
                model's sessions also pixels (3, height, width) or (1, 3, height, width) as the processor gives them.
            frame_idx: its index; by default one more than the last.

        Returns:
            Its index.

        Raises:
            ValueError: if the session has a video, or the frame's size or type does not fit.
        """
        if not self.is_streaming:
            raise ValueError("This session has a video; frames can be streamed into a session made without one.")
        pixels, original_size = self._to_pixels(frame)
        if self._streamed:
            last_idx, last = next(reversed(self._streamed.items()))
            if last.shape != pixels.shape:
                raise ValueError(
                    f"The frames of a stream have one size: this one's pixels are {tuple(pixels.shape)}, the last "
                    f"one's {tuple(last.shape)}."
                )
        if frame_idx is None:
            frame_idx = self._num_streamed
        if original_size is not None:
            self.set_original_size(*original_size)
        if self.keep_history is True and self._streamed:
            self._streamed[last_idx] = self._compact(last)
        else:
            self._streamed.clear()
        self._streamed[frame_idx] = pixels
        self._num_streamed = max(self._num_streamed, frame_idx + 1)
        return frame_idx

    def _to_pixels(self, frame: Any) -> tuple[Any, tuple[int, int] | None]:
        """A frame of a stream as pixels (3, height, width), and its own size where that is known."""
        return self.process_frame(frame)

    def _compact(self, pixels: Any) -> Any:
        """Pixels that are kept only to return to them, in half the room."""
        return pixels

    def get_frame(self, frame_idx: int) -> Any:
        """Processed pixels (3, height, width) of a frame.

        Raises:
            ValueError: if the frame is not there.
            EndOfVideoError: if the video turns out to end before it.
        """
        self.check_frame_idx(frame_idx)
        if self.is_streaming:
            return self._streamed[frame_idx]
        try:
            frame = self._frames[frame_idx]
        except IndexError as error:
            raise EndOfVideoError(str(error)) from error
        if self.process_frame is None:
            return frame
        pixels, size = self.process_frame(frame)
        self.set_original_size(*size)
        return pixels

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

    def store_prompted(self, obj: TrackedObject, frame_idx: int, entry: MemoryEntry, conditioning: bool) -> None:
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

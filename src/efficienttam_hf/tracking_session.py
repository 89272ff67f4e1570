"""The state of one video or stream, without torch: objects, pending prompts, available frames, and the history.

A `TrackingSession` does the bookkeeping and computes no tensor. The torch model's session (`video_session.py`) and the
session of the ONNX tracker (`export/`) are therefore the same class, and each adds how it stores pixels and features.
`session_walk.py` runs sessions.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .memory_selection import Recent, make_strategy
from .object_competition import check_competition
from .object_memory import MemoryEntry, ObjectMemory
from .prompts import FramePrompts
from .tracking_rules import Direction, TrackingRules, history_of


class EndOfVideoError(IndexError):
    """A video ended before the length it announced (a truncated file)."""

    ends_video = True  # callers test this attribute: a checkpoint's code can be loaded twice, which makes two classes


def whole_number(value: Any, what: str) -> int:
    """Convert a number of any integer type (`int`, a NumPy integer, a tensor of one integer) to an `int`.

    Args:
        value: the number.
        what: the name of the number, with which a message begins: "A frame index".

    Raises:
        ValueError: if the value is anything else, such as a float, a string or a bool.
    """
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        if not is_bool:
            return operator.index(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{what} is a whole number, got {value!r}.")


@dataclass
class TrackedObject:
    """One object of a session.

    Attributes:
        object_id: its id.
        prompts: its prompts by frame.
        unrun: the frames on which its prompts are pending.
        memory: its memories.
        unrun_references: the pixels and the mask of reference images that are pending.
    """

    object_id: int
    prompts: dict[int, FramePrompts] = field(default_factory=dict)
    unrun: set[int] = field(default_factory=set)
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    unrun_references: list[tuple[Any, FramePrompts]] = field(default_factory=list)


class FeatureProvider(Protocol):
    """Computes the image features of frames for a session that does not have them in its cache.

    `app.encoding_ahead` has a provider that encodes the next frame while the current one is being tracked.
    """

    def features(self, session: TrackingSession, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """The features of a frame.

        Args:
            session: the session that needs the features; `session.get_frame` returns the pixels.
            frame_idx: the frame.
            encode: a function from pixels (3, height, width) to features.
        """


class FeatureCache:
    """Keeps the image features of the `capacity` most recently used frames: a click on one needs no encoding."""

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
        """Store a frame's features and drop the least recently used ones."""
        self._features[frame_idx] = features
        self._features.move_to_end(frame_idx)
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)

    def clear_all(self) -> None:
        """Drop all features."""
        self._features.clear()


class TrackingSession:
    """Objects, prompts and frames of one video or stream.

    Args:
        frames: the frames of a video, an object with indexing and `len`; `None` for a stream.
        process_frame: a function from a frame to the network's pixels and the frame's own (height, width); `None` if
            the frames are processed pixels already.
        video_height, video_width: size of the original frames in pixels, to which prompts refer.
        cache: the cache of image features.
        keep_history: how far back a user can return; see `EfficientTamVideoInferenceSession`.

    Attributes:
        history: `keep_history` as a number of frames; `None` for all.
        feature_provider: computes image features; if it is `None`, the session encodes a frame when it is needed.
        rule_changes: fields of `TrackingRules` in which this session differs from the model, by name; see
            `change_rules`.
        objects: the objects by id, in the order of the rows of outputs.
    """

    def __init__(
        self,
        frames: Sequence[Any] | None,
        process_frame: Callable[[Any], tuple[Any, tuple[int, int]]] | None,
        video_height: int | None,
        video_width: int | None,
        cache: FeatureCache,
        keep_history: bool | int | None,
    ):
        self.history = history_of(keep_history)
        self.video_height = video_height
        self.video_width = video_width
        self.process_frame = process_frame
        self.cache = cache
        self.feature_provider: FeatureProvider | None = None
        self.rule_changes: dict[str, Any] = {}
        self.objects: OrderedDict[int, TrackedObject] = OrderedDict()
        self._frames = frames
        self._streamed: dict[int, Any] = {}
        self._num_streamed = 0

    # --------------------------------------------------------------------------------------------------- objects

    @property
    def obj_ids(self) -> list[int]:
        """The ids of the objects, in the order of the rows of outputs."""
        return list(self.objects)

    @property
    def obj_with_new_inputs(self) -> list[int]:
        """Ids of the objects that have pending prompts."""
        return [object_id for object_id, obj in self.objects.items() if obj.unrun]

    def get_obj_num(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def obj_id_to_idx(self, obj_id: int) -> int:
        """Row of an object in outputs; an unknown id becomes a new object."""
        obj = self.get_or_add_object(obj_id)
        return self.obj_ids.index(obj.object_id)

    def obj_idx_to_id(self, obj_idx: int) -> int:
        """Id of the object in a row of outputs."""
        return self.obj_ids[obj_idx]

    def get_or_add_object(self, obj_id: int) -> TrackedObject:
        """The object with an id; it is created if it does not exist.

        Raises:
            ValueError: if the id is not a whole number.
        """
        obj_id = whole_number(obj_id, "An object id")
        return self.objects.setdefault(obj_id, TrackedObject(obj_id))

    def get_object(self, obj_id: int) -> TrackedObject:
        """The object with an id.

        Raises:
            ValueError: if no object has this id, or the id is not a whole number.
        """
        obj_id = whole_number(obj_id, "An object id")
        if obj_id not in self.objects:
            raise ValueError(f"There is no object {obj_id!r} in this session; its objects are {self.obj_ids}.")
        return self.objects[obj_id]

    def remove_object(self, obj_id: int, strict: bool = True) -> None:
        """Remove an object, its prompts and its memories. Other objects are not changed.

        Args:
            obj_id: the object.
            strict: whether an unknown id is an error; otherwise it is ignored.

        Raises:
            ValueError: if no object has this id and `strict` is true.
        """
        if strict or whole_number(obj_id, "An object id") in self.objects:
            del self.objects[self.get_object(obj_id).object_id]

    # --------------------------------------------------------------------------------------------------- prompts

    def add_prompts(self, obj_id: int, frame_idx: int, prompts: FramePrompts) -> None:
        """Set the prompts of an object on a frame. They are pending until the frame is run or tracking reaches it."""
        frame_idx = self.check_frame_idx(frame_idx, upcoming=True)
        obj = self.get_or_add_object(obj_id)
        obj.prompts[frame_idx] = prompts
        obj.unrun.add(frame_idx)

    def add_reference(self, obj_id: int, pixels: Any, mask: FramePrompts) -> None:
        """Add a reference image of an object: processed pixels (3, height, width), and a mask prompt.

        It is not a frame of the video. It is pending until the next frame is run or tracked.
        """
        self.get_or_add_object(obj_id).unrun_references.append((pixels, mask))

    def reference_pixels(self, image: Any) -> Any:
        """A reference image of any size as the network's pixels (3, height, width).

        Raises:
            ValueError: if it is not an image, or the session was made without a processor.
        """
        return self._to_pixels(image)[0]

    def clear_prompts(self, frame_idx: int, obj_id: int) -> None:
        """Remove all prompts of an object on a frame.

        If the frame was a conditioning frame, its result remains as the result of a tracked frame. An object without
        any prompts must be prompted again or removed before tracking goes on.

        Raises:
            ValueError: if the object or the frame does not exist.
        """
        obj = self.get_object(obj_id)
        frame_idx = self.check_frame_idx(frame_idx, upcoming=True)
        obj.prompts.pop(frame_idx, None)
        obj.unrun.discard(frame_idx)
        obj.memory.clear_prompts(frame_idx)

    def waiting_on(self, frame_idx: int) -> list[TrackedObject]:
        """The objects with pending prompts on a frame."""
        return [obj for obj in self.objects.values() if frame_idx in obj.unrun]

    def waiting_frames(self) -> list[int]:
        """The available frames with pending prompts, in order."""
        waiting = {t for obj in self.objects.values() for t in obj.unrun}
        return sorted(t for t in waiting if self.has_frame(t))

    # ---------------------------------------------------------------------------------------------------- frames

    @property
    def is_streaming(self) -> bool:
        """Whether frames arrive one by one."""
        return self._frames is None

    @property
    def num_frames(self) -> int | None:
        """Number of frames of the video, or of the frames of a stream so far (`None` before the first)."""
        if self._frames is not None:
            return len(self._frames)
        return self._num_streamed or None

    def has_frame(self, frame_idx: int) -> bool:
        """Whether a frame can be run: it is in the video, or the session still keeps it of a stream."""
        if self._frames is None:
            return frame_idx in self._streamed or frame_idx in self.cache
        return 0 <= frame_idx < len(self._frames)

    def check_frame_idx(self, frame_idx: int | None, upcoming: bool = False) -> int:
        """Check that a frame is available and return its index as an `int`.

        Args:
            frame_idx: an index of any integer type. In a stream, `None` means the current frame, or the first frame
                before any has arrived.
            upcoming: whether frames of a stream that have not arrived yet are accepted.

        Raises:
            ValueError: if the index is not a whole number, or the frame is not available.
        """
        if frame_idx is None and self.is_streaming:
            frame_idx = next(reversed(self._streamed), self._num_streamed)
        frame_idx = whole_number(frame_idx, "A frame index")
        if self.is_streaming:
            if not (self.has_frame(frame_idx) or (upcoming and frame_idx >= self._num_streamed)):
                raise ValueError(
                    f"Frame {frame_idx} is not available: {self._num_streamed} frames of this stream have arrived, and "
                    "only the last is kept. Prompt the current or a later frame, or start the session with "
                    "keep_history=True to prompt earlier frames."
                )
        elif not self.has_frame(frame_idx):
            number = self.num_frames or 0
            raise ValueError(f"Frame {frame_idx} is out of range: the video has {number} frames, 0 to {number - 1}.")
        return frame_idx

    def check_original_size(self, height: int, width: int) -> None:
        """Raise `ValueError` if the original frames are known to have another size."""
        known = (self.video_height, self.video_width)
        if None not in known and known != (height, width):
            raise ValueError(
                f"A frame of {width}x{height} pixels does not belong to this session, whose frames are "
                f"{known[1]}x{known[0]}: a session has frames of one size. Start another one for these."
            )

    def set_original_size(self, height: int, width: int) -> None:
        """Set the size of the original frames; see `check_original_size`."""
        self.check_original_size(height, width)
        self.video_height, self.video_width = height, width

    def add_new_frame(self, frame: Any, frame_idx: int | None = None) -> int:
        """Add the next frame of a stream and discard the previous one.

        Args:
            frame: a raw image (uint8 array (height, width, 3) or PIL image) in a session that a processor made. A
                session of the torch model also accepts the processor's pixels, (3, height, width) or
                (1, 3, height, width).
            frame_idx: the index of the frame; by default one more than the last.

        Returns:
            The index of the frame.

        Raises:
            ValueError: if the session has a video, or the frame has the wrong size or type.
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
        frame_idx = self._num_streamed if frame_idx is None else whole_number(frame_idx, "A frame index")
        if original_size is not None:
            self.set_original_size(*original_size)
        if self.history is None and self._streamed:
            self._streamed[last_idx] = self._compact(last)
        else:
            self._streamed.clear()
        self._streamed[frame_idx] = pixels
        self._num_streamed = max(self._num_streamed, frame_idx + 1)
        return frame_idx

    def _to_pixels(self, frame: Any) -> tuple[Any, tuple[int, int] | None]:
        """A frame of a stream as pixels (3, height, width), and its original size if that is known."""
        assert self.process_frame is not None  # only sessions of the torch model lack it, and they override this
        return self.process_frame(frame)

    def _compact(self, pixels: Any) -> Any:
        """Pixels in a type of half the size, for frames that are kept only so that a user can return to them."""
        return pixels

    def get_frame(self, frame_idx: int) -> Any:
        """Processed pixels (3, height, width) of a frame.

        Raises:
            ValueError: if the frame is not available.
            EndOfVideoError: if the video ends before this frame, although it announced more.
        """
        frame_idx = self.check_frame_idx(frame_idx)
        if self._frames is None:
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

    def get_original_frame(self, frame_idx: int) -> Any:
        """An original frame of the video, in the type in which the video has it, such as an array or a PIL image.

        Raises:
            ValueError: if the frame is not available, or the session only has processed pixels: that of a stream, or of
                a video that was given as pixels.
            EndOfVideoError: if the video ends before this frame, although it announced more.
        """
        frame_idx = self.check_frame_idx(frame_idx)
        if self._frames is None or self.process_frame is None:
            raise ValueError(
                f"This session keeps no original frame {frame_idx}, only its processed pixels: give the frame itself, "
                "an RGB image."
            )
        try:
            return self._frames[frame_idx]
        except IndexError as error:
            raise EndOfVideoError(str(error)) from error

    def features(self, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """Image features of a frame; they are computed only if they are not in the cache.

        Args:
            frame_idx: the frame.
            encode: a function from pixels (3, height, width) to features.
        """
        features = self.cache.get(frame_idx)
        if features is None:
            if self.feature_provider is None:
                features = encode(self.get_frame(frame_idx))
            else:
                features = self.feature_provider.features(self, frame_idx, encode)
            self.cache.put(frame_idx, features)
        return features

    def frames_to_track(self, start: int, max_frames: int | None, direction: Direction) -> range:
        """The frames from `start` on, at most `max_frames` after it. The range is empty backward from frame 0.

        Raises:
            ValueError: if `max_frames` is not a whole number, or is negative.
        """
        num_frames = self.num_frames or 0
        count = num_frames if max_frames is None else whole_number(max_frames, "max_frame_num_to_track")
        if count < 0:
            raise ValueError(f"max_frame_num_to_track must not be negative, got {count}.")
        if direction == Direction.FORWARD:
            return range(start, min(start + count, num_frames - 1) + 1)
        return range(start, max(start - count, 0) - 1, -1) if start > 0 else range(0)

    # --------------------------------------------------------------------------------------------------- results

    def store_prompted(self, obj: TrackedObject, frame_idx: int, entry: MemoryEntry, conditioning: bool) -> None:
        """Store the result of a frame's prompts as a pending result; see `commit`."""
        pending = obj.memory.pending_conditioning if conditioning else obj.memory.pending_tracked
        pending[frame_idx] = entry
        obj.unrun.discard(frame_idx)

    def commit(self, rules: TrackingRules) -> None:
        """Commit the pending results of prompts before tracking goes on.

        Raises:
            ValueError: if an object has no conditioning frame.
        """
        for obj in self.objects.values():
            if not (obj.memory.is_defined or obj.unrun or obj.unrun_references):
                raise ValueError(
                    f"Object {obj.object_id} has no prompts (they were cleared): prompt it on a frame, or remove it "
                    f"with remove_object({obj.object_id})."
                )
        for obj in self.objects.values():
            obj.memory.commit(rules)

    def let_go(self, frame_idx: int, direction: Direction, rules: TrackingRules) -> None:
        """Discard memories that are no longer needed after tracking has passed a frame."""
        for obj in self.objects.values():
            if self.history is None:
                obj.memory.offload(frame_idx, max(32, rules.reach))
            else:
                obj.memory.forget(frame_idx, direction, self.history, rules)

    def change_rules(
        self,
        memory_selection: str | None = None,
        memory_options: Mapping[str, Any] | None = None,
        memory_stride: int | None = None,
        object_competition: str | None = None,
    ) -> None:
        """Change rules of tracking for this session only. An argument that is `None` changes nothing.

        Args:
            memory_selection: name of a strategy; see `memory_selection.py`.
            memory_options: options of the strategy that differ from its defaults, by name.
            memory_stride: distance in frames between the memories of tracked frames.
            object_competition: how overlapping masks of several objects are resolved; see `object_competition.py`.

        Raises:
            ValueError: if the strategy, an option or the competition is unknown, or the stride is below 1.
        """
        if memory_selection is not None or memory_options is not None:
            make_strategy(memory_selection or Recent.name, memory_options)  # raises if a name or an option is wrong
        if memory_stride is not None and whole_number(memory_stride, "memory_stride") < 1:
            raise ValueError(f"memory_stride is a number of frames, at least 1; got {memory_stride}.")
        if object_competition is not None:
            check_competition(object_competition)
        changes = {
            "object_competition": object_competition,
            "memory_selection": memory_selection,
            "memory_selection_options": None if memory_options is None else dict(memory_options),
            "memory_temporal_stride_for_eval": memory_stride,
        }
        self.rule_changes |= {name: value for name, value in changes.items() if value is not None}

    def rules_of(self, model_rules: TrackingRules) -> TrackingRules:
        """The model's rules with this session's changes."""
        return replace(model_rules, **self.rule_changes) if self.rule_changes else model_rules

    def reset_tracking_data(self) -> None:
        """Remove all objects; the video and its cached features are kept."""
        self.objects.clear()

    def reset_inference_session(self) -> None:
        """Remove all objects and cached features; the video is kept."""
        self.reset_tracking_data()
        self.cache.clear_all()

    def reset_state(self) -> None:
        """The same as `reset_inference_session`, under the name of the published predictor's method."""
        self.reset_inference_session()

    def __getstate__(self) -> dict[str, Any]:
        # A feature provider holds threads, which cannot be copied; the copy encodes its frames itself.
        return {**self.__dict__, "feature_provider": None}

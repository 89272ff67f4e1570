"""The state of one video or stream, without torch: objects, pending prompts, available frames, and the history.

A `TrackingSession` does the bookkeeping and computes no tensor, so that the model's session (`video_session.py`) and
that of the tracker which runs on exported graphs without torch (`export/`) are one. Each adds how it keeps pixels and
features. What is done with a session is in `session_walk.py`.
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

    ends_video = True  # asked for in place of the class, which is two where a checkpoint's code is loaded twice


def whole_number(value: Any, what: str) -> int:
    """A whole number of any integer type (`int`, NumPy's, a tensor of one integer) as an `int`.

    Args:
        what: what the number is, to begin a message with: "A frame index".

    Raises:
        ValueError: for anything else: a float, a string, a truth value.
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
    """One object: its prompts by frame, the frames whose prompts wait to be run, and its memory."""

    object_id: int
    prompts: dict[int, FramePrompts] = field(default_factory=dict)
    unrun: set[int] = field(default_factory=set)
    memory: ObjectMemory = field(default_factory=ObjectMemory)


class FeatureProvider(Protocol):
    """What a session asks for the image features of a frame that it does not keep, in place of encoding it itself.

    `app.encoding_ahead` has one that encodes the next frame meanwhile.
    """

    def features(self, session: TrackingSession, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """The features of a frame.

        Args:
            session: the session that asks; `session.get_frame` has the pixels.
            frame_idx: the frame.
            encode: pixels (3, height, width) to features.
        """


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

    Attributes:
        history: `keep_history` as a number of frames; `None` for all.
        feature_provider: who computes image features; `None`: they are computed when they are needed.
        rule_changes: fields of `TrackingRules` that are this session's own, by name; see `change_rules`.
        objects: by id, in the order of outputs' rows.
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
        obj = self.get_or_add_object(obj_id)
        return self.obj_ids.index(obj.object_id)

    def obj_idx_to_id(self, obj_idx: int) -> int:
        """Id of the object in a row of outputs."""
        return self.obj_ids[obj_idx]

    def get_or_add_object(self, obj_id: int) -> TrackedObject:
        """The object of an id, made if it is new.

        Raises:
            ValueError: if the id is no whole number.
        """
        obj_id = whole_number(obj_id, "An object id")
        return self.objects.setdefault(obj_id, TrackedObject(obj_id))

    def get_object(self, obj_id: int) -> TrackedObject:
        """The object of an id.

        Raises:
            ValueError: if there is none, or the id is no whole number.
        """
        obj_id = whole_number(obj_id, "An object id")
        if obj_id not in self.objects:
            raise ValueError(f"There is no object {obj_id!r} in this session; its objects are {self.obj_ids}.")
        return self.objects[obj_id]

    def remove_object(self, obj_id: int, strict: bool = True) -> None:
        """Remove an object, its prompts and its memories. Other objects are not changed.

        Args:
            strict: whether an id that is not there is an error; otherwise nothing is done.

        Raises:
            ValueError: if there is no such object and `strict` holds.
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

    def clear_prompts(self, frame_idx: int, obj_id: int) -> None:
        """Remove all prompts of an object on a frame.

        If the frame defined the object, its result there stays as that of a frame like any other. An object left
        without prompts must be prompted anew or removed before tracking goes on.

        Raises:
            ValueError: for an unknown object, or a frame that is not there.
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
        """Frames of the video; of a stream, how many have arrived (`None` before the first)."""
        if self._frames is not None:
            return len(self._frames)
        return self._num_streamed or None

    def has_frame(self, frame_idx: int) -> bool:
        """Whether a frame can be run: it is in the video, or still kept of a stream."""
        if self._frames is None:
            return frame_idx in self._streamed or frame_idx in self.cache
        return 0 <= frame_idx < len(self._frames)

    def check_frame_idx(self, frame_idx: int | None, upcoming: bool = False) -> int:
        """A frame index as an `int`, checked to be there.

        Args:
            frame_idx: of any integer type. `None`, in a stream: the current frame, or the first before it has arrived.
            upcoming: whether a stream's later frames count as there.

        Raises:
            ValueError: for what is no whole number, or a frame that is not there.
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
        """State the size of the original frames; see `check_original_size`."""
        self.check_original_size(height, width)
        self.video_height, self.video_width = height, width

    def add_new_frame(self, frame: Any, frame_idx: int | None = None) -> int:
        """Add the next frame of a stream and discard the previous one.

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
        """A frame of a stream as pixels (3, height, width), and its own size where that is known."""
        assert self.process_frame is not None  # every stream has one, but those of torch, which override this
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

    def features(self, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """Image features of a frame, computed once while the session keeps them.

        Args:
            encode: pixels (3, height, width) to features.
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
        """The frames from `start` on, at most `max_frames` after it. Backward from frame 0 there are none.

        Raises:
            ValueError: if `max_frames` is no whole number, or negative.
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
        """Keep the result of a frame's prompts, to count when tracking goes on."""
        pending = obj.memory.pending_conditioning if conditioning else obj.memory.pending_tracked
        pending[frame_idx] = entry
        obj.unrun.discard(frame_idx)

    def commit(self, rules: TrackingRules) -> None:
        """Commit the pending results of prompts before tracking goes on.

        Raises:
            ValueError: if there is an object that nothing defines.
        """
        for obj in self.objects.values():
            if not (obj.memory.is_defined or obj.unrun):
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
        """Use other rules of memory selection in this session than the model's configuration has.

        Args:
            memory_selection: a strategy's name; see `memory_selection.py`.
            memory_options: numbers of the strategy that are not to be its defaults, by name.
            memory_stride: distance in frames between the memories of tracked frames.
            object_competition: what becomes of masks that several objects claim; see `object_competition.py`.

        Raises:
            ValueError: for a strategy, an option or a competition that there is not, or a stride below 1.
        """
        if memory_selection is not None or memory_options is not None:
            make_strategy(memory_selection or Recent.name, memory_options)  # checks them
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
        """The model's rules, with what this session has of its own."""
        return replace(model_rules, **self.rule_changes) if self.rule_changes else model_rules

    def reset_tracking_data(self) -> None:
        """Remove all objects; the video and its cached features are kept."""
        self.objects.clear()

    def reset_inference_session(self) -> None:
        """Remove all objects and cached features; the video is kept."""
        self.reset_tracking_data()
        self.cache.clear_all()

    def reset_state(self) -> None:
        """The same as `reset_inference_session`, by the name that the published predictor has for it."""
        self.reset_inference_session()

    def __getstate__(self) -> dict[str, Any]:
        # Whoever computes features holds threads; the copy computes them itself.
        return {**self.__dict__, "feature_provider": None}

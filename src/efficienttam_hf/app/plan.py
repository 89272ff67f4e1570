"""Plans tracking (which objects, from which frame, in which direction) and runs the plan frame by frame.

`efficienttam track` and the demo share this file. Forward, an object is tracked from its first prompted frame, where it
joins the objects that are tracked already; backward, from its last prompted frame. In both directions, an object is
tracked forward from its first prompted frame to the end, and then backward from that frame to the beginning, with the
memories of the frames that followed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..prompts import ObjectPrompts, Prompts


if TYPE_CHECKING:
    from ..discovery import ObjectFinder
    from ..export.onnx_tracker import OnnxVideoTracker
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor

    Tracker: TypeAlias = EfficientTamVideoModel | OnnxVideoTracker
    TrackerProcessor: TypeAlias = EfficientTamVideoProcessor | OnnxVideoTracker


@dataclass
class TrackedFrame:
    """The results of tracking on a frame.

    Attributes:
        index: the number of the frame in the session.
        object_ids: the ids of the objects that have a result here; empty if tracking only passed the frame.
        logits: float32 (objects, height, width), mask logits at the frame's size.
        scores: for each object, the probability that it is in the frame.
    """

    index: int
    object_ids: list[int]
    logits: np.ndarray
    scores: list[float]


@dataclass
class Reference:
    """A reference image of an object.

    Attributes:
        object_id: the id of the object.
        image: uint8 (height, width, 3) RGB, of any size.
        mask: bool (height, width), the mask of the object in the image.
        name: the name of the image's file, for the results.
    """

    object_id: int
    image: np.ndarray
    mask: np.ndarray
    name: str


def track_objects(
    model: Tracker,
    processor: TrackerProcessor,
    frames: Any,
    prompts: Prompts,
    plan: TrackingPlan,
    encode_ahead: bool = False,
    memory: Mapping[str, Any] | None = None,
    session: Any = None,
    finder: ObjectFinder | None = None,
    references: Sequence[Reference] = (),
) -> Generator[TrackedFrame, None, None]:
    """Track objects by a plan, yielding each frame when it is finished; RAM use is bounded.

    Args:
        model, processor: a torch model and its processor, or exported graphs, which are both.
        frames: an object with `len` and indexing; each frame is uint8 (height, width, 3) RGB.
        prompts: prompts by frame number, in pixels of these frames.
        encode_ahead: whether the next frame is encoded in the meantime (`encoding_ahead.py`). Until the iterator is
            closed, this thread then has half of torch's threads.
        memory: options of `init_video_session` for memory selection; by default, the model's configuration decides.
        session: the session of `open_session`, if objects were found in it before; by default, one is opened.
        finder: looks for new objects while they are tracked in the first direction. They become part of the plan.
        references: reference images of objects, which `plan` tracks from the first frame on.
    """
    if session is None:
        session = open_session(model, processor, frames, memory)

    def add_all(object_id: int) -> None:
        for one in references:
            if one.object_id == object_id:
                processor.add_reference_to_session(session, one.image, one.mask, object_id)
        for index, on_frame in prompts.items():
            if object_id in on_frame:
                add_prompts(model, processor, session, index, object_id, on_frame[object_id])

    from .encoding_ahead import EncodedAhead

    with EncodedAhead(session) if encode_ahead else nullcontext():
        for output, object_ids in plan.run(model, session, add_all, finder):
            yield read_output(processor, session, output, object_ids)


def open_session(
    model: Tracker, processor: TrackerProcessor, frames: Any, memory: Mapping[str, Any] | None = None
) -> Any:
    """Open a session that keeps only what tracking needs; see `track_objects` for the arguments."""
    return processor.init_video_session(frames, keep_history=False, **_placed(model), **(memory or {}))


def first_masks(
    model: Tracker, processor: TrackerProcessor, frames: Any, prompts: Prompts, count: int = 4
) -> Iterator[np.ndarray]:
    """Track the objects that are prompted first over `count` frames; yield (objects, height, width) bool of each.

    The other arguments are those of `track_objects`.
    """
    begin = min(prompts)
    on_frame = {begin: prompts[begin]}
    with closing(track_objects(model, processor, frames, on_frame, plan_tracking(on_frame, "forward"))) as tracked:
        for done in islice(tracked, count):
            yield done.logits > 0


def segment_frame(
    model: Tracker,
    processor: TrackerProcessor,
    frame: np.ndarray,
    prompts: dict[int, ObjectPrompts],
) -> TrackedFrame:
    """Segment an object from its prompts on one frame, uint8 (height, width, 3) RGB, as tracking does at its start."""
    session = processor.init_video_session([frame], **_placed(model))
    for object_id, given in prompts.items():
        add_prompts(model, processor, session, 0, object_id, given)
    return read_output(processor, session, model.segment_prompts(session, 0), list(prompts))


def _placed(model: Any) -> dict[str, Any]:
    """The options of a session that say where a torch model is; exported graphs have none."""
    return {"inference_device": model.device, "dtype": model.dtype} if hasattr(model, "device") else {}


def add_prompts(
    model: Tracker,
    processor: TrackerProcessor,
    session: Any,
    index: int,
    object_id: int,
    prompts: ObjectPrompts,
    **kwargs: Any,
) -> None:
    """Add all prompts of one object on a frame to a session. Points and a box given with a mask correct this mask."""
    prompted = bool(prompts.points or prompts.box)
    if prompts.mask is not None:
        processor.add_inputs_to_inference_session(session, index, object_id, input_masks=prompts.mask, **kwargs)
        if prompted:
            model.segment_prompts(session, index)
    if prompted:
        processor.add_inputs_to_inference_session(session, index, object_id, **prompts.as_call(), **kwargs)


def read_output(
    processor: TrackerProcessor,
    session: Any,
    output: Any,
    object_ids: list[int],
) -> TrackedFrame:
    """The results of some objects on a frame, resized to the size of the video."""
    assert session.video_height is not None and session.video_width is not None  # known after the first frame was run
    size = (session.video_height, session.video_width)
    rows = [output.object_ids.index(object_id) for object_id in object_ids]
    logits: Any = np.zeros((0, *size), np.float32)
    if rows:
        logits = processor.post_process_masks([output.pred_masks[rows]], [size], binarize=False)[0][:, 0]
    scores: Any = output.object_score_logits[rows, 0]
    if isinstance(scores, np.ndarray):  # of exported graphs
        return TrackedFrame(output.frame_idx, object_ids, logits, (1 / (1 + np.exp(-scores))).tolist())
    logits = logits if isinstance(logits, np.ndarray) else logits.cpu().numpy()
    return TrackedFrame(output.frame_idx, object_ids, logits, scores.sigmoid().tolist())


# ------------------------------------------------------------------------------------------------------------ planning


@dataclass
class TrackingPlan:
    """The objects to track, with the frames from which they are tracked and the direction.

    Attributes:
        first, last: each object's first and last prompted frame; of an object with reference images, those of the
            video.
        direction: "forward", "backward" or "both".
    """

    first: dict[int, int]
    last: dict[int, int]
    direction: str

    def num_steps(self, num_frames: int) -> int:
        """The number of frames that `run` yields on a video of this length."""
        if self.direction == "backward":
            return max(self.last.values()) + 1
        forward = num_frames - min(self.first.values())
        latest = max(self.first.values())
        return forward + (latest + 1 if self.direction == "both" and latest else 0)

    @property
    def in_order(self) -> bool:
        """Whether `run` yields each frame once, in ascending order."""
        return self.direction == "forward" or (self.direction == "both" and not max(self.first.values()))

    def run(
        self,
        model: Tracker,
        session: Any,
        add_prompts: Callable[[int], None],
        finder: ObjectFinder | None = None,
    ) -> Iterator[tuple[Any, list[int]]]:
        """Track, yielding each frame when it is finished, with the ids of the objects that have a result on it.

        Args:
            add_prompts: a function that adds all prompts of an object to the session.
            finder: looks for new objects, which are added to `first` and `last`, in the first direction of the plan.
        """
        if self.direction == "backward":
            begins, reverse = self.last, True
        else:
            begins, reverse = self.first, False
        stages = sorted(set(begins.values()), reverse=reverse)
        for begin, following in zip(stages, [*stages[1:], None], strict=True):
            for object_id, own in begins.items():
                if own == begin:
                    add_prompts(object_id)
            count = None if following is None else abs(following - begin) - 1
            for output in _propagate(model, session, begin, count, reverse):
                if finder is not None:
                    output = finder.update(session, output)
                    for object_id in output.object_ids:
                        self.first.setdefault(object_id, output.frame_idx)
                        self.last.setdefault(object_id, output.frame_idx)
                yield output, list(output.object_ids)

        latest = max(self.first.values())
        if self.direction == "both" and latest > 0:
            for object_id in [i for i, begin in self.first.items() if begin == 0]:
                session.remove_object(object_id)
            for output in _propagate(model, session, latest, None, reverse=True):
                yield output, [i for i in output.object_ids if output.frame_idx < self.first[i]]


def plan_tracking(
    prompted: Mapping[int, Iterable[int]],
    direction: str | None = None,
    referenced: Iterable[int] = (),
    num_frames: int = 1,
) -> TrackingPlan:
    """Make the plan for objects that are prompted on some frames.

    Args:
        prompted: the ids of the prompted objects, by frame number counted from the first tracked frame.
        direction: by default, "forward" if every object is tracked from the first frame on, else "both".
        referenced: the ids of objects that have reference images. They are tracked through all frames.
        num_frames: the number of frames; only needed with `referenced`.
    """
    frames: dict[int, list[int]] = {}
    for frame, ids in sorted(prompted.items()):
        for object_id in ids:
            frames.setdefault(object_id, []).append(frame)
    first = {object_id: own[0] for object_id, own in frames.items()}
    last = {object_id: own[-1] for object_id, own in frames.items()}
    first |= dict.fromkeys(referenced, 0)
    last |= dict.fromkeys(referenced, num_frames - 1)
    if direction is None:
        direction = "both" if any(first.values()) else "forward"
    return TrackingPlan(first, last, direction)


def _propagate(
    model: Tracker,
    session: Any,
    begin: int,
    count: int | None,
    reverse: bool,
) -> Iterator[Any]:
    """Call `propagate_in_video_iterator`; backward from the first frame, yield this frame only."""
    if reverse and begin == 0:
        yield model.track_frame(session, 0, reverse=True)
    else:
        yield from model.propagate_in_video_iterator(session, begin, count, reverse=reverse)

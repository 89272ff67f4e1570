"""`ObjectFinder` finds the objects of a session, and looks for new ones while the session is tracked.

    finder = ObjectFinder(model, processor, ["a dog", "a red ball"])
    finder.seed(session, 0)
    for output in model.propagate_in_video_iterator(session):
        output = finder.update(session, output)  # looks on every 30th frame
        names = [finder.objects[i].label for i in output.object_ids]

It looks on a frame that has just been tracked, with the image features that tracking has computed. New objects are
prompted on this frame, and the session tracks them from there on as it tracks any object that is prompted on the way.
The same calls serve videos, streams, and both directions. What is kept of a video is small and does not grow with its
length: a box and two vectors for each object (`track_book.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images import to_rgb
from ..prompts import Box, ObjectPrompts
from ..safe_names import shown
from .detections import Detection, DetectionError, Detector, NothingFoundError, usable_detections
from .frame_view import EVERYTHING, Everything, FrameView
from .track_book import Candidate, MatchRules, TrackBook


if TYPE_CHECKING:
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor
    from ..video_outputs import EfficientTamVideoSegmentationOutput
    from ..video_session import EfficientTamVideoInferenceSession


__all__ = ["FinderOptions", "FoundObject", "ObjectFinder", "Sighting", "seed_objects"]


@dataclass(frozen=True)
class FinderOptions:
    """How objects are found.

    Attributes:
        every: objects are looked for on every so many-th frame from the first look on; 0 looks only once.
        threshold: least score of a detection; for `"everything"`, the least predicted IoU and stability of a mask. By
            default, a loaded detector decides, and `"everything"` takes the highest of a few levels at which the model
            sees three objects on the first look.
        forget_after: frames after which a lost object is removed from the session, so that another can be found in its
            stead; by default never. For streams without an end.
        rules: how detections are compared with tracked objects, and the largest number of objects.
    """

    every: int = 30
    threshold: float | None = None
    forget_after: int | None = None
    rules: MatchRules = field(default_factory=MatchRules)

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"`every` is a number of frames, 0 to look only once; got {self.every}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` is the least score of a detection, from 0 to 1; got {self.threshold}.")
        if self.rules.max_objects < 1:
            raise ValueError(f"`max_objects` must be at least 1, got {self.rules.max_objects}.")
        if self.forget_after is not None and self.forget_after < 1:
            raise ValueError(f"`forget_after` is a number of frames, at least 1; got {self.forget_after}.")


@dataclass(frozen=True)
class Sighting:
    """A detection from which an object began, or by which a lost object was found again.

    Attributes:
        frame_idx: the frame.
        score: the score of the detection.
        box: left, top, right and bottom in pixels of the original frame.
        has_mask: whether the object was prompted with a mask; otherwise it was prompted with the box.
    """

    frame_idx: int
    score: float
    box: Box
    has_mask: bool


@dataclass
class FoundObject:
    """An object that was found.

    Attributes:
        object_id: its id in the session.
        label: what the detector calls it; `None` if it does not say.
        score: the highest score of its detections.
        sightings: the detection from which it began, and those by which it was found again.
    """

    object_id: int
    label: str | None
    score: float
    sightings: list[Sighting]


class ObjectFinder:
    """Finds objects with a detector, from texts, or with the model itself, and adds them to a session.

    An instance serves one session. Objects that a user has prompted are left alone: what is detected on them is not
    found a second time.

    Args:
        model, processor: those of the session.
        source: a detector; or a list of texts, which Grounding DINO tiny looks for (see `load_detector`); or
            `"everything"`, the objects that the model itself proposes where none is tracked.
        options: how objects are found.

    Attributes:
        objects: the found objects by id, also those that were lost.

    Raises:
        DetectionError: if the source is none of these, or its detector cannot be loaded.
    """

    def __init__(
        self,
        model: EfficientTamVideoModel,
        processor: EfficientTamVideoProcessor,
        source: Detector | Sequence[str] | str,
        options: FinderOptions | None = None,
    ) -> None:
        self._model, self._processor = model, processor
        self.options = options or FinderOptions()
        self.objects: dict[int, FoundObject] = {}
        self._book = TrackBook(self.options.rules)
        self._source = self._resolve(source)
        self._first_look: int | None = None

    def _resolve(self, source: Detector | Sequence[str] | str) -> Detector | Everything:
        threshold = self.options.threshold
        if isinstance(source, Everything):
            return source
        if isinstance(source, str) and source == EVERYTHING:
            return Everything(2 * self.options.rules.max_objects, threshold)  # some are tracked already, or parts
        if callable(source):
            return source
        if isinstance(source, str) or not isinstance(source, Sequence):
            raise DetectionError(
                f'What finds objects is a detector, a list of texts such as ["a dog"], or "{EVERYTHING}"; got '
                f"{shown(source)}."
            )
        from .transformers_detectors import load_detector

        return load_detector(None, source, threshold, self._model.device)

    # --------------------------------------------------------------------------------------------------------- calls

    def seed(self, session: EfficientTamVideoInferenceSession, frame_idx: int, frame: Any = None) -> list[FoundObject]:
        """Find the objects of a frame before tracking, and prompt them there.

        The prompts of other objects on the frame are run, so that these are not found again.

        Args:
            session: the session.
            frame_idx: the frame.
            frame: the original frame, any RGB image; needed only if the session does not have it, as that of a stream.

        Returns:
            The new objects, the best first.

        Raises:
            NothingFoundError: if no object is found. The message says what was looked for and what to change.
            DetectionError: if the detector fails.
            ValueError: if the frame is not available.
        """
        frame_idx = session.check_frame_idx(frame_idx)
        if session.waiting_on(frame_idx):
            self._model.segment_prompts(session, frame_idx)
        self._observe(session, frame_idx)
        before = set(self.objects)
        self._look(session, frame_idx, frame)
        found = [one for object_id, one in self.objects.items() if object_id not in before]
        if not found:
            raise NothingFoundError(self.looks_for, frame_idx)
        return found

    def update(
        self,
        session: EfficientTamVideoInferenceSession,
        output: EfficientTamVideoSegmentationOutput,
        frame: Any = None,
    ) -> EfficientTamVideoSegmentationOutput:
        """Go on after a frame was tracked: notice lost objects, and look for objects if it is time to.

        Args:
            session: the session.
            output: the output of the frame.
            frame: as in `seed`. In a stream, `wants_frame` says whether it will be needed.

        Returns:
            The output of the frame with the objects that were found, or `output` itself if there are none.

        Raises:
            DetectionError: if the detector fails.
        """
        frame_idx = output.frame_idx
        self._observe(session, frame_idx, output)
        if self.options.forget_after is not None:
            for object_id in self._book.object_ids:
                if self._book.lost_for(object_id, frame_idx) > self.options.forget_after:
                    self._remove(session, object_id)
        if not self.wants_frame(frame_idx) or not self._look(session, frame_idx, frame):
            return output
        return self._model.get_frame_output(session, frame_idx)

    def wants_frame(self, frame_idx: int) -> bool:
        """Whether objects are looked for on a frame: the first, and then every `every`-th."""
        if self._first_look is None:
            return True
        distance = abs(frame_idx - self._first_look)
        return self.options.every > 0 and distance > 0 and distance % self.options.every == 0

    @property
    def looks_for(self) -> str:
        """What is looked for, for messages."""
        name = getattr(self._source, "__name__", type(self._source).__name__)
        return str(getattr(self._source, "looks_for", f"what {name} detects"))

    # --------------------------------------------------------------------------------------------------------- steps

    def _observe(
        self,
        session: EfficientTamVideoInferenceSession,
        frame_idx: int,
        output: EfficientTamVideoSegmentationOutput | None = None,
    ) -> dict[int, np.ndarray]:
        """The masks of all objects that have a result on a frame, bool (h, w), which the book notes."""
        for object_id in set(self._book.object_ids) - set(session.objects):
            self._book.end(object_id)  # the user removed it
        if not session.objects:
            return {}
        output = output or self._model.get_frame_output(session, frame_idx)
        results = (output.pred_masks[:, 0] > 0).cpu().numpy()
        masks = {
            object_id: mask
            for object_id, mask in zip(output.object_ids, results, strict=True)
            if session.objects[object_id].memory.find(frame_idx) is not None
        }
        self._book.observe(frame_idx, masks)
        return masks

    def _look(self, session: EfficientTamVideoInferenceSession, frame_idx: int, frame: Any) -> bool:
        """Look for objects on a frame, prompt them and segment them. Returns whether any began or returned."""
        if self._first_look is None:
            self._first_look = frame_idx
        view = FrameView(self._model, session, frame_idx)
        masks = self._observe(session, frame_idx)
        self._book.recall({i: view.appearance(mask) for i, mask in masks.items() if mask.any()})
        if isinstance(self._source, Everything):
            assert session.video_height is not None and session.video_width is not None  # the frame was read
            size = (session.video_height, session.video_width)
            known = np.logical_or.reduce([np.zeros(view.size, bool), *masks.values()])
            detections = self._source.propose(view, known, size)
        else:
            image = to_rgb(session.get_original_frame(frame_idx) if frame is None else frame)
            size = (image.shape[0], image.shape[1])
            session.check_original_size(*size)
            detections = usable_detections(self._source(image), size, self.options.threshold or 0.0)
        candidates = _candidates(view, detections, size)
        decisions = self._book.decide(frame_idx, masks, candidates)
        for object_id, place in decisions.matches.items():
            if object_id in self.objects:
                self.objects[object_id].score = max(self.objects[object_id].score, detections[place].score)
        for object_id, place in decisions.returns.items():
            self._prompt(session, frame_idx, object_id, detections[place], size, view, candidates[place].mask)
        begun = [self._begin(session, frame_idx, detections[place], size) for place in decisions.births]
        if decisions.unheeded:
            warnings.warn(
                f"More objects were found than the {self._book.rules.max_objects} that may be tracked (--max-objects); "
                "the best are tracked.",
                stacklevel=3,
            )
        if not begun and not decisions.returns:
            return False
        output = self._model.segment_prompts(session, frame_idx)
        for object_id in decisions.returns:
            # The result is kept; the prompt, as large as a frame, is not needed any more.
            session.remove_mask_inputs(session.obj_ids.index(object_id), frame_idx)
        seen = dict(zip(output.object_ids, (output.pred_masks[:, 0] > 0).flatten(1).any(dim=1).tolist(), strict=True))
        for object_id in begun:
            if not seen[object_id]:  # the model sees nothing in the box
                self._remove(session, object_id)
                del self.objects[object_id]
        masks = self._observe(session, frame_idx)
        self._book.recall({i: view.appearance(masks[i]) for i in (*begun, *decisions.returns) if i in masks})
        return True

    def _begin(
        self,
        session: EfficientTamVideoInferenceSession,
        frame_idx: int,
        detection: Detection,
        size: tuple[int, int],
    ) -> int:
        """Add a new object to the session and return its id."""
        object_id = next(i for i in count(1) if i not in session.objects and i not in self.objects)
        self._book.begin(object_id, detection.label)
        self.objects[object_id] = FoundObject(object_id, detection.label, detection.score, [])
        self._prompt(session, frame_idx, object_id, detection, size)
        return object_id

    def _prompt(
        self,
        session: EfficientTamVideoInferenceSession,
        frame_idx: int,
        object_id: int,
        detection: Detection,
        size: tuple[int, int],
        view: FrameView | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Prompt an object with a detection: with its mask if it has one, else with its box.

        A lost object is always prompted with a mask, that of the `view`: on a tracked frame a box is a correction of
        the tracked mask, and there is none to correct.
        """
        full = detection.mask
        if full is None and view is not None and mask is not None:
            full = view.full_mask(mask, size)
        prompts = ObjectPrompts(box=Box(*detection.box)) if full is None else ObjectPrompts(mask=full)
        given: dict[str, Any] = prompts.as_call() if full is None else {"input_masks": full}
        self._processor.add_inputs_to_inference_session(session, frame_idx, object_id, **given, original_size=size)
        if object_id in self.objects:
            one = self.objects[object_id]
            one.score = max(one.score, detection.score)
            one.sightings.append(Sighting(frame_idx, detection.score, Box(*detection.box), full is not None))

    def _remove(self, session: EfficientTamVideoInferenceSession, object_id: int) -> None:
        session.remove_object(object_id, strict=False)
        self._book.end(object_id)


def _candidates(view: FrameView, detections: Sequence[Detection], size: tuple[int, int]) -> list[Candidate]:
    """What the book needs to know of detections."""
    boxed = [place for place, detection in enumerate(detections) if detection.mask is None]
    by_box = dict(zip(boxed, view.box_masks([detections[place].box for place in boxed], size), strict=True))
    candidates = []
    for place, detection in enumerate(detections):
        mask = by_box[place] if detection.mask is None else view.small_mask(detection.mask)
        candidates.append(Candidate(mask, detection.label, view.appearance(mask)))
    return candidates


def seed_objects(
    session: EfficientTamVideoInferenceSession,
    frame_idx: int,
    source: Detector | Sequence[str] | str,
    *,
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    frame: Any = None,
    options: FinderOptions | None = None,
) -> list[FoundObject]:
    """Find the objects of one frame and add them to a session, as prompts do that a user gives.

    Args:
        session: the session. Objects that it has already are not found again.
        frame_idx: the frame on which to look.
        source: a detector, a list of texts, or `"everything"`; see `ObjectFinder`.
        model, processor: those of the session.
        frame: the original frame, if the session does not have it, as that of a stream.
        options: how objects are found.

    Returns:
        The new objects with ids, labels and scores, the best first.

    Raises:
        NothingFoundError: if no object is found.
        DetectionError: if the source is none, or its detector cannot be loaded or fails.
        ValueError: if the frame is not available.
    """
    return ObjectFinder(model, processor, source, options).seed(session, frame_idx, frame)

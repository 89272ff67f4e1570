"""The walk over a session: decides which objects are segmented or tracked on a frame, in which order and batch.

`SessionWalk` is the only code that runs a session. It uses no tensor library: a `WalkBackend` does all computations.
There are two backends, the torch model (`video_backend.py`) and the exported graphs (`export/onnx_backend.py`). Three
methods do the work:

- `segment_prompts` runs only the pending prompts of a frame, as an annotator needs it.
- `track_frame` gives every object a result on a frame: from its pending prompts there, or else from its memories.
- `propagate` tracks one frame after another.

`run` combines these and behaves as Transformers' `Sam2VideoModel.forward`.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .memory_selection import FrameObservation
from .object_competition import compete
from .object_memory import MemoryEntry, MemorySelection
from .prompts import FramePrompts
from .tracking_rules import Direction, TrackingRules
from .tracking_session import TrackedObject, TrackingSession


class WalkBackend(Protocol):
    """Does the computations. The backend defines the types of features, results, masks and memory entries.

    A batch consists of B objects on one frame. The walk only puts objects in one batch that have equally many memories
    and equally many points, and of which all or none have a mask prompt.
    """

    @property
    def rules(self) -> TrackingRules:
        """The current rules of the model."""

    def encode(self, pixels: Any) -> Any:
        """Compute the image features of a frame from its pixels (3, height, width)."""

    def condition(self, features: Any, selections: Sequence[MemorySelection] | None) -> Any:
        """Apply memory attention with each object's selection (with `None`: none) and return features for `segment`."""

    def segment(
        self,
        conditioned: Any,
        prompts: Sequence[FramePrompts] | None,
        previous: Sequence[Any] | None,
        batch_size: int,
        multimask_output: bool,
    ) -> Any:
        """Run the mask decoder and return the result of a batch.

        Args:
            conditioned: features from `condition`.
            prompts: the prompts of each object; `None` on a tracked frame.
            previous: earlier results on this frame, whose masks the points correct.
            batch_size: B.
            multimask_output: whether the mask is chosen among several proposals.
        """

    def observe(self, result: Any, with_masks: bool) -> list[FrameObservation]:
        """Describe each object's result to memory strategies; `with_masks` adds the masks of the proposals."""

    def choose(self, result: Any, proposals: Sequence[int]) -> Any:
        """Return a batch's result with other proposals as its masks, and with the object pointers of these."""

    def take(self, result: Any, rows: Sequence[int]) -> Any:
        """Return some rows of a batch's result, in the given order; a row may be repeated."""

    def remember(self, features: Any, result: Any, from_prompts: bool, masks: Any | None = None) -> Any:
        """Compute the spatial memories of a batch's result; `masks` from `without_overlap` replace its own masks."""

    def without_overlap(self, entries: Sequence[Any]) -> list[Any]:
        """Return the masks of all objects on a frame; only the object with the highest logit keeps a pixel."""

    def mask_logits(self, entries: Sequence[Any]) -> np.ndarray:
        """Return the mask logits of objects on one frame, (objects, h, w) float32."""

    def replace_mask(self, entry: Any, logits: np.ndarray) -> None:
        """Replace the mask logits of an entry by others, (h, w)."""

    def remember_mask(self, features: Any, entry: Any) -> Any:
        """Compute the spatial memory of an entry from its current mask."""

    def entries(self, session: Any, result: Any, memories: Any | None) -> Sequence[MemoryEntry]:
        """Split a batch's result and memories into one entry for each object, which the session keeps."""

    def output(self, session: Any, frame_idx: int, entries: Sequence[Any]) -> Any:
        """Build the output of a frame: one row for each object; an entry is `None` where an object has no result."""


@dataclass
class _Step:
    """One row of a batch: an object, or one of the paths that its strategy follows, on the current frame."""

    obj: TrackedObject
    path: int = 0
    selection: MemorySelection | None = None
    prompts: FramePrompts | None = None
    previous: MemoryEntry | None = None

    @property
    def num_points(self) -> int:
        if self.prompts is None or self.prompts.points is None:
            return 0
        return self.prompts.points.shape[1]

    @property
    def shape(self) -> tuple:
        """Steps of equal shape can share a batch."""
        has_mask = self.prompts is not None and self.prompts.mask is not None
        return self.num_points, has_mask, self.selection and self.selection.shape, self.previous is None


@dataclass
class _Kept:
    """A row of a batch's result that is kept: its object, its rank among the object's paths, and its observation."""

    object_id: int
    rank: int = 0
    observation: FrameObservation | None = None


# What strategies keep, by object and path: the rank of each path that continues it, and the proposal on this frame.
_Choices = dict[tuple[int, int], list[tuple[int, int]]]


@dataclass
class _Found:
    """The result of an object on the current frame.

    Attributes:
        entries: the entries of the paths that are kept, the best first. There is more than one only if the strategy
            follows several paths.
        observation: the observation of the best path, for strategies that observe.
    """

    obj: TrackedObject
    entries: list[MemoryEntry]
    observation: FrameObservation | None = None

    @property
    def entry(self) -> MemoryEntry:
        """The entry of the best path."""
        return self.entries[0]

    def tell(self, frame_idx: int, direction: Direction | None) -> None:
        """Show the observation to the object's memory strategy."""
        if self.observation is not None:
            self.obj.memory.strategy.observe(frame_idx, self.observation, direction)


class SessionWalk:
    """Runs sessions with a backend; it has no state of its own."""

    def __init__(self, backend: WalkBackend):
        self.backend = backend

    def rules(self, session: TrackingSession) -> TrackingRules:
        """The rules of tracking in a session: the model's rules with the session's changes."""
        return session.rules_of(self.backend.rules)

    # ------------------------------------------------------------------------------------------------------ verbs

    def segment_prompts(self, session: TrackingSession, frame_idx: int) -> Any:
        """Run the pending prompts of a frame. Objects without one are not run, as in the published predictor.

        Further prompts on the frame can still change these results; they are committed when tracking goes on.

        Returns:
            The newest result of every object on the frame; an object without a result there counts as absent.

        Raises:
            ValueError: if the frame is not available.
        """
        frame_idx = session.check_frame_idx(frame_idx)
        self._run_prompts(session, session.waiting_on(frame_idx), frame_idx)
        return self.output(session, frame_idx)

    def track_frame(
        self,
        session: TrackingSession,
        frame_idx: int,
        direction: Direction = Direction.FORWARD,
        run_mem_encoder: bool = True,
    ) -> Any:
        """Give every object a result on a frame. Later prompts on this frame are corrections.

        Pending prompts on the frame are run and their results are committed. The other objects are tracked from their
        memories, except those for which it is a conditioning frame and those that have no conditioning frame yet.

        Args:
            session: the session.
            frame_idx: the frame.
            direction: the direction of tracking.
            run_mem_encoder: whether the memory encoder runs, so that later frames can attend to this one.

        Raises:
            ValueError: if the frame is not available, or an object has lost all its prompts.
        """
        frame_idx = session.check_frame_idx(frame_idx)
        self._run_references(session)
        prompted = session.waiting_on(frame_idx)
        self._run_prompts(session, prompted, frame_idx)
        rules = self.rules(session)
        session.commit(rules)
        prompted_ids = {obj.object_id for obj in prompted}
        others = [obj for obj in session.objects.values() if obj.object_id not in prompted_ids]
        self._track(session, others, frame_idx, direction, run_mem_encoder)
        for obj in session.objects.values():
            memory = obj.memory
            if frame_idx in memory.conditioning:
                memory.clear_around(frame_idx, rules)
            if frame_idx in memory.conditioning or frame_idx in memory.tracked or obj.object_id in prompted_ids:
                memory.passed[frame_idx] = direction
        session.let_go(frame_idx, direction, rules)
        return self.output(session, frame_idx)

    def propagate(
        self,
        session: TrackingSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        direction: Direction = Direction.FORWARD,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Iterator[Any]:
        """Track every object through a video, yielding each frame when it is finished.

        All pending prompts are run first. The session may be changed between two frames: prompts on the current or an
        earlier frame are run before the next frame, and prompts on a later frame when it is reached. An object whose
        only prompts are on later frames is tracked from now on, as if it had been prompted before the start.

        Args:
            session: the session.
            start_frame_idx: the first frame; by default the earliest conditioning frame of any object, or the first
                frame of the video if there are only reference images.
            max_frame_num_to_track: number of frames after the first; by default all of them.
            direction: the direction of tracking.
            progress: a function that wraps the range of frames, for example to show a progress bar.

        Raises:
            ValueError: if nothing was prompted, an object has lost all its prompts, or the start is not in the video.
        """
        check_has_objects(session)
        self._run_references(session)
        for frame_idx in session.waiting_frames():
            self._run_prompts(session, session.waiting_on(frame_idx), frame_idx)
        session.commit(self.rules(session))
        if start_frame_idx is None:
            prompted = [t for obj in session.objects.values() for t in obj.memory.conditioning]
            start_frame_idx = min(prompted, default=0)
        start_frame_idx = session.check_frame_idx(start_frame_idx)
        for frame_idx in progress(session.frames_to_track(start_frame_idx, max_frame_num_to_track, direction)):
            try:
                self._run_due_prompts(session, frame_idx, direction)
                output = self.track_frame(session, frame_idx, direction)
            except IndexError as error:
                if not getattr(error, "ends_video", False):
                    raise
                warnings.warn(f"Tracking stopped before frame {frame_idx}: {error}", stacklevel=3)
                return
            yield output

    def run(
        self,
        session: TrackingSession,
        frame_idx: int | None = None,
        frame: Any = None,
        direction: Direction = Direction.FORWARD,
        run_mem_encoder: bool = True,
    ) -> Any:
        """Run one frame, as Transformers' `Sam2VideoModel.forward` does: every object has a result there afterwards.

        A new frame of a stream, and a frame without pending prompts, are tracked as by `track_frame`. On another frame
        the pending prompts are run, their results stay pending, and the other objects are tracked to the frame.

        Raises:
            ValueError: if no frame is given, the frame is not available, an object has lost all its prompts, or a video
                has no objects. For a stream without objects the output has no rows.
        """
        if frame is None and frame_idx is None:
            raise ValueError("Give frame_idx, or for a stream the new frame as `frame`.")
        if not session.is_streaming:
            check_has_objects(session)
        if frame is not None:
            for t in session.waiting_frames():  # the session is about to drop the previous frame
                self._run_prompts(session, session.waiting_on(t), t)
            frame_idx = session.add_new_frame(frame, frame_idx)
            return self.track_frame(session, frame_idx, direction, run_mem_encoder)
        frame_idx = session.check_frame_idx(frame_idx)
        self._run_references(session)
        prompted = session.waiting_on(frame_idx)
        if not prompted:
            return self.track_frame(session, frame_idx, direction, run_mem_encoder)
        self._run_prompts(session, prompted, frame_idx)
        others = [
            obj for obj in session.objects.values() if not (frame_idx in obj.prompts and obj.memory.find(frame_idx))
        ]
        for obj in others:
            obj.memory.commit(self.rules(session))
        for obj in self._track(session, others, frame_idx, direction, run_mem_encoder):
            obj.memory.passed[frame_idx] = direction
        return self.output(session, frame_idx)

    def output(self, session: TrackingSession, frame_idx: int) -> Any:
        """The newest result of every object on a frame, without running anything."""
        return self.backend.output(session, frame_idx, [obj.memory.find(frame_idx) for obj in session.objects.values()])

    # ------------------------------------------------------------------------------------------------------ steps

    def _run_due_prompts(self, session: TrackingSession, frame_idx: int, direction: Direction) -> None:
        """Run the prompts that were added since the last frame, except those on frames that are still ahead."""
        for t in session.waiting_frames():
            ahead = direction.is_ahead(t, frame_idx)
            due = [obj for obj in session.waiting_on(t) if t != frame_idx and not (ahead and _is_begun(obj, frame_idx))]
            self._run_prompts(session, due, t)

    def _run_references(self, session: TrackingSession) -> None:
        """Turn pending reference images into memories that every frame attends to."""
        backend = self.backend
        for obj in session.objects.values():
            while obj.unrun_references:
                pixels, mask = obj.unrun_references[0]
                features = backend.encode(pixels)
                result = backend.segment(backend.condition(features, None), [mask], None, 1, False)
                memories = backend.remember(features, result, True)
                obj.memory.references.extend(backend.entries(session, result, memories))
                obj.unrun_references.pop(0)

    def _run_prompts(self, session: TrackingSession, objects: Sequence[TrackedObject], frame_idx: int) -> None:
        """Segment objects from their pending prompts on a frame."""
        rules, steps, corrected = self.rules(session), [], set()
        for obj in objects:
            memory, prompts = obj.memory, obj.prompts[frame_idx]
            step = _Step(obj, prompts=prompts)
            # A frame that was not tracked is segmented from its prompts alone; one that was is corrected.
            direction = memory.passed.get(frame_idx) if memory.is_begun else None
            if direction is not None:
                corrected.add(obj.object_id)
            if prompts.mask is None:
                step.previous = memory.find(frame_idx)
                if direction is not None:
                    step.selection = memory.select(frame_idx, direction, rules)
            steps.append(step)
        for found in self._segment(session, steps, frame_idx, None, run_mem_encoder=True):
            conditioning = found.obj.object_id not in corrected or rules.add_all_frames_to_correct_as_cond
            session.store_prompted(found.obj, frame_idx, found.entry, conditioning)
            found.tell(frame_idx, None)

    def _track(
        self,
        session: TrackingSession,
        objects: Sequence[TrackedObject],
        frame_idx: int,
        direction: Direction,
        run_mem_encoder: bool,
    ) -> list[TrackedObject]:
        """Track to a frame the objects that have begun and for which it is no conditioning frame; return these.

        An object has begun if it has a conditioning frame or a reference image.
        """
        rules = self.rules(session)
        steps = [
            _Step(obj, path, selection)
            for obj in objects
            if obj.memory.is_begun and frame_idx not in obj.memory.conditioning
            for path, selection in enumerate(obj.memory.select_paths(frame_idx, direction, rules))
        ]
        tracked = self._segment(session, steps, frame_idx, direction, run_mem_encoder)
        for found in tracked:
            found.obj.memory.strategy.store(found.obj.memory, frame_idx, found.entries)
        if rules.object_competition != "none":
            self._compete(session, tracked, frame_idx, direction, rules)
        for found in tracked:
            found.tell(frame_idx, direction)
        return [found.obj for found in tracked]

    def _compete(
        self,
        session: TrackingSession,
        tracked: Sequence[_Found],
        frame_idx: int,
        direction: Direction,
        rules: TrackingRules,
    ) -> None:
        """Resolve overlapping masks on a frame; only the masks of objects that were just tracked change.

        If the resolved masks are remembered, memory strategies also observe the resolved masks.
        """
        found = [(obj, entry) for obj in session.objects.values() if (entry := obj.memory.find(frame_idx)) is not None]
        new = {result.obj.object_id: result for result in tracked}
        if not new:
            return
        before = self.backend.mask_logits([entry for _, entry in found])
        hidden_at = np.array([obj.memory.hidden_at(direction) for obj, _ in found])
        stands = np.array([obj.object_id not in new for obj, _ in found])
        after = compete(before, hidden_at, stands)
        for (obj, entry), old, logits, is_fixed in zip(found, before, after, stands, strict=True):
            if not is_fixed and not (logits > 0).any():
                obj.memory.hidden = (frame_idx, direction)
            if (old != logits).any():
                self.backend.replace_mask(entry, logits)
                if rules.object_competition != "remembered":
                    continue
                if entry.spatial is not None:
                    features = session.features(frame_idx, self.backend.encode)
                    entry.spatial = self.backend.remember_mask(features, entry)
                result = new[obj.object_id]
                if result.observation is not None:
                    result.observation = result.observation.with_mask(logits > 0)

    def _segment(
        self,
        session: TrackingSession,
        steps: Sequence[_Step],
        frame_idx: int,
        direction: Direction | None,
        run_mem_encoder: bool,
    ) -> list[_Found]:
        """Compute the results of one frame; steps of equal shape run as one batch.

        Args:
            direction: the direction of tracking; `None` if the objects are segmented from their prompts.
        """
        if not steps:
            return []
        from_prompts = direction is None
        backend, rules = self.backend, self.rules(session)
        features = session.features(frame_idx, backend.encode)
        batches: dict[tuple, list[_Step]] = defaultdict(list)
        for step in steps:
            batches[step.shape].append(step)
        segmented: list[tuple[list[_Step], Any]] = []
        for batch in batches.values():
            first = batch[0]
            selections = [step.selection for step in batch if step.selection is not None]
            conditioned = backend.condition(features, selections or None)
            result = backend.segment(
                conditioned,
                [step.prompts for step in batch if step.prompts is not None] if from_prompts else None,
                None if first.previous is None else [step.previous for step in batch],
                len(batch),
                rules.use_multimask(first.num_points, first.selection is None),
            )
            segmented.append((batch, result))
        remember = run_mem_encoder and not rules.non_overlap_masks_for_mem_enc
        entries: dict[int, dict[int, MemoryEntry]] = defaultdict(dict)  # by object, and the path's rank
        observations: dict[int, FrameObservation | None] = {}
        for kept, result in self._choose(segmented, frame_idx, direction, rules):
            memories = backend.remember(features, result, from_prompts) if remember else None
            for row, entry in zip(kept, backend.entries(session, result, memories), strict=True):
                entries[row.object_id][row.rank] = entry
                if row.rank == 0:
                    observations[row.object_id] = row.observation
        results = [
            _Found(session.objects[object_id], [own[rank] for rank in sorted(own)], observations[object_id])
            for object_id, own in entries.items()
        ]
        if run_mem_encoder and rules.non_overlap_masks_for_mem_enc:
            self._remember_without_overlap(session, features, frame_idx, results, from_prompts)
        return results

    def _choose(
        self,
        segmented: Sequence[tuple[Sequence[_Step], Any]],
        frame_idx: int,
        direction: Direction | None,
        rules: TrackingRules,
    ) -> list[tuple[list[_Kept], Any]]:
        """Let the objects' memory strategies choose which rows and proposals of a frame's batches are kept.

        Args:
            direction: the direction of tracking; `None` if the masks come from prompts, which are kept unchanged.

        Returns:
            For each batch of which rows are kept: a description of these rows, and the batch's result with them only.
        """
        strategies = {}
        for step in (step for batch, _ in segmented for step in batch):
            step.obj.memory.follow(rules)
            strategies[step.obj.object_id] = step.obj.memory.strategy
        if not any(strategy.observes for strategy in strategies.values()):
            return [([_Kept(step.obj.object_id) for step in batch], result) for batch, result in segmented]
        with_masks = any(strategy.needs_masks for strategy in strategies.values())
        observed = [self.backend.observe(result, with_masks) for _, result in segmented]
        paths: dict[int, dict[int, FrameObservation]] = defaultdict(dict)  # observations by object and path
        for (batch, _), observations in zip(segmented, observed, strict=True):
            for step, observation in zip(batch, observations, strict=True):
                paths[step.obj.object_id][step.path] = observation
        choices: _Choices = defaultdict(list)
        for object_id, own in paths.items():
            in_order = [own[path] for path in sorted(own)]
            if direction is None:
                choices[object_id, 0].append((0, in_order[0].chosen))
                continue
            for rank, (path, proposal) in enumerate(strategies[object_id].keep(frame_idx, in_order, direction)):
                choices[object_id, path].append((rank, proposal))
        chosen = [
            self._keep_rows(batch, result, observations, choices)
            for (batch, result), observations in zip(segmented, observed, strict=True)
        ]
        return [(rows, result) for rows, result in chosen if rows]

    def _keep_rows(
        self, batch: Sequence[_Step], result: Any, observations: Sequence[FrameObservation], choices: _Choices
    ) -> tuple[list[_Kept], Any]:
        """Reduce a batch's result to the rows that are kept, each with its chosen proposal."""
        rows, proposals, kept = [], [], []
        for row, (step, observation) in enumerate(zip(batch, observations, strict=True)):
            for rank, proposal in choices[step.obj.object_id, step.path]:
                rows.append(row)
                proposals.append(proposal)
                kept.append(_Kept(step.obj.object_id, rank, observation.with_choice(proposal)))
        if rows and rows != list(range(len(batch))):
            result = self.backend.take(result, rows)
        if proposals != [observations[row].chosen for row in rows]:
            result = self.backend.choose(result, proposals)
        return kept, result

    def _remember_without_overlap(
        self,
        session: TrackingSession,
        features: Any,
        frame_idx: int,
        results: Sequence[_Found],
        from_prompts: bool,
    ) -> None:
        """Fill in the spatial memories of new results, after all objects of the frame competed for its pixels.

        The spatial memories of pending results are computed again too, because any of their masks may have changed.
        """
        new = {found.obj.object_id: found.entry for found in results}
        newest = {i: new.get(i) or obj.memory.find(frame_idx) for i, obj in session.objects.items()}
        found = {i: entry for i, entry in newest.items() if entry is not None}
        masks = dict(zip(found, self.backend.without_overlap(list(found.values())), strict=True))
        for i, entry in found.items():
            memory = session.objects[i].memory
            is_pending = frame_idx in memory.pending_conditioning or frame_idx in memory.pending_tracked
            if i in new or is_pending:
                entry.spatial = self.backend.remember(features, entry, from_prompts or i not in new, masks[i])


def check_has_objects(session: TrackingSession) -> None:
    """Raise `ValueError` if there is nothing to track."""
    if not session.objects:
        raise ValueError("No objects are provided for tracking; please add inputs first.")


def _is_begun(obj: TrackedObject, frame_idx: int) -> bool:
    """Whether an object has a conditioning frame, or will have one when its pending prompts on a frame are run."""
    return obj.memory.is_defined or frame_idx in obj.unrun

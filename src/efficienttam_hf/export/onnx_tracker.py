"""Tracking with exported graphs: the calls of the model and its processor, on ONNX Runtime, NumPy and Pillow alone.

`OnnxVideoTracker` is both in one. What is tracked and which memories a frame looks at is the same code as the model's
(`tracking_session.py`, `object_memory.py`); what is computed is in the graphs.

    tracker = OnnxVideoTracker("exported")
    session = tracker.init_video_session("frames/")
    tracker.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[480, 300]]]], input_labels=[[[1]]])
    for output in tracker.propagate_in_video_iterator(session):
        masks = tracker.post_process_masks([output.pred_masks], [(session.video_height, session.video_width)])[0]
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..images import image_size, to_rgb
from ..object_memory import MemorySelection
from ..prompts import add_inputs
from ..tracking_session import EndOfVideoError, FeatureCache, TrackedObject, TrackingSession
from .arrays import masks_at_size, pack, resize, unpack, video_pixels
from .onnx_graphs import OnnxBank, OnnxGraphs, StepOutput


@dataclass
class OnnxFrameMemory:
    """One object on one frame, as `memory.FrameMemory`, in arrays; `spatial` as `pack` keeps it."""

    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    iou_scores: np.ndarray
    object_pointer: np.ndarray
    spatial: np.ndarray | None = None
    tracked_in_reverse: bool | None = None

    def offloaded(self) -> OnnxFrameMemory:
        """A copy with masks in float16."""
        return replace(self, pred_masks=self.pred_masks.astype(np.float16))


@dataclass
class OnnxVideoSegmentationOutput:
    """The objects of a session on one frame, as `EfficientTamVideoSegmentationOutput`, in float32 arrays."""

    object_ids: list[int]
    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    iou_scores: np.ndarray
    object_pointer: np.ndarray
    frame_idx: int


class OnnxInferenceSession(TrackingSession):
    """The state of tracking in one video or stream; made by `OnnxVideoTracker.init_video_session`."""

    def get_frame(self, frame_idx: int) -> np.ndarray:
        """As `TrackingSession`: pixels (3, height, width), float32."""
        return super().get_frame(frame_idx).astype(np.float32, copy=False)

    def _compact(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(np.float16)


class OnnxVideoTracker:
    """Tracks any number of objects with the graphs of an exported folder.

    Args:
        folder: that `efficienttam export` made.
        providers: of ONNX Runtime; by default the CPU's.
        num_threads: for each operator; by default as many as ONNX Runtime takes.

    Raises:
        FileNotFoundError, ExportError: if the folder is not complete, or a graph is not the manifest's.
        ImportError: without onnxruntime.
    """

    def __init__(self, folder: str | Path, providers: list[str] | None = None, num_threads: int | None = None):
        self.graphs = OnnxGraphs(folder, providers=providers, num_threads=num_threads)
        self.rules = self.graphs.rules

    # --------------------------------------------------------------------------------------- as the processor's

    def process_frame(self, frame: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """One original frame to pixels (3, height, width) for the network, and its own (height, width).

        Raises:
            ValueError: if it is no image; see `to_rgb`.
        """
        image = to_rgb(frame)
        return video_pixels(image, self.rules.image_size, self.rules.image_mean, self.rules.image_std), image.shape[:2]

    def init_video_session(
        self, video: Any = None, max_vision_features_cache_size: int = 1, keep_history: bool | int = 32
    ) -> OnnxInferenceSession:
        """Begin tracking in a video or a stream, as `EfficientTamVideoProcessor.init_video_session`.

        Args:
            video: a path to a folder of frames, or to a video file where PyAV is installed; or frames by index: a list
                of images, an array (frames, height, width, 3), or any object with `len` and indexing. Not given: a
                stream, whose frames go to `tracker(session, frame=...)`.
            max_vision_features_cache_size: frames whose image features are kept.
            keep_history: how far back a user can return, in frames; see `EfficientTamVideoInferenceSession`.

        Raises:
            ValueError: if the video has no frames, or is none.
        """
        if isinstance(video, str | Path):
            from ..video_io import open_video

            video = open_video(video)
        height = width = None
        if video is not None:
            if not (hasattr(video, "__len__") and hasattr(video, "__getitem__")):
                raise ValueError(
                    f"A video is a path, a list of frames, an array or an object with `len` and indexing; got "
                    f"{type(video).__name__}. Start the session without a video, and give each frame as `frame`."
                )
            if len(video) == 0:
                raise ValueError("The video has no frames.")
            height, width = (video.height, video.width) if hasattr(video, "height") else image_size(video[0])
        cache = FeatureCache(max_vision_features_cache_size)
        return OnnxInferenceSession(video, self.process_frame, height, width, cache, keep_history)

    def add_inputs_to_inference_session(
        self,
        inference_session: OnnxInferenceSession,
        frame_idx: int,
        obj_ids: list[int] | int,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_size: tuple[int, int] | None = None,
        clear_old_inputs: bool = True,
    ) -> OnnxInferenceSession:
        """Add prompts for objects on a frame, as `EfficientTamVideoProcessor.add_inputs_to_inference_session`.

        Raises:
            ValueError: for anything that does not fit, in the user's pixels; nothing is added then.
        """
        add_inputs(
            inference_session,
            frame_idx,
            obj_ids,
            input_points,
            input_labels,
            input_boxes,
            input_masks,
            original_size,
            clear_old_inputs,
            input_size=self.rules.image_size,
            resize=partial(resize, antialias=True),
        )
        return inference_session

    def post_process_masks(
        self, masks: list[np.ndarray], original_sizes: Any, mask_threshold: float = 0.0, binarize: bool = True
    ) -> list[np.ndarray]:
        """Bring predicted masks to the size of the original frames; see `masks_at_size`."""
        return masks_at_size(masks, original_sizes, mask_threshold, binarize)

    # ------------------------------------------------------------------------------------------- as the model's

    def __call__(
        self,
        inference_session: OnnxInferenceSession,
        frame_idx: int | None = None,
        frame: Any = None,
        reverse: bool = False,
        run_mem_encoder: bool = True,
    ) -> OnnxVideoSegmentationOutput:
        """Run one frame of a session, as `EfficientTamVideoModel.forward`.

        Raises:
            ValueError: without objects, for an object without prompts, or for a frame that is not there.
        """
        session = inference_session
        if frame is None and frame_idx is None:
            raise ValueError("Give frame_idx, or for a stream the new frame as `frame`.")
        if not session.objects:
            raise ValueError("No objects are provided for tracking; please add inputs first.")
        is_new_frame = frame is not None
        if is_new_frame:
            self._run_waiting_prompts(session)
            frame_idx = session.add_new_frame(frame, frame_idx)
        session.check_frame_idx(frame_idx)
        prompted = [obj for obj in session.objects.values() if frame_idx in obj.unrun]
        if prompted:
            self._run_prompts(session, prompted, frame_idx)
        if is_new_frame or not prompted:
            self._track(session, frame_idx, reverse, run_mem_encoder)
        return self.get_frame_output(session, frame_idx)

    def propagate_in_video_iterator(
        self,
        inference_session: OnnxInferenceSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[OnnxVideoSegmentationOutput]:
        """Track every object through a video, as `EfficientTamVideoModel.propagate_in_video_iterator`.

        Raises:
            ValueError: if nothing was prompted, an object lost all its prompts, or the start is not in the video.
        """
        session = inference_session
        self._run_waiting_prompts(session)
        session.commit()
        if start_frame_idx is None:
            start_frame_idx = min(t for obj in session.objects.values() for t in obj.memory.conditioning)
        session.check_frame_idx(start_frame_idx)
        for frame_idx in session.frames_to_track(start_frame_idx, max_frame_num_to_track, reverse):
            try:
                output = self(session, frame_idx=frame_idx, reverse=reverse)
            except EndOfVideoError as error:
                warnings.warn(f"Tracking stopped before frame {frame_idx}: {error}", stacklevel=2)
                return
            yield output

    def get_frame_output(self, inference_session: OnnxInferenceSession, frame_idx: int) -> OnnxVideoSegmentationOutput:
        """The newest result of every object on a frame, without running anything; `no_object_score` where none is."""
        rules, session = self.rules, inference_session
        score = np.full((1, 1), rules.no_object_score, np.float32)
        absent = OnnxFrameMemory(
            pred_masks=np.full((1, 1, *rules.mask_size), rules.no_object_score, np.float32),
            object_score_logits=score,
            iou_scores=np.zeros((1, 1), np.float32),
            object_pointer=np.zeros((1, len(rules.no_object_pointer)), np.float32),
        )
        entries = [obj.memory.find(frame_idx) or absent for obj in session.objects.values()]
        names = ("pred_masks", "object_score_logits", "iou_scores", "object_pointer")
        values = {name: np.concatenate([getattr(e, name) for e in entries]).astype(np.float32) for name in names}
        return OnnxVideoSegmentationOutput(object_ids=session.obj_ids, frame_idx=frame_idx, **values)

    # ----------------------------------------------------------------------------------------------------- steps

    def _frame_features(self, session: OnnxInferenceSession, frame_idx: int) -> tuple[np.ndarray, np.ndarray]:
        """`features` and `image_embeddings`, computed once while the session keeps them."""
        features = session.cache.get(frame_idx)
        if features is None:
            features = self.graphs.encode_image(session.get_frame(frame_idx))
            session.cache.put(frame_idx, features)
        return features

    def _run_waiting_prompts(self, session: OnnxInferenceSession) -> None:
        """Run the prompts that were added and not run yet, on frames that are at hand."""
        for frame_idx in sorted({t for obj in session.objects.values() for t in obj.unrun}):
            if session.has_frame(frame_idx):
                waiting = [obj for obj in session.objects.values() if frame_idx in obj.unrun]
                self._run_prompts(session, waiting, frame_idx)

    def _run_prompts(self, session: OnnxInferenceSession, objects: list[TrackedObject], frame_idx: int) -> None:
        """Segment objects on a frame from the prompts that wait there, one after another."""
        features, image_embeddings = self._frame_features(session, frame_idx)
        for obj in objects:
            prompts, direction = obj.prompts[frame_idx], obj.memory.direction(frame_idx)
            if prompts.mask is not None:
                output = self.graphs.use_mask(features, prompts.mask)
            else:
                # A frame that was not tracked is segmented from its prompts alone; one that was is corrected.
                conditioned = image_embeddings
                if direction is not None:
                    bank = self._bank([self._select(obj, frame_idx, direction)])
                    conditioned = self.graphs.condition_on_memory(features, bank)
                entry, clamp = obj.memory.find(frame_idx), self.rules.previous_mask_clamp
                previous = None if entry is None else entry.pred_masks.clip(-clamp, clamp)
                several = self.graphs.use_multimask(direction is None, prompts.points.shape[1])
                output = self.graphs.segment(conditioned, prompts.points, prompts.labels, previous, several)
            memory = self.graphs.encode_memory(features, output.pred_masks, from_prompts=True)
            conditioning = direction is None or self.rules.add_all_frames_to_correct_as_cond
            session.store_prompted(obj, frame_idx, self._entry(output, memory, 0), conditioning)

    def _track(self, session: OnnxInferenceSession, frame_idx: int, reverse: bool, run_mem_encoder: bool) -> None:
        """Track every object to a frame; objects with equally many memories run as one batch."""
        rules = self.rules
        session.commit()
        batches: dict[tuple[int, int], list[tuple[TrackedObject, MemorySelection]]] = defaultdict(list)
        for obj in session.objects.values():
            if frame_idx in obj.memory.conditioning or not obj.memory.conditioning:
                continue
            selection = self._select(obj, frame_idx, reverse)
            batches[selection.shape].append((obj, selection))
        for batch in batches.values():
            objects, selections = zip(*batch, strict=True)
            features, _ = self._frame_features(session, frame_idx)
            conditioned = self.graphs.condition_on_memory(features, self._bank(selections))
            output = self.graphs.segment(conditioned, multimask_output=self.graphs.use_multimask(False, 0))
            memory = self.graphs.encode_memory(features, output.pred_masks, False) if run_mem_encoder else None
            for row, obj in enumerate(objects):
                obj.memory.tracked[frame_idx] = self._entry(output, memory, row)
        session.mark_tracked(frame_idx, reverse, max(rules.num_maskmem, rules.max_object_pointers_in_encoder) - 1)

    def _select(self, obj: TrackedObject, frame_idx: int, reverse: bool) -> MemorySelection:
        rules = self.rules
        return obj.memory.select(
            frame_idx, reverse, rules.num_maskmem, rules.max_object_pointers_in_encoder, rules.max_cond_frame_num
        )

    def _bank(self, selections: list[MemorySelection]) -> OnnxBank:
        """Selections of equal shape as one batch."""
        dtype, width = self.rules.memory_dtype, len(self.rules.no_object_pointer)
        return OnnxBank(
            np.stack([[unpack(entry.spatial, dtype) for entry, _ in s.spatial] for s in selections]),
            np.array([[index for _, index in s.spatial] for s in selections], np.int64),
            np.array([[e.object_pointer[0] for e in s.pointers] for s in selections], np.float32).reshape(
                len(selections), -1, width
            ),
        )

    def _entry(self, output: StepOutput, memory: np.ndarray | None, row: int) -> OnnxFrameMemory:
        """One object's part of a batch, copied so that no batch is kept alive by one of its rows."""
        rows = slice(row, row + 1)
        return OnnxFrameMemory(
            pred_masks=output.pred_masks[rows].copy(),
            object_score_logits=output.object_score_logits[rows].copy(),
            iou_scores=output.iou_scores[rows].copy(),
            object_pointer=output.object_pointer[rows].copy(),
            spatial=None if memory is None else pack(memory[row], self.rules.memory_dtype),
        )

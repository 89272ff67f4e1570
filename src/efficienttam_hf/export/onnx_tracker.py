"""Tracking with exported graphs: the calls of the model and its processor, on ONNX Runtime, NumPy and Pillow alone.

`OnnxVideoTracker` is both in one. Its sessions are driven by the same code as the model's (`session_walk.py`); what is
computed is in the graphs (`onnx_backend.py`).

    tracker = OnnxVideoTracker("exported")
    session = tracker.init_video_session("frames/")
    tracker.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[480, 300]]]], input_labels=[[[1]]])
    for output in tracker.propagate_in_video_iterator(session):
        masks = tracker.post_process_masks([output.pred_masks], [(session.video_height, session.video_width)])[0]
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..images import to_rgb
from ..prompt_calls import add_inputs
from ..session_walk import SessionWalk
from ..tracker_calls import TrackerCalls
from ..tracking_rules import Direction
from ..tracking_session import FeatureCache
from ..video_frames import as_frames, frame_size
from .arrays import masks_at_size, resize, video_pixels
from .onnx_backend import OnnxBackend, OnnxInferenceSession, OnnxVideoSegmentationOutput
from .onnx_graphs import OnnxGraphs


class OnnxVideoTracker(TrackerCalls):
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

    @property
    def walk(self) -> SessionWalk:
        """What drives sessions with the graphs."""
        return SessionWalk(OnnxBackend(self.graphs))

    # --------------------------------------------------------------------------------------- as the processor's

    def process_frame(self, frame: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """One original frame to pixels (3, height, width) for the network, and its own (height, width).

        Raises:
            ValueError: if it is no image; see `to_rgb`.
        """
        image = to_rgb(frame)
        return video_pixels(image, self.rules.image_size, self.rules.image_mean, self.rules.image_std), image.shape[:2]

    def init_video_session(
        self,
        video: Any = None,
        max_vision_features_cache_size: int = 1,
        keep_history: bool | int | None = 32,
        memory_selection: str | None = None,
        memory_options: Mapping[str, Any] | None = None,
        memory_stride: int | None = None,
        object_competition: str | None = None,
    ) -> OnnxInferenceSession:
        """Begin tracking in a video or a stream, as `EfficientTamVideoProcessor.init_video_session`.

        Args:
            video: a path to a folder of frames, or to a video file where PyAV is installed; or frames by index: a list
                of images, an array (frames, height, width, 3), or any object with `len` and indexing. Not given: a
                stream, whose frames go to `tracker(session, frame=...)`.
            max_vision_features_cache_size: frames whose image features are kept.
            keep_history: how far back a user can return, in frames; see `EfficientTamVideoInferenceSession`.
            memory_selection, memory_options, memory_stride, object_competition: see `TrackingSession.change_rules`.

        Raises:
            ValueError: if the video is none, or has no frames or frames of several sizes, or the graphs do not have
                what a memory selection needs.
        """
        frames = None if video is None else as_frames(video)
        height, width = (None, None) if frames is None else frame_size(frames)
        cache = FeatureCache(max_vision_features_cache_size)
        session = OnnxInferenceSession(frames, self.process_frame, height, width, cache, keep_history)
        session.change_rules(memory_selection, memory_options, memory_stride, object_competition)
        return session

    def add_inputs_to_inference_session(
        self,
        inference_session: OnnxInferenceSession,
        frame_idx: int | None = None,
        obj_ids: list[int] | int | None = None,
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
        prompts = (input_points, input_labels, input_boxes, input_masks)
        how: dict[str, Any] = {"input_size": self.rules.input_size, "resize": partial(resize, antialias=True)}
        add_inputs(inference_session, frame_idx, obj_ids, *prompts, original_size, clear_old_inputs, **how)
        return inference_session

    def post_process_masks(
        self,
        masks: list[np.ndarray],
        original_sizes: Any,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        apply_non_overlapping_constraints: bool = False,
    ) -> list[np.ndarray]:
        """Bring predicted masks to the size of the original frames; see `masks_at_size`."""
        return masks_at_size(masks, original_sizes, mask_threshold, binarize, apply_non_overlapping_constraints)

    # ------------------------------------------------------------------------------------------- as the model's

    def __call__(
        self,
        inference_session: OnnxInferenceSession,
        frame_idx: int | None = None,
        frame: Any = None,
        reverse: bool = False,
        run_mem_encoder: bool = True,
    ) -> OnnxVideoSegmentationOutput:
        """Run one frame of a session, as `EfficientTamVideoModel.forward`; the other calls are `TrackerCalls`'."""
        return self.walk.run(inference_session, frame_idx, frame, Direction.of(reverse), run_mem_encoder)

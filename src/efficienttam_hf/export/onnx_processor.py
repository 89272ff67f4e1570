"""`OnnxVideoProcessor`: prepares videos and prompts for exported graphs, and resizes masks, without torch.

Its methods have the names and arguments of `EfficientTamVideoProcessor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..images import to_rgb
from ..prompt_calls import add_inputs, add_reference
from ..tracking_session import FeatureCache
from ..video_frames import as_frames, frame_size
from .arrays import masks_at_size, resize, video_pixels
from .manifest import Rules
from .onnx_backend import OnnxInferenceSession


class OnnxVideoProcessor:
    """Makes sessions, adds prompts to them, and resizes predicted masks.

    Args:
        rules: the rules of the exported model, which have the size of its input and its normalisation.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def process_frame(self, frame: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """Convert an original frame to the model's input.

        Args:
            frame: an image in any form that `to_rgb` accepts.

        Returns:
            The pixels, float32 (3, height, width), and (height, width) of the original frame.

        Raises:
            ValueError: if the frame is not an image; see `to_rgb`.
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
        """Start a session of a video or a stream, as `EfficientTamVideoProcessor.init_video_session` does.

        Args:
            video: the path of a folder of frames or, with PyAV, of a video file; or frames by index: a list of images,
                an array (frames, height, width, 3), or any object with `len` and indexing. None is a stream, whose
                frames are given to `tracker(session, frame=...)`.
            max_vision_features_cache_size: the number of frames whose image features are kept.
            keep_history: how many frames back a user can return; see `EfficientTamVideoInferenceSession`.
            memory_selection, memory_options, memory_stride, object_competition: see `TrackingSession.change_rules`.

        Raises:
            ValueError: if the argument is not a video, has no frames or frames of several sizes, or a rule is unknown.
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
        """Add prompts for objects on a frame, as `EfficientTamVideoProcessor.add_inputs_to_inference_session` does.

        Raises:
            ValueError: if a prompt is not valid, in pixels of the original frame. Then nothing is added.
        """
        prompts = (input_points, input_labels, input_boxes, input_masks)
        how: dict[str, Any] = {"input_size": self.rules.input_size, "resize": partial(resize, antialias=True)}
        add_inputs(inference_session, frame_idx, obj_ids, *prompts, original_size, clear_old_inputs, **how)
        return inference_session

    def add_reference_to_session(
        self, inference_session: OnnxInferenceSession, image: Any, mask: Any, obj_id: int
    ) -> OnnxInferenceSession:
        """Show an object in an image of its own, as `EfficientTamVideoProcessor.add_reference_to_session` does.

        Raises:
            ValueError: if the image or the mask is invalid, or their sizes differ. Then nothing is added.
        """
        resize_mask = partial(resize, antialias=True)
        add_reference(inference_session, image, mask, obj_id, self.rules.input_size, resize_mask)
        return inference_session

    def post_process_masks(
        self,
        masks: list[np.ndarray],
        original_sizes: Any,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        apply_non_overlapping_constraints: bool = False,
    ) -> list[np.ndarray]:
        """Resize predicted masks to the size of the original frames; see `masks_at_size`."""
        return masks_at_size(masks, original_sizes, mask_threshold, binarize, apply_non_overlapping_constraints)

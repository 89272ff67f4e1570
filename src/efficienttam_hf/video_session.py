"""One video being tracked: a session with its pixels and features as tensors, each on the device it belongs to.

A session is the state that `EfficientTamVideoModel` works on, with the interface of Transformers'
`Sam2VideoInferenceSession`. It takes a whole video (processed, or decoded frame by frame as needed) or a stream of
frames of unknown length. It stays bounded: pixels of a frame go when the frame is done, and entries of memory go when
they are out of reach, as `keep_history` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .prompts import PADDING, FramePrompts
from .tracking_session import FeatureCache, TrackingSession


class DeviceFeatureCache(FeatureCache):
    """A `FeatureCache` that keeps (1, C, H, W) tensors on one device and gives them on another."""

    def __init__(self, capacity: int, storage_device: torch.device | str, inference_device: torch.device | str):
        super().__init__(capacity)
        self.storage_device = storage_device
        self.inference_device = inference_device

    def get(self, frame_idx: int) -> Tensor | None:
        features = super().get(frame_idx)
        return None if features is None else features.to(self.inference_device)

    def put(self, frame_idx: int, features: Tensor) -> None:
        super().put(frame_idx, features.to(self.storage_device))


class EfficientTamVideoInferenceSession(TrackingSession):
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
        input_size (`tuple[int, int]`, *optional*):
            (height, width) of processed frames. A streamed tensor of floats of another size is a raw image then, with
            values in [0, 1]; where it is not given, every tensor of floats is a processed frame.
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
        keep_history: bool | int | None = 32,
        input_size: tuple[int, int] | None = None,
    ):
        if video is not None and frames is not None:
            raise ValueError("Give either `video` (processed frames) or `frames` (original frames), not both.")
        if frames is not None and process_frame is None:
            raise ValueError(
                "`frames` need `process_frame` to become pixels; a processor's init_video_session has one."
            )
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.input_size = input_size
        self.inference_device = inference_device
        self.inference_state_device = inference_state_device
        self.video_storage_device = video_storage_device
        super().__init__(
            frames=frames if video is None else video.to(video_storage_device, self.dtype),
            process_frame=process_frame if video is None else None,
            video_height=video_height,
            video_width=video_width,
            cache=DeviceFeatureCache(max_vision_features_cache_size, inference_state_device, inference_device),
            keep_history=keep_history,
        )

    def add_point_inputs(self, obj_idx: int, frame_idx: int, inputs: dict[str, Tensor]) -> None:
        """As `Sam2VideoInferenceSession`: `point_coords` (1, 1, K, 2) and `point_labels` (1, 1, K), model pixels.

        Padding (points labelled -10) is left out.
        """
        points = inputs["point_coords"].reshape(1, -1, 2).float()
        labels = inputs["point_labels"].reshape(1, -1).long()
        kept = labels[0] != PADDING
        points, labels = points[:, kept], labels[:, kept]
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(points, labels))

    def add_mask_inputs(self, obj_idx: int, frame_idx: int, inputs: Tensor) -> None:
        """As `Sam2VideoInferenceSession`: a (1, 1, height, width) mask at the model's input size."""
        mask = inputs.reshape(1, 1, *inputs.shape[-2:]).float()
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(mask=mask))

    def _to_pixels(self, frame: Any) -> tuple[Tensor, tuple[int, int] | None]:
        original_size = None
        if not self._is_processed(frame):
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
        return frame.to(self.video_storage_device, self.dtype), original_size

    def _is_processed(self, frame: Any) -> bool:
        """Whether a frame is pixels for the model: a tensor of floats at its input size. Others are raw images."""
        if not (isinstance(frame, Tensor) and frame.is_floating_point()):
            return False
        return self.input_size is None or tuple(frame.shape[-3:]) == (3, *self.input_size)

    def _compact(self, pixels: Tensor) -> Tensor:
        return pixels.to("cpu", torch.float16 if pixels.dtype == torch.float32 else pixels.dtype)

    def get_frame(self, frame_idx: int) -> Tensor:
        """As `TrackingSession`: pixels (3, height, width), here on the inference device."""
        return super().get_frame(frame_idx).to(self.inference_device, self.dtype)


__all__ = ["EfficientTamVideoInferenceSession"]

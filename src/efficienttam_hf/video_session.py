"""The session of the torch model: the state of one video, with frames and features as tensors on their devices.

A session is the state that `EfficientTamVideoModel` works on, with the interface of Transformers'
`Sam2VideoInferenceSession`. It takes a whole video (processed, or decoded frame by frame as needed) or a stream of
frames of unknown length. Its RAM use is bounded: the pixels of a frame are dropped when the frame is finished, and
entries of memory are dropped when they are outside the history that `keep_history` sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .memory import FrameMemory
from .prompts import PADDING, FramePrompts
from .tracking_rules import Direction
from .tracking_session import FeatureCache, TrackedObject, TrackingSession


__all__ = ["EfficientTamVideoInferenceSession"]


class DeviceFeatureCache(FeatureCache):
    """A `FeatureCache` that stores (1, C, H, W) tensors on one device and returns them on another."""

    def __init__(self, capacity: int, storage_device: torch.device | str, inference_device: torch.device | str):
        super().__init__(capacity)
        self.storage_device = storage_device
        self.inference_device = inference_device

    def get(self, frame_idx: int) -> Tensor | None:
        features = super().get(frame_idx)
        return None if features is None else features.to(self.inference_device)

    def put(self, frame_idx: int, features: Tensor) -> None:
        super().put(frame_idx, features.to(self.storage_device))


class ProcessedFrames(Mapping[int, Tensor]):
    """The frames of a session by index, as pixels (3, height, width). A frame is processed each time it is read."""

    def __init__(self, session: EfficientTamVideoInferenceSession):
        self._session = session

    def __getitem__(self, frame_idx: int) -> Tensor:
        if frame_idx not in self:
            raise KeyError(frame_idx)
        return self._session.get_frame(frame_idx)

    def __contains__(self, frame_idx: object) -> bool:
        return frame_idx in self._indices()

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices())

    def __len__(self) -> int:
        return len(self._indices())

    def _indices(self) -> Sequence[int]:
        return list(self._session._streamed) if self._session.is_streaming else range(self._session.num_frames or 0)


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
            Original frames, with indexing and `len`, in place of `video`. Each is decoded and processed when needed.
        process_frame (`Callable`, *optional*):
            A function from an original frame to `(pixels (3, height, width), (original height, original width))`. It
            is needed with `frames`, and to stream raw images.
        keep_history (`bool` or `int`, defaults to 32):
            How far back a user can return, in frames. With a number, that many frames on either side of the current
            frame and of every prompted frame can be read and corrected, so RAM use is bounded for a video of any
            length. With `False`, the session keeps only the frames that tracking attends to (16 frames). With `True`,
            it keeps every frame, and frames far from the current one are offloaded to the CPU. An object then takes
            `N * c * 2 + h * w * 2 + 4 * C` bytes on a frame, for a spatial memory of N tokens of c channels in
            bfloat16, a mask of h by w in float16 and an object pointer of C channels: 641 KiB at 1024 pixels, 161 KiB
            at 512 (and, when streaming, the frame's own pixels in float16).
        input_size (`tuple[int, int]`, *optional*):
            (height, width) of processed frames. If it is given, a streamed tensor of floats of another size is a raw
            image with values in [0, 1]; otherwise every tensor of floats is a processed frame.
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
            frames=frames if video is None else cast("Sequence[Any]", video.to(video_storage_device, self.dtype)),
            process_frame=process_frame if video is None else None,
            video_height=video_height,
            video_width=video_width,
            cache=DeviceFeatureCache(max_vision_features_cache_size, inference_state_device, inference_device),
            keep_history=keep_history,
        )

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

    def reference_pixels(self, image: Any) -> Tensor:
        return super().reference_pixels(image).to(self.inference_device, self.dtype)

    def _is_processed(self, frame: Any) -> bool:
        """Whether a frame is processed pixels, a tensor of floats at the model's input size, and not a raw image."""
        if not (isinstance(frame, Tensor) and frame.is_floating_point()):
            return False
        return self.input_size is None or tuple(frame.shape[-3:]) == (3, *self.input_size)

    def _compact(self, pixels: Tensor) -> Tensor:
        return pixels.to("cpu", torch.float16 if pixels.dtype == torch.float32 else pixels.dtype)

    def get_frame(self, frame_idx: int) -> Tensor:
        """Processed pixels (3, height, width) of a frame on the inference device; see `TrackingSession.get_frame`."""
        return super().get_frame(frame_idx).to(self.inference_device, self.dtype)

    # ------------------------------------------------------------------- as Transformers' `Sam2VideoInferenceSession`
    #
    # In Transformers, these are dictionaries that grow with the video and that a caller may write to. Here they are
    # made from the state of the session each time they are read; a caller changes the state with the methods.

    @property
    def processed_frames(self) -> ProcessedFrames | None:
        """The frames by index; of a stream, the frames that are still kept (`None` before the first)."""
        return None if self.num_frames is None else ProcessedFrames(self)

    @property
    def max_vision_features_cache_size(self) -> int:
        """Number of frames whose image features are kept."""
        return self.cache.capacity

    @property
    def point_inputs_per_obj(self) -> dict[int, dict[int, dict[str, Tensor]]]:
        """`point_coords` (1, 1, K, 2) and `point_labels` (1, 1, K) in pixels of the model's input, by row and frame."""
        return {
            row: {
                frame_idx: {"point_coords": given.points[None], "point_labels": given.labels[None]}
                for frame_idx, given in obj.prompts.items()
                if given.points is not None and given.labels is not None
            }
            for row, obj in enumerate(self.objects.values())
        }

    @property
    def mask_inputs_per_obj(self) -> dict[int, dict[int, Tensor]]:
        """Mask prompts (1, 1, height, width) of 0 and 1 at the model's input size, by row of the object and frame."""
        return {
            row: {frame_idx: given.mask for frame_idx, given in obj.prompts.items() if given.mask is not None}
            for row, obj in enumerate(self.objects.values())
        }

    @property
    def frames_tracked_per_obj(self) -> dict[int, dict[int, dict[str, bool]]]:
        """`{"reverse": ...}` by row of the object and frame, for the frames that tracking passed and that are kept."""
        return {
            row: {t: {"reverse": direction == Direction.BACKWARD} for t, direction in obj.memory.passed.items()}
            for row, obj in enumerate(self.objects.values())
        }

    @property
    def output_dict_per_obj(self) -> dict[int, dict[str, dict[int, dict[str, Tensor]]]]:
        """`cond_frame_outputs` and `non_cond_frame_outputs` by row of the object: the values of `get_output` by frame.

        They only have the frames that the session keeps (see `keep_history`).
        """
        return {
            row: {
                name: {t: _as_dict(entry) for t, entry in self._entries(obj, conditioning).items()}
                for name, conditioning in (("cond_frame_outputs", True), ("non_cond_frame_outputs", False))
            }
            for row, obj in enumerate(self.objects.values())
        }

    def add_point_inputs(self, obj_idx: int, frame_idx: int, inputs: dict[str, Tensor]) -> None:
        """Set points: `point_coords` (1, 1, K, 2) and `point_labels` (1, 1, K), in pixels of the model's input.

        Padding (points labelled -10) is left out.
        """
        points = inputs["point_coords"].reshape(1, -1, 2).float()
        labels = inputs["point_labels"].reshape(1, -1).long()
        kept = labels[0] != PADDING
        points, labels = points[:, kept], labels[:, kept]
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(points, labels))

    def add_mask_inputs(self, obj_idx: int, frame_idx: int, inputs: Tensor) -> None:
        """Set a mask (1, 1, height, width) at the model's input size."""
        mask = inputs.reshape(1, 1, *inputs.shape[-2:]).float()
        self.add_prompts(self.obj_idx_to_id(obj_idx), frame_idx, FramePrompts(mask=mask))

    def remove_point_inputs(self, obj_idx: int, frame_idx: int) -> None:
        """Remove the points of an object on a frame and keep their result; `clear_prompts` undoes the result too."""
        self._remove_inputs(obj_idx, frame_idx, "points")

    def remove_mask_inputs(self, obj_idx: int, frame_idx: int) -> None:
        """Remove the mask prompt of an object on a frame and keep its result; `clear_prompts` undoes the result too."""
        self._remove_inputs(obj_idx, frame_idx, "mask")

    def _remove_inputs(self, obj_idx: int, frame_idx: int, name: str) -> None:
        obj = self.objects[self.obj_idx_to_id(obj_idx)]
        if frame_idx in obj.prompts and getattr(obj.prompts[frame_idx], name) is not None:
            del obj.prompts[frame_idx]
            obj.unrun.discard(frame_idx)

    @staticmethod
    def _entries(obj: TrackedObject, conditioning: bool) -> dict[int, FrameMemory]:
        memory: Any = obj.memory  # the entries of its memory are FrameMemory in this session
        if conditioning:
            return {**memory.conditioning, **memory.pending_conditioning}
        return {**memory.tracked, **memory.pending_tracked}

    def get_output(
        self, obj_idx: int, frame_idx: int, output_key: str, is_conditioning_frame: bool = True
    ) -> Tensor | None:
        """Return one value of an object's result on a frame, on the inference device.

        Args:
            obj_idx: the object's row in outputs.
            frame_idx: the frame.
            output_key: `pred_masks` (1, 1, h, w), `object_pointer` (1, C), `object_score_logits` (1, 1), `iou_scores`
                (1, 1), or `maskmem_features` (N, 1, c).
            is_conditioning_frame: whether the frame is a conditioning frame of the object.

        Returns:
            The value; `None` if the session keeps no such result (see `keep_history`).

        Raises:
            KeyError: if the session does not keep values of this key.
        """
        entry = self._entries(self.objects[self.obj_idx_to_id(obj_idx)], is_conditioning_frame).get(frame_idx)
        if output_key not in OUTPUT_KEYS:
            raise KeyError(
                f"A session keeps no {output_key!r} of a frame, so that its memory is bounded; it keeps "
                f"{', '.join(OUTPUT_KEYS)}. Masks at full size are `post_process_masks` of pred_masks."
            )
        value = None if entry is None else _as_dict(entry).get(output_key)
        return None if value is None else value.to(self.inference_device)

    def store_output(
        self,
        obj_idx: int,
        frame_idx: int,
        output_key: str | None = None,
        output_value: Tensor | dict[str, Tensor] | None = None,
        is_conditioning_frame: bool = True,
    ) -> None:
        """Set an object's result on a frame, or one value of an existing result. It is kept like any other result.

        Args:
            obj_idx: the object's row in outputs.
            frame_idx: the frame.
            output_key: a key of `get_output`; `None` for a whole result.
            output_value: the value. A whole result is a dictionary with at least `pred_masks`, `object_pointer` and
                `object_score_logits`; keys of it that a session does not keep are ignored.
            is_conditioning_frame: whether the frame is a conditioning frame of the object.

        Raises:
            KeyError: if the session does not keep values of this key, a value is missing, or the frame has no result.
        """
        frame_idx = self.check_frame_idx(frame_idx)
        obj = self.objects[self.obj_idx_to_id(obj_idx)]
        if output_key is None:
            if not isinstance(output_value, dict):
                raise KeyError("A whole result is a dictionary of its values.")
            missing = [k for k in ("pred_masks", "object_pointer", "object_score_logits") if k not in output_value]
            if missing:
                raise KeyError(f"A result needs {', '.join(missing)} too.")
            score = output_value["object_score_logits"]
            values = {"iou_scores": torch.zeros_like(score), **output_value}
            entry = FrameMemory(**{OUTPUT_KEYS[k]: _as_kept(k, v) for k, v in values.items() if k in OUTPUT_KEYS})
            kept, other = obj.memory.conditioning, obj.memory.tracked
            if not is_conditioning_frame:
                kept, other = other, kept
            kept[frame_idx] = entry
            other.pop(frame_idx, None)
            return
        kept_entry = self._entries(obj, is_conditioning_frame).get(frame_idx)
        if output_key not in OUTPUT_KEYS or kept_entry is None:
            what = f"result on frame {frame_idx}" if kept_entry is None else f"{output_key!r} of a frame"
            raise KeyError(f"The session keeps no {what} of object {obj.object_id} to set a value of.")
        assert isinstance(output_value, Tensor)
        setattr(kept_entry, OUTPUT_KEYS[output_key], _as_kept(output_key, output_value))


# The names of a result's values in Transformers, and in an entry of memory.
OUTPUT_KEYS = {
    "pred_masks": "pred_masks",
    "object_pointer": "object_pointer",
    "object_score_logits": "object_score_logits",
    "iou_scores": "iou_scores",
    "maskmem_features": "spatial",
}


def _as_dict(entry: FrameMemory) -> dict[str, Tensor]:
    """Convert an entry to the names and layouts of Transformers, in which memory tokens are the first dimension."""
    values = {key: getattr(entry, name) for key, name in OUTPUT_KEYS.items()}
    if entry.spatial is not None:
        values["maskmem_features"] = entry.spatial.transpose(0, 1)
    return {key: value for key, value in values.items() if value is not None}


def _as_kept(key: str, value: Tensor) -> Tensor:
    return value.transpose(0, 1) if key == "maskmem_features" else value

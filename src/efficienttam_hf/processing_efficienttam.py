"""Images, videos and prompts to tensors, and masks back to the user's resolution.

Built on Transformers' SAM 2 processors, whose calls these share. What is added: prompts are checked in the user's own
pixels before anything is changed, frames of a video are processed when it is their turn (never the whole video),
several prompts may be added before any is run, images of any kind (greyscale, RGBA, 16 bit) become RGB, masks can have
holes filled and specks removed, and inputs need not be square.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Sam2ImageProcessor, Sam2Processor, Sam2VideoProcessor, Sam2VideoVideoProcessor
from transformers.image_utils import PILImageResampling

from .configuration_efficienttam import EfficientTamConfig, RemoteCode, size_pair
from .prompt_checks import check_box, check_mask, check_points, to_rgb
from .tracking_session import FramePrompts
from .video_session import EfficientTamVideoInferenceSession


class RemoteProcessor(RemoteCode):
    """Mixin of processors that Auto classes load: the saved file says of which class they are."""

    auto_class_name = "AutoProcessor"

    def to_dict(self) -> dict[str, Any]:
        """As in Transformers, with the `auto_map` that `trust_remote_code=True` goes by."""
        auto_map = {self.auto_class_name: f"processing_efficienttam.{type(self).__name__}"}
        return {**super().to_dict(), "auto_map": auto_map}


# ---------------------------------------------------------------------------------------------------------- images


def _needs_rgb(image: Any) -> bool:
    """Whether Transformers' own image pipeline would not make RGB of this."""
    if isinstance(image, Image.Image):
        return image.mode != "RGB"
    if isinstance(image, np.ndarray | Tensor):
        return image.ndim == 2 or str(image.dtype).endswith("uint16") or (image.ndim == 3 and 4 in image.shape[::2])
    return False


def change_small_regions(logits: Tensor, foreground: bool, max_area: float, threshold: float) -> Tensor:
    """Turn small connected regions of masks into their surroundings.

    Args:
        logits: (..., h, w) mask logits.
        foreground: whether specks of foreground go, or holes in it.
        max_area: regions up to this area, in pixels of `logits` (8-connected), are changed.
        threshold: logit above which a pixel is foreground.

    Returns:
        The logits, changed pixels at 10 beyond the threshold.

    Raises:
        ImportError: without OpenCV.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Filling holes and removing specks needs OpenCV: pip install opencv-python-headless"
        ) from error
    masks = (logits > threshold).flatten(0, -3).cpu().numpy()
    changed = np.zeros_like(masks)
    for mask, change in zip(masks, changed, strict=True):
        region = (mask if foreground else ~mask).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= max_area
        small[0] = False  # what is not in any region
        change[:] = small[labels]
    value = threshold - 10.0 if foreground else threshold + 10.0
    where = torch.from_numpy(changed).to(logits.device).view(logits.shape)
    return torch.where(where, torch.full_like(logits, value), logits)


class EfficientTamImageProcessor(RemoteProcessor, Sam2ImageProcessor):
    """Images to `pixel_values` of the model's size (bilinear, antialiased, as published), and masks back."""

    auto_class_name = "AutoImageProcessor"

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any):
        """As `Sam2ImageProcessor`; images may also be greyscale, RGBA, palette or 16 bit."""
        if len(kwargs.get("image_mean") or self.image_mean or (0, 0, 0)) == 3:
            if isinstance(images, list | tuple):
                images = [to_rgb(image) if _needs_rgb(image) else image for image in images]
            elif _needs_rgb(images):
                images = to_rgb(images)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def resize(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As in Transformers, in float: rounding the resized image to whole numbers is not what was published."""
        return super().resize(image.float() if image.dtype == torch.uint8 else image, *args, **kwargs)

    def generate_crop_boxes(self, image: Any, target_size: int, *args: Any, **kwargs: Any):
        """As `Sam2ImageProcessor`, with the grid of points on the whole image also where that is not square.

        The parent scales points by the longer side alone, as SAM does, which pads; here images are resized to fill.
        """
        boxes, points, crops, labels = super().generate_crop_boxes(image, target_size, *args, **kwargs)
        size = torch.tensor([self.size["width"], self.size["height"]], dtype=points.dtype, device=points.device)
        for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
            width, height = right - left, bottom - top
            reached = torch.tensor([width, height], dtype=points.dtype, device=points.device)
            reached = (reached * (target_size / max(width, height)) + 0.5).floor()
            points[:, :, i] = points[:, :, i] / reached * size
        return boxes, points, crops, labels

    def post_process_masks(
        self,
        masks: Tensor | Sequence[Tensor | np.ndarray],
        original_sizes: Tensor | Sequence[Sequence[int]],
        mask_threshold: float = 0.0,
        binarize: bool = True,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        apply_non_overlapping_constraints: bool = False,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Bring predicted masks to the size of the original images.

        Args:
            masks: for each image (objects, masks, h, w) logits.
            original_sizes: for each image (height, width).
            mask_threshold: logit above which a pixel is foreground.
            binarize: whether to return bool masks, or logits.
            max_hole_area: holes up to this area are filled; in pixels of `masks` as given, before they are resized.
            max_sprinkle_area: specks up to this area are removed; likewise.
            apply_non_overlapping_constraints: whether every pixel goes to the highest scoring object at most.

        Returns:
            For each image (objects, masks, height, width), bool or float.

        Raises:
            TypeError: if masks are no tensors or arrays. ImportError: areas without OpenCV.
        """
        if isinstance(original_sizes, Tensor | np.ndarray):
            original_sizes = original_sizes.tolist()
        results = []
        for mask, size in zip(masks, original_sizes, strict=False):
            mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
            if not isinstance(mask, Tensor):
                raise TypeError("Input masks should be a list of `torch.tensors` or a list of `np.ndarray`")
            mask = mask.float()
            if max_hole_area:
                mask = change_small_regions(mask, False, max_hole_area, mask_threshold)
            if max_sprinkle_area:
                mask = change_small_regions(mask, True, max_sprinkle_area, mask_threshold)
            mask = F.interpolate(mask, tuple(int(s) for s in size), mode="bilinear", align_corners=False)
            if apply_non_overlapping_constraints:
                mask = self._apply_non_overlapping_constraints(mask)
            results.append(mask > mask_threshold if binarize else mask)
        return results

    def post_process_for_mask_generation(self, all_masks: Any, all_scores: Tensor, all_boxes: Tensor, *args: Any):
        """As `Sam2ImageProcessor`, also for a model in half precision: suppression wants scores in float32."""
        return super().post_process_for_mask_generation(all_masks, all_scores.float(), all_boxes, *args)


class EfficientTamVideoVideoProcessor(RemoteProcessor, Sam2VideoVideoProcessor):
    """Frames of a video to `pixel_values_videos` of the model's size (bicubic, as the published video loader)."""

    auto_class_name = "AutoVideoProcessor"
    resample = PILImageResampling.BICUBIC

    def rescale_and_normalize(
        self,
        images: Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
    ) -> Tensor:
        """As in Transformers, in the published order: to [0, 1], then less the mean, then over the deviation."""
        if not (do_rescale and do_normalize):
            return super().rescale_and_normalize(
                images, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        mean, std = (torch.as_tensor(v, device=images.device).view(-1, 1, 1) for v in (image_mean, image_std))
        return (images.float() / (1 / rescale_factor) - mean) / std

    def resize(self, image: Tensor, size: Any, resample: Any = None, **kwargs: Any) -> Tensor:
        """As in Transformers; frames of uint8 on the CPU go through PIL, as published.

        torchvision's bicubic differs from PIL's by one step in 0.3 % of the pixels. That is little, but it is enough to
        change the masks of a long video.
        """
        as_published = resample in (None, PILImageResampling.BICUBIC) and size.height and size.width
        if not (as_published and image.dtype == torch.uint8 and image.device.type == "cpu" and image.shape[-3] == 3):
            return super().resize(image, size, resample=resample, **kwargs)
        frames = image.reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).contiguous().numpy()
        shape = (size.width, size.height)
        resized = [np.array(Image.fromarray(frame).resize(shape, Image.Resampling.BICUBIC)) for frame in frames]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).reshape(*image.shape[:-2], shape[1], shape[0])


# --------------------------------------------------------------------------------------------------------- prompts


def to_mask(mask: Any, size: tuple[int, int] | None, where: str = "") -> Tensor:
    """One object's mask prompt, as `check_mask` takes it, as (1, 1, height, width) float32 of 0 and 1."""
    return torch.from_numpy(check_mask(mask, size, where)).float()[None, None]


class _PromptMixin(RemoteProcessor):
    """What the image and the video processor share: coordinates, checks, construction."""

    def model_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        size = self.image_processor.size
        if self.target_size == size["height"]:
            return size["height"], size["width"]
        return self.target_size, self.target_size

    def _normalize_coordinates(
        self, target_size: int, coords: Tensor, original_size: Sequence[int], is_bounding_box: bool = False
    ) -> Tensor:
        """Pixels of the original to pixels of the model's input: (..., 2), or (..., 4) for boxes."""
        old_height, old_width = (float(side) for side in original_size)
        height, width = self.model_size()
        shape = coords.shape
        coords = coords.float().reshape(-1, 2, 2) if is_bounding_box else coords.float()
        # Divide first, as the published code does: the same rounding.
        coords = coords / coords.new_tensor([old_width, old_height]) * coords.new_tensor([width, height])
        return coords.reshape(-1, 4) if is_bounding_box else coords.reshape(shape)

    def _check_prompts(self, input_points: Any, input_labels: Any, input_boxes: Any, sizes: Sequence) -> None:
        """Check nested prompts, [image][object][point], in pixels of the originals."""
        points = self._validate_single_input(
            input_points, 4, "points", "[image level, object level, point level, point coordinates]", 2
        )
        labels = self._validate_single_input(input_labels, 3, "labels", "[image level, object level, point level]")
        boxes = self._validate_single_input(input_boxes, 3, "boxes", "[image level, box level, box coordinates]", 4)
        if labels is not None and points is None:
            raise ValueError("Labels were given without points: give input_points too.")
        for i, image_points in enumerate(points or []):
            image_labels = None if labels is None else labels[i] if i < len(labels) else []
            if image_labels is not None and len(image_labels) != len(image_points):
                raise ValueError(
                    "Input points and labels have inconsistent dimensions. Please ensure they have the same "
                    f"dimensions: points for {len(image_points)} objects, labels for {len(image_labels)}."
                )
            for j, object_points in enumerate(image_points):
                object_labels = None if image_labels is None else image_labels[j]
                check_points(object_points, object_labels, sizes[i if len(sizes) > 1 else 0])
        for i, image_boxes in enumerate(boxes or []):
            for box in image_boxes:
                check_box(box, sizes[i if len(sizes) > 1 else 0])

    @staticmethod
    def _sizes(images: Any, original_sizes: Any) -> list[tuple[int, int]] | None:
        if original_sizes is not None:
            return [tuple(int(s) for s in size) for size in original_sizes]
        if images is None:
            return None
        images = images if isinstance(images, list | tuple) else [images]
        sizes = []
        for image in images:
            if isinstance(image, Image.Image):
                sizes.append((image.height, image.width))
            else:
                shape = tuple(image.shape)[-3:] if hasattr(image, "shape") else ()
                if len(shape) == 3:
                    shape = shape[1:] if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else shape[:2]
                if len(shape) != 2:
                    return None
                sizes.append(shape)
        return sizes

    def __call__(
        self,
        images: Any = None,
        segmentation_maps: Any = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        original_sizes: Any = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ):
        """As `Sam2Processor`: images and prompts in their pixels to model inputs.

        Raises:
            ValueError: for prompts that do not fit their image.
        """
        if input_points is not None or input_labels is not None or input_boxes is not None:
            sizes = self._sizes(images, original_sizes)
            if sizes:
                self._check_prompts(input_points, input_labels, input_boxes, sizes)
        return super().__call__(
            images,
            segmentation_maps,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            original_sizes=original_sizes,
            return_tensors=return_tensors,
            **kwargs,
        )


class EfficientTamProcessor(_PromptMixin, Sam2Processor):
    """Images and prompts for `EfficientTamModel`, and its masks back. Called as `Sam2Processor` is."""

    @classmethod
    def from_config(cls, config: EfficientTamConfig) -> EfficientTamProcessor:
        """The processor that fits a model's configuration."""
        return cls(_image_processor_for(config))


def _image_processor_for(config: EfficientTamConfig) -> EfficientTamImageProcessor:
    height, width = size_pair(config.image_size)
    mask_height, mask_width = config.prompt_encoder_config.mask_input_size
    return EfficientTamImageProcessor(
        size={"height": height, "width": width}, mask_size={"height": mask_height, "width": mask_width}
    )


# ---------------------------------------------------------------------------------------------------------- videos


class EfficientTamVideoProcessor(_PromptMixin, Sam2VideoProcessor):
    """Videos, frames and prompts for `EfficientTamVideoModel`. Used as `Sam2VideoProcessor` is; serves images too."""

    @classmethod
    def from_config(cls, config: EfficientTamConfig) -> EfficientTamVideoProcessor:
        """The processor that fits a model's configuration."""
        height, width = size_pair(config.image_size)
        return cls(
            _image_processor_for(config), EfficientTamVideoVideoProcessor(size={"height": height, "width": width})
        )

    def process_frame(self, frame: Any, device: str | torch.device = "cpu") -> tuple[Tensor, tuple[int, int]]:
        """One original frame to pixels (3, height, width) for the model, and its own (height, width).

        Raises:
            ValueError: if it is no image; see `to_rgb`.
        """
        if isinstance(frame, Tensor) and frame.dtype == torch.uint8 and frame.ndim == 3 and frame.shape[0] == 3:
            image = frame
        else:
            image = torch.from_numpy(to_rgb(frame).copy()).permute(2, 0, 1)
        processed = self.video_processor(videos=[image[None].to(device)], return_tensors="pt")
        return processed["pixel_values_videos"][0, 0], (image.shape[1], image.shape[2])

    def init_video_session(
        self,
        video: Any = None,
        inference_device: str | torch.device = "cpu",
        inference_state_device: str | torch.device | None = None,
        processing_device: str | torch.device | None = None,
        video_storage_device: str | torch.device | None = None,
        max_vision_features_cache_size: int = 1,
        dtype: torch.dtype = torch.float32,
        keep_history: bool | int = 32,
    ) -> EfficientTamVideoInferenceSession:
        """Begin tracking in a video or a stream.

        Frames are decoded and processed one by one, when it is their turn, and are not kept.

        Args:
            video: a path to a video file or a folder of frames; or frames by index: a list of images, an array
                (frames, height, width, 3), a tensor (frames, 3, height, width) of uint8, or any object with `len` and
                indexing. Not given: a stream, whose frames go to `model(inference_session=..., frame=...)`.
            inference_device: where the model runs.
            inference_state_device: where memories and masks are kept; by default there too.
            processing_device: where frames are resized; by default there too.
            video_storage_device: where streamed pixels are kept; by default there too.
            max_vision_features_cache_size: frames whose image features are kept.
            dtype: of pixels.
            keep_history: how far back a user can return; see `EfficientTamVideoInferenceSession`.

        Raises:
            ValueError: if the video has no frames or frames of several sizes. FileNotFoundError: no such path.
        """
        device = inference_device
        process = partial(self.process_frame, device=processing_device or device)
        frames = None if video is None else _as_frames(video)
        height, width = (None, None) if frames is None else _frame_size(frames)
        return EfficientTamVideoInferenceSession(
            frames=frames,
            process_frame=process,
            video_height=height,
            video_width=width,
            inference_device=device,
            inference_state_device=inference_state_device or device,
            video_storage_device=video_storage_device or device,
            dtype=dtype,
            max_vision_features_cache_size=max_vision_features_cache_size,
            keep_history=keep_history,
        )

    def add_inputs_to_inference_session(
        self,
        inference_session: EfficientTamVideoInferenceSession,
        frame_idx: int,
        obj_ids: list[int] | int,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_size: tuple[int, int] | None = None,
        clear_old_inputs: bool = True,
    ) -> EfficientTamVideoInferenceSession:
        """Add prompts for objects on a frame. They count when the frame is run, or propagation starts.

        Prompts added before have effect too, unless they are for the same object on the same frame (see
        `clear_old_inputs`). If anything is wrong, nothing is added.

        Args:
            inference_session: the session.
            frame_idx: the frame; of a stream, the current or a coming one.
            obj_ids: the objects' ids, whole numbers of the user's choice. Unknown ones are new objects.
            input_points: [[[[x, y], ...] an object] a frame], in pixels of the original frame.
            input_labels: [[[label, ...]]]: 1 positive, 0 negative, 2 and 3 the corners of a box.
            input_boxes: [[[x0, y0, x1, y1] an object]].
            input_masks: one mask (height, width) an object, at the original frame's size; instead of points and boxes.
            original_size: (height, width) of original frames; needed once when streaming processed pixels.
            clear_old_inputs: whether these replace an object's earlier points on the frame, or join them.

        Returns:
            The session.

        Raises:
            ValueError: for anything that does not fit, in the user's pixels.
        """
        ids = [obj_ids] if isinstance(obj_ids, int | np.integer) else list(obj_ids)
        if not ids or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in ids):
            raise ValueError(f"Object ids are whole numbers, at least one; got {obj_ids!r}.")
        ids = [int(i) for i in ids]
        if len(set(ids)) < len(ids):
            raise ValueError(f"Each object is named once in a call; got {ids}.")
        if (input_points is not None) != (input_labels is not None):
            raise ValueError("points and labels must be provided together")
        if input_points is None and input_boxes is None and input_masks is None:
            raise ValueError("at least one of points, boxes, or masks must be provided as input")
        if input_masks is not None and (input_points is not None or input_boxes is not None):
            raise ValueError("masks cannot be provided together with points or boxes")
        if input_boxes is not None and not clear_old_inputs:
            raise ValueError(
                "cannot add box without clearing old points, since box prompt must be provided before any point prompt "
                "(please use clear_old_inputs=True instead)"
            )
        session = inference_session
        frame_idx = int(frame_idx) if isinstance(frame_idx, np.integer) else frame_idx
        session.check_frame_idx(frame_idx, upcoming=True)
        size = self._session_size(session, original_size)
        if input_masks is not None:
            prompts = self._mask_prompts(ids, input_masks, size)
        elif size is None:
            raise ValueError("original_size must be provided when adding points or boxes on a first streamed frame")
        else:
            prompts = self._point_prompts(ids, input_points, input_labels, input_boxes, size)

        if size is not None:
            session.set_original_size(*size)
        for object_id, new in zip(ids, prompts, strict=True):
            old = session.objects[object_id].prompts.get(frame_idx) if object_id in session.objects else None
            if old is not None and old.points is not None and new.points is not None and not clear_old_inputs:
                new = FramePrompts(torch.cat([old.points, new.points], 1), torch.cat([old.labels, new.labels], 1))
            session.add_prompts(object_id, frame_idx, new)
        return session

    @staticmethod
    def _session_size(session: EfficientTamVideoInferenceSession, original_size: Any) -> tuple[int, int] | None:
        known = None if session.video_height is None else (session.video_height, session.video_width)
        if original_size is None:
            return known
        size = tuple(int(side) for side in (original_size[0] if np.ndim(original_size) == 2 else original_size))
        session.check_original_size(*size)
        return size

    def _mask_prompts(self, ids: list[int], input_masks: Any, size: tuple[int, int] | None) -> list[FramePrompts]:
        if isinstance(input_masks, np.ndarray | Tensor):
            # One mask, or one a row.
            single = input_masks.ndim == 2 or len(ids) == 1
            input_masks = [input_masks] if single else list(input_masks)
        if len(input_masks) != len(ids):
            raise ValueError(f"Number of object ids ({len(ids)}) does not match number of masks ({len(input_masks)})")
        prompts = []
        for object_id, mask in zip(ids, input_masks, strict=True):
            mask = to_mask(mask, size, f" for object {object_id}")
            if tuple(mask.shape[-2:]) != self.model_size():
                mask = F.interpolate(mask, size=self.model_size(), mode="bilinear", align_corners=False, antialias=True)
                mask = (mask >= 0.5).float()
            prompts.append(FramePrompts(mask=mask))
        return prompts

    def _point_prompts(
        self, ids: list[int], input_points: Any, input_labels: Any, input_boxes: Any, size: tuple[int, int]
    ) -> list[FramePrompts]:
        points = self._per_object(input_points, "points", 4, len(ids), 2)
        labels = self._per_object(input_labels, "labels", 3, len(ids))
        boxes = self._per_object(input_boxes, "boxes", 3, len(ids), 4)
        prompts = []
        for i, object_id in enumerate(ids):
            where = f" for object {object_id}"
            object_points, object_labels = (points[i], labels[i]) if points is not None else ([], [])
            check_points(object_points, object_labels, size, where)
            # Padding of ragged lists is not a prompt.
            kept = [(p, label) for p, label in zip(object_points, object_labels, strict=True) if label != -10]
            object_points, object_labels = [p for p, _ in kept], [label for _, label in kept]
            if boxes is not None:
                check_box(boxes[i], size, where)
                x0, y0, x1, y1 = boxes[i]
                object_points, object_labels = [[x0, y0], [x1, y1], *object_points], [2, 3, *object_labels]
            if not object_points:
                raise ValueError(f"There is no point{where}: each object of a call needs a point or a box.")
            coordinates = torch.tensor([object_points], dtype=torch.float32)
            coordinates = self._normalize_coordinates(self.target_size, coordinates, size)
            prompts.append(FramePrompts(coordinates, torch.tensor([object_labels], dtype=torch.int64)))
        return prompts

    def _per_object(self, value: Any, name: str, depth: int, count: int, coordinates: int | None = None):
        """One frame's prompts as a list with an item an object."""
        if value is None:
            return None
        shape = {4: "[[[[x, y], ...] an object]]", 3: "[[[label, ...] an object]]"}[depth]
        shape = "[[[x0, y0, x1, y1] an object]]" if name == "boxes" else shape
        nested = self._validate_single_input(value, depth, name, shape, coordinates)
        if len(nested) != 1 or len(nested[0]) != count:
            objects = sum(len(frame) for frame in nested)
            raise ValueError(f"Number of object ids ({count}) does not match number of {name} ({objects})")
        return nested[0]


def _as_frames(video: Any) -> Any:
    """Whatever a user calls a video, as an object with `len` and indexing."""
    if isinstance(video, str | Path):
        return _open(video)
    if isinstance(video, list | tuple) and len(video) == 1 and isinstance(video[0], list | tuple):
        video = video[0]
    if isinstance(video, np.ndarray | Tensor) and video.ndim == 5 and len(video) == 1:
        video = video[0]
    if isinstance(video, np.ndarray | Tensor) and video.ndim != 4:
        raise ValueError(f"A video has four dimensions, frames first; got shape {tuple(video.shape)}.")
    if not (hasattr(video, "__len__") and hasattr(video, "__getitem__")):
        raise ValueError(
            f"A video is a path, a list of frames, an array or an object with `len` and indexing; got "
            f"{type(video).__name__}. Frames that merely come one after another are a stream: start the session "
            "without a video and give each to the model as `frame`."
        )
    return video


def _open(path: str | Path) -> Any:
    try:
        # By its installed name: this file also runs as remote code, without the package around it.
        open_video: Callable = importlib.import_module("efficienttam_hf.video_io").open_video
    except ImportError:
        from transformers.video_utils import load_video

        return load_video(str(path))[0]
    return open_video(path)


def _frame_size(frames: Any) -> tuple[int, int]:
    """(height, width) of a video's frames, looked up without decoding where possible."""
    if len(frames) == 0:
        raise ValueError("The video has no frames.")
    if hasattr(frames, "height") and hasattr(frames, "width"):
        return int(frames.height), int(frames.width)
    if not isinstance(frames, list | tuple):
        return to_rgb(frames[0]).shape[:2]
    sizes = [_PromptMixin._sizes(frame, None) for frame in frames]
    for i, size in enumerate(sizes):
        if size is None:
            raise ValueError(f"Frame {i} is no image but {type(frames[i]).__name__}.")
        if size != sizes[0]:
            (height, width), (first_height, first_width) = size[0], sizes[0][0]
            raise ValueError(
                f"The frames of a video have one size: frame {i} is {width}x{height} pixels, frame 0 is "
                f"{first_width}x{first_height}."
            )
    return sizes[0][0]


__all__ = [
    "EfficientTamImageProcessor",
    "EfficientTamProcessor",
    "EfficientTamVideoProcessor",
    "EfficientTamVideoVideoProcessor",
]

"""The processors: convert images, videos and prompts to tensors, and masks back to the original size.

Built on Transformers' SAM 2 processors, whose calls these share. What is added: prompts are checked in the user's own
pixels before anything is changed, frames of a video are processed when it is their turn (never the whole video),
several prompts may be added before any is run, images of any kind (greyscale, RGBA, 16 bit) become RGB, masks can have
holes filled and specks removed, and inputs need not be square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Sam2ImageProcessor, Sam2Processor, Sam2VideoProcessor, Sam2VideoVideoProcessor
from transformers.image_utils import PILImageResampling
from transformers.tokenization_utils_base import BatchEncoding

from .configuration_efficienttam import EfficientTamConfig, size_pair
from .images import check_sizes, image_list, rgb_frames, to_rgb
from .prompt_calls import CALL_LABELS, CallPrompts, add_inputs
from .prompts import PADDING, scale_points
from .remote_code import RemoteCode
from .video_frames import as_frames, frame_size
from .video_session import EfficientTamVideoInferenceSession


__all__ = [
    "EfficientTamImageProcessor",
    "EfficientTamProcessor",
    "EfficientTamVideoProcessor",
    "EfficientTamVideoVideoProcessor",
]


class RemoteProcessor(RemoteCode):
    """Mixin of processors that Auto classes load: the saved file says of which class they are."""

    auto_class_name = "AutoProcessor"

    def to_dict(self) -> dict[str, Any]:
        """As in Transformers, with the `auto_map` that `trust_remote_code=True` goes by."""
        auto_map = {self.auto_class_name: f"processing_efficienttam.{type(self).__name__}"}
        fields = super().to_dict()  # type: ignore[misc]  # of what this is mixed into
        return {**fields, "auto_map": auto_map}


# ---------------------------------------------------------------------------------------------------------- images


def _is_rgb(image: Any) -> bool:
    """Whether an image is a uint8 tensor (3, height, width), which needs no conversion and stays on its device."""
    return isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3


def _to_tensor(image: Any, channels: str | None = None) -> Tensor:
    """Any image as uint8 RGB (3, height, width), by the rule of `images.py`."""
    if _is_rgb(image) and (channels == "first" or image.shape[2] not in (1, 3, 4)):
        return image
    return _shared(to_rgb(image, channels)).permute(2, 0, 1)


def _shared(array: np.ndarray) -> Tensor:
    """An array as a tensor on the same memory; on a copy where PyTorch cannot share it (read-only, or backward)."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


def _channels(input_data_format: Any) -> str | None:
    """Transformers' name for the order of axes (`"channels_first"`) as that of `to_rgb`."""
    return None if input_data_format is None else str(getattr(input_data_format, "value", input_data_format))[9:]


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

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> Any:
        """As `Sam2ImageProcessor`, for images of any kind that `images.py` describes, floats in [0, 1] among them.

        With `do_rescale=False`, or another number of channels than three, values are left as they are.

        Raises:
            ValueError: for what is no image, or could be read in two ways.
        """
        rescale = kwargs.get("do_rescale")
        if len(kwargs.get("image_mean") or self.image_mean or (0, 0, 0)) == 3 and (
            self.do_rescale if rescale is None else rescale
        ):
            channels = _channels(kwargs.pop("input_data_format", None))
            fetched = (self.fetch_images(x) if isinstance(x, str) else x for x in image_list(images))
            images = [_to_tensor(image, channels) for image in fetched]
            kwargs["input_data_format"] = "channels_first"
        return super().preprocess(images, segmentation_maps, **kwargs)

    def resize(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As in Transformers, in float: rounding the resized image to whole numbers is not what was published."""
        return super().resize(image.float() if image.dtype == torch.uint8 else image, *args, **kwargs)

    def generate_crop_boxes(self, image: Any, target_size: int, *args: Any, **kwargs: Any) -> Any:
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
            TypeError: if masks are no tensors or arrays. ValueError: for another number of sizes than of images.
            ImportError: areas without OpenCV.
        """
        if isinstance(original_sizes, Tensor | np.ndarray):
            original_sizes = original_sizes.tolist()
        if not all(isinstance(mask, Tensor | np.ndarray) for mask in masks):
            raise TypeError("Input masks should be a list of `torch.tensors` or a list of `np.ndarray`")
        check_sizes(masks, original_sizes)
        results = []
        for mask, size in zip(masks, original_sizes, strict=True):
            mask = (_shared(mask) if isinstance(mask, np.ndarray) else mask).float()
            if max_hole_area:
                mask = change_small_regions(mask, False, max_hole_area, mask_threshold)
            if max_sprinkle_area:
                mask = change_small_regions(mask, True, max_sprinkle_area, mask_threshold)
            mask = F.interpolate(mask, tuple(int(s) for s in size), mode="bilinear", align_corners=False)
            if apply_non_overlapping_constraints:
                mask = self._apply_non_overlapping_constraints(mask)
            results.append(mask > mask_threshold if binarize else mask)
        return results

    def post_process_for_mask_generation(
        self, all_masks: Any, all_scores: Tensor, all_boxes: Tensor, *args: Any
    ) -> Any:
        """As `Sam2ImageProcessor`, also for a model in half precision: suppression wants scores in float32."""
        return super().post_process_for_mask_generation(all_masks, all_scores.float(), all_boxes, *args)


class EfficientTamVideoVideoProcessor(RemoteProcessor, Sam2VideoVideoProcessor):
    """Frames of a video to `pixel_values_videos` of the model's size (bicubic, as the published video loader)."""

    auto_class_name = "AutoVideoProcessor"
    resample = PILImageResampling.BICUBIC

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:
        """As `Sam2VideoVideoProcessor`, for frames of any kind that `images.py` describes, floats in [0, 1] among them.

        With `do_rescale=False` values are left as they are.

        Raises:
            ValueError: for a frame that is no image, or could be read in two ways.
        """
        rescale = kwargs.get("do_rescale")
        if self.do_rescale if rescale is None else rescale:
            videos = rgb_frames(videos, _channels(kwargs.get("input_data_format")))
        return super().preprocess(videos, **kwargs)

    def post_process_masks(
        self, masks: Any, original_sizes: Any, reshaped_input_sizes: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As `Sam2VideoVideoProcessor`; see `EfficientTamImageProcessor.post_process_masks` for the usual way.

        Raises:
            ValueError: for other numbers of sizes than of images.
        """
        check_sizes(masks, original_sizes)
        check_sizes(masks, reshaped_input_sizes)
        return super().post_process_masks(masks, original_sizes, reshaped_input_sizes, *args, **kwargs)

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

    def resize(  # type: ignore[override]  # any way of giving a size
        self, image: Tensor, size: Any, resample: Any = None, **kwargs: Any
    ) -> Tensor:
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


class _PromptMixin(RemoteProcessor):
    """What the image and the video processor share: coordinates, checks, construction."""

    image_processor: Any
    target_size: Any
    point_pad_value: Any

    def model_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        size = self.image_processor.size
        if self.target_size == size["height"]:
            return size["height"], size["width"]
        return self.target_size, self.target_size

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
    ) -> Any:
        """As `Sam2Processor`: images and prompts in their pixels to model inputs.

        Args:
            images: one or several, of any kind that `images.py` describes.
            segmentation_maps: of the images; they become `labels`.
            input_points: [[[[x, y], ...] for each object] for each image], in any nesting of lists, tuples, arrays and
                tensors. Objects with fewer points than others are padded with points labelled -10, which the model
                does not look at.
            input_labels: [[[label, ...]]]: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 no point, -10
                padding. All positive when not given.
            input_boxes: [[[x0, y0, x1, y1] for each object] for each image], equally many in each image.
            original_sizes: (height, width) of each image, where the images themselves are not given.
            return_tensors: `"pt"` for tensors.

        Returns:
            `pixel_values`, `original_sizes`, `input_points` (B, P, K, 2), `input_labels` (B, P, K) and `input_boxes`
            (B, P, 4), as far as they apply, in pixels of the model's input.

        Raises:
            ValueError: for prompts that do not fit their image.
        """
        if images is not None:
            inputs = self.image_processor(
                images, segmentation_maps=segmentation_maps, return_tensors=return_tensors, **kwargs
            )
        elif original_sizes is not None:
            sizes = original_sizes.cpu().tolist() if isinstance(original_sizes, Tensor) else original_sizes
            inputs = BatchEncoding({"original_sizes": sizes}, tensor_type=return_tensors)
        else:
            raise ValueError("Either images or original_sizes must be provided")
        if not (input_points is None and input_labels is None and input_boxes is None):
            given = CallPrompts.read(input_points, input_labels, input_boxes)
            sizes = [tuple(int(side) for side in size) for size in inputs["original_sizes"]]
            inputs.update(self._prompt_tensors(given, sizes))
        return inputs

    def _prompt_tensors(self, given: CallPrompts, sizes: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Prompts of images of (height, width) `sizes`, checked, scaled to the model's input and padded."""
        for name, values in (("points", given.points), ("boxes", given.boxes)):
            if values is not None and len(values) != len(sizes):
                raise ValueError(f"There are {name} for {len(values)} images, but {len(sizes)} images.")
        for image, size in enumerate(sizes):
            for row, prompts in enumerate(given.objects(image)):
                where = f" for object {row} of image {image}" if len(sizes) > 1 else f" for object {row}"
                prompts.check(size, where, labels=CALL_LABELS)
        tensors: dict[str, Tensor] = {}
        if given.points is not None and given.labels is not None:
            counts = [len(points) for image in given.points for points in image]
            shape = (len(sizes), max(map(len, given.points)), max(counts, default=0))
            points = np.full((*shape, 2), self.point_pad_value, np.float32)
            labels = np.full(shape, PADDING, np.int64)
            for image, size in enumerate(sizes):
                for row, kinds in enumerate(given.labels[image]):
                    labels[image, row, : len(kinds)] = kinds
                    scaled = scale_points(given.points[image][row], size, self.model_size(), np.float32)
                    padding = np.array(kinds, np.int64)[:, None] == PADDING
                    points[image, row, : len(kinds)] = np.where(padding, np.float32(self.point_pad_value), scaled)
            tensors |= {"input_points": torch.from_numpy(points), "input_labels": torch.from_numpy(labels)}
        if given.boxes is not None:
            if len({len(boxes) for boxes in given.boxes}) > 1:
                raise ValueError(
                    "Input boxes have inconsistent dimensions: the images have "
                    f"{[len(boxes) for boxes in given.boxes]} boxes. Boxes cannot be padded: give equally many for "
                    "each image, or run the images one by one."
                )
            boxes = [
                scale_points(boxes, size, self.model_size(), np.float32).reshape(-1, 4)
                for boxes, size in zip(given.boxes, sizes, strict=True)
            ]
            tensors["input_boxes"] = torch.from_numpy(np.stack(boxes))
        return tensors


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
        image = _to_tensor(frame)
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
        keep_history: bool | int | None = 32,
        memory_selection: str | None = None,
        memory_options: Mapping[str, Any] | None = None,
        memory_stride: int | None = None,
        object_competition: str | None = None,
    ) -> EfficientTamVideoInferenceSession:
        """Begin tracking in a video or a stream.

        Frames are decoded and processed one by one, when it is their turn, and are not kept.

        Args:
            video: a path to a video file or a folder of frames; or frames by index: a list of images, an array
                (frames, height, width, 3), a tensor (frames, 3, height, width), or any object with `len` and indexing.
                A frame is any image that `images.py` describes. Not given: a stream, whose frames go to
                `model(inference_session=..., frame=...)`: such images, or `pixel_values` at the model's input size.
            inference_device: where the model runs.
            inference_state_device: where memories and masks are kept; by default there too.
            processing_device: where frames are resized; by default there too.
            video_storage_device: where streamed pixels are kept; by default there too.
            max_vision_features_cache_size: frames whose image features are kept.
            dtype: of pixels.
            keep_history: how far back a user can return; see `EfficientTamVideoInferenceSession`.
            memory_selection, memory_options, memory_stride, object_competition: how memories are chosen in this
                session, and what becomes of masks that several objects claim, where it is not to be as the model's
                configuration says; see `TrackingSession.change_rules`.

        Raises:
            ValueError: if the video has no frames or frames of several sizes, or there is no such memory selection.
            FileNotFoundError: no such path.
        """
        device = inference_device
        process = partial(self.process_frame, device=processing_device or device)
        frames = None if video is None else as_frames(video)
        height, width = (None, None) if frames is None else frame_size(frames)
        session = EfficientTamVideoInferenceSession(
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
            input_size=self.model_size(),
        )
        session.change_rules(memory_selection, memory_options, memory_stride, object_competition)
        return session

    def add_inputs_to_inference_session(  # type: ignore[override]  # a session of this package
        self,
        inference_session: EfficientTamVideoInferenceSession,
        frame_idx: int | None = None,
        obj_ids: list[int] | int | None = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_size: tuple[int, int] | None = None,
        clear_old_inputs: bool = True,
    ) -> EfficientTamVideoInferenceSession:
        """Add prompts for objects on a frame. They are pending until the frame is run or tracking starts.

        Earlier prompts are kept, except those for the same object on the same frame (see `clear_old_inputs`). If any
        input is invalid, nothing is added.

        Args:
            inference_session: the session.
            frame_idx: the frame; of a stream, the current or a coming one. Left out, it is a stream's current frame, or
                the first before it has arrived.
            obj_ids: the objects' ids, whole numbers of the user's choice, at least one. Unknown ones are new objects.
            input_points: [[[[x, y], ...] for each object]], in pixels of the original frame, in any nesting of lists,
                tuples, arrays and tensors.
            input_labels: [[[label, ...] for each object]]: 1 positive, 0 negative; 2 and 3 the corners of a box.
            input_boxes: [[[x0, y0, x1, y1] for each object]].
            input_masks: one mask (height, width) for each object at the original frame's size, as an array, a tensor
                or a PIL image; instead of points and boxes. A mask that is thin or tiny keeps the cells it touches.
            original_size: (height, width) of original frames; needed once when streaming processed pixels.
            clear_old_inputs: whether these replace an object's earlier points on the frame, or join them.

        Returns:
            The session.

        Raises:
            ValueError: for invalid input; the message uses pixels of the original frame.
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
            input_size=self.model_size(),
            resize=_resize_mask,
            convert=torch.from_numpy,
        )
        return inference_session

    def process_new_points_or_boxes_for_video_frame(  # type: ignore[override]  # a session of this package
        self,
        inference_session: EfficientTamVideoInferenceSession,
        frame_idx: int | None = None,
        obj_ids: list[int] | int | None = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        original_size: tuple[int, int] | None = None,
        clear_old_inputs: bool = True,
    ) -> EfficientTamVideoInferenceSession:
        """As `Sam2VideoProcessor`: `add_inputs_to_inference_session` for points and boxes."""
        return self.add_inputs_to_inference_session(
            inference_session,
            frame_idx,
            obj_ids,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            original_size=original_size,
            clear_old_inputs=clear_old_inputs,
        )

    def process_new_mask_for_video_frame(  # type: ignore[override]  # a session of this package
        self,
        inference_session: EfficientTamVideoInferenceSession,
        frame_idx: int | None = None,
        obj_ids: list[int] | int | None = None,
        input_masks: Any = None,
    ) -> EfficientTamVideoInferenceSession:
        """As `Sam2VideoProcessor`: `add_inputs_to_inference_session` for masks."""
        return self.add_inputs_to_inference_session(inference_session, frame_idx, obj_ids, input_masks=input_masks)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A float32 map (h, w) to `size`, as the published code resizes masks: the same bits."""
    resized = F.interpolate(_shared(mask)[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy()

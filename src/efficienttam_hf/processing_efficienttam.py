"""The processors: convert images, videos and prompts to tensors, and masks back to the original size.

The processors are subclasses of Transformers' SAM 2 processors and have the same methods. They add the following:
prompts are checked in pixels of the user's frame before anything changes; frames of a video are processed one at a time
when they are needed; several prompts may be added before any is run; greyscale, RGBA and 16-bit images become RGB;
holes in masks can be filled and specks removed; and inputs need not be square.
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
from .prompt_calls import CALL_LABELS, CallPrompts, add_inputs, add_reference
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
    """Mixin of processors that Auto classes load: the saved file names the class of the processor."""

    auto_class_name = "AutoProcessor"

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of Transformers, with the `auto_map` that `trust_remote_code=True` uses."""
        auto_map = {self.auto_class_name: f"processing_efficienttam.{type(self).__name__}"}
        fields = super().to_dict()  # type: ignore[misc]  # of what this is mixed into
        return {**fields, "auto_map": auto_map}


# ---------------------------------------------------------------------------------------------------------- images


def _is_rgb(image: Any) -> bool:
    """Whether an image is a uint8 tensor (3, height, width), which needs no conversion and stays on its device."""
    return isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3


def _to_tensor(image: Any, channels: str | None = None) -> Tensor:
    """Convert any image that `images.py` describes to uint8 RGB (3, height, width)."""
    if _is_rgb(image) and (channels == "first" or image.shape[2] not in (1, 3, 4)):
        return image
    return _shared(to_rgb(image, channels)).permute(2, 0, 1)


def _shared(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor that shares its RAM, or to a copy of a read-only or reversed array."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


def _channels(input_data_format: Any) -> str | None:
    """Convert Transformers' name for the order of axes (`"channels_first"`) to the name that `to_rgb` uses."""
    return None if input_data_format is None else str(getattr(input_data_format, "value", input_data_format))[9:]


def change_small_regions(logits: Tensor, foreground: bool, max_area: float, threshold: float) -> Tensor:
    """Remove small connected regions of masks: specks of foreground, or holes in it.

    Args:
        logits: (..., h, w) mask logits.
        foreground: whether to remove specks of foreground; otherwise holes are filled.
        max_area: regions up to this area, in pixels of `logits` (8-connected), are changed.
        threshold: logit above which a pixel is foreground.

    Returns:
        The logits. Changed pixels lie 10 beyond the threshold.

    Raises:
        ImportError: if OpenCV is not installed.
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
        small[0] = False  # label 0 stands for the pixels outside all regions
        change[:] = small[labels]
    value = threshold - 10.0 if foreground else threshold + 10.0
    where = torch.from_numpy(changed).to(logits.device).view(logits.shape)
    return torch.where(where, torch.full_like(logits, value), logits)


class EfficientTamImageProcessor(RemoteProcessor, Sam2ImageProcessor):
    """Converts images to `pixel_values` (bilinear with antialiasing, as published), and masks to the image's size."""

    auto_class_name = "AutoImageProcessor"

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> Any:
        """Process images as `Sam2ImageProcessor` does, of any type that `images.py` describes, such as floats.

        With `do_rescale=False`, or with another number of channels than three, values are not converted.

        Raises:
            ValueError: if a value is not an image, or is ambiguous.
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
        """Resize as in Transformers, but in float: the published code does not round the resized image to integers."""
        return super().resize(image.float() if image.dtype == torch.uint8 else image, *args, **kwargs)

    def generate_crop_boxes(self, image: Any, target_size: int, *args: Any, **kwargs: Any) -> Any:
        """Generate boxes as `Sam2ImageProcessor` does, with a grid of points that covers images of any aspect ratio.

        The parent class scales points by the longer side only, because SAM pads images; here images are not padded.
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
        """Resize predicted masks to the original images.

        Args:
            masks: (objects, masks, h, w) logits of each image.
            original_sizes: (height, width) of each image.
            mask_threshold: logit above which a pixel is foreground.
            binarize: whether to return bool masks; otherwise logits are returned.
            max_hole_area: holes up to this area are filled; it counts pixels of `masks` before these are resized.
            max_sprinkle_area: specks up to this area are removed, in the same pixels.
            apply_non_overlapping_constraints: whether only the object with the highest logit keeps a pixel.

        Returns:
            (objects, masks, height, width) bool or float masks of each image.

        Raises:
            TypeError: if masks are not tensors or arrays.
            ValueError: if the number of sizes is not the number of images.
            ImportError: if an area is given and OpenCV is not installed.
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
        """Call `Sam2ImageProcessor` with scores in float32, which non-maximum suppression requires."""
        return super().post_process_for_mask_generation(all_masks, all_scores.float(), all_boxes, *args)


class EfficientTamVideoVideoProcessor(RemoteProcessor, Sam2VideoVideoProcessor):
    """Converts video frames to `pixel_values_videos` of the model's size (bicubic, as the published video loader)."""

    auto_class_name = "AutoVideoProcessor"
    resample = PILImageResampling.BICUBIC

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:
        """Process videos as `Sam2VideoVideoProcessor` does, with frames of any type that `images.py` describes.

        With `do_rescale=False`, values are not converted.

        Raises:
            ValueError: if a frame is not an image, or is ambiguous.
        """
        rescale = kwargs.get("do_rescale")
        if self.do_rescale if rescale is None else rescale:
            videos = rgb_frames(videos, _channels(kwargs.get("input_data_format")))
        return super().preprocess(videos, **kwargs)

    def post_process_masks(
        self, masks: Any, original_sizes: Any, reshaped_input_sizes: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Resize masks as `Sam2VideoVideoProcessor` does; see also `EfficientTamImageProcessor.post_process_masks`.

        Raises:
            ValueError: if the number of sizes is not the number of images.
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
        """Scale to [0, 1], subtract the mean and divide by the standard deviation, in the published order."""
        if not (do_rescale and do_normalize):
            return super().rescale_and_normalize(
                images, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        mean, std = (torch.as_tensor(v, device=images.device).view(-1, 1, 1) for v in (image_mean, image_std))
        return (images.float() / (1 / rescale_factor) - mean) / std

    def resize(  # type: ignore[override]  # any way of giving a size
        self, image: Tensor, size: Any, resample: Any = None, **kwargs: Any
    ) -> Tensor:
        """Resize as in Transformers, but with PIL for uint8 frames on the CPU, as published.

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
    """Base class of the image and the video processor: it checks and scales prompts."""

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
        """Convert images, and prompts in pixels of these images, to model inputs, as `Sam2Processor` does.

        Args:
            images: one or several images of any type that `images.py` describes.
            segmentation_maps: segmentation maps of the images; they become `labels`.
            input_points: [[[[x, y], ...] for each object] for each image], in any nesting of lists, tuples, arrays and
                tensors. Objects with fewer points than others are padded with points labelled -10, which the model
                ignores.
            input_labels: [[[label, ...]]]: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 no point, -10
                padding. By default, all points are positive.
            input_boxes: [[[x0, y0, x1, y1] for each object] for each image], equally many in each image.
            original_sizes: (height, width) of each image, if the images themselves are not given.
            return_tensors: `"pt"` for tensors.

        Returns:
            `pixel_values`, `original_sizes`, `input_points` (B, P, K, 2), `input_labels` (B, P, K) and `input_boxes`
            (B, P, 4) in pixels of the model's input. Entries without input are left out.

        Raises:
            ValueError: if a prompt does not fit its image.
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
        """Check the prompts of images of (height, width) `sizes`, scale them to the model's input and pad them."""
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
    """The processor of `EfficientTamModel`, with the interface of `Sam2Processor`."""

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
    """The processor of `EfficientTamVideoModel`, with the interface of `Sam2VideoProcessor`. It also takes images."""

    @classmethod
    def from_config(cls, config: EfficientTamConfig) -> EfficientTamVideoProcessor:
        """The processor that fits a model's configuration."""
        height, width = size_pair(config.image_size)
        return cls(
            _image_processor_for(config), EfficientTamVideoVideoProcessor(size={"height": height, "width": width})
        )

    def process_frame(self, frame: Any, device: str | torch.device = "cpu") -> tuple[Tensor, tuple[int, int]]:
        """Convert an original frame to pixels (3, height, width) for the model; also return its own (height, width).

        Raises:
            ValueError: if the frame is not an image; see `to_rgb`.
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
        """Create the session of a video or a stream.

        Frames are decoded and processed one by one when they are needed, and are not kept.

        Args:
            video: a path to a video file or a folder of frames; or the frames as a list of images, an array
                (frames, height, width, 3), a tensor (frames, 3, height, width), or any object with `len` and indexing.
                A frame is any image that `images.py` describes. Without a video, the session is for a stream, whose
                frames are passed to `model(inference_session=..., frame=...)`, as such images or as `pixel_values` at
                the model's input size.
            inference_device: the device on which the model runs.
            inference_state_device: the device of memories and masks; by default `inference_device`.
            processing_device: the device on which frames are resized; by default `inference_device`.
            video_storage_device: the device of streamed pixels; by default `inference_device`.
            max_vision_features_cache_size: number of frames whose image features are kept.
            dtype: the dtype of pixels.
            keep_history: how far back a user can return; see `EfficientTamVideoInferenceSession`.
            memory_selection, memory_options, memory_stride, object_competition: changes of the model's rules of
                tracking for this session; see `TrackingSession.change_rules`.

        Raises:
            ValueError: if the video has no frames or frames of several sizes, or the memory selection is unknown.
            FileNotFoundError: if the path does not exist.
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
            frame_idx: the frame; in a stream, the current or a later one. The default, only for streams, is the current
                frame, or the first frame before any has arrived.
            obj_ids: one or several object ids, which are whole numbers. An unknown id adds an object.
            input_points: [[[[x, y], ...] for each object]], in pixels of the original frame, in any nesting of lists,
                tuples, arrays and tensors.
            input_labels: [[[label, ...] for each object]]: 1 positive, 0 negative; 2 and 3 the corners of a box.
            input_boxes: [[[x0, y0, x1, y1] for each object]].
            input_masks: one mask (height, width) for each object at the original frame's size, as an array, a tensor
                or a PIL image; instead of points and boxes. A very thin or small mask is widened to the cells it
                touches.
            original_size: (height, width) of original frames; needed once when streaming processed pixels.
            clear_old_inputs: whether these prompts replace an object's earlier points on the frame; otherwise they are
                added to them.

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

    def add_reference_to_session(
        self, inference_session: EfficientTamVideoInferenceSession, image: Any, mask: Any, obj_id: int
    ) -> EfficientTamVideoInferenceSession:
        """Show an object to a session in an image that is not a frame of its video.

        The image can come from another video and have another size. Every frame attends to it as to a conditioning
        frame, and it is never dropped, so that the object is found where it appears in the video. An object may have
        several reference images, and prompts on frames too.

        Args:
            inference_session: a session from `init_video_session`.
            image: any image that `images.py` describes.
            mask: the mask of the object in the image, (height, width), as an array, a tensor or a PIL image.
            obj_id: the id of the object; an unknown id adds an object.

        Returns:
            The session.

        Raises:
            ValueError: if the image or the mask is invalid, or their sizes differ.
        """
        how: dict[str, Any] = {"resize": _resize_mask, "convert": torch.from_numpy}
        add_reference(inference_session, image, mask, obj_id, self.model_size(), **how)
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
        """Add points and boxes with `add_inputs_to_inference_session`; the name is that of `Sam2VideoProcessor`."""
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
        """Add masks with `add_inputs_to_inference_session`; the name is that of `Sam2VideoProcessor`."""
        return self.add_inputs_to_inference_session(inference_session, frame_idx, obj_ids, input_masks=input_masks)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a float32 map (h, w) to `size` with exactly the result of the published code."""
    resized = F.interpolate(_shared(mask)[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy()

"""Augmentation of clips: one transform for all frames of a clip, for its masks and for its void pixels.

The defaults are the values of SAM 2's published training configuration, which EfficientTAM follows. The random values
are drawn from a NumPy generator that the caller seeds, and `torchvision.transforms.v2.functional` applies them.
torchvision's random transforms are not used, because they draw from torch's global generator.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


__all__ = ["SAM2_AUGMENTATION", "Augmentation", "AugmentationOptions"]


# Frames are first resized to this many times the output size: large enough that rotation and crop do not blur the
# result, and small enough that they do not take as long as on 4K frames.
_WORKING_SCALE = 1.5


@dataclass(frozen=True)
class AugmentationOptions:
    """Parameters of the random augmentation of a clip.

    Ranges are `(low, high)`. A single number r of an angle or a translation means a uniform value between -r and r; a
    single number of a colour means a uniform factor between 1 - r and 1 + r. A value of 0 or a range of (1, 1) turns an
    augmentation off.

    Attributes:
        flip_probability: probability of mirroring the clip left to right.
        rotation: degrees; one value for the whole clip, as for the next three.
        shear: degrees, horizontal.
        scale: factor, whose logarithm is uniform.
        translation: fraction of width and height.
        crop_probability: probability of a crop, which has at least one pixel of every object's first mask.
        crop_area: area of the crop as a fraction of the frame.
        brightness: one factor for the whole clip, as for the next three.
        contrast: likewise.
        saturation: likewise.
        hue: shift as a fraction of the colour circle, at most 0.5.
        greyscale_probability: probability of turning the clip grey.
        frame_brightness: another factor, drawn for each frame.
        frame_contrast: likewise.
        frame_saturation: likewise.
        still_rotation: degrees by which a single image turns over the clip that is made of it. The whole image moves
            smoothly, as in the pre-training of STCN (Cheng et al. 2021) on still images.
        still_shear: likewise, degrees.
        still_scale: likewise, factor.
        still_translation: likewise, fraction of width and height.
        attempts: maximum number of draws of flip, affine and crop. A draw is rejected if an object leaves the first
            frame; if all are rejected, the clip is only resized.
    """

    flip_probability: float = 0.5
    rotation: float = 25.0
    shear: float = 20.0
    scale: tuple[float, float] = (1.0, 1.0)
    translation: float = 0.0
    crop_probability: float = 0.0
    crop_area: tuple[float, float] = (0.25, 1.0)
    brightness: float = 0.1
    contrast: float = 0.03
    saturation: float = 0.03
    hue: float = 0.0
    greyscale_probability: float = 0.05
    frame_brightness: float = 0.1
    frame_contrast: float = 0.05
    frame_saturation: float = 0.05
    still_rotation: float = 15.0
    still_shear: float = 10.0
    still_scale: tuple[float, float] = (0.8, 1.25)
    still_translation: float = 0.15
    attempts: int = 4

    def __post_init__(self) -> None:
        ranges = ("scale", "crop_area", "still_scale")
        for name in ranges:
            value = tuple(getattr(self, name))
            highest = 1.0 if name == "crop_area" else sys.float_info.max
            if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
                limit = " <= 1" if name == "crop_area" else ""
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high{limit}, got {value!r}.")
            object.__setattr__(self, name, value)
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts!r}.")
        limits = {"hue": 0.5, "rotation": 180.0, "still_rotation": 180.0, "shear": 80.0, "still_shear": 80.0}
        for name, value in vars(self).items():
            if name not in (*ranges, "attempts") and not 0 <= value <= limits.get(name, 1.0):
                raise ValueError(f"{name} must be from 0 to {limits.get(name, 1.0)}, got {value!r}.")


SAM2_AUGMENTATION = AugmentationOptions()


class Augmentation:
    """Resizes clips of any size to a square and augments them at random.

    Args:
        image_size: side of the output in pixels. The aspect ratio is not kept, as in the model's processor.
        options: the augmentation; with `None`, clips are only resized.
    """

    def __init__(self, image_size: int, options: AugmentationOptions | None = None):
        if image_size < 1:
            raise ValueError(f"image_size must be a positive number of pixels, got {image_size!r}.")
        self.image_size = image_size
        self.options = options

    def shrink(self, image: Tensor, is_mask: bool = False) -> Tensor:
        """Resize a large frame (..., height, width) to a smaller one with the same aspect ratio, to save time.

        Use it when a clip is loaded frame by frame, so that only one frame at a time is in RAM at its full size.
        """
        height, width = image.shape[-2:]
        ratio = _WORKING_SCALE * self.image_size / min(height, width)
        return image if ratio >= 1 else _resize(image, (round(height * ratio), round(width * ratio)), is_mask)

    def __call__(
        self,
        frames: Tensor,
        masks: Tensor,
        void: Tensor | None,
        generator: np.random.Generator,
        is_still: bool = False,
        min_area: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Augment one clip.

        Args:
            frames: uint8 (T, 3, height, width).
            masks: bool (T, N, height, width).
            void: bool (T, height, width), or `None`.
            generator: the source of all random values.
            is_still: whether all frames are the same image, which then moves by the `still_` options.
            min_area: the number of output pixels that every object must have in the first frame.

        Returns:
            Frames, masks and void with height and width `image_size`. Outside the original frame, the image has its
            mean colour, and masks and void are false. The first mask of an object may be empty if the object has no
            pixel left even after plain resizing; `min_area` only rejects draws.
        """
        # Masks and void go through the same steps, so they travel as channels of one tensor.
        labels = masks if void is None else torch.cat([masks, void[:, None]], dim=1)
        labels = labels.to(torch.uint8)
        num_objects = masks.shape[1]
        frames, labels = self._change_geometry(frames, labels, num_objects, generator, is_still, min_area)
        if self.options is not None:
            frames = self._change_colour(frames, self.options, generator)
        labels = labels.bool()
        return frames.contiguous(), labels[:, :num_objects], None if void is None else labels[:, num_objects]

    def _change_geometry(
        self,
        frames: Tensor,
        labels: Tensor,
        num_objects: int,
        generator: np.random.Generator,
        is_still: bool,
        min_area: int,
    ) -> tuple[Tensor, Tensor]:
        size = (self.image_size, self.image_size)
        options = self.options
        for _ in range(0 if options is None else options.attempts):
            assert options is not None
            is_flipped = generator.random() < options.flip_probability
            poses = self._draw_poses(len(frames), is_still, generator)
            moved = _move(labels, is_flipped, poses, InterpolationMode.NEAREST, fill=None)
            first = moved[0, :num_objects]
            if not first.flatten(1).any(dim=1).all():
                continue
            box = (0, 0, *frames.shape[-2:])
            if generator.random() < options.crop_probability:
                box = self._draw_crop(first.numpy(), generator)
            moved = _resize(F.crop(moved, *box), size, is_mask=True)
            if (moved[0, :num_objects].flatten(1).sum(dim=1) < min_area).any():
                continue
            mean_colour = frames[0].float().mean(dim=(1, 2)).tolist()
            frames = _move(frames, is_flipped, poses, InterpolationMode.BILINEAR, mean_colour)
            return _resize(F.crop(frames, *box), size), moved
        return _resize(frames, size), _resize(labels, size, is_mask=True)

    def _draw_poses(self, num_frames: int, is_still: bool, generator: np.random.Generator) -> np.ndarray:
        """Return (T, 5) poses: rotation and shear in degrees, log scale, and shifts right and down as fractions."""
        options = self.options
        assert options is not None  # without options nothing is drawn
        pose = _draw_pose(options.rotation, options.shear, options.scale, options.translation, generator)
        if not is_still:
            return np.tile(pose, (num_frames, 1))
        still = (options.still_rotation, options.still_shear, options.still_scale, options.still_translation)
        drift, bend = (_draw_pose(*still, generator) for _ in range(2))
        time = np.linspace(0, 1, num_frames)[:, None]
        return pose + drift * time + bend / 2 * np.sin(np.pi * time)

    def _draw_crop(self, first_masks: np.ndarray, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop with a pixel of each non-empty mask of (N, height, width)."""
        assert self.options is not None  # without options nothing is drawn
        shape = np.array(first_masks.shape[1:])
        pixels = np.array([generator.choice(np.argwhere(mask)) for mask in first_masks]).reshape(-1, 2)
        if not len(pixels):
            pixels = generator.integers(shape)[None]
        low, high = pixels.min(axis=0), pixels.max(axis=0) + 1
        # The aspect ratio is that of torchvision's RandomResizedCrop, from 3/4 to 4/3.
        stretch = math.exp(generator.uniform(-1, 1) * math.log(4 / 3) / 2)
        side = math.sqrt(generator.uniform(*self.options.crop_area))
        size = np.round(shape * side * (stretch, 1 / stretch)).astype(int)
        size = np.minimum(np.maximum(size, high - low), shape)
        corner = generator.integers(np.maximum(high - size, 0), np.minimum(low, shape - size) + 1)
        return int(corner[0]), int(corner[1]), int(size[0]), int(size[1])

    @staticmethod
    def _change_colour(frames: Tensor, options: AugmentationOptions, generator: np.random.Generator) -> Tensor:
        frames = _jitter(frames, options.brightness, options.contrast, options.saturation, options.hue, generator)
        if generator.random() < options.greyscale_probability:
            frames = F.rgb_to_grayscale(frames, num_output_channels=3)
        for_each = (options.frame_brightness, options.frame_contrast, options.frame_saturation, 0.0)
        return torch.stack([_jitter(frame, *for_each, generator) for frame in frames])


def _resize(image: Tensor, size: tuple[int, int], is_mask: bool = False) -> Tensor:
    # NEAREST_EXACT samples at the centres of the output's pixels, as the bilinear filter does. NEAREST would shift
    # masks relative to their frames by up to half a pixel.
    if is_mask:
        return F.resize(image, list(size), InterpolationMode.NEAREST_EXACT)
    return F.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)


def _draw_pose(
    rotation: float, shear: float, scale: tuple[float, float], translation: float, generator: np.random.Generator
) -> np.ndarray:
    high = np.array([rotation, shear, math.log(scale[1]), translation, translation])
    low = np.array([-rotation, -shear, math.log(scale[0]), -translation, -translation])
    return generator.uniform(low, high)


def _move(
    images: Tensor, is_flipped: bool, poses: np.ndarray, interpolation: InterpolationMode, fill: list[float] | None
) -> Tensor:
    """Flip and transform (T, C, height, width), with one affine pose for each frame."""
    if is_flipped:
        images = F.horizontal_flip(images)
    if not poses.any():
        return images
    height, width = images.shape[-2:]

    def transform(image: Tensor, pose: np.ndarray) -> Tensor:
        angle, shear, log_scale, right, down = pose.tolist()
        shift = [right * width, down * height]
        return F.affine(image, angle, shift, math.exp(log_scale), [shear, 0.0], interpolation, fill)

    if (poses == poses[0]).all():
        return transform(images, poses[0])
    return torch.stack([transform(image, pose) for image, pose in zip(images, poses, strict=True)])


def _jitter(
    images: Tensor, brightness: float, contrast: float, saturation: float, hue: float, generator: np.random.Generator
) -> Tensor:
    if brightness:
        images = F.adjust_brightness(images, generator.uniform(1 - brightness, 1 + brightness))
    if contrast:
        images = F.adjust_contrast(images, generator.uniform(1 - contrast, 1 + contrast))
    if saturation:
        images = F.adjust_saturation(images, generator.uniform(1 - saturation, 1 + saturation))
    if hue:
        images = F.adjust_hue(images, generator.uniform(-hue, hue))
    return images

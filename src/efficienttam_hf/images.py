"""Validates and converts image arguments: the same rules for every public function, with NumPy and Pillow alone.

The image processor, the readers of videos and streams, and the trackers and segmenters on exported graphs (without
torch) all read images through `to_rgb`, so that the same image gives the same pixels everywhere.

These images are accepted:

| given | taken as |
| --- | --- |
| a PIL image of any mode | converted to RGB; modes `I` and `I;16` are 16-bit greyscale, `F` is greyscale in [0, 1] |
| an array or tensor (H, W), (H, W, C) or (C, H, W), C = 1, 3, 4 | greyscale, RGB or RGBA; alpha is dropped |
| `uint8` | 0 to 255 |
| `uint16` | 0 to 65535, divided by 257 |
| `bool` | black and white |
| `float16`, `bfloat16`, `float32`, `float64` | 0 to 1, rounded to 255 steps |

Ambiguous images are refused: floats outside [0, 1] (their range could be 0 to 255, or they could be normalised
already), integers of other types, and shapes whose first and last axis could both be the channels, such as (3, 100, 3).
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from PIL import Image


CHANNELS = (1, 3, 4)


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array or a tensor."""
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def to_array(value: Any) -> np.ndarray:
    """Convert a tensor of any device and dtype, a PIL image or nested lists of numbers to a NumPy array."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    try:
        return value.numpy()
    except TypeError:  # the dtype is bfloat16 or another that NumPy does not have
        return value.float().numpy()


def to_rgb(image: Any, channels: str | None = None) -> np.ndarray:
    """Convert an image to uint8 RGB, (height, width, 3), by the table of this module.

    Args:
        image: a PIL image, an array or a tensor.
        channels: `"first"` or `"last"`, the position of the channel axis, if the shape is ambiguous.

    Raises:
        ValueError: if the value is not an image, or is ambiguous.
    """
    if isinstance(image, Image.Image):
        if image.mode not in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
            return np.array(image.convert("RGB"))
        image = np.asarray(image)
        if image.dtype == np.int32:  # PIL uses this type for 16-bit greyscale in some formats
            if image.min() < 0 or image.max() > 65535:
                raise ValueError(
                    f"An image of mode I holds 16-bit greyscale, 0 to 65535; got values from {image.min()} to "
                    f"{image.max()}."
                )
            image = image.astype(np.uint16)
    elif not is_array(image):
        raise ValueError(f"An image is a PIL image, an array or a tensor; got {type(image).__name__}.")
    image = to_array(image)
    given = f"an array of shape {image.shape} and type {image.dtype}"
    axis = _channel_axis(image.shape, channels)
    image = image[..., None] if axis is None else np.moveaxis(image, axis, -1)
    if image.dtype == np.uint16:
        image = (image / 257).round().astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"An image of floats lies in [0, 1]; got {given} with other values. Divide values from 0 to 255 by "
                "255 or convert them to uint8; hand pixels that were normalised already to the model itself."
            )
        image = (image.astype(np.float64, copy=False) * 255).round().astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ValueError(f"An image is of uint8, uint16, bool or floats in [0, 1]; got {given}.")
    image = image[..., :3]
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else np.ascontiguousarray(image)


def image_size(image: Any, channels: str | None = None) -> tuple[int, int]:
    """(height, width) of an image that `to_rgb` accepts, without reading its pixels.

    Raises:
        ValueError: if the value is not an image.
    """
    if isinstance(image, Image.Image):
        return image.height, image.width
    if not hasattr(image, "shape"):
        raise ValueError(f"An image is a PIL image, an array or a tensor; got {type(image).__name__}.")
    shape = list(image.shape)
    axis = _channel_axis(image.shape, channels)
    if axis is not None:
        del shape[axis]
    return int(shape[0]), int(shape[1])


def image_list(images: Any) -> list[Any]:
    """Convert a batch of images to a list of single images.

    Args:
        images: one image; an array or tensor of several, (N, H, W, C) or (N, C, H, W); or a list or tuple of these.
    """
    if isinstance(images, list | tuple):
        return [image for given in images for image in image_list(given)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def rgb_frames(videos: Any, channels: str | None = None) -> Any:
    """Convert every frame of videos to uint8 RGB by the table of this module, and keep the nesting.

    Args:
        videos: frames, arrays and tensors of frames, or lists and tuples of these. Paths, addresses and frames that
            are uint8 RGB already are not changed.
        channels: as in `to_rgb`.

    Raises:
        ValueError: if a frame is not an image, or is ambiguous.
    """
    if isinstance(videos, list | tuple):
        return [rgb_frames(video, channels) for video in videos]
    if isinstance(videos, Image.Image):
        return videos if videos.mode == "RGB" else to_rgb(videos)
    if not is_array(videos):
        return videos
    is_uint8 = str(videos.dtype).removeprefix("torch.") == "uint8"
    if is_uint8 and videos.ndim >= 3 and (videos.shape[-1] == 3) != (videos.shape[-3] == 3):
        return videos
    if videos.ndim > 3:
        return np.stack([rgb_frames(video, channels) for video in videos])
    rgb = to_rgb(videos, channels)
    return rgb.transpose(2, 0, 1) if channels == "first" else rgb


def check_sizes(masks: Sized, sizes: Sized) -> None:
    """Check that there is one (height, width) for the masks of each image.

    Raises:
        ValueError: if the number of sizes is not the number of images.
    """
    if len(masks) != len(sizes):
        raise ValueError(
            f"There are masks of {len(masks)} images, but {len(sizes)} original sizes: give one (height, width) for "
            "each image. The masks of several objects of one image are one item, of shape (objects, masks, h, w)."
        )


def _channel_axis(shape: Sequence[int], channels: str | None) -> int | None:
    """The index of an image's channel axis: 0, 2, or `None` if the image has no such axis.

    Raises:
        ValueError: if the shape is not that of an image, or the first and the last axis could both be the channels.
    """
    if len(shape) == 2 and 0 not in shape:
        return None
    if len(shape) == 3 and 0 not in shape:
        possible = {"first": shape[0] in CHANNELS, "last": shape[2] in CHANNELS}
        if channels is None and all(possible.values()):
            raise ValueError(
                f"An image of shape {tuple(shape)} is ambiguous: its first and its last axis could be the channels. "
                "Give it as a PIL image, or as an array of uint8 RGB whose height and width are larger than 4."
            )
        for name, axis in (("first", 0), ("last", 2)):
            if possible[name] and channels in (None, name):
                return axis
    raise ValueError(
        f"An image has shape (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W); got an array of shape {tuple(shape)}"
        + (f" with its channels {channels}." if channels else ".")
    )

"""What commands share: options of models and sizes, loading a model, frames of limited size."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "efficienttam-nano"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--device` and `--dtype`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        default=DEFAULT_MODEL,
        help=f"a folder, an id on the Hub, or {DEFAULT_MODEL} (default), the small model that comes with this package",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto (default): the best there is")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network")


def add_size_argument(parser: argparse.ArgumentParser) -> None:
    """`--max-side`."""
    parser.add_argument(
        "--max-side",
        metavar="PIXELS",
        type=int,
        help="scale down so that the longer side has at most so many pixels: what goes in and what comes out; prompts "
        "stay in pixels of the original",
    )


def quiet_transformers() -> None:
    """Keep Transformers' advice and progress bars out of the output, all but those of downloads."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()


def choose_device(name: str) -> torch.device:
    """The device of a name, `auto` for the best there is.

    Raises:
        ValueError: if there is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def load_model(model_class: type, source: str, device: torch.device, dtype: str) -> tuple[Any, Any]:
    """A model, ready to run, and its processor.

    Args:
        model_class: `EfficientTamModel` or `EfficientTamVideoModel`.
        source: a folder, an id on the Hub, or the name of a model that comes with this package.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model at `source`.
    """
    import torch
    from transformers import PreTrainedConfig

    from ..processing_efficienttam import EfficientTamVideoProcessor
    from ..remote_code import included_checkpoint

    quiet_transformers()
    path = Path(included_checkpoint(source))
    if path.is_file():
        raise ValueError(
            f"--model takes a folder; '{source}' is a file. If it is a published checkpoint, convert it first: "
            f"efficienttam convert {source} FOLDER --variant NAME"
        )
    if path.is_dir():
        source = str(path)
    elif source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no folder '{source}' with a model in it.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"The folder '{source}' holds no model: there is no config.json in it.")
    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
    except OSError as error:
        raise OSError(f"There is no folder '{source}', and on the Hub: {_first_line(error)}") from error
    if config.get("model_type") != "efficienttam":
        raise ValueError(f"'{source}' is a model of type {config.get('model_type')!r}, not EfficientTAM.")
    model, loading = model_class.from_pretrained(source, dtype=getattr(torch, dtype), output_loading_info=True)
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"The weights in '{source}' are not complete: {len(missing)} tensors are missing, such as {missing[0]}."
        )
    return model.to(device).eval(), EfficientTamVideoProcessor.from_pretrained(source)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def limited_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(height, width) scaled down so that the longer side is at most `max_side`.

    Raises:
        ValueError: if that is too small for an image.
    """
    if max_side is None:
        return size
    if max_side < 16:
        raise ValueError(f"--max-side must be at least 16 pixels, got {max_side}.")
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An RGB image (height, width, 3) scaled down to `size`, (height, width)."""
    if image.shape[:2] == size:
        return image
    import cv2

    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


class ResizedFrames:
    """A `FrameSource` whose frames are scaled to `height` and `width` as they are read.

    The last few stay at hand, for a frame is tracked first and drawn on after that.
    """

    def __init__(self, source: Any, size: tuple[int, int]):
        self._source = source
        self.height, self.width = size
        self._read = lru_cache(maxsize=4)(lambda index: resize_image(source[index], size))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(index)

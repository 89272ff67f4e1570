"""The contenders: models of this package and their peers, each called through its own public interface on one video.

A `ContenderSpec` describes a contender with plain values that can be sent to another process; `building.build` makes
it. A contender tracks a video as an iterator over frames, so that several contenders can take turns. It yields the
tracked masks in the form of its interface, and `to_video_size` resizes them to the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..app.defaults import PRESET_PREFIX
from ..app.loading import load_config, load_weights, preset_config
from ..configuration_efficienttam import EfficientTamConfig
from ..image_io import read_image
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..published import FetchError
from ..video_session import EfficientTamVideoInferenceSession
from .machine import DTYPES
from .stages import find_stages
from .video import BenchmarkVideo


__all__ = [
    "Contender",
    "ContenderSpec",
    "OurContender",
    "TransformersContender",
    "load_ours",
    "our_config",
]

SEED = 0  # the seed of random weights, so that two contenders of one model have the same weights


@dataclass(frozen=True)
class ContenderSpec:
    """The description of a contender.

    Attributes:
        kind: `"ours"`, `"peer"` (see `peers`) or `"reference"` (see `reference`).
        model: a preset, the name of an included model, a folder or an id on the Hub; for a peer, its name.
        device: the device that it runs on.
        dtype: the dtype of weights and activations, `"float32"` or `"bfloat16"`.
        image_size: the side of the model's input in pixels; None is the model's own.
        compiled: whether its stages are compiled.
        threads: the number of threads on a CPU.
        checkout: for a reference, the folder of the published implementation.
    """

    kind: str
    model: str
    device: str = "cpu"
    dtype: str = "float32"
    image_size: int | None = None
    compiled: bool = False
    threads: int = 1
    checkout: Path | None = None

    @property
    def name(self) -> str:
        """The name of the contender in tables."""
        name = self.model if "/" not in self.model else Path(self.model).name
        return f"published {name}" if self.kind == "reference" else name

    @property
    def has_random_weights(self) -> bool:
        """Whether it was made without a checkpoint."""
        return self.kind == "peer" or self.model.startswith(PRESET_PREFIX)


class Contender:
    """The interface that the benchmark needs of a contender.

    Attributes:
        spec: the description of the contender.
        model: the network, with the parts that `find_stages` looks for.
        image_size: the side of its input in pixels.
    """

    spec: ContenderSpec
    model: nn.Module
    image_size: int

    def read_frame(self, path: Path) -> Tensor:
        """Decode a frame and convert it to the model's input: (3, height, width)."""
        raise NotImplementedError

    def track(self, video: BenchmarkVideo, num_objects: int, preload: bool) -> Iterator[Any]:
        """Prompt objects with boxes on the first frame, track them, and yield an output for each frame.

        Args:
            video: the video.
            num_objects: the number of objects.
            preload: whether all frames are decoded and resized before tracking, if the interface leaves the choice.
        """
        raise NotImplementedError

    def to_video_size(self, output: Any, video: BenchmarkVideo) -> Tensor:
        """Return the mask logits of an output of `track` at the video's size."""
        raise NotImplementedError


class TransformersContender(Contender):
    """A video model with the interface of Transformers' `Sam2VideoModel`.

    Args:
        spec: the description of the contender.
        model: the model, which is moved to the device and dtype.
        processor: its processor.
    """

    def __init__(self, spec: ContenderSpec, model: nn.Module, processor: Any):
        self.spec, self.processor = spec, processor
        self.model: Any = model.to(spec.device, DTYPES[spec.dtype]).eval().requires_grad_(False)
        self.image_size = processor.video_processor.size["height"]
        if spec.compiled:
            for module in (module for modules in find_stages(self.model).values() for module in modules):
                module.forward = torch.compile(module.forward)

    def read_frame(self, path: Path) -> Tensor:
        processed = self.processor.video_processor(videos=[[read_image(path)]], device=self.spec.device)
        return processed["pixel_values_videos"][0][0].to(DTYPES[self.spec.dtype])

    def start_session(self, video: BenchmarkVideo, preload: bool) -> Any:
        """Return a session of the video. Sessions of Transformers keep all its frames, resized."""
        return self.processor.init_video_session(
            video=[read_image(path) for path in video.frames],
            inference_device=self.spec.device,
            dtype=DTYPES[self.spec.dtype],
        )

    def track(self, video: BenchmarkVideo, num_objects: int, preload: bool) -> Iterator[Any]:
        session = self.start_session(video, preload)
        self.processor.add_inputs_to_inference_session(
            session, frame_idx=0, obj_ids=list(range(1, num_objects + 1)), input_boxes=[video.boxes(num_objects)]
        )
        self.model(session, frame_idx=0)
        yield from self.model.propagate_in_video_iterator(session)

    def to_video_size(self, output: Any, video: BenchmarkVideo) -> Tensor:
        size = [[video.height, video.width]]
        return self.processor.post_process_masks([output.pred_masks], size, binarize=False)[0]


class OurContender(TransformersContender):
    """A model of this package."""

    def start_session(self, video: BenchmarkVideo, preload: bool) -> Any:
        device, dtype = self.spec.device, DTYPES[self.spec.dtype]
        if not preload:
            return self.processor.init_video_session(video=video.folder, inference_device=device, dtype=dtype)
        # Otherwise the session would decode and resize each frame when it is tracked. Other contenders do that
        # beforehand.
        return EfficientTamVideoInferenceSession(
            video=torch.stack([self.read_frame(path) for path in video.frames]),
            video_height=video.height,
            video_width=video.width,
            inference_device=device,
            dtype=dtype,
        )


_RANDOM = "For a preset with random weights, write preset:NAME, such as preset:efficienttam_s_1."


def our_config(name: str, image_size: int | None = None) -> EfficientTamConfig:
    """Return the configuration of a model of this package.

    Args:
        name: see `app.loading.find_model`; `preset:NAME` is a model with random weights.
        image_size: the side of the input in pixels; None is the model's own.

    Raises:
        ValueError: if there is no model of that name, or it is of another kind.
        OSError: if a checkpoint on the Hub cannot be downloaded.
    """
    overrides = {} if image_size is None else {"image_size": image_size}
    try:
        return preset_config(name, **overrides) or load_config(name, **overrides)
    except FileNotFoundError as error:
        raise ValueError(f"{error} {_RANDOM}") from error
    except FetchError as error:
        raise FetchError(f"{error} {_RANDOM}") from error


def load_ours(name: str, image_size: int | None = None) -> EfficientTamVideoModel:
    """Load a model of this package on the CPU in float32; `preset:NAME` has random weights.

    Args:
        name: see `our_config`.
        image_size: the side of the input in pixels; None is the model's own.

    Raises:
        ValueError, OSError: see `our_config`.
    """
    config = our_config(name, image_size)
    if name.startswith(PRESET_PREFIX):
        torch.manual_seed(SEED)
        return EfficientTamVideoModel(config)
    return load_weights(EfficientTamVideoModel, name, config=config)

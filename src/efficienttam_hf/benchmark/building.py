"""Makes a contender from a `ContenderSpec`. Only this file knows all kinds of contenders."""

from __future__ import annotations

import torch

from ..processing_efficienttam import EfficientTamVideoProcessor
from .contenders import SEED, Contender, ContenderSpec, OurContender, TransformersContender, load_ours
from .peers import make_peer
from .reference import ReferenceContender
from .video import BenchmarkVideo


__all__ = ["build", "track_video"]


def build(spec: ContenderSpec) -> Contender:
    """Make a contender.

    Args:
        spec: the description of the contender.

    Raises:
        ValueError: if there is no such model, or it does not take that image size.
        ImportError: if a package that it needs is not installed.
    """
    if spec.kind == "ours":
        model = load_ours(spec.model, spec.image_size)
        return OurContender(spec, model, EfficientTamVideoProcessor.from_config(model.config))
    if spec.kind == "peer":
        torch.manual_seed(SEED)
        return TransformersContender(spec, *make_peer(spec.model, spec.image_size))
    return ReferenceContender(spec)


def track_video(spec: ContenderSpec, video: BenchmarkVideo, num_objects: int) -> int:
    """Build a contender and track the whole video, as a user would, so that its memory can be measured.

    Args:
        spec: the description of the contender.
        video: the video.
        num_objects: the number of objects that are tracked at once.

    Returns:
        The number of frames that were tracked.
    """
    torch.set_num_threads(spec.threads)
    contender = build(spec)
    outputs = contender.track(video, num_objects, preload=False)
    return sum(contender.to_video_size(output, video) is not None for output in outputs)

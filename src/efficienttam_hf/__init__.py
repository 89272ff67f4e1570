"""EfficientTAM for Hugging Face Transformers: segment and track any object in a video from a point, a box or a mask.

The public classes are imported when they are first asked for, so that importing the package, or a part of it that needs
no network, loads neither torch nor Transformers. The Auto classes know this package's models nevertheless, as soon as
Transformers is loaded (see `_auto_classes`): after `import efficienttam_hf`, `AutoModel.from_pretrained` and
`pipeline("mask-generation")` work on its checkpoints. Where torch is not installed, the parts that do without it still
work: the tracker on exported graphs (`export.onnx_tracker`), and the readers and writers.
"""

# ruff: noqa: F403, F405 -- what is public is listed here, where it comes from in `_public`

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._auto_classes import watch_for_transformers
from ._threads import let_threads_sleep


if TYPE_CHECKING:
    from ._public import *


__all__ = [
    "PRESETS",
    "EfficientTamBackboneConfig",
    "EfficientTamBackboneModel",
    "EfficientTamConfig",
    "EfficientTamImageProcessor",
    "EfficientTamImageSegmentationOutput",
    "EfficientTamMaskDecoderConfig",
    "EfficientTamMemoryAttentionConfig",
    "EfficientTamMemoryEncoderConfig",
    "EfficientTamModel",
    "EfficientTamPreTrainedModel",
    "EfficientTamProcessor",
    "EfficientTamPromptEncoderConfig",
    "EfficientTamTrackingOutput",
    "EfficientTamVideoConfig",
    "EfficientTamVideoInferenceSession",
    "EfficientTamVideoMaskDecoderConfig",
    "EfficientTamVideoModel",
    "EfficientTamVideoProcessor",
    "EfficientTamVideoPromptEncoderConfig",
    "EfficientTamVideoSegmentationOutput",
    "EfficientTamVideoVideoProcessor",
    "EfficientTamVisionConfig",
    "EfficientTamVisionEncoderOutput",
    "EfficientTamVisionModel",
    "FrameMemory",
    "MemoryBank",
    "ObjectMemory",
    "named_checkpoint",
]


__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import _public
    except ModuleNotFoundError as error:
        raise ImportError(
            f"efficienttam_hf.{name} needs {error.name}: pip install efficienttam-hf. What works without is "
            "efficienttam_hf.export.onnx_tracker, on exported graphs."
        ) from error
    value = globals()[name] = getattr(_public, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


let_threads_sleep()  # before torch loads, or it is too late
watch_for_transformers()

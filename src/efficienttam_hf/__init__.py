"""EfficientTAM for Hugging Face Transformers: segment and track any object in a video from a click, a box or a mask.

Importing this package makes its classes known to the Auto classes, so that `AutoModel.from_pretrained` and
`pipeline("mask-generation")` work on its checkpoints. It needs torch, torchvision and transformers; what else a part
needs is imported where it is used. Where torch is not installed, the parts that do without it can still be imported:
the tracker on exported graphs (`export.onnx_tracker`), and the readers and writers.
"""

from ._threads import let_threads_sleep


__version__ = "0.1.0"

let_threads_sleep()  # before torch loads, or it is too late

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ModuleNotFoundError as error:
    _missing = error.name

    def __getattr__(name: str):
        if name.startswith("EfficientTam"):
            raise ImportError(
                f"efficienttam_hf.{name} needs {_missing}: pip install efficienttam-hf. What works without is "
                "efficienttam_hf.export.onnx_tracker, on exported graphs."
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from ._public import *  # noqa: F403
    from ._public import __all__  # noqa: F401

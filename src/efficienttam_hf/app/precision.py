"""Chooses the data type of a model for `--dtype auto`: bfloat16 if it is faster here and gives the same masks.

Two questions are answered once and kept in the user's cache directory:

- Does this machine compute faster in bfloat16? A block of the image encoder is timed in both types, in turns, as
  `kernel_choice.py` times kernels. `EFFICIENTTAM_KERNELS` applies here too: with any other value than `measured`, the
  instructions of the processor decide.
- Do the model's masks stay the same? The first frames of what the user gave are segmented in both types.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..atomic_file import atomic_path
from ..cpu_kernels import OPERATIONS
from ..kernel_choice import PLAIN, VARIABLE, KernelChoices, Operation, cache_folder, capability, parse
from .defaults import DTYPE_VARIABLE, DTYPES


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..processing_efficienttam import EfficientTamVideoProcessor

AUTO = "auto"
LEAST_AGREEMENT = 0.999  # of pixels, for bfloat16 to be chosen


def requested_dtype(given: str | None) -> str:
    """The data type that the user asked for: that of `--dtype`, else of `EFFICIENTTAM_DTYPE`, else `auto`.

    Raises:
        ValueError: if the variable has another value.
    """
    if given is not None:
        return given
    value = os.environ.get(DTYPE_VARIABLE) or AUTO
    if value not in (AUTO, *DTYPES):
        raise ValueError(f"{DTYPE_VARIABLE} is {value!r}; accepted are {AUTO}, {', '.join(DTYPES)}.")
    return value


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes clearly faster in bfloat16 than in float32.

    A GPU does so if it multiplies bfloat16 matrices by itself. On a CPU this is timed once, and kept; if it cannot be
    kept, the instructions of the processor decide. On other devices nothing is known, and the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    mode, _ = parse(os.environ.get(VARIABLE, "measured"), OPERATIONS)
    found = SPEED.measured("float32") if mode == "measured" else None
    return _has_bfloat16_instructions() if found is None else found.choices["block"] == "bfloat16"


def _has_bfloat16_instructions() -> bool:
    has_products = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return capability() == "amx" or has_products()


def _block_example(choice: str, _: torch.dtype) -> Callable[[], Any]:
    """A block of the ViT of `efficienttam_ti_512x512`, over the whole map."""
    from ..configuration_efficienttam import EfficientTamConfig
    from ..modeling_efficienttam_vision import EfficientTamVisionLayer

    config: Any = EfficientTamConfig.from_preset("efficienttam_ti_512x512").vision_config
    config._attn_implementation = "sdpa"
    dtype = torch.bfloat16 if choice == "bfloat16" else torch.float32
    block = EfficientTamVisionLayer(config, config.global_attention_indexes[0]).to(dtype).eval()
    tokens = torch.randn(1, 32, 32, config.hidden_size).to(dtype)
    return lambda: block(tokens)


# The choice between float32, which comes first and must be beaten clearly, and bfloat16.
SPEED = KernelChoices({"block": Operation({"float32": (PLAIN, "bfloat16")}, _block_example)}, kind="dtypes")


def load_with_dtype(
    model_class: type[PreTrainedModel],
    name: str,
    device: torch.device,
    given: str | None,
    masks: Callable[[Any, EfficientTamVideoProcessor], Iterable[np.ndarray]],
) -> tuple[Any, EfficientTamVideoProcessor, str]:
    """Load a named model in the data type that was asked for, or that `auto` chooses, and its processor.

    Args:
        model_class: `EfficientTamModel` or `EfficientTamVideoModel`.
        name: see `loading.find_model`.
        device: where the model will run.
        given: the value of `--dtype`; see `requested_dtype`.
        masks: segments some frames of the user with a model and its processor, yielding bool arrays. It is called twice
            if it is not known yet whether this model gives the same masks in bfloat16.

    Returns:
        The model, its processor, and the data type in words, with the reason if it was chosen.

    Raises:
        ValueError, OSError: as `loading.load_model` and `requested_dtype`.
    """
    from .loading import load_model

    dtype = requested_dtype(given)
    if dtype != AUTO:
        return *load_model(model_class, name, device, dtype), dtype
    model, processor = load_model(model_class, name, device)
    chosen, reason = choose_dtype(model, masks=lambda candidate: masks(candidate, processor))
    return model.to(chosen), processor, f"{str(chosen).removeprefix('torch.')} ({reason})"


def choose_dtype(
    model: PreTrainedModel, masks: Callable[[Any], Iterable[np.ndarray]], tell: Callable[[str], None] = print
) -> tuple[torch.dtype, str]:
    """The data type that `auto` chooses for a float32 model on its device, and the reason in words.

    Args:
        model: the model, on the device where it will run; it is not changed.
        masks: segments some frames with a model, as that of `load_with_dtype` does.
        tell: shows the user a line before masks are compared, which may take seconds.
    """
    if not has_fast_bfloat16(model.device):
        return torch.float32, "bfloat16 is not faster here"
    path = _agreement_file(model)
    share = _kept_agreement(path)
    if share is None:
        other = copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type]  # Transformers wraps `to`
        tell("Comparing the model's masks in bfloat16 and in float32, once for this model on this machine.")
        share = agreement(zip(masks(model), masks(other), strict=True))
        _keep_agreement(path, share)
    if share > LEAST_AGREEMENT:
        return torch.bfloat16, f"faster here; {100 * share:.2f} % of pixels are as in float32"
    return torch.float32, f"bfloat16 is faster here, but only {100 * share:.2f} % of its pixels are the same"


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The share of pixels in which two series of masks agree, from 0 to 1; 0 if there are no pixels to compare."""
    equal = total = 0
    for first, second in pairs:
        equal += int((first == second).sum())
        total += first.size
    return equal / total if total else 0.0


def _agreement_file(model: PreTrainedModel) -> Path:
    """Where a model's agreement is kept: a file for each set of weights, input size, device, and version."""
    from .. import __version__
    from ..checkpoints import weights_sha256

    config: Any = model.config
    about = (config.image_size, model.device.type, capability(), torch.__version__, __version__)
    digest = hashlib.sha256(weights_sha256(model, str(about)).encode()).hexdigest()[:16]
    return cache_folder() / f"agreement-{digest}.json"


def _kept_agreement(path: Path) -> float | None:
    try:
        share = json.loads(path.read_text())["agreement"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(share) if isinstance(share, int | float) and 0 <= share <= 1 else None


def _keep_agreement(path: Path, share: float) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({"agreement": share}) + "\n")
    except OSError:  # without a writable cache, the next run compares again
        return

"""The published implementation as a contender, from a checkout of its repository, with the weights of our model.

It is used as in its own examples: a folder of JPEG frames, boxes on the first frame, `propagate_in_video`. In bfloat16,
its weights stay in float32 and autocast is used, as its authors do. Compiled, it is its `EfficientTAMVideoPredictorVOS`
with a compiled image encoder, which its authors support on CUDA only; on a CPU it is not compiled.

Two defaults are changed, so that both implementations do the same work: holes in masks are not filled, since our model
does not fill them and this needs a CUDA extension, and there is no progress bar.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import published_layout, to_published
from ..configuration_efficienttam import PRESETS, EfficientTamConfig, size_pair
from .contenders import Contender, ContenderSpec, load_ours
from .machine import DTYPES
from .video import BenchmarkVideo


__all__ = ["ReferenceContender", "check_checkout", "published_variant"]

PACKAGE = "efficient_track_anything"
NEEDED = (
    f"{PACKAGE}/__init__.py",
    f"{PACKAGE}/efficienttam_video_predictor.py",
    f"{PACKAGE}/configs/efficienttam",
)
# The settings of its function that builds a video predictor, without the filling of holes.
SETTINGS = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
)


def check_checkout(path: Path) -> None:
    """Check that a folder is a checkout of the published implementation.

    Raises:
        ValueError: if it is not; the message names the missing files.
    """
    missing = [name for name in NEEDED if not (path / name).exists()]
    if missing:
        raise ValueError(
            f"{path} is not a checkout of the published EfficientTAM implementation: it lacks {', '.join(missing)}. "
            "Clone it (github.com/yformer/EfficientTAM) and give the folder that it was cloned to."
        )


def published_variant(config: EfficientTamConfig) -> str:
    """Return the name of the published variant that a model is, for any input size.

    Raises:
        ValueError: if it is not one of them.
    """
    layout, kind = published_layout(config), config.memory_attention_config.cross_attention
    for name in PRESETS:
        preset = EfficientTamConfig.from_preset(name)
        if preset.memory_attention_config.cross_attention == kind and published_layout(preset) == layout:
            return name
    raise ValueError(
        f"The published implementation has no model like this one; it has {', '.join(PRESETS)}. Leave --reference out, "
        "or choose one of these."
    )


def import_published(checkout: Path) -> tuple[ModuleType, ModuleType]:
    """Import the modules of the published video predictor and of its frame reader.

    Raises:
        ValueError: if `checkout` is not a checkout.
        ImportError: if a package that it needs is not installed.
    """
    check_checkout(checkout)
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    try:
        predictor = importlib.import_module(f"{PACKAGE}.efficienttam_video_predictor")
        return predictor, importlib.import_module(f"{PACKAGE}.utils.misc")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The published implementation needs {error.name}, which is not installed here; its requirements are "
            "hydra-core, omegaconf and iopath, besides what this package needs."
        ) from error


class ReferenceContender(Contender):
    """The published implementation of a variant."""

    def __init__(self, spec: ContenderSpec):
        ours = load_ours(spec.model, spec.image_size)
        variant, (self.image_size, _) = published_variant(ours.config), size_pair(ours.config.image_size)
        self.spec = spec
        for module in import_published(self._checkout):
            vars(module)["tqdm"] = lambda frames, **_: frames
        compiled = spec.compiled and torch.device(spec.device).type == "cuda"
        self.model: Any = _instantiate(variant, self.image_size, compiled)
        self.model.load_state_dict(to_published(ours.state_dict(), ours.config))
        self.model = self.model.to(spec.device).eval().requires_grad_(False)

    @property
    def _checkout(self) -> Path:
        assert self.spec.checkout is not None  # a reference always has a checkout
        return self.spec.checkout.resolve()

    def read_frame(self, path: Path) -> Tensor:
        _, misc = import_published(self._checkout)
        image, _, _ = misc._load_img_as_tensor(str(path), self.image_size)
        mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return ((image.float() - mean) / std).to(self.spec.device)

    def track(self, video: BenchmarkVideo, num_objects: int, preload: bool) -> Iterator[Any]:
        with self._autocast():
            state = self.model.init_state(str(video.folder))
            for number, box in enumerate(video.boxes(num_objects), start=1):
                self.model.add_new_points_or_box(state, 0, number, box=box)
            frames = self.model.propagate_in_video(state)
        while True:
            with self._autocast():  # for one frame at a time, because the other contenders must not run under autocast
                output = next(frames, None)
            if output is None:
                return
            yield output

    def _autocast(self) -> torch.autocast:
        """Return the autocast context of the authors' code in bfloat16; without effect in float32."""
        dtype = DTYPES[self.spec.dtype]
        return torch.autocast(torch.device(self.spec.device).type, torch.bfloat16, enabled=dtype == torch.bfloat16)

    def to_video_size(self, output: Any, video: BenchmarkVideo) -> Tensor:
        return output[2]  # the published code has resized them already


def _instantiate(variant: str, image_size: int, compiled: bool) -> torch.nn.Module:
    """Build the published predictor of a variant, without weights."""
    from hydra import compose
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    attention, cells = "++model.memory_attention.layer", image_size // 16
    config = compose(
        config_name=f"configs/efficienttam/{variant}.yaml",
        overrides=[
            f"++model._target_={PACKAGE}.efficienttam_video_predictor.EfficientTAMVideoPredictor"
            + ("VOS" if compiled else ""),
            f"++model.compile_image_encoder={str(compiled).lower()}",
            f"++model.image_size={image_size}",
            f"{attention}.self_attention.feat_sizes=[{cells},{cells}]",
            f"{attention}.cross_attention.feat_sizes=[{cells},{cells}]",
            *SETTINGS,
        ],
    )
    OmegaConf.resolve(config)
    return instantiate(config.model, _recursive_=True)

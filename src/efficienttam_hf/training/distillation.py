"""Distillation: a loss that brings image features closer to those of a larger model.

The teacher is the image encoder of any model of the SAM 2 family in Transformers, or any Transformers backbone (a plain
image encoder such as DINOv2). It receives the same frames with its own normalisation, and is not trained. An encoder of
the family sees them at its own input size. A backbone sees them at the size at which its feature map has as many cells
as the student's, so that each cell has one counterpart and a small student costs little teaching. The teacher is not a
registered module, so that optimizers, checkpoints and process groups do not include it. If its features have another
width, a trainable 1x1 convolution converts the student's features to that width.

The loss is one minus the cosine of the two feature vectors of each cell. It compares directions, which the following
attention layers use, and not scales: SAM 2's neck ends with a convolution, EfficientTAM's with a normalisation, so
their scales are unrelated.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_BACKBONE_MAPPING_NAMES

from ..configuration_efficienttam import EfficientTamConfig
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..remote_code import named_checkpoint
from .config import ConfigError, DistillationOptions


__all__ = ["FeatureDistillation", "check_teacher"]


logger = logging.getLogger(__name__)


class FeatureDistillation(nn.Module):
    """A frozen teacher and the loss on image features; its only parameters are those of `projection`.

    Args:
        options: the teacher, which is loaded in float32, the weight of the loss, and the frames of a clip that it sees.
        student_config: the configuration of the model that is trained.

    Attributes:
        teacher: the teacher's image encoder, in evaluation mode.
        teacher_size: height and width of the frames that the teacher sees, in pixels; `None`: those of the student.
        teacher_stride: pixels per cell of a backbone's feature map; `None` for an encoder of the family.
        projection: a layer from the student's channels to the teacher's; the identity if their numbers are equal.

    Raises:
        ConfigError: if the teacher cannot be loaded, or has no image encoder of this family.
    """

    scale: Tensor
    shift: Tensor
    teacher: Any  # an image encoder of any model of the family, or a backbone
    teacher_size: tuple[int, int] | None
    teacher_stride: int | None

    def __init__(self, options: DistillationOptions, student_config: EfficientTamConfig):
        super().__init__()
        assert options.teacher is not None  # distillation requires a teacher
        self.weight, self.frames = options.weight, options.frames
        # The teacher is a plain attribute and not a registered module.
        self.__dict__["teacher"] = _load_image_encoder(options.teacher)
        folder = named_checkpoint(options.teacher)

        own = EfficientTamVideoProcessor.from_config(student_config).image_processor
        mean, std = torch.tensor(own.image_mean), torch.tensor(own.image_std)
        teacher_mean, teacher_std, self.teacher_size = mean, std, None
        try:
            theirs = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError):
            logger.warning(
                "The teacher %s comes without an image processor: it sees the student's pixels.", options.teacher
            )
        else:
            teacher_mean, teacher_std = torch.tensor(theirs.image_mean), torch.tensor(theirs.image_std)
            if not _is_backbone(self.teacher):
                self.teacher_size = (theirs.size["height"], theirs.size["width"])
        # This converts one normalisation to the other: (pixels * std + mean - teacher_mean) / teacher_std.
        self.register_buffer("scale", (std / teacher_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - teacher_mean) / teacher_std).view(1, 3, 1, 1), persistent=False)

        self.teacher_stride, teacher_width = None, 0
        if _is_backbone(self.teacher):
            self.teacher_stride, teacher_width = _stride_and_width(self.teacher, options.teacher)
        else:
            teacher_width = self.teacher.config.fpn_hidden_size
        width = student_config.vision_config.fpn_hidden_size
        self.projection = (
            nn.Identity() if width == teacher_width else nn.Conv2d(width, teacher_width, kernel_size=1, bias=False)
        )

    def forward(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Compute the weighted loss, a scalar: `weight` times a mean over frames and cells from 0 to 2.

        Args:
            pixels: (B, 3, height, width) frames with the student's normalisation.
            features: (B, C, H, W), the student's features of these frames.
        """
        target = self._teacher_features(pixels, features.shape[-2:]).float()
        target = F.interpolate(target, features.shape[-2:], mode="bilinear", antialias=True)
        cosine = F.cosine_similarity(self.projection(features).float(), target, dim=1)
        return self.weight * (1 - cosine.mean())

    def chosen_frames(self, num_frames: int) -> list[int]:
        """The frames of a clip that the teacher sees: `frames` of them, at equal distances; all if that is `None`."""
        count = num_frames if self.frames is None else min(self.frames, num_frames)
        return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]

    @torch.no_grad()
    def _teacher_features(self, pixels: Tensor, cells: torch.Size) -> Tensor:
        """Compute the teacher's coarsest feature map of the frames: (B, C', H', W').

        Args:
            pixels: (B, 3, height, width) frames with the student's normalisation.
            cells: height and width of the student's feature map, which a backbone's feature map then has too.
        """
        if self.teacher.device != pixels.device:  # moving this module does not move the teacher
            self.teacher.to(pixels.device)
        pixels = pixels * self.scale + self.shift
        size = self.teacher_size
        if self.teacher_stride is not None:
            size = (cells[0] * self.teacher_stride, cells[1] * self.teacher_stride)
        if size is not None and size != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        if self.teacher_stride is not None:
            return self.teacher(pixels).feature_maps[-1]
        return self.teacher(pixels).fpn_hidden_states[-1]


def check_teacher(name: str) -> None:
    """Check by its configuration, without reading weights, that a teacher exists and is of the right type.

    Raises:
        ConfigError: if there is no such model, or it has no image encoder of this family.
    """
    try:
        config = AutoConfig.from_pretrained(named_checkpoint(name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_teacher(name, error) from error
    family = hasattr(getattr(config, "vision_config", config), "fpn_hidden_size")
    if not family and config.model_type not in MODEL_FOR_BACKBONE_MAPPING_NAMES:
        raise _no_feature_maps(name, f"model of type {config.model_type!r}")
    folder = Path(named_checkpoint(name))
    if folder.is_dir() and not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise _no_teacher(name, "there are no weights in that folder.")


def _load_image_encoder(name: str) -> nn.Module:
    """Load the frozen image encoder of a model by its folder or Hub id, or that of an included model."""
    folder = named_checkpoint(name)
    try:
        config = AutoConfig.from_pretrained(folder)
        backbone = config.model_type in MODEL_FOR_BACKBONE_MAPPING_NAMES
        loader: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)] if backbone else AutoModel
        model = loader.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _no_teacher(name, error) from error
    encoder = getattr(model, "vision_encoder", model)
    if not _is_backbone(encoder) and not hasattr(encoder.config, "fpn_hidden_size"):
        raise _no_feature_maps(name, type(model).__name__)
    return encoder.requires_grad_(False).eval()


def _is_backbone(model: nn.Module) -> bool:
    """Whether a model gives `feature_maps`, as the backbones of Transformers do."""
    return hasattr(model, "out_features")


@torch.no_grad()
def _stride_and_width(backbone: Any, name: str | None) -> tuple[int, int]:
    """Measure the stride in pixels and the channels of a backbone's last feature map on a black image.

    Raises:
        ConfigError: if the backbone does not turn an image into such a map.
    """
    side = 4 * (getattr(backbone.config, "patch_size", None) or 32)
    try:
        feature_map = backbone(torch.zeros(1, 3, side, side)).feature_maps[-1]
        return side // feature_map.shape[-1], feature_map.shape[1]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _no_teacher(name, error) from error


def _no_teacher(name: str | None, reason: object) -> ConfigError:
    return ConfigError(f"`distillation.teacher` {name!r} is neither a folder nor a Hub name of a model: {reason}")


def _no_feature_maps(name: str, kind: str) -> ConfigError:
    return ConfigError(
        f"`distillation.teacher` {name!r} is a {kind}, which gives no feature maps. Models of the SAM 2 family do "
        "(Sam2Model, Sam2VideoModel, EdgeTamModel, EfficientTamModel and their vision models), and Transformers "
        "backbones such as Dinov2Model."
    )

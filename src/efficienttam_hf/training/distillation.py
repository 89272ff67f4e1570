"""Distillation: a loss that brings image features closer to those of a larger model.

The teacher is the image encoder of any model of the SAM 2 family in Transformers. It receives the same frames with its
own input size and normalisation, and is not trained. It is not a registered module, so that optimizers, checkpoints and
process groups do not include it. If its features have another width, a trainable 1x1 convolution converts the student's
features to that width.

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

from ..configuration_efficienttam import EfficientTamConfig
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..remote_code import named_checkpoint
from .config import ConfigError, DistillationOptions


__all__ = ["FeatureDistillation", "check_teacher"]


logger = logging.getLogger(__name__)


class FeatureDistillation(nn.Module):
    """A frozen teacher and the loss on image features; its only parameters are those of `projection`.

    Args:
        options: the teacher, which is loaded in float32, and the weight of the loss.
        student_config: the configuration of the model that is trained.

    Attributes:
        teacher: the teacher's image encoder, in evaluation mode.
        projection: a layer from the student's channels to the teacher's; the identity if their numbers are equal.

    Raises:
        ConfigError: if the teacher cannot be loaded, or has no image encoder of this family.
    """

    scale: Tensor
    shift: Tensor
    teacher: Any  # an image encoder of any model of the family

    def __init__(self, options: DistillationOptions, student_config: EfficientTamConfig):
        super().__init__()
        assert options.teacher is not None  # distillation requires a teacher
        self.weight = options.weight
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
            self.teacher_size = (theirs.size["height"], theirs.size["width"])
        # This converts one normalisation to the other: (pixels * std + mean - teacher_mean) / teacher_std.
        self.register_buffer("scale", (std / teacher_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - teacher_mean) / teacher_std).view(1, 3, 1, 1), persistent=False)

        width, teacher_width = student_config.vision_config.fpn_hidden_size, self.teacher.config.fpn_hidden_size
        self.projection = (
            nn.Identity() if width == teacher_width else nn.Conv2d(width, teacher_width, kernel_size=1, bias=False)
        )

    def forward(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Compute the weighted loss, a scalar: `weight` times a mean over frames and cells from 0 to 2.

        Args:
            pixels: (B, 3, height, width) frames with the student's normalisation.
            features: (B, C, H, W), the student's features of these frames.
        """
        target = F.interpolate(
            self._teacher_features(pixels).float(), features.shape[-2:], mode="bilinear", antialias=True
        )
        cosine = F.cosine_similarity(self.projection(features).float(), target, dim=1)
        return self.weight * (1 - cosine.mean())

    @torch.no_grad()
    def _teacher_features(self, pixels: Tensor) -> Tensor:
        """Compute the teacher's coarsest feature map of the frames: (B, C', H', W')."""
        if self.teacher.device != pixels.device:  # moving this module does not move the teacher
            self.teacher.to(pixels.device)
        pixels = pixels * self.scale + self.shift
        if self.teacher_size is not None:
            pixels = F.interpolate(pixels, self.teacher_size, mode="bilinear", antialias=True)
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
    if not hasattr(getattr(config, "vision_config", config), "fpn_hidden_size"):
        raise _no_feature_maps(name, f"model of type {config.model_type!r}")
    folder = Path(named_checkpoint(name))
    if folder.is_dir() and not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise _no_teacher(name, "there are no weights in that folder.")


def _load_image_encoder(name: str) -> nn.Module:
    """Load the frozen image encoder of a model by its folder or Hub id, or that of an included model."""
    try:
        model = AutoModel.from_pretrained(named_checkpoint(name), dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise _no_teacher(name, error) from error
    encoder = getattr(model, "vision_encoder", model)
    if not hasattr(encoder.config, "fpn_hidden_size"):
        raise _no_feature_maps(name, type(model).__name__)
    return encoder.requires_grad_(False).eval()


def _no_teacher(name: str, reason: object) -> ConfigError:
    return ConfigError(f"`distillation.teacher` {name!r} is neither a folder nor a Hub name of a model: {reason}")


def _no_feature_maps(name: str, kind: str) -> ConfigError:
    return ConfigError(
        f"`distillation.teacher` {name!r} is a {kind}, which gives no feature maps. Models of the SAM 2 family do: "
        "Sam2Model, Sam2VideoModel, EdgeTamModel, EfficientTamModel, and their vision models."
    )

"""Configuration of an image encoder made from a Transformers backbone; see `modeling_efficienttam_backbone.py`."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_sizes import FeatureMapSizes, check_fields
from .remote_code import RemoteConfig


__all__ = ["EfficientTamBackboneConfig"]


@strict
class EfficientTamBackboneConfig(FeatureMapSizes, RemoteConfig, PreTrainedConfig):
    r"""
    An image encoder that consists of a Transformers backbone, as `Sam2VisionConfig` allows, and the usual neck.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): The backbone, of any type that
            `transformers.AutoBackbone` supports. Its last feature map (see its `out_features`) must have the stride
            `patch_size`. The default is a DINOv2 with registers, with the width and depth of ViT-Small.
        num_channels (`int`, defaults to 3): Channels of the image.
        image_size (`int` or `(height, width)`, defaults to 1024): Input size in pixels, a multiple of `patch_size`.
            The backbone's own `image_size`, often that of its position embeddings, does not change.
        patch_size (`int`, defaults to 16): Stride of the backbone's last feature map.
        fpn_hidden_size (`int`, defaults to 256): Channels of the image features that the neck returns.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the neck's normalisations.
        position_temperature (`float`, defaults to 10000.0): Temperature of the sine encoding of the feature map.
        initializer_range (`float`, defaults to 0.02): Scale of the neck's initial weights, relative to 0.02 for SAM's.

    Example:

    ```python
    >>> from transformers import Dinov2WithRegistersConfig
    >>> from efficienttam_hf import EfficientTamBackboneConfig, EfficientTamConfig, EfficientTamVideoModel

    >>> backbone = Dinov2WithRegistersConfig(hidden_size=384, num_attention_heads=6, patch_size=16)
    >>> config = EfficientTamConfig(vision_config=EfficientTamBackboneConfig(backbone_config=backbone, image_size=512))
    >>> model = EfficientTamVideoModel(config)
    ```
    """

    base_config_key = "vision_config"
    model_type = "efficienttam_backbone_model"
    sub_configs = {"backbone_config": AutoConfig}
    remote_classes = {
        "AutoConfig": "configuration_efficienttam_backbone.EfficientTamBackboneConfig",
        "AutoModel": "modeling_efficienttam_backbone.EfficientTamBackboneModel",
    }

    backbone_config: dict | PreTrainedConfig | None = None
    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 1024
    patch_size: int = 16
    fpn_hidden_size: int = 256
    layer_norm_eps: float = 1e-6
    position_temperature: float | int = 10000.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        if self.backbone_config is None:
            self.backbone_config = {
                "model_type": "dinov2_with_registers",
                "hidden_size": 384,
                "num_attention_heads": 6,
                "patch_size": self.patch_size,
            }
        if isinstance(self.backbone_config, dict):
            if "model_type" not in self.backbone_config:
                raise ValueError("backbone_config says no model_type: name one of Transformers' backbones.")
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        super().__post_init__(**kwargs)
        self.check()

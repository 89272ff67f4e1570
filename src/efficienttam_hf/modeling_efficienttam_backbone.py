"""An image encoder made from a Transformers backbone, which `vision_config` names as in `Sam2VisionConfig`.

The backbone's last feature map, which must have the stride `patch_size`, goes through the neck of the plain ViT.
This file shows what the models require of an image encoder: a class with `forward`, `get_input_embeddings` and
`resized_position_embeddings`, whose configuration has the sizes of `FeatureMapSizes` and `fpn_hidden_size`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone
from transformers.utils import can_return_tuple

from .configuration_efficienttam_backbone import EfficientTamBackboneConfig
from .modeling_efficienttam_layers import Constants, EfficientTamPreTrainedModel
from .modeling_efficienttam_vision import EfficientTamVisionEncoderOutput, EfficientTamVisionNeck, vision_output


__all__ = ["EfficientTamBackboneModel"]


class EfficientTamBackboneModel(EfficientTamPreTrainedModel):
    """The image encoder: a backbone and the neck."""

    config: EfficientTamBackboneConfig  # type: ignore[assignment]  # a part's, not the whole model's
    config_class = EfficientTamBackboneConfig
    _no_split_modules = []

    def __init__(self, config: EfficientTamBackboneConfig):
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        self.neck = EfficientTamVisionNeck(self.backbone.channels[-1], config.fpn_hidden_size, config.layer_norm_eps)
        self.constants = Constants()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embeddings."""
        return self.backbone.get_input_embeddings()

    def resized_position_embeddings(self) -> None:
        """Return `None`: a backbone handles its position embeddings itself."""
        return

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> EfficientTamVisionEncoderOutput:
        """Encode (B, 3, height, width) pixels; see `EfficientTamVisionEncoderOutput`.

        Hidden states and attentions are the backbone's own, in its own shapes.

        Raises:
            ValueError: if no pixels are given, or the backbone's last feature map does not have the stride
                `patch_size`.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        output = self.backbone(
            pixel_values.to(self.neck.conv1.weight.dtype),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        hidden_states = output.feature_maps[-1].permute(0, 2, 3, 1)
        stride, found = self.config.patch_size, tuple(hidden_states.shape[1:3])
        expected = tuple(side // stride for side in pixel_values.shape[-2:])
        if found != expected:
            raise ValueError(
                f"The backbone's last feature map is {found} for an image of {tuple(pixel_values.shape[-2:])}; at a "
                f"stride of vision_config.patch_size ({stride}) it is {expected}. Choose the stage of that stride by "
                "`out_features` of backbone_config, or set patch_size, of prompt_encoder_config too."
            )
        return vision_output(self, hidden_states, hidden_states=output.hidden_states, attentions=output.attentions)

"""The image model: `EfficientTamModel` segments objects in an image from prompts.

An image is encoded once to one feature map at stride 16 (`modeling_efficienttam_vision.py`). Each prompt (points, boxes
or a rough mask) then runs only the small prompt encoder and mask decoder (`modeling_efficienttam_decoder.py`). The
model has the interface of Transformers' `Sam2Model`. `modeling_efficienttam_video.py` adds memory to the same modules.

Letters of shapes: B images, P prompts for an image, N tokens, C channels, (H, W) size of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_efficienttam import EfficientTamBackboneConfig, EfficientTamConfig, EfficientTamVisionConfig
from .modeling_efficienttam_backbone import EfficientTamBackboneModel
from .modeling_efficienttam_decoder import (
    EfficientTamAttention,
    EfficientTamMaskDecoder,
    EfficientTamPositionalEmbedding,
    EfficientTamPromptEncoder,
)
from .modeling_efficienttam_layers import EfficientTamPreTrainedModel
from .modeling_efficienttam_vision import EfficientTamVisionEncoderOutput, EfficientTamVisionModel


__all__ = ["EfficientTamImageSegmentationOutput", "EfficientTamModel"]


# The image encoder for each `model_type` of a `vision_config`. A new encoder needs a line here and its own file. The
# keys are names and not classes, because code that comes with a checkpoint can be loaded twice as different classes.
VISION_MODELS: dict[str, Any] = {
    EfficientTamVisionConfig.model_type: EfficientTamVisionModel,
    EfficientTamBackboneConfig.model_type: EfficientTamBackboneModel,
}


# --------------------------------------------------------------------------------------------------------- outputs


@dataclass
class EfficientTamImageSegmentationOutput(ModelOutput):
    r"""
    iou_scores (`Tensor` of shape `(batch_size, point_batch_size, num_masks)`):
        Predicted IoU of each mask, between 0 and 1.
    pred_masks (`Tensor` of shape `(batch_size, point_batch_size, num_masks, height, width)`):
        Mask logits at a quarter of the model's input size; `post_process_masks` resizes them to the image.
    object_score_logits (`Tensor` of shape `(batch_size, point_batch_size, 1)`):
        Object scores; above 0 if the object is judged present.
    image_embeddings (`list(Tensor)`):
        One tensor `(batch_size, channels, height, width)`, which later calls accept as `image_embeddings`.
    vision_hidden_states, vision_attentions, mask_decoder_attentions (`tuple(Tensor)`, *optional*):
        Returned with `output_hidden_states=True` and `output_attentions=True`.
    """

    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    image_embeddings: list[Tensor] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    mask_decoder_attentions: tuple[Tensor, ...] | None = None


# -------------------------------------------------------------------------------------------------------- models


class EfficientTamModel(EfficientTamPreTrainedModel):
    """EfficientTAM for images: computes masks from points, boxes or a rough mask, with the interface of `Sam2Model`."""

    _can_record_outputs = {
        "mask_decoder_attentions": OutputRecorder(EfficientTamAttention, index=1, layer_name="mask_decoder.transformer")
    }
    # A checkpoint of the video model loads here without a warning about the weights of its memory.
    _keys_to_ignore_on_load_unexpected = [
        r"^memory_",
        r"^no_memory_positional_encoding",
        r"^no_object_pointer",
        r"^mask_downsample",
        r"^object_pointer_proj",
    ]

    def __init__(self, config: EfficientTamConfig):
        super().__init__(config)
        self._build(config)
        self.post_init()

    def _build(self, config: EfficientTamConfig) -> None:
        """Create the modules. Weights are initialised once, after a subclass has created its modules too."""
        config.check()  # its parts may have changed since it was created
        self.vision_encoder = VISION_MODELS[config.vision_config.model_type]._from_config(config.vision_config)
        self.prompt_encoder = EfficientTamPromptEncoder(config.prompt_encoder_config)
        # Modules that are not a PreTrainedModel read their attention implementation from their own configuration.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = EfficientTamMaskDecoder(config.mask_decoder_config)
        # It replaces memory if there is none: on images, and on frames that are prompted before tracking.
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_config.fpn_hidden_size))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EfficientTamPositionalEmbedding):
            init.normal_(module.positional_embedding, std=module.scale)
        elif isinstance(module, EfficientTamModel):
            init.trunc_normal_(module.no_memory_embedding, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        """The patch embeddings."""
        return self.vision_encoder.get_input_embeddings()

    def get_image_wide_positional_embeddings(self) -> Tensor:
        """The positional encoding of every cell of the feature map, (1, C, H, W), for the mask decoder."""
        return self.prompt_encoder.shared_embedding.grid(self.prompt_encoder.image_embedding_size)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> EfficientTamVisionEncoderOutput:
        """The image encoder's output for (B, 3, height, width) pixels, before any memory is added."""
        return self.vision_encoder(pixel_values, return_dict=True, **kwargs)

    def add_no_memory(self, features: Tensor) -> Tensor:
        """Add the learned `no_memory_embedding` to (B, C, H, W) features of a frame that has no memories."""
        return features + self.no_memory_embedding.view(1, -1, 1, 1)

    @torch.no_grad()
    def get_image_embeddings(self, pixel_values: Tensor, **kwargs: Any) -> list[Tensor]:
        """Encode images once, so that they can be prompted several times.

        Args:
            pixel_values: (B, 3, height, width) pixels from the processor.

        Returns:
            A list of one tensor (B, C, H, W), the `image_embeddings` of `forward`.
        """
        features = self.get_image_features(pixel_values, return_dict=True, **kwargs)
        return [self.add_no_memory(features.fpn_hidden_states[-1])]

    @torch.no_grad()
    def get_prompt_embeddings(
        self,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Sparse (B, P, tokens, C) and dense (B or 1, C, H, W) embeddings of prompts; arguments as in `forward`."""
        return self.prompt_encoder(input_points, input_labels, input_boxes, input_masks)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: list[Tensor] | None = None,
        multimask_output: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        **kwargs: Any,
    ) -> EfficientTamImageSegmentationOutput:
        r"""
        Segment prompted objects in images.

        Args:
            pixel_values: (B, 3, height, width) pixels from the processor.
            input_points: (B, P, K, 2) points (x, y) in pixels of the model's input: K points for each of P objects.
            input_labels: (B, P, K): 1 positive, 0 negative, 2 and 3 corners of a box, -1 no point, -10 padding, which
                has no effect. By default, all points are positive.
            input_boxes: (B, P, 4): x0, y0, x1, y1 in pixels of the model's input.
            input_masks: (B, 1, h, w) mask logits; they are resized to a quarter of the input size if necessary.
            image_embeddings: the output of `get_image_embeddings`, in place of `pixel_values`.
            multimask_output: whether to return three proposals for each object, or a single mask.
            attention_similarity: bias on the attention from tokens to image (target-guided attention, PerSAM).
            target_embedding: (B, P, C) embedding that is added to the tokens before each block (target-semantic
                prompting, PerSAM).

        Raises:
            ValueError: unless exactly one of pixels and embeddings is given; if points and boxes differ in number.
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("Exactly one of pixel_values or image_embeddings must be provided.")
        if input_points is not None and input_boxes is not None and input_points.shape[1] != input_boxes.shape[1]:
            raise ValueError(
                "You should provide as many bounding boxes as input points per box. Got "
                f"{input_points.shape[1]} and {input_boxes.shape[1]}."
            )
        vision_outputs = None
        if pixel_values is not None:
            vision_outputs = self.get_image_features(pixel_values, return_dict=True, **kwargs)
            image_embeddings = [self.add_no_memory(vision_outputs.fpn_hidden_states[-1])]
        features = image_embeddings[-1] if isinstance(image_embeddings, list | tuple) else image_embeddings
        assert features is not None  # the check above requires one of the two

        if input_points is not None and input_labels is None:
            input_labels = torch.ones(input_points.shape[:3], dtype=torch.int64, device=input_points.device)
        masks, iou_scores, _, object_score_logits = self.decode_masks(
            features,
            input_points,
            input_labels,
            input_boxes,
            input_masks,
            multimask_output,
            attention_similarity,
            target_embedding,
        )
        return EfficientTamImageSegmentationOutput(
            iou_scores=iou_scores,
            pred_masks=masks,
            object_score_logits=object_score_logits,
            image_embeddings=image_embeddings,
            vision_hidden_states=None if vision_outputs is None else vision_outputs.hidden_states,
            vision_attentions=None if vision_outputs is None else vision_outputs.attentions,
        )

    def decode_masks(
        self,
        features: Tensor,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the prompt encoder and the mask decoder on (B, C, H, W) features, with the prompts of `forward`.

        Args:
            has_mask: (B,) bool, which rows of `input_masks` are prompts; by default all of them.

        Returns:
            The output of `EfficientTamMaskDecoder`: masks, predicted IoU, output tokens, object score logits.
        """
        if input_masks is not None and input_masks.shape[-2:] != self.prompt_encoder.mask_input_size:
            input_masks = F.interpolate(
                input_masks.float(),
                size=self.prompt_encoder.mask_input_size,
                align_corners=False,
                mode="bilinear",
                antialias=True,
            )
        sparse, dense = self.prompt_encoder(input_points, input_labels, input_boxes, input_masks, has_mask)
        return self.mask_decoder(
            features,
            self.get_image_wide_positional_embeddings(),
            sparse,
            dense,
            multimask_output,
            attention_similarity,
            target_embedding,
            self.prompt_encoder.padded_tokens(input_labels, input_boxes),
        )

"""The image model: the plain ViT encoder with its neck, and `EfficientTamModel`, which segments what is prompted.

An image is encoded once to one feature map at stride 16; prompts (points, boxes, a rough mask) then cost little each.
`EfficientTamModel` is called as Transformers' `Sam2Model` is. What tracking adds (memory) lives in
`modeling_efficienttam_video.py`, on top of these same modules.

Shapes are written where they matter: B images, P prompts an image, N tokens, C channels, (H, W) feature map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_efficienttam import EfficientTamConfig, EfficientTamVisionConfig, RemoteCode
from .matrix_products import EfficientTamLinear
from .modeling_efficienttam_decoder import (
    EfficientTamAttention,
    EfficientTamMaskDecoder,
    EfficientTamPositionalEmbedding,
    EfficientTamPromptEncoder,
)
from .modeling_efficienttam_layers import (
    EfficientTamFeedForward,
    EfficientTamLayerNorm2d,
    attend,
    sine_position_encoding,
)


# --------------------------------------------------------------------------------------------------------- outputs


@dataclass
class EfficientTamVisionEncoderOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`Tensor` of shape `(batch_size, height, width, hidden_size)`):
        Output of the last ViT block.
    fpn_hidden_states (`tuple(Tensor)`):
        One feature map of shape `(batch_size, fpn_hidden_size, height, width)`, the neck's output.
    fpn_position_encoding (`tuple(Tensor)`):
        Its sine position encoding, of the same shape.
    hidden_states (`tuple(Tensor)`, *optional*, with `output_hidden_states=True`):
        Input of the first block and output of each, `(batch_size, height, width, hidden_size)`.
    attentions (`tuple(Tensor)`, *optional*, with `output_attentions=True`):
        Attention weights of each block, `(batch_size * num_windows, num_heads, tokens, tokens)`.
    """

    fpn_hidden_states: tuple[Tensor, ...] | None = None
    fpn_position_encoding: tuple[Tensor, ...] | None = None


@dataclass
class EfficientTamImageSegmentationOutput(ModelOutput):
    r"""
    iou_scores (`Tensor` of shape `(batch_size, point_batch_size, num_masks)`):
        Predicted IoU of each mask, between 0 and 1.
    pred_masks (`Tensor` of shape `(batch_size, point_batch_size, num_masks, height, width)`):
        Mask logits at a quarter of the model's input size; `post_process_masks` brings them to the image's.
    object_score_logits (`Tensor` of shape `(batch_size, point_batch_size, 1)`):
        Above 0 where the object is judged present.
    image_embeddings (`list(Tensor)`):
        One tensor `(batch_size, channels, height, width)`, to be fed again as `image_embeddings`.
    vision_hidden_states, vision_attentions, mask_decoder_attentions (`tuple(Tensor)`, *optional*):
        With `output_hidden_states=True` and `output_attentions=True`.
    """

    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    image_embeddings: list[Tensor] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    mask_decoder_attentions: tuple[Tensor, ...] | None = None


# -------------------------------------------------------------------------------------------------- image encoder


def partition_windows(features: Tensor, window_size: int, padding: Tensor) -> Tensor:
    """Cut a map into square windows, filling up the last row and column of windows with `padding`.

    Args:
        features: (B, H, W, C).
        padding: (C,), the value of a padding token.

    Returns:
        (B * windows, window_size, window_size, C).
    """
    batch_size, height, width, channels = features.shape
    pad_height, pad_width = -height % window_size, -width % window_size
    rows, columns = (height + pad_height) // window_size, (width + pad_width) // window_size
    if torch.compiler.is_compiling():  # or exporting: as one expression, which both make good code of
        padded = torch.cat([features, padding.expand(batch_size, height, pad_width, channels)], dim=2)
        padded = torch.cat([padded, padding.expand(batch_size, pad_height, width + pad_width, channels)], dim=1)
        windows = padded.view(batch_size, rows, window_size, columns, window_size, channels).transpose(2, 3)
    else:  # every value is copied once
        windows = features.new_empty(batch_size, rows, columns, window_size, window_size, channels)
        windows[:, -1, :, window_size - pad_height :] = padding
        windows[:, :, -1, :, window_size - pad_width :] = padding
        padded = windows.transpose(2, 3)
        for (whole_rows, part_rows), tokens_down in _whole_and_rest(height, window_size):
            for (whole_columns, part_columns), tokens_across in _whole_and_rest(width, window_size):
                part = features[:, tokens_down][:, :, tokens_across]
                part = part.unflatten(2, (-1, part_columns)).unflatten(1, (-1, part_rows))
                padded[:, whole_rows, :part_rows, whole_columns, :part_columns] = part
    return windows.reshape(-1, window_size, window_size, channels)


def _whole_and_rest(length: int, window_size: int) -> list[tuple[tuple[slice, int], slice]]:
    """Where the tokens of an axis go: `((windows, tokens in each), tokens)` of whole windows, and of the last one."""
    whole, rest = divmod(length, window_size)
    parts = [((slice(0, whole), window_size), slice(0, length - rest))] if whole else []
    return parts + ([((slice(whole, None), rest), slice(length - rest, None))] if rest else [])


def merge_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `partition_windows`: (B * windows, w, w, C) to (B, *size, C), padding cut off."""
    height, width = size
    window_size, channels = windows.shape[1], windows.shape[-1]
    rows, columns = -(-height // window_size), -(-width // window_size)
    features = windows.view(-1, rows, columns, window_size, window_size, channels).permute(0, 1, 3, 2, 4, 5)
    features = features.reshape(-1, rows * window_size, columns * window_size, channels)[:, :height, :width]
    return features.contiguous()  # or a linear layer in bfloat16 multiplies row by row


class EfficientTamVisionAttention(nn.Module):
    """Self-attention of a ViT block, over the whole map or inside windows."""

    def __init__(self, config: EfficientTamVisionConfig, window_size: int):
        super().__init__()
        self.config = config
        self.window_size = window_size
        self.num_heads = config.num_attention_heads
        self.qkv = EfficientTamLinear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = EfficientTamLinear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """(B, H, W, C) to the same, and attention weights where available."""
        size = hidden_states.shape[1:3]
        qkv = self.qkv(hidden_states)
        if self.window_size:
            # The published model pads with zeros before projecting. A zero projects to the bias, so padding afterwards
            # with the bias is the same and spares the projection of padding (20 % of the tokens at 1024 pixels).
            padding = qkv.new_zeros(qkv.shape[-1]) if self.qkv.bias is None else self.qkv.bias.to(qkv.dtype)
            qkv = partition_windows(qkv, self.window_size, padding)
        batch_size, height, width, _ = qkv.shape
        qkv = qkv.view(batch_size, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        output, weights = attend(self, query, key, value, **kwargs)
        output = output.view(batch_size, height, width, -1)
        if self.window_size:
            output = merge_windows(output, size)
        return self.proj(output), weights


class EfficientTamDropPath(nn.Module):
    """Stochastic depth: while training, drop a whole residual branch of a sample with probability `rate`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * keep / (1 - self.rate)


class EfficientTamVisionLayer(GradientCheckpointingLayer):
    """A pre-normalised ViT block."""

    def __init__(self, config: EfficientTamVisionConfig, index: int):
        super().__init__()
        window_size = 0 if index in config.global_attention_indexes else config.window_size
        hidden = int(config.hidden_size * config.mlp_ratio)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = EfficientTamVisionAttention(config, window_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EfficientTamFeedForward(config.hidden_size, hidden, config.hidden_size, 2, config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_path = EfficientTamDropPath(config.drop_path_rate * index / max(1, config.num_hidden_layers - 1))

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = self.attn(self.layer_norm1(hidden_states), **kwargs)
        hidden_states = hidden_states + self.dropout(self.drop_path(attended))
        return hidden_states + self.dropout(self.drop_path(self.mlp(self.layer_norm2(hidden_states))))


class EfficientTamPatchEmbeddings(nn.Module):
    """Patches to tokens, plus learned absolute positions resized to the feature map."""

    def __init__(self, config: EfficientTamVisionConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        grid = config.pretrained_image_size // config.patch_size
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, grid * grid + int(config.has_class_position), config.hidden_size)
        )

    def positions(self, size: tuple[int, int]) -> Tensor:
        """(1, H, W, C)."""
        embeddings = self.position_embeddings[:, int(self.config.has_class_position) :]
        grid = math.isqrt(embeddings.shape[1])
        embeddings = embeddings.view(1, grid, grid, -1)
        if size == (grid, grid):
            return embeddings
        resized = F.interpolate(embeddings.permute(0, 3, 1, 2).float(), size=size, mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).to(embeddings.dtype)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) pixels to (B, H, W, C)."""
        height, width = pixel_values.shape[-2:]
        patch = self.config.patch_size
        if pixel_values.shape[1] != self.config.num_channels or height % patch or width % patch:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} do not fit: expected (batch, "
                f"{self.config.num_channels}, height, width) with height and width multiples of {patch}. Use the "
                "processor to prepare images."
            )
        tokens = self.projection(pixel_values.to(self.projection.weight.dtype)).permute(0, 2, 3, 1)
        # In this order in memory too: all blocks inherit it, and would reorder it for each normalisation.
        tokens = tokens.contiguous()
        return tokens + self.positions((tokens.shape[1], tokens.shape[2]))


class EfficientTamVisionNeck(nn.Module):
    """ViTDet's simple neck: a 1x1 and a 3x3 convolution, each normalised."""

    def __init__(self, config: EfficientTamVisionConfig):
        super().__init__()
        width, eps = config.fpn_hidden_size, config.layer_norm_eps
        self.conv1 = nn.Conv2d(config.hidden_size, width, kernel_size=1, bias=False)
        self.layer_norm1 = EfficientTamLayerNorm2d(width, eps=eps)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.layer_norm2 = EfficientTamLayerNorm2d(width, eps=eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, H, W, C) tokens to a (B, fpn_hidden_size, H, W) map."""
        # Channels first in memory too, as published: another order takes other kernels, whose last bits are others, and
        # one can tip a memory's rounding to bfloat16. It costs 0.3 % of a frame.
        features = self.layer_norm1(self.conv1(hidden_states.permute(0, 3, 1, 2).contiguous()))
        return self.layer_norm2(self.conv2(features))


# -------------------------------------------------------------------------------------------------------- models


class EfficientTamPreTrainedModel(RemoteCode, PreTrainedModel):
    """What all EfficientTAM models share: configuration, initialisation, attention implementations, saving."""

    config_class = EfficientTamConfig
    base_model_prefix = "efficienttam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["EfficientTamVisionLayer", "EfficientTamTwoWayAttentionBlock"]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Transformers looks for its attention interface in the class's own file; the video model's `attend` is in this.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights, at the scales SAM's parts are trained from.

        Linear and convolution weights have PyTorch's own deviation, `1 / sqrt(3 * fan_in)`, and embeddings (tokens of
        the mask decoder, kinds of prompts) a deviation of 1. With Transformers' one deviation for all, 0.02, a mask,
        which is a product of the mask decoder's and the image's features, begins at almost zero, and training from
        scratch does not take off. `initializer_range` scales all of it; 0.02 stands for these scales.
        """
        super()._init_weights(module)
        scale = self.config.initializer_range / 0.02
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan_in, _ = nn.init._calculate_fan_in_and_fan_out(module.weight)
            init.normal_(module.weight, std=scale / math.sqrt(3 * fan_in))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=scale)
        elif isinstance(module, EfficientTamPatchEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
        elif isinstance(module, EfficientTamPositionalEmbedding):
            init.normal_(module.positional_embedding, std=module.scale)
        elif isinstance(module, EfficientTamModel):
            init.trunc_normal_(module.no_memory_embedding, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in Transformers. Weights on the CPU are copied to aligned memory.

        Memory-mapped weights begin at any byte; CPU kernels choose their path by it, so that one checkpoint could give
        different last bits from one file to another.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
                tensor.data = tensor.data.clone()
        return loaded


class EfficientTamVisionModel(EfficientTamPreTrainedModel):
    """The image encoder: ViT and neck."""

    config_class = EfficientTamVisionConfig
    _can_record_outputs = {
        "hidden_states": EfficientTamVisionLayer,
        "attentions": OutputRecorder(EfficientTamVisionAttention, index=1),
    }

    def __init__(self, config: EfficientTamVisionConfig):
        super().__init__(config)
        self.patch_embed = EfficientTamPatchEmbeddings(config)
        self.layers = nn.ModuleList(EfficientTamVisionLayer(config, i) for i in range(config.num_hidden_layers))
        self.neck = EfficientTamVisionNeck(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embeddings."""
        return self.patch_embed

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, pixel_values: Tensor | None = None, **kwargs: Any) -> EfficientTamVisionEncoderOutput:
        """Encode (B, 3, height, width) pixels; see `EfficientTamVisionEncoderOutput`.

        Raises:
            ValueError: without pixels, or with a size that gives no whole feature map.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        hidden_states = self.patch_embed(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        features = self.neck(hidden_states)
        positions = sine_position_encoding(
            features.shape[-2:], features.shape[1], self.config.position_temperature, features.device
        )
        return EfficientTamVisionEncoderOutput(
            last_hidden_state=hidden_states,
            fpn_hidden_states=(features,),
            fpn_position_encoding=(positions.to(features.dtype).expand_as(features),),
        )


class EfficientTamModel(EfficientTamPreTrainedModel):
    """EfficientTAM for images: masks from points, boxes or a rough mask. Called as `Sam2Model` is."""

    _can_record_outputs = {
        "mask_decoder_attentions": OutputRecorder(EfficientTamAttention, index=1, layer_name="mask_decoder.transformer")
    }
    # A checkpoint of the video model loads here without a word about its memory.
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
        """Make the modules. Weights are initialised once, after those of a subclass are made too."""
        self.vision_encoder = EfficientTamVisionModel._from_config(config.vision_config)
        self.prompt_encoder = EfficientTamPromptEncoder(config.prompt_encoder_config)
        # Modules that are no PreTrainedModel look their attention implementation up in their own configuration.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = EfficientTamMaskDecoder(config.mask_decoder_config)
        # Stands in for memory where there is none: on images, and on frames that are prompted before tracking.
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_config.fpn_hidden_size))

    def get_input_embeddings(self) -> nn.Module:
        """The patch embeddings."""
        return self.vision_encoder.get_input_embeddings()

    def get_image_wide_positional_embeddings(self) -> Tensor:
        """(1, C, H, W): the encoding of every cell of the feature map, for the mask decoder."""
        return self.prompt_encoder.shared_embedding.grid(self.prompt_encoder.image_embedding_size)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> EfficientTamVisionEncoderOutput:
        """The image encoder's output for (B, 3, height, width) pixels, before any memory is added."""
        return self.vision_encoder(pixel_values, return_dict=True, **kwargs)

    def add_no_memory(self, features: Tensor) -> Tensor:
        """(B, C, H, W) features of a frame without memories, as the mask decoder wants them."""
        return features + self.no_memory_embedding.view(1, -1, 1, 1)

    @torch.no_grad()
    def get_image_embeddings(self, pixel_values: Tensor, **kwargs: Any) -> list[Tensor]:
        """Encode images once, to prompt them many times.

        Args:
            pixel_values: (B, 3, height, width), as the processor gives them.

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
            pixel_values: (B, 3, height, width), as the processor gives them.
            input_points: (B, P, K, 2) points (x, y) in pixels of the model's input: K points for each of P objects.
            input_labels: (B, P, K): 1 positive, 0 negative, 2 and 3 corners of a box, -1 no point, -10 padding.
                All positive when not given.
            input_boxes: (B, P, 4): x0, y0, x1, y1 in pixels of the model's input.
            input_masks: (B, 1, h, w) mask logits, resized to a quarter of the input size when they are not.
            image_embeddings: what `get_image_embeddings` returned, in place of `pixel_values`.
            multimask_output: three proposals for each object, or one.
            attention_similarity: bias on the attention from tokens to image (target-guided attention, PerSAM).
            target_embedding: (B, P, C) added to the tokens before each block (target-semantic prompting, PerSAM).

        Raises:
            ValueError: unless exactly one of pixels and embeddings is given; when points and boxes disagree in number.
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompt encoder and mask decoder on (B, C, H, W) features; prompts as in `forward`.

        Returns:
            What `EfficientTamMaskDecoder` returns: masks, IoU, output tokens, object score logits.
        """
        if input_masks is not None and input_masks.shape[-2:] != self.prompt_encoder.mask_input_size:
            input_masks = F.interpolate(
                input_masks.float(),
                size=self.prompt_encoder.mask_input_size,
                align_corners=False,
                mode="bilinear",
                antialias=True,
            )
        sparse, dense = self.prompt_encoder(input_points, input_labels, input_boxes, input_masks)
        return self.mask_decoder(
            features,
            self.get_image_wide_positional_embeddings(),
            sparse,
            dense,
            multimask_output,
            attention_similarity,
            target_embedding,
        )


__all__ = ["EfficientTamModel", "EfficientTamPreTrainedModel", "EfficientTamVisionModel"]

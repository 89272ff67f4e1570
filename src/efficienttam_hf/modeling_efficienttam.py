"""The image model: plain ViT encoder with its neck, prompt encoder, mask decoder, and `EfficientTamModel` over them.

An image is encoded once to one feature map at stride 16; prompts (points, boxes, a rough mask) then cost little each.
`EfficientTamModel` is called as Transformers' `Sam2Model` is. What tracking adds (memory) lives in
`modeling_efficienttam_video.py`, on top of these same modules.

Shapes are written where they matter: B images, P prompts an image, N tokens, C channels, (H, W) feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_efficienttam import (
    EfficientTamConfig,
    EfficientTamMaskDecoderConfig,
    EfficientTamPromptEncoderConfig,
    EfficientTamVisionConfig,
    RemoteCode,
    size_pair,
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


# ------------------------------------------------------------------------------------------------- shared pieces


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out. (B, heads, N, C) inputs; returns (B, N, heads, C) and the weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logit_bias: Tensor | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention through Transformers' switchable interface (`module.config._attn_implementation`).

    Args:
        query, key, value: (B, heads, N, C).
        logit_bias: added to the scaled logits, broadcastable to (B, heads, queries, keys). Flash attention has no such
            bias and flex attention does not broadcast it: a call with one falls back to `sdpa`.

    Returns:
        (B, queries, heads * C), and the weights where the implementation gives them.
    """
    implementation = module.config._attn_implementation
    if logit_bias is not None and implementation != "eager":
        implementation = "sdpa"
    interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    output, weights = interface(
        module,
        query,
        key,
        value,
        attention_mask=logit_bias,
        scaling=query.shape[-1] ** -0.5,
        dropout=dropout if module.training else 0.0,
        is_causal=False,
        **kwargs,
    )
    return output.flatten(2), weights


class EfficientTamLayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a (B, C, H, W) map.

    Written out as the published code does it: the same last bits, and no slower than `F.layer_norm` on a permuted map.
    Last bits matter because memories are rounded to bfloat16, where one bit can tip a value.
    """

    def forward(self, features: Tensor) -> Tensor:
        values = features.float()
        centred = values - values.mean(1, keepdim=True)
        values = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return (self.weight[:, None, None] * values + self.bias[:, None, None]).to(features.dtype)


class EfficientTamFeedForward(nn.Module):
    """A perceptron of `num_layers` linear layers with an activation between them."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int,
        activation: str = "relu",
        sigmoid_output: bool = False,
    ):
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1) + [output_size]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.activation = ACT2FN[activation]
        self.sigmoid_output = sigmoid_output

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            hidden_states = self.activation(layer(hidden_states))
        hidden_states = self.layers[-1](hidden_states)
        return torch.sigmoid(hidden_states) if self.sigmoid_output else hidden_states


def sine_position_encoding(
    size: tuple[int, int], channels: int, temperature: float, device: torch.device
) -> Tensor:
    """The two-dimensional sine encoding of a feature map, positions normalised to (0, 2π]: (channels, H, W), float32.

    The first half of the channels encodes the row, the second the column; sines and cosines alternate.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    frequencies = temperature**exponent
    axes = []
    for length in size:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angles = (position / (length + 1e-6) * 2 * math.pi)[:, None] / frequencies
        axes.append(torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1))
    rows, columns = axes
    height, width = size
    encoding = torch.cat([rows[:, None].expand(height, width, half), columns[None].expand(height, width, half)], dim=-1)
    return encoding.permute(2, 0, 1)


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
    if pad_width:
        features = torch.cat([features, padding.expand(batch_size, height, pad_width, channels)], dim=2)
    if pad_height:
        features = torch.cat([features, padding.expand(batch_size, pad_height, width + pad_width, channels)], dim=1)
    rows, columns = (height + pad_height) // window_size, (width + pad_width) // window_size
    windows = features.view(batch_size, rows, window_size, columns, window_size, channels)
    return windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, channels)


def merge_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `partition_windows`: (B * windows, w, w, C) to (B, *size, C), padding cut off."""
    height, width = size
    window_size, channels = windows.shape[1], windows.shape[-1]
    rows, columns = -(-height // window_size), -(-width // window_size)
    features = windows.view(-1, rows, columns, window_size, window_size, channels).permute(0, 1, 3, 2, 4, 5)
    return features.reshape(-1, rows * window_size, columns * window_size, channels)[:, :height, :width]


class EfficientTamVisionAttention(nn.Module):
    """Self-attention of a ViT block, over the whole map or inside windows."""

    def __init__(self, config: EfficientTamVisionConfig, window_size: int):
        super().__init__()
        self.config = config
        self.window_size = window_size
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

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
        resized = F.interpolate(
            embeddings.permute(0, 3, 1, 2).float(), size=size, mode="bicubic", align_corners=False
        )
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
        features = self.layer_norm1(self.conv1(hidden_states.permute(0, 3, 1, 2)))
        return self.layer_norm2(self.conv2(features))


class EfficientTamPositionalEmbedding(nn.Module):
    """Random Fourier features of points in the unit square (SAM)."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        self.scale = config.scale
        self.positional_embedding = nn.Buffer(self.scale * torch.randn(2, config.hidden_size // 2))

    def forward(self, coordinates: Tensor) -> Tensor:
        """(..., 2) points (x, y) in [0, 1] to (..., hidden_size), in float32 whatever the model's dtype."""
        coordinates = 2 * coordinates.float() - 1
        angles = 2 * math.pi * (coordinates @ self.positional_embedding.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: tuple[int, int]) -> Tensor:
        """Encoding of the cell centres of a map: (1, hidden_size, H, W)."""
        height, width = size
        device = self.positional_embedding.device
        rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        centres = torch.stack([columns[None].expand(height, width), rows[:, None].expand(height, width)], dim=-1)
        return self(centres).permute(2, 0, 1).unsqueeze(0)


# ------------------------------------------------------------------------------------------------- prompt encoder


class EfficientTamMaskEmbedding(nn.Module):
    """A mask prompt at four times the feature map's size to dense embeddings."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        inner, outer, eps = config.mask_input_channels // 4, config.mask_input_channels, config.layer_norm_eps
        self.conv1 = nn.Conv2d(1, inner, kernel_size=2, stride=2)
        self.layer_norm1 = EfficientTamLayerNorm2d(inner, eps=eps)
        self.conv2 = nn.Conv2d(inner, outer, kernel_size=2, stride=2)
        self.layer_norm2 = EfficientTamLayerNorm2d(outer, eps=eps)
        self.conv3 = nn.Conv2d(outer, config.hidden_size, kernel_size=1)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, masks: Tensor) -> Tensor:
        """(B, 1, 4H, 4W) logits to (B, hidden_size, H, W)."""
        hidden_states = self.activation(self.layer_norm1(self.conv1(masks)))
        return self.conv3(self.activation(self.layer_norm2(self.conv2(hidden_states))))


class EfficientTamPromptEncoder(nn.Module):
    """Points and boxes to sparse embeddings (tokens), a mask to a dense embedding (a map)."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        self.config = config
        self.shared_embedding = EfficientTamPositionalEmbedding(config)
        self.mask_embed = EfficientTamMaskEmbedding(config)
        self.no_mask_embed = nn.Embedding(1, config.hidden_size)
        self.point_embed = nn.Embedding(config.num_point_embeddings, config.hidden_size)
        self.not_a_point_embed = nn.Embedding(1, config.hidden_size)

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        """(H, W) of the feature map."""
        return self.config.feature_size

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """(4H, 4W), the size of a mask prompt."""
        return self.config.mask_input_size

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """(B, P, K, 2) pixels and (B, P, K) labels to (B, P, K + 1, C): a padding token closes the list.

        Labels: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 no point, -10 padding of a ragged batch.
        """
        points = F.pad(points, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=-1).unsqueeze(-1)
        height, width = size_pair(self.config.image_size)
        size = torch.tensor([width, height], device=points.device, dtype=torch.float32)
        # Points name pixels; half a pixel further is their centre.
        positions = self.shared_embedding((points.float() + 0.5) / size)
        kinds = self.point_embed(labels.squeeze(-1).long().clamp(min=0))
        nothing = self.not_a_point_embed.weight.expand_as(kinds)
        embeddings = torch.where(labels >= 0, positions.to(kinds.dtype) + kinds, torch.zeros_like(kinds))
        return torch.where(labels == -1, nothing, embeddings)

    def forward(
        self,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_boxes: Tensor | None,
        input_masks: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """
        Args:
            input_points: (B, P, K, 2), input_labels: (B, P, K); pixels of the model's input, labels as `embed_points`.
            input_boxes: (B, P, 4) as x0, y0, x1, y1; each becomes two corner points ahead of the others.
            input_masks: (B, 1, 4H, 4W) logits.

        Returns:
            Sparse embeddings (B, P, tokens, C) or `None`, and dense embeddings (B or 1, C, H, W).
        """
        if input_boxes is not None:
            corners = input_boxes.view(*input_boxes.shape[:2], 2, 2)
            corner_labels = torch.tensor([2, 3], device=corners.device).expand(*corners.shape[:2], 2)
            if input_points is None:
                input_points, input_labels = corners, corner_labels
            else:
                input_points = torch.cat([corners.to(input_points.dtype), input_points], dim=2)
                input_labels = torch.cat([corner_labels.to(input_labels.dtype), input_labels], dim=2)
        sparse = None if input_points is None else self.embed_points(input_points, input_labels)
        if input_masks is not None:
            dense = self.mask_embed(input_masks.to(self.mask_embed.conv1.weight.dtype))
        else:
            dense = self.no_mask_embed.weight.view(1, -1, 1, 1).expand(-1, -1, *self.image_embedding_size)
        return sparse, dense


# --------------------------------------------------------------------------------------------------- mask decoder


class EfficientTamAttention(nn.Module):
    """Attention of the mask decoder, its width reduced by `downsample_rate` inside."""

    def __init__(self, config: EfficientTamMaskDecoderConfig, downsample_rate: int | None = None):
        super().__init__()
        rate = config.attention_downsample_rate if downsample_rate is None else downsample_rate
        inner = config.hidden_size // rate
        self.config = config
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, inner)
        self.k_proj = nn.Linear(config.hidden_size, inner)
        self.v_proj = nn.Linear(config.hidden_size, inner)
        self.o_proj = nn.Linear(inner, config.hidden_size)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_similarity: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, queries, C), (B, keys, C), (B, keys, C) to (B, queries, C), and weights where available."""
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        output, weights = attend(self, query, key, value, logit_bias=attention_similarity)
        return self.o_proj(output), weights


class EfficientTamTwoWayAttentionBlock(GradientCheckpointingLayer):
    """Tokens attend to themselves, to the image, and the image to the tokens."""

    def __init__(self, config: EfficientTamMaskDecoderConfig, skip_first_layer_pe: bool):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = EfficientTamAttention(config, downsample_rate=1)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_token_to_image = EfficientTamAttention(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = EfficientTamFeedForward(width, config.mlp_dim, width, 2)
        self.layer_norm3 = nn.LayerNorm(width, eps=eps)
        self.layer_norm4 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_image_to_token = EfficientTamAttention(config)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_positions: Tensor,
        image_positions: Tensor,
        attention_similarity: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C) tokens and (B, N, C) image features, each updated."""
        if self.skip_first_layer_pe:
            tokens, _ = self.self_attn(tokens, tokens, tokens)
        else:
            query = tokens + token_positions
            tokens = tokens + self.self_attn(query, query, tokens)[0]
        tokens = self.layer_norm1(tokens)

        attended, _ = self.cross_attn_token_to_image(
            tokens + token_positions, image + image_positions, image, attention_similarity
        )
        tokens = self.layer_norm2(tokens + attended)
        tokens = self.layer_norm3(tokens + self.mlp(tokens))

        attended, _ = self.cross_attn_image_to_token(image + image_positions, tokens + token_positions, tokens)
        return tokens, self.layer_norm4(image + attended)


class EfficientTamTwoWayTransformer(nn.Module):
    """The two-way blocks and a last attention from tokens to image."""

    def __init__(self, config: EfficientTamMaskDecoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            EfficientTamTwoWayAttentionBlock(config, skip_first_layer_pe=i == 0)
            for i in range(config.num_hidden_layers)
        )
        self.final_attn_token_to_image = EfficientTamAttention(config)
        self.layer_norm_final_attn = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        prompt_tokens: Tensor,
        image: Tensor,
        image_positions: Tensor,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C) tokens, (B, N, C) image features and positions; returns both updated."""
        tokens = prompt_tokens
        for layer in self.layers:
            if target_embedding is not None:
                tokens = tokens + target_embedding
            tokens, image = layer(tokens, image, prompt_tokens, image_positions, attention_similarity)
        attended, _ = self.final_attn_token_to_image(tokens + prompt_tokens, image + image_positions, image)
        return self.layer_norm_final_attn(tokens + attended), image


class EfficientTamMaskDecoder(nn.Module):
    """Image features and prompt embeddings to masks, their predicted IoU, and whether the object is there."""

    def __init__(self, config: EfficientTamMaskDecoderConfig):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.num_mask_tokens = config.num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.transformer = EfficientTamTwoWayTransformer(config)
        self.upscale_conv1 = nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2)
        self.upscale_layer_norm = EfficientTamLayerNorm2d(width // 4, eps=config.upscale_layer_norm_eps)
        self.upscale_conv2 = nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2)
        self.activation = ACT2FN[config.hidden_act]
        self.output_hypernetworks_mlps = nn.ModuleList(
            EfficientTamFeedForward(width, width, width // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = EfficientTamFeedForward(
            width, config.iou_head_hidden_dim, self.num_mask_tokens, config.iou_head_depth, sigmoid_output=True
        )
        self.pred_obj_score_head = EfficientTamFeedForward(width, width, 1, 3)

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            image_embeddings: (B, C, H, W), image_positional_embeddings: (1, C, H, W).
            sparse_prompt_embeddings: (B, P, tokens, C) or `None`, dense_prompt_embeddings: (B or 1, C, H, W).
            multimask_output: whether to return the multimask outputs or one mask.

        Returns:
            Mask logits (B, P, M, 4H, 4W), predicted IoU (B, P, M), the masks' output tokens (B, P, M, C), and object
            score logits (B, P, 1), with M = `num_multimask_outputs` or 1.
        """
        batch_size, width, height, columns = image_embeddings.shape
        num_prompts = 1 if sparse_prompt_embeddings is None else sparse_prompt_embeddings.shape[1]
        learned = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = learned.expand(batch_size, num_prompts, -1, -1)
        if sparse_prompt_embeddings is not None:
            tokens = torch.cat([tokens, sparse_prompt_embeddings.to(learned.dtype)], dim=2)
        tokens = tokens.flatten(0, 1)

        # Each prompt of an image sees the same features: (B, C, H, W) -> (B * P, N, C).
        image = (image_embeddings + dense_prompt_embeddings).flatten(2).transpose(1, 2)
        if num_prompts > 1:
            image = image.repeat_interleave(num_prompts, dim=0)
        positions = image_positional_embeddings.to(image.dtype).flatten(2).transpose(1, 2)
        if target_embedding is not None:
            target_embedding = target_embedding.reshape(-1, 1, width)
        tokens, image = self.transformer(tokens, image, positions, attention_similarity, target_embedding)

        object_scores = self.pred_obj_score_head(tokens[:, 0])
        iou_scores = self.iou_prediction_head(tokens[:, 1])
        mask_tokens = tokens[:, 2 : 2 + self.num_mask_tokens]
        features = image.transpose(1, 2).reshape(-1, width, height, columns)
        features = self.activation(self.upscale_layer_norm(self.upscale_conv1(features)))
        features = self.activation(self.upscale_conv2(features))
        weights = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (weights @ features.flatten(2)).unflatten(2, features.shape[-2:])

        if multimask_output:
            masks, iou_scores, mask_tokens = masks[:, 1:], iou_scores[:, 1:], mask_tokens[:, 1:]
        else:
            # The token that becomes the object pointer is always that of the single mask.
            mask_tokens = mask_tokens[:, :1]
            if self.config.dynamic_multimask_via_stability and not self.training:
                masks, iou_scores = self._most_stable(masks, iou_scores)
            else:
                masks, iou_scores = masks[:, :1], iou_scores[:, :1]
        batched = (batch_size, num_prompts)
        return tuple(x.unflatten(0, batched) for x in (masks, iou_scores, mask_tokens, object_scores))

    def _most_stable(self, masks: Tensor, iou_scores: Tensor) -> tuple[Tensor, Tensor]:
        """The single mask where it is stable, else the best of the others: (B, 1 + M, h, w) to (B, 1, h, w).

        Stability is the IoU of the mask cut a little above and a little below 0.
        """
        single = masks[:, 0].flatten(1)
        delta = self.config.dynamic_multimask_stability_delta
        inner, outer = (single > delta).sum(-1), (single > -delta).sum(-1)
        stability = torch.where(outer > 0, inner / outer, 1.0)
        best = 1 + iou_scores[:, 1:].argmax(-1)
        choice = torch.where(stability >= self.config.dynamic_multimask_stability_thresh, 0, best)
        rows = torch.arange(len(choice), device=choice.device)
        return masks[rows, choice].unsqueeze(1), iou_scores[rows, choice].unsqueeze(1)


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
        super()._init_weights(module)
        if isinstance(module, EfficientTamPatchEmbeddings):
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

"""The image encoder: a plain ViT with windowed and global attention, and ViTDet's simple neck.

It turns pixels into one feature map at the stride of a patch. Most blocks attend within windows, which is cheaper; a
few blocks attend to the whole map. Every image encoder returns an `EfficientTamVisionEncoderOutput`; a model's
`vision_config` selects the encoder (see `VISION_MODELS` in `modeling_efficienttam.py`).

Letters of shapes: B images, N tokens, C channels, (H, W) size of the feature map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_efficienttam import EfficientTamVisionConfig
from .cpu_kernels import EfficientTamLinear
from .modeling_efficienttam_layers import (
    Constants,
    EfficientTamFeedForward,
    EfficientTamLayerNorm2d,
    EfficientTamPreTrainedModel,
    attend,
    sine_position_encoding,
)


__all__ = ["EfficientTamVisionEncoderOutput", "EfficientTamVisionModel"]


@dataclass
class EfficientTamVisionEncoderOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`Tensor` of shape `(batch_size, height, width, hidden_size)`):
        Output of the last ViT block.
    fpn_hidden_states (`tuple(Tensor)`):
        One feature map of shape `(batch_size, fpn_hidden_size, height, width)`, the neck's output.
    fpn_position_encoding (`tuple(Tensor)`):
        The sine position encoding of that feature map, of the same shape.
    hidden_states (`tuple(Tensor)`, *optional*, with `output_hidden_states=True`):
        Input of the first block and output of each block, `(batch_size, height, width, hidden_size)`.
    attentions (`tuple(Tensor)`, *optional*, with `output_attentions=True`):
        Attention weights of each block, `(batch_size * num_windows, num_heads, tokens, tokens)`.
    """

    fpn_hidden_states: tuple[Tensor, ...] | None = None
    fpn_position_encoding: tuple[Tensor, ...] | None = None


def partition_windows(features: Tensor, window_size: int, padding: Tensor) -> Tensor:
    """Cut a map into square windows and pad the last row and column of windows with `padding`.

    Args:
        features: (B, H, W, C).
        window_size: side of a window in tokens.
        padding: (C,), the value of a padding token.

    Returns:
        (B * windows, window_size, window_size, C).
    """
    batch_size, height, width, channels = features.shape
    pad_height, pad_width = -height % window_size, -width % window_size
    rows, columns = (height + pad_height) // window_size, (width + pad_width) // window_size
    if torch.compiler.is_compiling():  # also true while exporting; this form compiles to good code
        padded = torch.cat([features, padding.expand(batch_size, height, pad_width, channels)], dim=2)
        padded = torch.cat([padded, padding.expand(batch_size, pad_height, width + pad_width, channels)], dim=1)
        windows = padded.view(batch_size, rows, window_size, columns, window_size, channels).transpose(2, 3)
    else:  # this copies every value only once
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
    """Slices of an axis for its whole windows and for the partial last one: `((windows, tokens in each), tokens)`."""
    whole, rest = divmod(length, window_size)
    parts = [((slice(0, whole), window_size), slice(0, length - rest))] if whole else []
    return parts + ([((slice(whole, None), rest), slice(length - rest, None))] if rest else [])


def merge_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `partition_windows`: join (B * windows, w, w, C) to (B, *size, C) without the padding."""
    height, width = size
    window_size, channels = windows.shape[1], windows.shape[-1]
    rows, columns = -(-height // window_size), -(-width // window_size)
    features = windows.view(-1, rows, columns, window_size, window_size, channels).permute(0, 1, 3, 2, 4, 5)
    features = features.reshape(-1, rows * window_size, columns * window_size, channels)[:, :height, :width]
    return features.contiguous()  # otherwise a linear layer in bfloat16 multiplies row by row


class EfficientTamVisionAttention(nn.Module):
    """Self-attention of a ViT block, over the whole map or within windows."""

    def __init__(self, config: EfficientTamVisionConfig, window_size: int):
        super().__init__()
        self.config = config
        self.window_size = window_size
        self.num_heads = config.num_attention_heads
        self.qkv = EfficientTamLinear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = EfficientTamLinear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return updated (B, H, W, C) tokens, and attention weights if the implementation returns them."""
        size = hidden_states.shape[1:3]
        qkv = self.qkv(hidden_states)
        if self.window_size:
            # The published model pads with zeros before projecting. The projection of a zero is the bias, so padding
            # afterwards with the bias is the same, and padding (20 % of the tokens at 1024 pixels) is not projected.
            padding = qkv.new_zeros(qkv.shape[-1]) if self.qkv.bias is None else self.qkv.bias.to(qkv.dtype)
            qkv = partition_windows(qkv, self.window_size, padding)
        batch_size, height, width, _ = qkv.shape
        qkv = qkv.view(batch_size, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        output, weights = attend(self, query, key, value, **kwargs)
        output = output.view(batch_size, height, width, -1)
        if self.window_size:
            output = merge_windows(output, (size[0], size[1]))
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
    """Turns patches into tokens and adds learned position embeddings, which are resized to the feature map."""

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
        """The position embeddings, resized to a feature map of `size`: (1, H, W, C)."""
        embeddings = self.position_embeddings[:, int(self.config.has_class_position) :]
        grid = math.isqrt(embeddings.shape[1])
        embeddings = embeddings.view(1, grid, grid, -1)
        if size == (grid, grid):
            return embeddings
        resized = F.interpolate(embeddings.permute(0, 3, 1, 2).float(), size=size, mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).to(embeddings.dtype)

    def forward(self, pixel_values: Tensor, position_embeddings: Tensor | None = None) -> Tensor:
        """Embed (B, 3, height, width) pixels as (B, H, W, C). Given `position_embeddings` are not resized again."""
        height, width = pixel_values.shape[-2:]
        patch = self.config.patch_size
        if pixel_values.shape[1] != self.config.num_channels or height % patch or width % patch:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} do not fit: expected (batch, "
                f"{self.config.num_channels}, height, width) with height and width multiples of {patch}. Use the "
                "processor to prepare images."
            )
        tokens = self.projection(pixel_values.to(self.projection.weight.dtype)).permute(0, 2, 3, 1)
        # The tensor is also stored in this order, because otherwise every normalisation in the blocks would reorder it.
        tokens = tokens.contiguous()
        if position_embeddings is None:
            position_embeddings = self.positions((tokens.shape[1], tokens.shape[2]))
        return tokens + position_embeddings


class EfficientTamVisionNeck(nn.Module):
    """ViTDet's simple neck: a 1x1 and a 3x3 convolution, each followed by a layer normalisation."""

    def __init__(self, input_size: int, width: int, eps: float):
        super().__init__()
        self.conv1 = nn.Conv2d(input_size, width, kernel_size=1, bias=False)
        self.layer_norm1 = EfficientTamLayerNorm2d(width, eps=eps)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.layer_norm2 = EfficientTamLayerNorm2d(width, eps=eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Turn (B, H, W, C) tokens into a (B, width, H, W) feature map."""
        # The map is also stored with channels first, as published. Kernels for another order give other last bits, and
        # one bit can change how a memory is rounded to bfloat16. It costs 0.3 % of a frame.
        features = self.layer_norm1(self.conv1(hidden_states.permute(0, 3, 1, 2).contiguous()))
        return self.layer_norm2(self.conv2(features))


def vision_output(encoder: Any, feature_map: Tensor, **others: Any) -> EfficientTamVisionEncoderOutput:
    """Apply the neck to the last feature map of an image encoder and return the encoder's output.

    Args:
        encoder: the image encoder, which has `neck`, `constants` and `config`.
        feature_map: (B, H, W, C), the encoder's last feature map.
        others: further fields of the output.
    """
    features = encoder.neck(feature_map)
    positions = encoder.constants.of(
        sine_position_encoding,
        tuple(features.shape[-2:]),
        features.shape[1],
        encoder.config.position_temperature,
        features.device,
    )
    return EfficientTamVisionEncoderOutput(
        last_hidden_state=feature_map,
        fpn_hidden_states=(features,),
        fpn_position_encoding=(positions.to(features.dtype).expand_as(features),),
        **others,
    )


class EfficientTamVisionModel(EfficientTamPreTrainedModel):
    """The image encoder: ViT and neck."""

    config: EfficientTamVisionConfig  # type: ignore[assignment]  # a part's, not the whole model's
    config_class = EfficientTamVisionConfig
    _can_record_outputs = {
        "hidden_states": EfficientTamVisionLayer,
        "attentions": OutputRecorder(EfficientTamVisionAttention, index=1),
    }

    def __init__(self, config: EfficientTamVisionConfig):
        super().__init__(config)
        self.patch_embed = EfficientTamPatchEmbeddings(config)
        self.layers = nn.ModuleList(EfficientTamVisionLayer(config, i) for i in range(config.num_hidden_layers))
        self.neck = EfficientTamVisionNeck(config.hidden_size, config.fpn_hidden_size, config.layer_norm_eps)
        self.constants = Constants()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EfficientTamPatchEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        """The patch embeddings."""
        return self.patch_embed

    @torch.no_grad()
    def resized_position_embeddings(self) -> Tensor:
        """The (1, H, W, C) position embeddings at the configured input size, for graphs in which they are constant."""
        return self.patch_embed.positions(self.config.feature_size)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, pixel_values: Tensor | None = None, position_embeddings: Tensor | None = None, **kwargs: Any
    ) -> EfficientTamVisionEncoderOutput:
        """Encode (B, 3, height, width) pixels; see `EfficientTamVisionEncoderOutput`.

        Args:
            pixel_values: (B, 3, height, width) pixels from the processor.
            position_embeddings: the output of `resized_position_embeddings`; with it, they are not resized again.

        Raises:
            ValueError: if no pixels are given, or their size is not a multiple of the stride.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        hidden_states = self.patch_embed(pixel_values, position_embeddings)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return vision_output(self, hidden_states)

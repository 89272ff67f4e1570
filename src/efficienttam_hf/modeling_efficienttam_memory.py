"""The parts that tracking adds to the image model: memory attention and the memory encoder.

In memory attention, a frame attends to the memories of an object: spatial memories (feature maps of earlier frames,
fused with their masks) and object pointers (one vector each). This file has the paper's contribution: spatial memories
are smooth, so that averages over small squares can replace their tokens at a quarter of the cost (section 3.2). The
memory encoder computes a spatial memory from a frame's features and its mask.

Letters of shapes: B objects, M memories, N = H * W tokens and C channels of a feature map, c channels of a memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_efficienttam import EfficientTamMemoryAttentionConfig, EfficientTamMemoryEncoderConfig
from .cpu_kernels import (
    EfficientTamLinear,
    attend_before_projecting,
    by_tokens,
    objects_at_a_time,
    split_memories,
)
from .modeling_efficienttam_layers import Constants, EfficientTamLayerNorm2d, attend, sine_position_encoding


Size = tuple[int, int]

# ------------------------------------------------------------------------------------------------ memory attention


def rotary_table(size: tuple[int, int], channels: int, theta: float, device: torch.device) -> Tensor:
    """The rotations of the axial rotary encoding: (N, channels / 2) complex numbers of absolute value 1, complex64.

    The first half of the channel pairs is rotated by the column, the second half by the row. Compilers and exporters do
    not support complex numbers everywhere; for them the table has cosines and sines, (N, channels / 2, 2).
    """
    height, width = size
    exponents = torch.arange(0, channels, 4, device=device)[: channels // 4].float() / channels
    frequencies = 1.0 / theta**exponents
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None] * frequencies
    columns = torch.arange(width, device=device, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat(
        [columns[None].expand(height, width, -1), rows[:, None].expand(height, width, -1)], dim=-1
    ).flatten(0, 1)
    if torch.compiler.is_compiling():
        return torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(tokens: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels of (..., N, C) tokens by the table's angles, in float32."""
    if table.is_complex():  # this takes a fifth of the time of the other way
        pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2).to(tokens.dtype)
    # The axes before N are merged to one: with pairs of channels there would be six axes, and Core ML supports five.
    (even, odd), (cosines, sines) = tokens.flatten(0, -3).float().unflatten(-1, (-1, 2)).unbind(-1), table.unbind(-1)
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)
    return turned.flatten(-2).view_as(tokens).to(tokens.dtype)


def pool_squares(tokens: Tensor, size: tuple[int, int], pool_size: int) -> Tensor:
    """Average (..., N, C) tokens of a map over squares: (..., N / pool_size², C). Squares at an edge may be smaller."""
    height, width = size
    maps = tokens.reshape(-1, height, width, tokens.shape[-1]).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps, pool_size, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2).reshape(*tokens.shape[:-2], -1, tokens.shape[-1])


def pool_sequence(tokens: Tensor, pool_size: int) -> Tensor:
    """Average (..., T, C) tokens over runs of `pool_size` tokens."""
    pooled = F.avg_pool1d(tokens.flatten(0, -3).transpose(1, 2), pool_size, ceil_mode=True, count_include_pad=False)
    return pooled.transpose(1, 2).unflatten(0, tokens.shape[:-2])


def to_windows(tokens: Tensor, size: tuple[int, int], window_size: int) -> Tensor:
    """Cut (B, heads, ..., N, C) tokens of a map into windows: (B, windows, heads, ..., window_size², C)."""
    height, width = size
    rows, columns = height // window_size, width // window_size
    tiles = tokens.unflatten(-2, (rows, window_size, columns, window_size))
    tiles = tiles.movedim(-3, -4).flatten(-3, -2).flatten(-4, -3)  # (B, heads, ..., windows, window_size², C)
    return tiles.movedim(-3, 1)


def from_windows(tokens: Tensor, size: tuple[int, int], window_size: int) -> Tensor:
    """Join the tokens of windows, (B, windows, window_size², C), to those of the map, (B, N, C)."""
    height, width = size
    rows, columns = height // window_size, width // window_size
    tiles = tokens.unflatten(2, (window_size, window_size)).unflatten(1, (rows, columns))
    return tiles.movedim(3, 2).flatten(1, 4)


def pools(config: EfficientTamMemoryAttentionConfig, num_memories: int) -> bool:
    """Whether averages over squares replace the tokens of spatial memories. A single memory is not pooled."""
    return config.cross_attention.startswith("pooled") and num_memories > 1


def project(
    projection: nn.Module, memory: Tensor, pointers: Tensor, finish: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Project spatial memories and object pointers with the same layer.

    Args:
        projection: a layer from c to C channels.
        memory: (B, M, N, c) spatial memories.
        pointers: (B, T, c) object pointers.
        finish: a function that is applied to the projected memories; it must treat each memory independently.

    Returns:
        The outputs of `finish` as a list of one or several consecutive parts, and the projected pointers (B, T, C).
    """
    parts = split_memories(memory)
    if parts is not None:
        return [finish(projection(part)) for part in parts], projection(pointers)
    # One matrix product serves both, because quantised layers of exported graphs fail on an empty tensor of pointers.
    num_tokens = memory.shape[1] * memory.shape[2]
    projected = projection(torch.cat([memory.flatten(1, 2), pointers], dim=1))
    return [finish(projected[:, :num_tokens].unflatten(1, memory.shape[1:3]))], projected[:, num_tokens:]


class EfficientTamRoPEAttention(nn.Module):
    """Self-attention of the frame's tokens, with the axial rotary encoding."""

    def __init__(self, config: EfficientTamMemoryAttentionConfig, key_size: int | None = None):
        super().__init__()
        width, key_size = config.hidden_size, key_size or config.hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.q_proj = EfficientTamLinear(width, width)
        self.k_proj = EfficientTamLinear(key_size, width)
        self.v_proj = EfficientTamLinear(key_size, width)
        self.o_proj = EfficientTamLinear(width, width)

    def heads(self, tokens: Tensor) -> Tensor:
        """Split (B, ..., N, C) into heads: (B, heads, ..., N, C / heads)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).movedim(-2, 1)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        """Attend among (B, N, C) tokens and return the same shape."""
        query = rotate(self.heads(self.q_proj(tokens)), table)
        key = rotate(self.heads(self.k_proj(tokens)), table)
        value = self.heads(self.v_proj(tokens))
        output, _ = attend(self, query, key, value, dropout=self.config.attention_dropout)
        return self.o_proj(output)


class EfficientTamMemoryCrossAttention(EfficientTamRoPEAttention):
    """Attention from the frame's tokens to spatial memories and object pointers (paper, section 3.2).

    Keys of a spatial memory are rotated like the frame's tokens, so that equal positions match; object pointers have no
    position. Averages over small squares can replace the tokens of a spatial memory; `config.cross_attention` says
    whether and how. If log n is added to its logit, an average of n tokens has the weight of n tokens;
    `pooled_key_shift` adds this constant to the key instead.
    """

    def __init__(self, config: EfficientTamMemoryAttentionConfig):
        super().__init__(config, key_size=config.memory_size)
        self.bias = 2 * math.log(config.pool_size)

    def forward(  # type: ignore[override]  # it attends to something else than its own tokens
        self, tokens: Tensor, memory_keys: Tensor, memory: Tensor, pointers: Tensor, table: Tensor, size: Size
    ) -> Tensor:
        """
        Args:
            tokens: (B, N, C) tokens of the frame, or (1, N, C) if they are the same for all objects.
            memory_keys: (B, M, N, c) spatial memories plus their position encodings, of which keys are made.
            memory: (B, M, N, c) spatial memories, of which values are made; if `pools`, their averages over squares.
            pointers: (B, T, c) object pointers, each cut into tokens of c channels.
            size: (H, W) of the feature map.
            table: the output of `rotary_table` for `size`.

        Returns:
            (B, N, C).
        """
        config = self.config
        query = rotate(self.heads(self.q_proj(tokens)), table).expand(memory.shape[0], -1, -1, -1)
        if config.cross_attention == "windowed":
            return self._windowed(query, memory_keys, memory, pointers, table, size)
        pooled = pools(config, memory.shape[1])

        def finish_keys(keys: Tensor) -> Tensor:
            """Turn (B, some memories, N, C) into keys (B, heads, tokens, C / heads)."""
            keys = rotate(self.heads(keys), table)
            if pooled:
                keys = pool_squares(keys, size, config.pool_size)
                if config.cross_attention == "pooled_key_shift":
                    keys = keys + self.bias
            return keys.flatten(2, 3)

        keys, pointer_key = project(self.k_proj, memory_keys, pointers, finish_keys)
        pointer_key = self.heads(pointer_key)
        logit_bias = None
        if pooled:
            num_pooled = memory.shape[1] * memory.shape[2]
            if config.pooling_scope == "all" and pointers.shape[1]:
                pointer_key, pointers = (pool_sequence(x, config.pool_size**2) for x in (pointer_key, pointers))
                num_pooled += pointers.shape[1]
            if config.cross_attention == "pooled_logit_bias":
                logit_bias = query.new_zeros(1, 1, 1, memory.shape[1] * memory.shape[2] + pointers.shape[1])
                logit_bias[..., :num_pooled] = self.bias
            elif config.pooling_scope == "all":
                pointer_key = pointer_key + self.bias
        key = torch.cat([*keys, pointer_key], dim=2)
        value = torch.cat([memory.flatten(1, 2), pointers], dim=1)
        return self.o_proj(self._attend(query, key, value, logit_bias))

    def _attend(self, query: Tensor, key: Tensor, tokens: Tensor, logit_bias: Tensor | None) -> Tensor:
        """Attend to (B, keys, c) tokens, of which `v_proj` makes the values; return (B, N, C)."""
        config = self.config
        if self.num_heads == 1 and config._attn_implementation == "sdpa" and not self.training:
            output = attend_before_projecting(query, key, tokens, self.v_proj, logit_bias)
            if output is not None:
                return output
        value = self.heads(self.v_proj(tokens))
        return attend(self, query, key, value, logit_bias, dropout=config.attention_dropout)[0]

    def _windowed(
        self, query: Tensor, memory_keys: Tensor, memory: Tensor, pointers: Tensor, table: Tensor, size: Size
    ) -> Tensor:
        """Each window of the frame attends to the same window of every memory, and to all pointers."""
        window_size = self.config.window_size

        def finish(tokens: Tensor) -> Tensor:
            """Turn (B, some memories, N, C) into (B, windows, heads, tokens, C / heads)."""
            return to_windows(tokens, size, window_size).flatten(3, 4)

        keys, pointer_key = project(
            self.k_proj, memory_keys, pointers, lambda keys: finish(rotate(self.heads(keys), table))
        )
        values, pointer_value = project(self.v_proj, memory, pointers, lambda values: finish(self.heads(values)))
        query = to_windows(query, size, window_size)  # (B, windows, heads, w², C / heads)
        batch_size, windows = query.shape[:2]
        key, value = (
            torch.cat([*parts, self.heads(of_pointers)[:, None].expand(-1, windows, -1, -1, -1)], dim=3).flatten(0, 1)
            for parts, of_pointers in ((keys, pointer_key), (values, pointer_value))
        )
        output, _ = attend(self, query.flatten(0, 1), key, value, dropout=self.config.attention_dropout)
        return self.o_proj(from_windows(output.unflatten(0, (batch_size, windows)), size, window_size))


class EfficientTamMemoryAttentionLayer(GradientCheckpointingLayer):
    """Self-attention, attention to memory, and an MLP, each after a layer normalisation."""

    def __init__(self, config: EfficientTamMemoryAttentionConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = EfficientTamRoPEAttention(config)
        self.cross_attn_image = EfficientTamMemoryCrossAttention(config)
        self.linear1 = EfficientTamLinear(width, config.feed_forward_hidden_size)
        self.linear2 = EfficientTamLinear(config.feed_forward_hidden_size, width)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.layer_norm3 = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACT2FN[config.feed_forward_hidden_act]
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True  # saves RAM: the hidden layer is the largest tensor here

    def forward(self, tokens: Tensor, *memories: Tensor, table: Tensor, size: Size) -> Tensor:
        """Update (B or 1, N, C) tokens to (B, N, C).

        Args:
            tokens: the frame's tokens; (1, N, C) if they are the same for all objects.
            memories: `memory_keys`, `memory` and `pointers` of `EfficientTamMemoryCrossAttention`, as are the others.
        """
        return self.attend_to_memories(self.attend_to_frame(tokens, table), *memories, table=table, size=size)

    def attend_to_frame(self, tokens: Tensor, table: Tensor) -> Tensor:
        """The first part, which needs no memories: self-attention, (B or 1, N, C) to the same."""
        return tokens + self.dropout(self.self_attn(self.layer_norm1(tokens), table))

    def attend_to_memories(self, tokens: Tensor, *memories: Tensor, table: Tensor, size: Size) -> Tensor:
        """The second part: attention to memories and the MLP; the arguments are those of `forward`."""
        attended = self.cross_attn_image(self.layer_norm2(tokens), *memories, table, size)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(by_tokens(self._mlp, self.layer_norm3(tokens)))

    def _mlp(self, tokens: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(tokens))))


class EfficientTamMemoryAttention(nn.Module):
    """Conditions the frame's features on memories."""

    def __init__(self, config: EfficientTamMemoryAttentionConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(EfficientTamMemoryAttentionLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.constants = Constants()

    def forward(self, features: Tensor, memory: Tensor, temporal_encoding: Tensor, object_pointers: Tensor) -> Tensor:
        """
        Args:
            features: (B, C, H, W) features of the frame. With (1, C, H, W), all objects have the same features, and the
                first self-attention, which precedes the memories, is computed once.
            memory: (B, M, N, c) spatial memories.
            temporal_encoding: (B, M, 1, c) temporal encoding of each memory.
            object_pointers: (B, K, C) object pointers.

        Returns:
            (B, C, H, W) features.
        """
        config, constants = self.config, self.constants
        size: Size = (features.shape[-2], features.shape[-1])
        temperature, device = config.position_temperature, features.device
        positions = constants.of(sine_position_encoding, size, features.shape[1], temperature, device)
        tokens = features + config.input_position_scale * positions.to(features.dtype)
        tokens = tokens.flatten(2).transpose(1, 2).contiguous()

        places = constants.of(sine_position_encoding, size, memory.shape[-1], temperature, device)
        places = places.flatten(1).t().to(memory.dtype)
        # All layers make their keys and values of these.
        memory_keys = memory + (places + temporal_encoding)
        if pools(config, memory.shape[1]):
            memory = pool_squares(memory, size, config.pool_size)
        # An object pointer of C channels becomes C / c tokens with the width of a memory.
        pointers = object_pointers.unflatten(-1, (-1, config.memory_size)).flatten(1, 2)

        width = config.hidden_size // config.num_attention_heads
        table = constants.of(rotary_table, size, width, config.rope_theta, device)
        memories = (memory_keys, memory, pointers)
        where: dict[str, Any] = {"table": table, "size": size}
        at_a_time = objects_at_a_time(memory.shape[0], tokens.shape[1])
        if at_a_time >= memory.shape[0]:
            for layer in self.layers:
                tokens = layer(tokens, *memories, **where)
            return self._as_map(tokens, size)
        # Only its first part does not depend on the object, so that it is computed before the objects are divided.
        first: Any = self.layers[0]
        tokens = first.attend_to_frame(tokens, table)
        maps = []
        for begin in range(0, memory.shape[0], at_a_time):
            objects = slice(begin, begin + at_a_time)
            some = [x[objects] for x in memories]
            updated = first.attend_to_memories(tokens[objects] if tokens.shape[0] > 1 else tokens, *some, **where)
            for layer in self.layers[1:]:
                updated = layer(updated, *some, **where)
            maps.append(self._as_map(updated, size))
        return torch.cat(maps)

    def _as_map(self, tokens: Tensor, size: Size) -> Tensor:
        """Normalise (B, N, C) tokens and return them as (B, C, H, W) features."""
        return self.layer_norm(tokens).transpose(1, 2).unflatten(2, size)


# -------------------------------------------------------------------------------------------------- memory encoder


class EfficientTamMaskDownSampler(nn.Module):
    """Turns a mask at the model's input size into a feature map, by convolutions that halve it and widen it."""

    def __init__(self, config: EfficientTamMemoryEncoderConfig):
        super().__init__()
        stride = config.mask_downsampler_stride
        channels = [stride ** (2 * i) for i in range(config.num_mask_downsampler_layers + 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, config.mask_downsampler_kernel_size, stride, config.mask_downsampler_padding)
            for a, b in zip(channels, channels[1:], strict=False)
        )
        self.layer_norms = nn.ModuleList(EfficientTamLayerNorm2d(c, eps=config.layer_norm_eps) for c in channels[1:])
        self.activation = ACT2FN[config.mask_downsampler_hidden_act]
        self.final_conv = nn.Conv2d(channels[-1], config.hidden_size, kernel_size=1)

    def forward(self, masks: Tensor) -> Tensor:
        """Convert (B, 1, height, width) masks to (B, C, H, W)."""
        for conv, layer_norm in zip(self.convs, self.layer_norms, strict=True):
            masks = self.activation(layer_norm(conv(masks)))
        return self.final_conv(masks)


class EfficientTamMemoryFuserBlock(GradientCheckpointingLayer):
    """A ConvNeXt block."""

    def __init__(self, config: EfficientTamMemoryEncoderConfig):
        super().__init__()
        width = config.hidden_size
        self.depthwise_conv = nn.Conv2d(
            width, width, config.fuser_kernel_size, padding=config.fuser_padding, groups=width
        )
        self.layer_norm = EfficientTamLayerNorm2d(width, eps=config.layer_norm_eps)
        self.pointwise_conv1 = EfficientTamLinear(width, config.fuser_intermediate_size)
        self.pointwise_conv2 = EfficientTamLinear(config.fuser_intermediate_size, width)
        self.activation = ACT2FN[config.fuser_hidden_act]
        self.initial_scale = config.fuser_layer_scale_init_value
        self.scale = nn.Parameter(self.initial_scale * torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Update (B, C, H, W) features."""
        hidden = self.layer_norm(self.depthwise_conv(features)).permute(0, 2, 3, 1)
        hidden = self.scale * self.pointwise_conv2(self.activation(self.pointwise_conv1(hidden)))
        return features + hidden.permute(0, 3, 1, 2)


class EfficientTamMemoryEncoder(nn.Module):
    """Fuses a frame's features and its mask into a spatial memory."""

    def __init__(self, config: EfficientTamMemoryEncoderConfig):
        super().__init__()
        self.mask_downsampler = EfficientTamMaskDownSampler(config)
        self.feature_projection = nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=1)
        self.fuser = nn.ModuleList(EfficientTamMemoryFuserBlock(config) for _ in range(config.fuser_num_layers))
        self.projection = nn.Conv2d(config.hidden_size, config.output_channels, kernel_size=1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Fuse (B, C, H, W) features and (B, 1, height, width) masks into (B, N, c) memory tokens, row by row."""
        fused = self.feature_projection(features) + self.mask_downsampler(masks)
        for block in self.fuser:
            fused = block(fused)
        return self.projection(fused).flatten(2).transpose(1, 2)

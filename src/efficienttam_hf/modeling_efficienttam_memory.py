"""The parts that tracking adds to the image model: memory attention and the memory encoder.

Memory attention lets a frame look at what is remembered of an object: spatial memories (feature maps of earlier frames,
fused with their masks) and object pointers (one vector each). The paper's contribution is here: spatial memories are
smooth, so their averages over small squares can stand for them at a quarter of the cost (section 3.2). The memory
encoder makes a spatial memory from a frame's features and its mask.

Shapes: B objects, M memories, N = H * W tokens of a feature map, C its channels, c channels of a memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_efficienttam import EfficientTamMemoryAttentionConfig, EfficientTamMemoryEncoderConfig
from .cpu_kernels import EfficientTamLinear, attend_before_projecting, by_tokens, split_memories
from .modeling_efficienttam_layers import Constants, EfficientTamLayerNorm2d, attend, sine_position_encoding


Size = tuple[int, int]

# ------------------------------------------------------------------------------------------------ memory attention


def rotary_table(size: tuple[int, int], channels: int, theta: float, device: torch.device) -> Tensor:
    """The turns of the axial rotary encoding: (N, channels / 2) complex numbers of length 1, complex64.

    The first half of the pairs of channels turns with the column, the second with the row. While compiling or
    exporting, which do not know complex numbers everywhere, (N, channels / 2, 2): cosines and sines.
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
    """Turn neighbouring pairs of channels by the table's angles, in float32: (..., N, C) to the same."""
    if table.is_complex():  # a fifth of the time
        pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2).to(tokens.dtype)
    # What precedes N as one axis: with pairs of channels there would be six, and Core ML has five.
    (even, odd), (cosines, sines) = tokens.flatten(0, -3).float().unflatten(-1, (-1, 2)).unbind(-1), table.unbind(-1)
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)
    return turned.flatten(-2).view_as(tokens).to(tokens.dtype)


def pool_squares(tokens: Tensor, size: tuple[int, int], pool_size: int) -> Tensor:
    """Average (..., N, C) tokens of a map over squares: (..., N / pool_size², C). At an odd edge they are smaller."""
    height, width = size
    maps = tokens.reshape(-1, height, width, tokens.shape[-1]).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps, pool_size, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2).reshape(*tokens.shape[:-2], -1, tokens.shape[-1])


def pool_sequence(tokens: Tensor, pool_size: int) -> Tensor:
    """Average (..., T, C) tokens over runs of `pool_size`."""
    pooled = F.avg_pool1d(tokens.flatten(0, -3).transpose(1, 2), pool_size, ceil_mode=True, count_include_pad=False)
    return pooled.transpose(1, 2).unflatten(0, tokens.shape[:-2])


def to_windows(tokens: Tensor, size: tuple[int, int], window_size: int) -> Tensor:
    """(B, heads, ..., N, C) tokens of a map to (B, windows, heads, ..., window_size², C)."""
    height, width = size
    rows, columns = height // window_size, width // window_size
    tiles = tokens.unflatten(-2, (rows, window_size, columns, window_size))
    tiles = tiles.movedim(-3, -4).flatten(-3, -2).flatten(-4, -3)  # (B, heads, ..., windows, window_size², C)
    return tiles.movedim(-3, 1)


def from_windows(tokens: Tensor, size: tuple[int, int], window_size: int) -> Tensor:
    """(B, windows, window_size², C) to (B, N, C)."""
    height, width = size
    rows, columns = height // window_size, width // window_size
    tiles = tokens.unflatten(2, (window_size, window_size)).unflatten(1, (rows, columns))
    return tiles.movedim(3, 2).flatten(1, 4)


def project(
    projection: nn.Module, memory: Tensor, pointers: Tensor, finish: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Project memories and pointers alike.

    Args:
        projection: from c to C channels, memory: (B, M, N, c), pointers: (B, T, c).
        finish: applied to projected memories, each of which it treats by itself.

    Returns:
        What `finish` gave of all memories, in one part or in several that follow one another; and (B, T, C).
    """
    parts = split_memories(memory)
    if parts is not None:
        return [finish(projection(part)) for part in parts], projection(pointers)
    # One product, for exporters too: what quantises its input fails on no pointers.
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
        """(B, ..., N, C) to (B, heads, ..., N, C / heads)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).movedim(-2, 1)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        """(B, N, C) to the same."""
        query = rotate(self.heads(self.q_proj(tokens)), table)
        key = rotate(self.heads(self.k_proj(tokens)), table)
        value = self.heads(self.v_proj(tokens))
        output, _ = attend(self, query, key, value, dropout=self.config.attention_dropout)
        return self.o_proj(output)


class EfficientTamMemoryCrossAttention(EfficientTamRoPEAttention):
    """Attention from the frame's tokens to spatial memories and object pointers (paper, section 3.2).

    Keys of a memory are rotated as the frame's tokens are, so that equal places meet; pointers have no place. Spatial
    memories are smooth, so averages over small squares can stand for their tokens: `config.cross_attention` says
    whether and how. An average of n tokens counts for n of them when log n is added to its logit; `pooled_key_shift`
    adds that constant to the key instead. A single memory is not pooled.
    """

    def __init__(self, config: EfficientTamMemoryAttentionConfig):
        super().__init__(config, key_size=config.memory_size)
        self.bias = 2 * math.log(config.pool_size)

    def forward(  # type: ignore[override]  # it attends to something else than its own tokens
        self, tokens: Tensor, memory: Tensor, memory_positions: Tensor, pointers: Tensor, table: Tensor, size: Size
    ) -> Tensor:
        """
        Args:
            tokens: (B, N, C), the frame, or (1, N, C) as long as all objects see the same.
            memory: (B, M, N, c), memory_positions: the same shape, added to keys only.
            pointers: (B, T, c), object pointers cut into memory-sized tokens.
            table: of `rotary_table` for `size`, the feature map's (H, W).

        Returns:
            (B, N, C).
        """
        config = self.config
        query = rotate(self.heads(self.q_proj(tokens)), table).expand(memory.shape[0], -1, -1, -1)
        if config.cross_attention == "windowed":
            return self._windowed(query, memory, memory_positions, pointers, table, size)
        pooled = config.cross_attention.startswith("pooled") and memory.shape[1] > 1

        def finish_keys(keys: Tensor) -> Tensor:
            """(B, some memories, N, C) to (B, heads, tokens, C / heads)."""
            keys = rotate(self.heads(keys), table)
            if pooled:
                keys = pool_squares(keys, size, config.pool_size)
                if config.cross_attention == "pooled_key_shift":
                    keys = keys + self.bias
            return keys.flatten(2, 3)

        keys, pointer_key = project(self.k_proj, memory + memory_positions, pointers, finish_keys)
        pointer_key = self.heads(pointer_key)
        logit_bias = None
        if pooled:
            memory = pool_squares(memory, size, config.pool_size)
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
        """Attention to (B, keys, c) tokens, whose values are `v_proj` of them: (B, N, C)."""
        config = self.config
        if self.num_heads == 1 and config._attn_implementation == "sdpa" and not self.training:
            output = attend_before_projecting(query, key, tokens, self.v_proj, logit_bias)
            if output is not None:
                return output
        value = self.heads(self.v_proj(tokens))
        return attend(self, query, key, value, logit_bias, dropout=config.attention_dropout)[0]

    def _windowed(
        self, query: Tensor, memory: Tensor, memory_positions: Tensor, pointers: Tensor, table: Tensor, size: Size
    ) -> Tensor:
        """Each window of the frame attends to the same window of every memory, and to all pointers."""
        window_size = self.config.window_size

        def finish(tokens: Tensor) -> Tensor:
            """(B, some memories, N, C) to (B, windows, heads, tokens, C / heads)."""
            return to_windows(tokens, size, window_size).flatten(3, 4)

        keys, pointer_key = project(
            self.k_proj, memory + memory_positions, pointers, lambda keys: finish(rotate(self.heads(keys), table))
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
    """Self-attention, attention to memory, and an MLP; each normalised before."""

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
            self.activation.inplace = True  # the hidden layer is the largest tensor here

    def forward(  # it attends to something else than its own tokens
        self, tokens: Tensor, memory: Tensor, memory_positions: Tensor, pointers: Tensor, table: Tensor, size: Size
    ) -> Tensor:
        """(B or 1, N, C) to (B, N, C); arguments as `EfficientTamMemoryCrossAttention`."""
        tokens = tokens + self.dropout(self.self_attn(self.layer_norm1(tokens), table))
        attended = self.cross_attn_image(self.layer_norm2(tokens), memory, memory_positions, pointers, table, size)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(by_tokens(self._mlp, self.layer_norm3(tokens)))

    def _mlp(self, tokens: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(tokens))))


class EfficientTamMemoryAttention(nn.Module):
    """The frame's features, conditioned on memories."""

    def __init__(self, config: EfficientTamMemoryAttentionConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(EfficientTamMemoryAttentionLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.constants = Constants()

    def forward(self, features: Tensor, memory: Tensor, temporal_encoding: Tensor, object_pointers: Tensor) -> Tensor:
        """
        Args:
            features: (B, C, H, W), the frame; or (1, C, H, W): all objects see the same until they look at their
                memories, so that the first self-attention is computed once.
            memory: (B, M, N, c), spatial memories.
            temporal_encoding: (B, M, 1, c), when each of them was.
            object_pointers: (B, K, C).

        Returns:
            (B, C, H, W).
        """
        config, size, constants = self.config, tuple(features.shape[-2:]), self.constants
        temperature, device = config.position_temperature, features.device
        positions = constants.of(sine_position_encoding, size, features.shape[1], temperature, device)
        tokens = features + config.input_position_scale * positions.to(features.dtype)
        tokens = tokens.flatten(2).transpose(1, 2).contiguous()

        places = constants.of(sine_position_encoding, size, memory.shape[-1], temperature, device)
        places = places.flatten(1).t().to(memory.dtype)
        memory_positions = places + temporal_encoding
        # A pointer of C channels enters as C / c tokens of a memory's width.
        pointers = object_pointers.unflatten(-1, (-1, config.memory_size)).flatten(1, 2)

        width = config.hidden_size // config.num_attention_heads
        table = constants.of(rotary_table, size, width, config.rope_theta, device)
        for layer in self.layers:
            tokens = layer(tokens, memory, memory_positions, pointers, table, size)
        return self.layer_norm(tokens).transpose(1, 2).unflatten(2, size)


# -------------------------------------------------------------------------------------------------- memory encoder


class EfficientTamMaskDownSampler(nn.Module):
    """A mask at the model's input size to a feature map: convolutions that halve it and multiply its channels."""

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
        """(B, 1, height, width) to (B, C, H, W)."""
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
        """(B, C, H, W) to the same."""
        hidden = self.layer_norm(self.depthwise_conv(features)).permute(0, 2, 3, 1)
        hidden = self.scale * self.pointwise_conv2(self.activation(self.pointwise_conv1(hidden)))
        return features + hidden.permute(0, 3, 1, 2)


class EfficientTamMemoryEncoder(nn.Module):
    """A frame's features and its mask, fused into a spatial memory."""

    def __init__(self, config: EfficientTamMemoryEncoderConfig):
        super().__init__()
        self.mask_downsampler = EfficientTamMaskDownSampler(config)
        self.feature_projection = nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=1)
        self.fuser = nn.ModuleList(EfficientTamMemoryFuserBlock(config) for _ in range(config.fuser_num_layers))
        self.projection = nn.Conv2d(config.hidden_size, config.output_channels, kernel_size=1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """(B, C, H, W) features and (B, 1, height, width) masks to (B, N, c) memory tokens, row by row."""
        fused = self.feature_projection(features) + self.mask_downsampler(masks)
        for block in self.fuser:
            fused = block(fused)
        return self.projection(fused).flatten(2).transpose(1, 2)

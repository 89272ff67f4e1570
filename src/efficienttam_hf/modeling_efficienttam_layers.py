"""Pieces that several parts of the network are made of: attention, normalisation, perceptron, sine encoding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .matrix_products import EfficientTamLinear, attend_by_rows, rows_are_faster


def constant(function: Callable) -> Callable:
    """Keep what a function of a resolution gives, for the next frame. Its results must not be changed in place."""

    @functools.lru_cache(maxsize=16)
    def kept(*args: Any) -> Tensor:
        with torch.inference_mode(False):  # or it could not take part in training later
            return function(*args)

    @functools.wraps(function)
    def call(*args: Any) -> Tensor:
        # A tensor without numbers (`FakeTensorMode`) is neither to be kept nor to meet one that was.
        if torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor:
            return function(*args)
        return kept(*args)

    return call


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


def attends_by_rows(module: nn.Module, query: Tensor, key: Tensor) -> bool:
    """Whether `attend` does what `sdpa` does by itself, because that is faster here."""
    return module.config._attn_implementation == "sdpa" and not module.training and rows_are_faster(query, key)


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
        value: its width may differ where `attends_by_rows`.

    Returns:
        (B, queries, heads * C), and the weights where the implementation gives them.
    """
    implementation = module.config._attn_implementation
    if logit_bias is not None and implementation != "eager":
        implementation = "sdpa"
    if attends_by_rows(module, query, key) and (logit_bias is None or logit_bias.numel() == key.shape[2]):
        bias = None if logit_bias is None else logit_bias.flatten()
        return attend_by_rows(query, key, value, query.shape[-1] ** -0.5, bias).flatten(2), None
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
        self.layers = nn.ModuleList(EfficientTamLinear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.activation = ACT2FN[activation]
        self.sigmoid_output = sigmoid_output

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            hidden_states = self.activation(layer(hidden_states))
        hidden_states = self.layers[-1](hidden_states)
        return torch.sigmoid(hidden_states) if self.sigmoid_output else hidden_states


@constant
def sine_position_encoding(size: tuple[int, int], channels: int, temperature: float, device: torch.device) -> Tensor:
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

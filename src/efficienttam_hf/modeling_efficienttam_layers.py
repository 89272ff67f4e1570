"""Layers that several parts of the network share: attention, normalisation, MLP, sine encoding; the base class."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_efficienttam import EfficientTamConfig
from .cpu_kernels import EfficientTamLinear, sdpa_attention
from .remote_code import RemoteCode


class Constants:
    """A cache of tensors that depend only on the resolution. Each model has its own; copies of a model begin empty.

    A cached tensor must not be changed in place.
    """

    MOST = 16  # a model is used at one or two resolutions, with two or three tables for each

    def __init__(self) -> None:
        self._kept: dict[tuple, Tensor] = {}

    def of(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """Return `function(*args)`, which is computed the first time and then cached."""
        # Tensors without values (`FakeTensorMode`) must not be cached, and must not be mixed with cached tensors.
        if torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor:
            return function(*args)
        key = (function, *args)
        kept = self._kept.get(key)
        if kept is None:
            with torch.inference_mode(False):  # an inference tensor could not take part in training later
                kept = function(*args)
            if len(self._kept) >= self.MOST:
                self._kept = {}
            self._kept[key] = kept
        return kept

    def __reduce__(self) -> tuple:
        return type(self), ()


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
    """Compute attention with plain tensor operations from (B, heads, N, C); return (B, N, heads, C) and the weights."""
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
    """Compute attention with the implementation that `module.config._attn_implementation` names in Transformers.

    Args:
        module: the layer, for its configuration.
        query, key, value: (B, heads, N, C).
        logit_bias: bias that is added to the scaled logits, broadcastable to (B, heads, queries, keys). Flash attention
            has no such bias and flex attention does not broadcast it, so that a call with one falls back to `sdpa`.

    On CPUs, flex attention falls back to `sdpa` also where the number of keys is not a multiple of 16. PyTorch 2.15's
    kernel for AVX2 returns wrong values or NaN for 8, 24 or 40 keys of narrow heads, and one click gives 8 tokens.

    Returns:
        (B, queries, heads * C), and the weights if the implementation returns them.
    """
    config: Any = module.config
    implementation: str = config._attn_implementation
    if logit_bias is not None and implementation != "eager":
        implementation = "sdpa"
    if implementation == "flex_attention" and key.device.type == "cpu" and key.shape[2] % 16:
        implementation = "sdpa"
    if implementation == "sdpa":
        interface: Callable = sdpa_attention  # Transformers' implementation, or a faster one for this machine
    else:
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
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

    It uses the same operations as the published code, so that the last bits agree, and is not slower than
    `F.layer_norm` on a permuted map. Last bits matter, because memories are rounded to bfloat16 and one bit can change
    the rounded value.
    """

    def forward(self, features: Tensor) -> Tensor:
        values = features.float()
        centred = values - values.mean(1, keepdim=True)
        values = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return (self.weight[:, None, None] * values + self.bias[:, None, None]).to(features.dtype)


class EfficientTamFeedForward(nn.Module):
    """An MLP of `num_layers` linear layers with an activation between them."""

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


def sine_position_encoding(size: tuple[int, int], channels: int, temperature: float, device: torch.device) -> Tensor:
    """The two-dimensional sine encoding of a feature map: (channels, H, W), float32.

    Positions are normalised to (0, 2π]. The first half of the channels encodes the row, the second half the column;
    sines and cosines alternate.
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


class EfficientTamPreTrainedModel(RemoteCode, PreTrainedModel):
    """The base class of all EfficientTAM models: configuration, initialisation, attention implementations, saving."""

    config: EfficientTamConfig
    config_class: type[PreTrainedConfig] = EfficientTamConfig
    base_model_prefix = "efficienttam"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image",)  # type: ignore[assignment]  # a tuple, as Transformers' own have
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = ["EfficientTamVisionLayer", "EfficientTamTwoWayAttentionBlock"]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Transformers looks for its attention interface in the file of a model's class; `attend`, however, is here.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the weights at the scales at which SAM's parts are trained.

        Linear and convolution weights have PyTorch's standard deviation, `1 / sqrt(3 * fan_in)`; embeddings (tokens of
        the mask decoder, types of prompts) have a standard deviation of 1. Transformers uses 0.02 for all weights. Mask
        logits, which are a product of features of the mask decoder and of the image, would then begin close to zero,
        and training from scratch would not make progress. `initializer_range` scales all of these weights, relative to
        0.02.
        """
        super()._init_weights(module)
        scale = self.config.initializer_range / 0.02
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan_in, _ = nn.init._calculate_fan_in_and_fan_out(module.weight)
            init.normal_(module.weight, std=scale / math.sqrt(3 * fan_in))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=scale)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as in Transformers, and copy weights on the CPU to aligned RAM.

        Memory-mapped weights can begin at any byte, and CPU kernels choose their path by the alignment. Without the
        copy, the same weights could give different last bits from one file to another.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
                tensor.data = tensor.data.clone()
        return loaded

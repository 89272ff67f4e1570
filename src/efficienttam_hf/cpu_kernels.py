"""Fast matrix products and attention for CPUs. On other devices, and with gradients, PyTorch's own kernels are used.

The network is written plainly; what is here are other ways to the same numbers, and `kernel_choice.py` says which of
them this machine takes. PyTorch hands float32 products to MKL, which uses half of AVX-512 on processors that are not
Intel's; convolutions go to oneDNN, which uses what the processor has, and a 1x1 convolution is a matrix product: rows
are its pixels, columns its channels. In bfloat16, processors without instructions for it compute products value by
value, where float32 is many times as fast. The numbers, and how they were measured, are in docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .kernel_choice import PLAIN, KernelChoices, Operation


Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]

SMALLEST_PRODUCT = 20480  # inputs of fewer elements are no work for oneDNN, says PyTorch: it convolves them otherwise
# Pairs of query and key. Fewer are the work of an instant; from the second number on a map is large, not a window.
SMALLEST_ATTENTION, LARGE_ATTENTION = 2**15, 2**17
LARGEST_SCORES = 2**22  # pairs in memory at a time: 16 MiB in float32, which the allocator still keeps for the next
MANY_KEYS, KEYS_AT_A_TIME = 8192, 4096  # oneDNN reorders keys for each product, so many keys want many queries
TOKENS_AT_A_TIME = 1024  # of an MLP: its hidden layer then has some MiB, which stay in the cache
MEMORY_TOKENS_AT_A_TIME = 4096  # whose keys are made: large tensors until they are pooled


# -------------------------------------------------------------------------------------------------- linear layers


def linear_by_onednn(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` as a 1x1 convolution: the same sums in another order. Gradients flow."""
    if tokens.numel() <= SMALLEST_PRODUCT:
        return F.linear(tokens, weight, bias)
    pixels = tokens.reshape(1, -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)
    # Spreading a kernel of one tap changes nothing, but with one thread PyTorch would choose MKL for one that is not.
    output = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return output.permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], -1)


def linear_in_float32(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of bfloat16 tensors in float32, rounded once at the end, as a bfloat16 product is. Gradients flow."""
    output = F.linear(tokens.float(), weight.float(), None if bias is None else bias.float())
    return output.to(tokens.dtype)


LINEAR: dict[str, Product] = {PLAIN: F.linear, "onednn": linear_by_onednn, "float32": linear_in_float32}


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., K) and (C, K) to (..., C), as this machine does it fastest. Gradients flow."""
    return LINEAR[_choice("linear", tokens)](tokens, weight, bias)


class EfficientTamLinear(nn.Linear):
    """`nn.Linear` with `linear` as its product."""

    def forward(self, tokens: Tensor) -> Tensor:
        return linear(tokens, self.weight, self.bias)


# ------------------------------------------------------------------------------------------------------- attention


def attend_by_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    logit_bias: Tensor | None = None,
    product: Product = F.linear,
) -> Tensor:
    """Attention of some queries at a time, so that few scores are in memory.

    Args:
        query: (B, heads, N, C), key: (B, heads, M, C).
        value: (B, heads, M, c); c may differ from C, which fused attention does not allow.
        logit_bias: (M,), added to the logits of every query.
        product: how scores and outputs are multiplied out in float32.

    Returns:
        (B, N, heads, c).
    """
    (batch_size, heads, num_queries, _), num_keys = query.shape, key.shape[2]
    if query.dtype == torch.bfloat16 and batch_size * heads * num_queries * num_keys <= 2 * LARGEST_SCORES:
        scores = (query * scaling) @ key.transpose(2, 3)  # oneDNN's too in this type, and all at once
        weights = (scores if logit_bias is None else scores + logit_bias).softmax(dim=-1)
        return (weights @ value).transpose(1, 2)
    block = num_keys if num_keys <= MANY_KEYS else KEYS_AT_A_TIME
    rows = math.ceil(num_queries / math.ceil(num_queries * block / LARGEST_SCORES))
    output = query.new_empty(batch_size, num_queries, heads, value.shape[-1])
    for item in range(batch_size):
        for head in range(heads):
            keys, values = key[item, head].split(block), value[item, head].split(block)
            biases = [None] * len(keys) if logit_bias is None else logit_bias.split(block)
            blocks = [(k.contiguous(), v.t().contiguous(), b) for k, v, b in zip(keys, values, biases, strict=True)]
            for begin in range(0, num_queries, rows):
                some = slice(begin, begin + rows)
                output[item, some, head] = _attend_blocks(query[item, head, some] * scaling, blocks, product)
    return output


def _attend_blocks(query: Tensor, blocks: list[tuple[Tensor, Tensor, Tensor | None]], product: Product) -> Tensor:
    """(n, C) scaled queries to (n, c). A block is keys (m, C), transposed values (c, m) and logit bias (m,)."""
    if len(blocks) == 1:
        keys, values, bias = blocks[0]
        scores = product(query, keys, bias)
        return product(torch.softmax(scores, dim=-1, out=scores), values, None)
    parts = []
    for keys, values, bias in blocks:
        scores = product(query, keys, bias)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        parts.append((highest, weights.sum(dim=-1, keepdim=True), product(weights, values, None)))
    # Each block was scaled by its own highest weight; now all are by the highest of all.
    highest, totals, outputs = (torch.stack(x) for x in zip(*parts, strict=True))
    shares = (highest - highest.amax(dim=0)).exp()
    return (shares * outputs).sum(dim=0) / (shares * totals).sum(dim=0)


ROWS: dict[str, Product] = {"rows": F.linear, "rows_onednn": linear_by_onednn}


def learns_slowly(*tensors: Tensor) -> bool:
    """Whether fused attention is to be computed in float32, as gradients flow through it in half precision on a CPU.

    Its backward pass takes five to ten times as long there in bfloat16 as in float32, also on processors that multiply
    bfloat16 matrices fast.
    """
    return (
        tensors[0].device.type == "cpu"
        and tensors[0].dtype in (torch.bfloat16, torch.float16)
        and _needs_gradients(*tensors)
    )


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What Transformers registers as `sdpa`, or the same by rows where that is faster. Arguments and result are its."""
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if learns_slowly(query, key, value):
        with torch.autocast("cpu", enabled=False):
            mask = None if attention_mask is None else attention_mask.float()
            inputs = (query.float(), key.float(), value.float())
            output, weights = plain(module, *inputs, mask, scaling=scaling, dropout=dropout, **kwargs)
        return output.to(query.dtype), weights
    pairs = query.shape[-2] * key.shape[-2]
    operation = "attention" if pairs >= LARGE_ATTENTION else "windows"
    choice = PLAIN
    if pairs >= SMALLEST_ATTENTION and not dropout and not _needs_gradients(query, key, value):
        choice = _choice(operation, query)
    if choice == PLAIN or not (attention_mask is None or attention_mask.numel() == key.shape[2]):
        return plain(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    logit_bias = None if attention_mask is None else attention_mask.flatten()
    return attend_by_rows(query, key, value, scaling, logit_bias, ROWS[choice]), None


def attend_before_projecting(
    query: Tensor, key: Tensor, tokens: Tensor, projection: nn.Linear, logit_bias: Tensor | None
) -> Tensor | None:
    """Attention of one head to (B, M, c) tokens whose values are a projection of them; None where this is no faster.

    Weights sum to 1, so the average of projections is the projection of the average. Tokens that are narrower than
    their values are averaged as they are, and what comes out is projected.

    Args:
        query: (B, 1, N, C), key: (B, 1, M, C), projection: from c to C channels.
        logit_bias: with M elements, added to the logits of every query.

    Returns:
        (B, N, C), projected.
    """
    if _needs_gradients(query, key, tokens) or query.shape[-2] * key.shape[-2] < SMALLEST_ATTENTION:
        return None
    choice = _choice("memories", query)
    if choice == PLAIN:
        return None
    bias = None if logit_bias is None else logit_bias.flatten()
    averages = attend_by_rows(query, key, tokens.unsqueeze(1), query.shape[-1] ** -0.5, bias, ROWS[choice])
    return projection(averages.flatten(2))


# ------------------------------------------------------------------------------------------------ tensors in parts


def by_tokens(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """`function`, which treats each of (..., N, C) tokens by itself, for some of them at a time. The same numbers.

    A large tensor is a slow one on a CPU: it leaves the cache, and the allocator takes its memory from the system anew.
    """
    if not _works_in_parts(tokens) or tokens.shape[:-1].numel() <= TOKENS_AT_A_TIME:
        return function(tokens)
    parts = tokens.flatten(0, -2).split(TOKENS_AT_A_TIME)
    return torch.cat([function(part) for part in parts]).unflatten(0, tokens.shape[:-1])


def split_memories(memory: Tensor) -> tuple[Tensor, ...] | None:
    """(B, M, N, c) memories as parts of some memories each, to be computed with by themselves; None: all at once."""
    if not _works_in_parts(memory):
        return None
    return memory.split(max(1, MEMORY_TOKENS_AT_A_TIME // memory.shape[2]), dim=1)


def _works_in_parts(tensor: Tensor) -> bool:
    return not torch.is_grad_enabled() and _choice("parts", tensor) == "parts"


# --------------------------------------------------------------------------------------------- what there is to choose


def _needs_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _choice(operation: str, tensor: Tensor) -> str:
    """The candidate for an operation on a tensor. Compiled and exported graphs, and other devices, have PyTorch's own.

    Where gradients are recorded nothing is measured, so that training takes the same in all of its processes.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return PLAIN
    return CHOICES.of(operation, tensor.dtype, measure=not torch.is_grad_enabled())


def _linear_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    tokens, weight, bias = torch.randn(1024, 384).to(dtype), torch.randn(768, 384).to(dtype), torch.zeros(768).to(dtype)
    return lambda: LINEAR[choice](tokens, weight, bias)


def _attention_example(batch_size: int, heads: int, size: int) -> Callable[[str, torch.dtype], Callable[[], Any]]:
    def example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
        query, key, value = torch.randn(3, batch_size, heads, size, 64).to(dtype)
        if choice == PLAIN:
            return lambda: F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()
        return lambda: attend_by_rows(query, key, value, 0.125, None, ROWS[choice])

    return example


def _memories_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    width = 256 if choice == PLAIN else 64  # of what is averaged: values, or the tokens that they are projected from
    query, key, value = (torch.randn(1, 1, *shape).to(dtype) for shape in ((512, 256), (2048, 256), (2048, width)))
    bias = torch.zeros(2048).to(dtype)
    if choice == PLAIN:
        return lambda: F.scaled_dot_product_attention(query, key, value, bias[None]).transpose(1, 2).contiguous()
    return lambda: attend_by_rows(query, key, value, 0.0625, bias, ROWS[choice])


def _parts_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    tokens, inner, outer = (torch.randn(shape).to(dtype) for shape in ((4096, 64), (1024, 64), (64, 1024)))
    product = linear_in_float32 if dtype != torch.float32 else F.linear

    def mlp(some: Tensor) -> Tensor:
        return product(F.relu(product(some, inner)), outer)

    if choice == PLAIN:
        return lambda: mlp(tokens)
    return lambda: torch.cat([mlp(part) for part in tokens.split(TOKENS_AT_A_TIME)])


def _keep_large_blocks() -> None:
    """Have glibc keep blocks of up to 32 MiB for the next tensor.

    It hands large blocks back to the system and takes them anew, page by page: up to a tenth of a frame's time. It
    keeps blocks up to the size of the largest ever handed back, at most 32 MiB. So here is one, never written to.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


ATTENTION_CANDIDATES = {"float32": (PLAIN, "rows", "rows_onednn"), "bfloat16": (PLAIN, "rows")}
ATTENTION_DEFAULTS = {"float32": {"avx512": "rows_onednn"}, "bfloat16": {"avx512": "rows"}}

OPERATIONS = {
    # Linear layers.
    "linear": Operation(
        {"float32": (PLAIN, "onednn"), "bfloat16": (PLAIN, "float32")},
        _linear_example,
        {"float32": {"avx512": "onednn"}, "bfloat16": {"avx2": "float32"}},
    ),
    # Attention over a whole map.
    "attention": Operation(ATTENTION_CANDIDATES, _attention_example(1, 2, 1024), ATTENTION_DEFAULTS),
    # Attention inside the windows of a map, and over small maps.
    "windows": Operation(
        ATTENTION_CANDIDATES, _attention_example(8, 3, 196), {"bfloat16": ATTENTION_DEFAULTS["bfloat16"]}
    ),
    # Attention to memories, which are narrower than the values that are projected from them.
    "memories": Operation(ATTENTION_CANDIDATES, _memories_example, ATTENTION_DEFAULTS),
    # Large tensors in parts, or whole. In parts also takes less memory, so it is preferred where it is no slower.
    "parts": Operation({"float32": (PLAIN, "parts"), "bfloat16": (PLAIN, "parts")}, _parts_example, preferred="parts"),
}

CHOICES = KernelChoices(OPERATIONS, prepare=_keep_large_blocks)

"""Matrix products and attention, as CPUs do them fastest. Elsewhere, and where gradients flow, PyTorch's own are used.

PyTorch hands float32 products to MKL, which uses half of AVX-512 on processors that are not Intel's, and its fused
attention is made of the same products; in bfloat16 that attention has a fifth of the speed of a product. Convolutions
go to oneDNN, which uses what the processor has, and a 1x1 convolution is a matrix product: rows are its pixels, columns
its channels. The numbers, and how they were measured, are in docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


SMALLEST_PRODUCT = 20480  # inputs of fewer elements are no work for oneDNN, says PyTorch: it convolves them otherwise
SMALLEST_ATTENTION = {torch.float32: 2**17, torch.bfloat16: 2**15}  # pairs of query and key; below, fused is as fast
LARGEST_SCORES = 2**22  # pairs in memory at a time: 16 MiB in float32, which the allocator still keeps for the next
MANY_KEYS, KEYS_AT_A_TIME = 8192, 4096  # oneDNN reorders keys for each product, so many keys want many queries
TOKENS_AT_A_TIME = 1024  # of a perceptron: its hidden layer then has some MiB, which stay in the cache

# glibc hands large blocks back to the system and takes them anew, page by page: up to a tenth of a frame's time. It
# keeps blocks up to the size of the largest ever handed back, at most 32 MiB. So here is one, never written to.
torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


def uses_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN is the better choice for products of a tensor: on a CPU with AVX-512, uncompiled."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
        and not torch.is_autocast_enabled("cpu")
    )


def works_in_parts(tensor: Tensor) -> bool:
    """Whether to compute in parts what is large only in between: on a CPU, uncompiled, where no gradients flow.

    A large tensor is a slow one there: it leaves the cache, and the allocator takes its memory from the system anew.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_grad_enabled()


def by_tokens(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """`function`, which treats each of (..., N, C) tokens by itself, for some of them at a time. The same numbers."""
    if not works_in_parts(tokens) or tokens.shape[:-1].numel() <= TOKENS_AT_A_TIME:
        return function(tokens)
    parts = tokens.flatten(0, -2).split(TOKENS_AT_A_TIME)
    return torch.cat([function(part) for part in parts]).unflatten(0, tokens.shape[:-1])


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., K) and (C, K) to (..., C); as a 1x1 convolution where that is faster. Gradients flow."""
    if not uses_onednn(tokens) or tokens.dtype != torch.float32 or tokens.numel() <= SMALLEST_PRODUCT:
        return F.linear(tokens, weight, bias)
    pixels = tokens.reshape(1, -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)
    # Spreading a kernel of one tap changes nothing, but with one thread PyTorch would choose MKL for one that is not.
    output = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return output.permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], -1)


class EfficientTamLinear(nn.Linear):
    """`nn.Linear` with `linear` as its product."""

    def forward(self, tokens: Tensor) -> Tensor:
        return linear(tokens, self.weight, self.bias)


def rows_are_faster(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_by_rows` is the better choice for (..., N, C) queries and (..., M, C) keys."""
    return (
        uses_onednn(query)  # before sizes: to an exporter they may be variable
        and query.shape[-2] * key.shape[-2] >= SMALLEST_ATTENTION.get(query.dtype, math.inf)
        and not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad))
    )


def attend_by_rows(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, logit_bias: Tensor | None = None
) -> Tensor:
    """Attention of some queries at a time, so that few scores are in memory.

    Args:
        query: (B, heads, N, C), key: (B, heads, M, C).
        value: (B, heads, M, c); c may differ from C, which fused attention does not allow.
        logit_bias: (M,), added to the logits of every query.

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
                output[item, some, head] = _attend_blocks(query[item, head, some] * scaling, blocks)
    return output


def _attend_blocks(query: Tensor, blocks: list[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
    """(n, C) scaled queries to (n, c). A block is keys (m, C), transposed values (c, m) and logit bias (m,)."""
    if len(blocks) == 1:
        keys, values, bias = blocks[0]
        scores = linear(query, keys, bias)
        return linear(torch.softmax(scores, dim=-1, out=scores), values)
    parts = []
    for keys, values, bias in blocks:
        scores = linear(query, keys, bias)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        parts.append((highest, weights.sum(dim=-1, keepdim=True), linear(weights, values)))
    # Each block was scaled by its own highest weight; now all are by the highest of all.
    highest, totals, outputs = (torch.stack(x) for x in zip(*parts, strict=True))
    shares = (highest - highest.amax(dim=0)).exp()
    return (shares * outputs).sum(dim=0) / (shares * totals).sum(dim=0)

"""Fast matrix products and attention for CPUs. On other devices, and with gradients, PyTorch's own kernels are used.

The network is written plainly. This file has other implementations of the same operations, and `kernel_choice.py`
chooses between them on each machine. PyTorch computes float32 products with MKL, which uses only half of AVX-512 on
processors of other makers than Intel. It computes convolutions with oneDNN, which uses all instructions of the
processor, and a 1x1 convolution is a matrix product whose rows are pixels and whose columns are channels. Processors
without bfloat16 instructions compute bfloat16 products value by value, and are many times as fast in float32.
docs/performance.md has the numbers and describes how they were measured.
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

SMALLEST_PRODUCT = 20480  # elements of an input; PyTorch does not give a convolution of a smaller input to oneDNN
# Numbers of pairs of a query and a key. PyTorch's attention is used below the first number, as there is little to gain.
# From the second number on, the operation is attention over a whole map ("attention"), else inside windows ("windows").
SMALLEST_ATTENTION, LARGE_ATTENTION = 2**15, 2**17
LARGEST_SCORES = 2**22  # scores in memory at a time: 16 MiB in float32, a block that the allocator can reuse
MANY_KEYS, KEYS_AT_A_TIME = 8192, 4096  # more keys are split, as oneDNN reorders all keys for each block of queries
TOKENS_AT_A_TIME = 1024  # tokens of an MLP; its hidden layer then has a few MiB, which stay in the processor's cache
OBJECT_TOKENS_AT_A_TIME = 16384  # tokens of objects that attend to memories: 16 objects at 512 pixels, 4 at 1024
MEMORY_TOKENS_AT_A_TIME = 4096  # memory tokens whose keys are computed at a time: they are large before pooling


# -------------------------------------------------------------------------------------------------- linear layers


def linear_by_onednn(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` as a 1x1 convolution: the same sums in another order.

    Args:
        tokens: (..., K). Inputs of at most `SMALLEST_PRODUCT` elements are passed to `F.linear`.
        weight: (C, K).
        bias: (C,), or None.

    Returns:
        (..., C), differentiable, in the dtype of the arguments.
    """
    if tokens.numel() <= SMALLEST_PRODUCT:
        return F.linear(tokens, weight, bias)
    pixels = tokens.reshape(1, -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)
    # Dilation does not change a 1x1 convolution. Without it, PyTorch uses MKL if there is only one thread.
    output = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return output.permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], -1)


def linear_in_float32(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` of bfloat16 tensors in float32 and round once at the end, as a bfloat16 product does.

    Args:
        tokens: (..., K).
        weight: (C, K).
        bias: (C,), or None.

    Returns:
        (..., C), differentiable, in the dtype of `tokens`.
    """
    output = F.linear(tokens.float(), weight.float(), None if bias is None else bias.float())
    return output.to(tokens.dtype)


LINEAR: dict[str, Product] = {PLAIN: F.linear, "onednn": linear_by_onednn, "float32": linear_in_float32}


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` with the implementation that was chosen for this machine.

    Args:
        tokens: (..., K).
        weight: (C, K).
        bias: (C,), or None.

    Returns:
        (..., C), differentiable, in the dtype of `tokens`.
    """
    return LINEAR[_choice("linear", tokens)](tokens, weight, bias)


class EfficientTamLinear(nn.Linear):
    """An `nn.Linear` that computes its product with `linear`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
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
    """Compute attention for blocks of queries, so that at most `LARGEST_SCORES` scores are in memory at a time.

    Args:
        query: (B, heads, N, C).
        key: (B, heads, M, C).
        value: (B, heads, M, c); c may differ from C, which fused attention does not allow.
        scaling: the factor of the products of queries and keys.
        logit_bias: (M,), added to the logits of every query; None adds nothing.
        product: the implementation of `F.linear` that computes scores and outputs.

    Returns:
        (B, N, heads, c), in the dtype of the arguments. Gradients are not computed.
    """
    (batch_size, heads, num_queries, _), num_keys = query.shape, key.shape[2]
    if query.dtype == torch.bfloat16 and batch_size * heads * num_queries * num_keys <= 2 * LARGEST_SCORES:
        scores = (query * scaling) @ key.transpose(2, 3)  # PyTorch uses oneDNN for bfloat16 products of any shape
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
    """Compute attention of scaled queries (n, C) to blocks of keys (m, C), transposed values (c, m) and biases (m,).

    The result is (n, c). Each block has its own softmax, and the blocks are combined with the weights of their totals.
    """
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
    # The weights of each block are relative to its own highest score; here they become relative to the highest of all.
    highest, totals, outputs = (torch.stack(x) for x in zip(*parts, strict=True))
    shares = (highest - highest.amax(dim=0)).exp()
    return (shares * outputs).sum(dim=0) / (shares * totals).sum(dim=0)


ROWS: dict[str, Product] = {"rows": F.linear, "rows_onednn": linear_by_onednn}


def learns_slowly(*tensors: Tensor) -> bool:
    """Whether fused attention is computed in float32: with gradients, in half precision, on a CPU.

    The backward pass of fused attention takes five to ten times as long on a CPU in bfloat16 as in float32, also on
    processors that multiply bfloat16 matrices fast.
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
    """Compute the attention that Transformers registers as `sdpa`, by rows if that was chosen for this machine.

    Args:
        module: the attention layer.
        query: (B, heads, N, C).
        key: (B, heads, M, C).
        value: (B, heads, M, C).
        attention_mask: a bias that is added to the logits, broadcastable to (B, heads, N, M); None adds nothing. Only
            a bias with M elements, the same for all queries, can be computed by rows.
        scaling: the factor of the products of queries and keys.
        dropout: the probability with which weights are dropped. With dropout, Transformers' attention is used.
        kwargs: further arguments of Transformers' attention.

    Returns:
        (B, N, heads, C), and None in the place of the attention weights.
    """
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
    """Compute attention of one head to the projection of tokens, with the projection after the weighted average.

    Attention weights sum to 1, so the average of projections is the projection of the average. If the tokens have
    fewer channels than their projection, averaging the tokens first takes fewer operations.

    Args:
        query: (B, 1, N, C).
        key: (B, 1, M, C).
        tokens: (B, M, c).
        projection: a linear layer from c to C channels, which makes the values from the tokens.
        logit_bias: M elements, added to the logits of every query; None adds nothing.

    Returns:
        (B, N, C), or None if the values are to be computed first: with gradients, for few queries and keys, or if
        that was chosen for this machine.
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
    """Apply a function that processes each token independently to `TOKENS_AT_A_TIME` tokens at a time.

    Large tensors are slow on a CPU: they do not fit in the cache, and the allocator requests their memory from the
    system each time.

    Args:
        function: a function of (n, C) or (..., N, C), applied to each token independently.
        tokens: (..., N, C).

    Returns:
        The same values as `function(tokens)`.
    """
    if not _works_in_parts(tokens) or tokens.shape[:-1].numel() <= TOKENS_AT_A_TIME:
        return function(tokens)
    parts = tokens.flatten(0, -2).split(TOKENS_AT_A_TIME)
    return torch.cat([function(part) for part in parts]).unflatten(0, tokens.shape[:-1])


def split_memories(memory: Tensor) -> tuple[Tensor, ...] | None:
    """Split memories (B, M, N, c) along M into parts that are processed one after another.

    Returns:
        The parts, of about `MEMORY_TOKENS_AT_A_TIME` tokens per object each, or None if all memories are to be
        processed at once.
    """
    if not _works_in_parts(memory):
        return None
    return memory.split(max(1, MEMORY_TOKENS_AT_A_TIME // memory.shape[2]), dim=1)


def objects_at_a_time(num_objects: int, num_tokens: int) -> int:
    """How many objects attend to their memories at a time, so that RAM stays bounded with many objects.

    With gradients, and in compiled and exported graphs, all objects do.

    Args:
        num_objects: objects in the batch.
        num_tokens: tokens of a frame.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return num_objects
    return max(1, OBJECT_TOKENS_AT_A_TIME // num_tokens)


def _works_in_parts(tensor: Tensor) -> bool:
    """Whether large tensors like this one are processed in parts on this machine."""
    return not torch.is_grad_enabled() and _choice("parts", tensor) == "parts"


# ------------------------------------------------------------------------------------- choice of the implementations


def _needs_gradients(*tensors: Tensor) -> bool:
    """Whether autograd records operations on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _choice(operation: str, tensor: Tensor) -> str:
    """Return the candidate for an operation on a tensor.

    It is `PLAIN` on devices other than CPUs, in compiled and exported graphs, and with autocast. With gradients
    enabled, nothing is measured, so that all processes of a training run choose the same.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return PLAIN
    return CHOICES.of(operation, tensor.dtype, measure=not torch.is_grad_enabled())


def _linear_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a call that computes a linear layer of the image encoder with a candidate, to be timed."""
    tokens, weight, bias = torch.randn(1024, 384).to(dtype), torch.randn(768, 384).to(dtype), torch.zeros(768).to(dtype)
    return lambda: LINEAR[choice](tokens, weight, bias)


def _attention_example(batch_size: int, heads: int, size: int) -> Callable[[str, torch.dtype], Callable[[], Any]]:
    """Return a function that makes calls of self-attention of `size` tokens with 64 channels per head, to be timed."""

    def example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
        query, key, value = torch.randn(3, batch_size, heads, size, 64).to(dtype)
        if choice == PLAIN:
            return lambda: F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()
        return lambda: attend_by_rows(query, key, value, 0.125, None, ROWS[choice])

    return example


def _memories_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a call that computes cross-attention to memories with a candidate, to be timed."""
    width = (
        256 if choice == PLAIN else 64
    )  # channels of the values, or of the tokens that are averaged before projection
    query, key, value = (torch.randn(1, 1, *shape).to(dtype) for shape in ((512, 256), (2048, 256), (2048, width)))
    bias = torch.zeros(2048).to(dtype)
    if choice == PLAIN:
        return lambda: F.scaled_dot_product_attention(query, key, value, bias[None]).transpose(1, 2).contiguous()
    return lambda: attend_by_rows(query, key, value, 0.0625, bias, ROWS[choice])


def _parts_example(choice: str, dtype: torch.dtype) -> Callable[[], Any]:
    """Return a call that computes an MLP with a large hidden layer, at once or in parts, to be timed."""
    tokens, inner, outer = (torch.randn(shape).to(dtype) for shape in ((4096, 64), (1024, 64), (64, 1024)))
    product = linear_in_float32 if dtype != torch.float32 else F.linear

    def mlp(some: Tensor) -> Tensor:
        return product(F.relu(product(some, inner)), outer)

    if choice == PLAIN:
        return lambda: mlp(tokens)
    return lambda: torch.cat([mlp(part) for part in tokens.split(TOKENS_AT_A_TIME)])


def _keep_large_blocks() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the next tensor.

    By default, glibc returns large blocks to the system and requests them again, page by page, which takes up to a
    tenth of a frame's time. It keeps blocks up to the size of the largest block that was ever freed, at most 32 MiB.
    So this function allocates and frees one such block. Nothing is written to it, so it takes no RAM.
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
    # Attention inside the windows of a map, or over small maps.
    "windows": Operation(
        ATTENTION_CANDIDATES, _attention_example(8, 3, 196), {"bfloat16": ATTENTION_DEFAULTS["bfloat16"]}
    ),
    # Attention to memories, which have fewer channels than the values that are projected from them.
    "memories": Operation(ATTENTION_CANDIDATES, _memories_example, ATTENTION_DEFAULTS),
    # Large tensors at once or in parts. Parts take less RAM, so they are preferred if they are no slower.
    "parts": Operation({"float32": (PLAIN, "parts"), "bfloat16": (PLAIN, "parts")}, _parts_example, preferred="parts"),
}

CHOICES = KernelChoices(OPERATIONS, prepare=_keep_large_blocks)

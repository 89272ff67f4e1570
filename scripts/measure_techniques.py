"""What each way of computing gains: PyTorch's own beside ours, in turns, on shapes of EfficientTAM-S at 1024 pixels.

    python scripts/measure_techniques.py --dtype float32 --threads 2

Whole frames, beside the published code and other models, are measured by `efficienttam benchmark`. What is found here
is in docs/performance.md.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel
from efficienttam_hf.benchmark.timing import interleave
from efficienttam_hf.cpu_kernels import EfficientTamLinear, attend_before_projecting, linear, sdpa_attention
from efficienttam_hf.memory import MemoryBank
from efficienttam_hf.modeling_efficienttam_layers import Constants, sine_position_encoding
from efficienttam_hf.modeling_efficienttam_memory import rotary_table, rotate
from efficienttam_hf.modeling_efficienttam_vision import partition_windows


Pair = tuple[Callable[[], object], Callable[[], object]]
CPU = torch.device("cpu")
TOKENS, SIDE, MEMORIES, POINTER_TOKENS = 4096, 64, 7, 64
WIDTH, HEADS, MEMORY_WIDTH, ATTENTION_WIDTH, WINDOW, OBJECTS = 384, 6, 64, 256, 14, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.dtype}, {args.threads} threads, medians of {args.rounds} rounds\n")
    print("| | PyTorch's, ms | ours, ms | times as fast |\n| --- | --- | --- | --- |")
    with torch.inference_mode():
        for name, pair in techniques(getattr(torch, args.dtype)).items():
            plain, ours = (1000 * seconds for seconds in in_turns(pair, args.rounds))
            print(f"| {name} | {plain:.2f} | {ours:.2f} | {plain / ours:.1f} |", flush=True)


def in_turns(pair: Pair, rounds: int) -> tuple[float, float]:
    """Median seconds of two functions that take turns, after one run of each."""

    def timed(function: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            function()
            return time.perf_counter() - begin

        return run

    steps = {name: timed(function) for name, function in zip(("plain", "ours"), pair, strict=True)}
    _, *taken = interleave(steps, rounds + 1)
    return tuple(statistics.median(each[name] for each in taken) for name in steps)


def techniques(dtype: torch.dtype) -> dict[str, Pair]:
    """By name: the plain way, and ours. Both give the same; tests/test_cpu_kernels.py and others say so."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    tokens, weight, bias = draw(TOKENS, WIDTH), draw(4 * WIDTH, WIDTH), draw(4 * WIDTH)
    found: dict[str, Pair] = {
        "linear layer of the ViT": (lambda: F.linear(tokens, weight, bias), lambda: linear(tokens, weight, bias)),
        "global attention of the ViT": attention_pair(*(draw(1, TOKENS, HEADS, 64).transpose(1, 2) for _ in range(3))),
    }
    query, projection = draw(1, 1, TOKENS, ATTENTION_WIDTH), EfficientTamLinear(MEMORY_WIDTH, ATTENTION_WIDTH).to(dtype)
    found["self-attention of memory attention"] = attention_pair(query, query, query)
    for name, tokens_of_memory in (("all", TOKENS), ("pooled", TOKENS // 4)):
        keys = draw(1, 1, MEMORIES * tokens_of_memory + POINTER_TOKENS, ATTENTION_WIDTH)
        memory = draw(1, keys.shape[2], MEMORY_WIDTH)
        found[f"attention to memories, {name}"] = (
            lambda k=keys, m=memory: project_before_attending(query, k, m, projection),
            lambda k=keys, m=memory: attend_to_memories(query, k, m, projection),
        )
    projected, padding = draw(1, SIDE, SIDE, 3 * WIDTH), draw(3 * WIDTH)
    found["cutting windows"] = (
        lambda: windows_by_padding(projected, padding),
        lambda: partition_windows(projected, WINDOW, padding),
    )
    keys, table = draw(1, 1, MEMORIES, TOKENS, ATTENTION_WIDTH), rotary_table((SIDE, SIDE), ATTENTION_WIDTH, 1e4, CPU)
    found["rotating keys"] = (lambda: rotate(keys, torch.view_as_real(table)), lambda: rotate(keys, table))
    resolution, constants = ((SIDE, SIDE), ATTENTION_WIDTH, 1e4, CPU), Constants()
    found["tables of a resolution"] = (
        lambda: (rotary_table(*resolution), sine_position_encoding(*resolution)),
        lambda: (constants.of(rotary_table, *resolution), constants.of(sine_position_encoding, *resolution)),
    )
    model = EfficientTamVideoModel(EfficientTamConfig.from_preset("efficienttam_ti_512x512")).eval().to(dtype)
    features = draw(1, 256, 32, 32)
    bank = MemoryBank(
        draw(OBJECTS, MEMORIES, 1024, MEMORY_WIDTH),
        torch.arange(MEMORIES).expand(OBJECTS, -1),
        draw(OBJECTS, 16, 256),
    )
    found[f"memory attention, {OBJECTS} objects, 512 pixels, first self-attention for each or for all"] = (
        lambda: model.condition_on_memory(features.expand(OBJECTS, -1, -1, -1), bank),
        lambda: model.condition_on_memory(features, bank),
    )
    return found


def attention_pair(query: Tensor, key: Tensor, value: Tensor) -> Pair:
    """Fused attention, and what this machine takes."""
    return (
        lambda: F.scaled_dot_product_attention(query, key, value),
        lambda: sdpa_attention(nn.Identity(), query, key, value, None, query.shape[-1] ** -0.5),
    )


def project_before_attending(query: Tensor, key: Tensor, memory: Tensor, projection: nn.Linear) -> Tensor:
    """Fused attention to projected memories."""
    value = F.linear(memory, projection.weight, projection.bias).unsqueeze(1)
    return F.scaled_dot_product_attention(query, key, value)


def attend_to_memories(query: Tensor, key: Tensor, memory: Tensor, projection: nn.Linear) -> Tensor:
    """What this machine takes of that and of averaging memories before they are projected."""
    output = attend_before_projecting(query, key, memory, projection, None)
    return project_before_attending(query, key, memory, projection) if output is None else output


def windows_by_padding(features: Tensor, padding: Tensor) -> Tensor:
    """`partition_windows` in the usual way: pad both sides, then reshape."""
    _, height, width, channels = features.shape
    down, across = -height % WINDOW, -width % WINDOW
    features = torch.cat([features, padding.expand(1, height, across, channels)], dim=2)
    features = torch.cat([features, padding.expand(1, down, width + across, channels)], dim=1)
    windows = features.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW)).transpose(2, 3)
    return windows.reshape(-1, WINDOW, WINDOW, channels)


if __name__ == "__main__":
    main()

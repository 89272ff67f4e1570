"""Memory and time of a training step: measured on this machine, or computed for a GPU that is not at hand.

    python scripts/measure_training.py --preset efficienttam_ti_512x512                          measured
    python scripts/measure_training.py --preset efficienttam_s --gradient-checkpointing --compute

The step is the most costly one that the default simulated user asks for: a click on the first frame, and on two frames
seven clicks that correct it, so that 8 frames are 22 predictions. Each preset is a line of a Markdown table.

Measured: seconds of a step, the fastest of `--steps` after one that warms up; and the most memory at a time, on CUDA as
PyTorch allocated it, on the CPU as the process grew (measure one preset at a time there).

Computed: the step runs on tensors that have sizes and types but no numbers (`FakeTensorMode`), forward, backward and
optimizer, and every storage is counted while it lives. Attention keeps what the fused CUDA kernels keep, and layer
norms run in float32, as autocast on CUDA has it. Not in it is what kernels use inside, and CUDA's own share (about half
a gigabyte). In place of seconds it gives the arithmetic of the matrix products, which over the speed of a GPU (a third
of its peak is a fair guess) is the time of a step.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
import math
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers.initialization import no_init_weights

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel, cpu_kernels
from efficienttam_hf.benchmark.machine import highest_resident_bytes
from efficienttam_hf.configuration_efficienttam import PRESETS, SMALL_PRESETS
from efficienttam_hf.data.batch import ClipBatch
from efficienttam_hf.training.clip_tracker import ClipTracker
from efficienttam_hf.training.losses import LossOptions
from efficienttam_hf.training.models import enable_activation_checkpointing
from efficienttam_hf.training.simulated_user import PromptPlan, UserOptions


GB = 1e9
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStep:
    """One optimisation step of a preset on clips of one moving square each object, again and again the same."""

    def __init__(self, preset: str, args: argparse.Namespace, device: str):
        overrides = {"image_size": args.image_size} if args.image_size else {}
        config = EfficientTamConfig.from_preset(preset, **overrides)
        checkpointing = args.gradient_checkpointing
        with torch.device(device):
            model = EfficientTamVideoModel(config)
            if checkpointing:
                enable_activation_checkpointing(model)
            mean, std = [0.5] * 3, [0.25] * 3
            self.tracker = ClipTracker(
                model, UserOptions(), LossOptions(), mean, std, checkpoint_steps=checkpointing
            ).train()
            self.batch = make_batch(config.image_size, args.num_frames, args.batch_size, args.objects)
        self.optimizer = torch.optim.AdamW(self.tracker.parameters(), lr=1e-5, fused=True)
        corrected = list(range(min(2, args.num_frames)))
        self.plan = PromptPlan(conditioning={0: "point"}, corrected=corrected)
        self.device, self.dtype = device, DTYPES[args.precision]

    def __call__(self) -> None:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            output = self.tracker(self.batch, self.plan, num_objects=len(self.batch.clip_index))
        output.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.tracker.parameters())


def make_batch(size: int, num_frames: int, batch_size: int, objects: int) -> ClipBatch:
    """Clips of grey frames; each object is a square that moves to the right."""
    count, side = batch_size * objects, size // 4
    masks = torch.zeros(num_frames, count, size, size, dtype=torch.bool)
    for frame in range(num_frames):
        left = side + frame * side // num_frames
        masks[frame, :, side : 2 * side, left : left + side] = True
    return ClipBatch(
        frames=torch.full((num_frames, batch_size, 3, size, size), 128, dtype=torch.uint8),
        masks=masks,
        clip_index=torch.arange(count) // objects,
        void=None,
        seeds=np.arange(count),  # numbers even where tensors have none
        names=[f"clip {i}" for i in range(batch_size)],
    )


# --------------------------------------------------------------------------------------------------------- measured


def measure(preset: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step and peak bytes, on this machine's device."""
    before = highest_resident_bytes()
    step = TrainingStep(preset, args, args.device)
    step()
    seconds = []
    for _ in range(args.steps):
        _wait_for(args.device)
        start = time.perf_counter()
        step()
        _wait_for(args.device)
        seconds.append(time.perf_counter() - start)
    on_cuda = args.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_cuda else highest_resident_bytes() - before
    return {"parameters": step.num_parameters, "bytes": peak, "seconds": min(seconds)}


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# --------------------------------------------------------------------------------------------------------- computed


def compute(preset: str, args: argparse.Namespace) -> dict[str, float]:
    """Peak bytes of a step and its floating point operations, without running it."""
    usage = Usage()
    with FakeTensorMode(), no_init_weights(), as_on_cuda(), usage:
        step = TrainingStep(preset, args, "cpu")
        for parameter in step.tracker.parameters():
            parameter.grad = torch.zeros_like(parameter)
        step.optimizer.step()  # makes its state
        step.optimizer.zero_grad()
        usage.reset()
        step()
    return {"parameters": step.num_parameters, "bytes": usage.peak, "flops": usage.flops}


class Usage(TorchDispatchMode):
    """Counts bytes of tensors while they live, and floating point operations of matrix products.

    Attributes:
        live, peak: bytes now, and most at a time since the last reset.
        flops: operations since the last reset; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._known: set[int] = set()

    def reset(self) -> None:
        """Begin a new count; what lives goes on living."""
        self.peak, self.flops = self.live, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=output)
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        size = math.ceil(storage.nbytes() / 512) * 512  # as CUDA's allocator gives it
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage._cdata, size)

    def _release(self, name: int, size: int) -> None:
        self._known.remove(name)
        self.live -= size


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Attention and layer norms keep for the backward pass what they keep on CUDA under autocast."""
    layer_norm = F.layer_norm

    def fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **kwargs):
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
        if attn_mask is None and query.dtype != torch.float32:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, scale=scale)[0]
        if attn_mask is not None:
            attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, True, dropout_p, scale=scale
        )[0]

    def float_layer_norm(hidden_states, *args, **kwargs):
        return layer_norm(hidden_states.float(), *args, **kwargs)

    with (
        mock.patch.object(cpu_kernels, "learns_slowly", lambda *tensors: False),
        mock.patch.object(F, "scaled_dot_product_attention", fused_attention),
        mock.patch.object(F, "layer_norm", float_layer_norm),
    ):
        yield


# ---------------------------------------------------------------------------------------------------------- the table


def main(argv: list[str] | None = None) -> int:
    """Print a line for each preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SMALL_PRESETS, *PRESETS]
    parser.add_argument("--preset", metavar="NAME", nargs="+", choices=names, default=names, help=", ".join(names))
    parser.add_argument("--image-size", metavar="PIXELS", type=int, help="default: the preset's")
    parser.add_argument("--num-frames", metavar="N", type=int, default=8, help="of a clip; default: 8")
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help="clips at once; default: 1")
    parser.add_argument("--objects", metavar="N", type=int, default=3, help="of a clip; default: 3")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16", help="default: bf16")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", metavar="N", type=int, default=3, help="that are timed; default: 3")
    parser.add_argument("--compute", action="store_true", help="compute for a GPU in place of measuring here")
    args = parser.parse_args(argv)

    last = "TFLOP a step" if args.compute else f"seconds a step ({args.device})"
    print(f"| preset | parameters | peak memory, GB | {last} |\n| --- | --- | --- | --- |")
    for preset in args.preset:
        result = compute(preset, args) if args.compute else measure(preset, args)
        cost = f"{result['flops'] / 1e12:.1f}" if args.compute else f"{result['seconds']:.2f}"
        print(f"| {preset} | {result['parameters'] / 1e6:.1f} M | {result['bytes'] / GB:.2f} | {cost} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

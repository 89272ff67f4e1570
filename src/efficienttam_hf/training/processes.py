"""Setup of Accelerate, and the few places where a sharded model (FSDP) needs different code."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .config import ConfigError, TrainingConfig


if TYPE_CHECKING:
    from accelerate import Accelerator


__all__ = [
    "fill_state",
    "has_fast_bfloat16",
    "is_first_process",
    "make_accelerator",
    "sharded_like",
    "start_logging",
    "whole",
]


logger = logging.getLogger(__name__)


def is_first_process() -> bool:
    """Whether this process is the only one or the first of those launched together, before Accelerate is set up."""
    return os.environ.get("RANK", "0") == "0"


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Accelerate, set up for a run: its precision, its trackers, and the processes it was launched in.

    Raises:
        ImportError: Accelerate is not installed.
        ConfigError: a precision or a tracker that is not to be had here, or processes that work together in another
            way than DDP or FSDP 2.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType
    except ImportError as error:
        raise ImportError("Training needs Accelerate: pip install efficienttam-hf[train].") from error
    _check_launch()
    _check_trackers(config)
    # On machines without any other device, several processes find each other only if this is said.
    on_cpu = hasattr(torch, "accelerator") and not torch.accelerator.is_available()
    precision = _precision(config.precision, on_cpu)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`log_with=")  # said below
            accelerator = Accelerator(
                cpu=on_cpu,
                mixed_precision=precision,
                log_with=list(config.trackers) or None,
                project_dir=config.output,
                # Which prompts a batch has decides which weights it uses.
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            )
    except ValueError as error:  # its messages name what it was given
        raise ConfigError(f"`precision` {config.precision!r}: {error}") from error
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would quietly go on without
        raise ConfigError("`precision` fp16 needs a GPU. On a CPU, use bf16 or no.")
    there = [str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with]
    missing = [name for name in config.trackers if name not in (*there, "all")]
    if missing and accelerator.is_main_process:
        logger.warning(
            "`trackers` names %s, which %s not installed: pip install %s. Numbers go to %s.",
            " and ".join(missing),
            "is" if len(missing) == 1 else "are",
            " ".join(name.replace("_", "-") for name in missing),
            " and ".join(["metrics.jsonl", *there]),
        )
    kinds = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
    kind = accelerator.distributed_type
    if kind not in kinds or (kind == DistributedType.FSDP and not getattr(accelerator, "is_fsdp2", False)):
        raise ConfigError(
            f"Accelerate is set up for {kind.value}; training runs in one process, in several (DDP) or sharded by FSDP "
            "with `fsdp_version: 2`. Run `accelerate config`, or give `accelerate launch` other options."
        )
    return accelerator


def _precision(asked: str, on_cpu: bool) -> str:
    """The precision to compute in: `auto` is bf16 where the machine computes fast in it, and float32 elsewhere."""
    if asked not in ("auto", "bf16"):
        return asked
    fast = has_fast_bfloat16() if on_cpu else torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    if asked == "auto":
        return "bf16" if fast else "no"
    if on_cpu and not fast and is_first_process():
        logger.warning(
            "`precision` bf16: this processor has no instructions for bfloat16, and a step takes several times as long "
            "as in float32. Set `precision` to no, or to auto, which takes bf16 only where it is fast."
        )
    return asked


def has_fast_bfloat16() -> bool:
    """Whether PyTorch multiplies bfloat16 matrices with oneDNN on this CPU; without, it is slower than in float32."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())


def _check_launch() -> None:
    """Refuse a launch that asked for several processes and got one, which Accelerate does not mention.

    `accelerate launch --cpu --num_processes 2` starts several processes with MPI only. Without, it starts one, and all
    that tells of the others is the address where they were to meet.
    """
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun, and of MPIs
    alone = not any(name in os.environ for name in sizes)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "t", "y")
    if alone and on_cpu and "MASTER_ADDR" in os.environ:
        raise ConfigError(
            "`accelerate launch --cpu` was asked for several processes and started one. On CPU cores it starts several "
            "with MPI only; use torchrun: torchrun --nproc-per-node 2 -m efficienttam_hf.cli train ... (or finetune "
            "...). If one process is what you want, give --num_processes 1 and unset MASTER_ADDR."
        )


def _check_trackers(config: TrainingConfig) -> None:
    """Refuse a tracker that Accelerate does not know, by name and with those that it knows."""
    from accelerate.utils import LoggerType

    known = [str(tracker.value) for tracker in LoggerType if tracker is not LoggerType.ALL]
    unknown = [name for name in config.trackers if name not in (*known, "all")]
    if unknown:
        raise ConfigError(
            f"`trackers` names {', '.join(map(repr, unknown))}, which Accelerate does not know. It knows "
            f"{', '.join(known)}; with [] numbers go to metrics.jsonl only."
        )


def start_logging(accelerator: Accelerator, config: TrainingConfig, step: int) -> None:
    """Begin to log to the trackers, with the configuration as hyperparameters.

    Args:
        accelerator: of `make_accelerator`.
        config: of the run.
        step: where the run is. What a killed run has logged beyond is left out.
    """
    if accelerator.is_main_process:
        plural = "" if accelerator.num_processes == 1 else "es"
        logger.info("Training in %d process%s on %s.", accelerator.num_processes, plural, accelerator.device.type)
    try:
        accelerator.init_trackers(
            "tensorboard" if "tensorboard" in config.trackers else Path(config.output).name,
            config=dict(_flat(config.to_dict())),
            init_kwargs={"tensorboard": {"purge_step": step + 1}} if step else {},
        )
    except Exception as error:  # trackers of other services fail in their own ways: no account, no network
        raise ConfigError(
            f"`trackers` {config.trackers}: one of them cannot be started: {type(error).__name__}: {error}. Log in to "
            "the service, or leave it out; with `trackers=[]` numbers go to metrics.jsonl only."
        ) from error


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """The leaves of nested values by their path, as `stages.0.steps`."""
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and value):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, bool | int | float) else str(value)


def fill_state(optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the state that AdamW makes with its first gradient: sharded checkpoints want all of them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, put together from their shards, as copies on the CPU. All processes must call this."""
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
    }


def sharded_like(tensors: Mapping[str, Tensor], models: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, each on the device of that of the same name in `models`, and in shards where that is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    return {
        name: distribute_tensor(tensors[name].to(model.device), model.device_mesh, model.placements)
        if isinstance(model, DTensor)
        else tensors[name].to(model.device)
        for name, model in models.items()
    }

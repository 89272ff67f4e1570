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
    """Whether this process is the first (or only) one of a launch. This also works before Accelerate is set up."""
    return os.environ.get("RANK", "0") == "0"


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Set up Accelerate for a run: the precision, the trackers, and the processes of the launch.

    Raises:
        ImportError: if Accelerate is not installed.
        ConfigError: if a precision or a tracker is not available on this machine, or the processes use another kind of
            parallelism than DDP or FSDP 2.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType
    except ImportError as error:
        raise ImportError("Training needs Accelerate: pip install efficienttam-hf[train].") from error
    _check_launch()
    _check_trackers(config)
    # On machines without an accelerator, several processes find each other only with this setting.
    on_cpu = hasattr(torch, "accelerator") and not torch.accelerator.is_available()
    precision = _precision(config.precision, on_cpu)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`log_with=")  # reported below
            accelerator = Accelerator(
                cpu=on_cpu,
                mixed_precision=precision,
                log_with=list(config.trackers) or None,
                project_dir=config.output,
                # The prompts of a batch determine which weights it uses.
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            )
    except ValueError as error:  # its messages name the invalid value
        raise ConfigError(f"`precision` {config.precision!r}: {error}") from error
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would silently continue without it
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
    """Return the precision of the run: `auto` becomes bf16 if the machine is fast in it, and float32 otherwise."""
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
    """Whether PyTorch multiplies bfloat16 matrices with oneDNN on this CPU; without it, float32 is faster."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())


def _check_launch() -> None:
    """Refuse a launch that requested several processes and started only one, which Accelerate does not report.

    `accelerate launch --cpu --num_processes 2` starts several processes only if MPI is installed. Otherwise it starts
    one, and only the address at which the processes should have met shows that more were requested.
    """
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # set by torchrun and MPIs
    alone = not any(name in os.environ for name in sizes)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "t", "y")
    if alone and on_cpu and "MASTER_ADDR" in os.environ:
        raise ConfigError(
            "`accelerate launch --cpu` was asked for several processes and started one. On CPU cores it starts several "
            "with MPI only; use torchrun: torchrun --nproc-per-node 2 -m efficienttam_hf.cli train ... (or finetune "
            "...). If one process is what you want, give --num_processes 1 and unset MASTER_ADDR."
        )


def _check_trackers(config: TrainingConfig) -> None:
    """Refuse a tracker that Accelerate does not know. The message lists the known trackers."""
    from accelerate.utils import LoggerType

    known = [str(tracker.value) for tracker in LoggerType if tracker is not LoggerType.ALL]
    unknown = [name for name in config.trackers if name not in (*known, "all")]
    if unknown:
        raise ConfigError(
            f"`trackers` names {', '.join(map(repr, unknown))}, which Accelerate does not know. It knows "
            f"{', '.join(known)}; with [] numbers go to metrics.jsonl only."
        )


def start_logging(accelerator: Accelerator, config: TrainingConfig, step: int) -> None:
    """Start the trackers, with the configuration as hyperparameters.

    Args:
        accelerator: the output of `make_accelerator`.
        config: the configuration of the run.
        step: the current step of the run. Entries that a killed run logged for later steps are hidden.
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
    except Exception as error:  # trackers of services raise various errors, such as for a missing account or network
        raise ConfigError(
            f"`trackers` {config.trackers}: one of them cannot be started: {type(error).__name__}: {error}. Log in to "
            "the service, or leave it out; with `trackers=[]` numbers go to metrics.jsonl only."
        ) from error


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """Yield the leaves of nested values with their paths, such as `stages.0.steps`."""
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and value):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, bool | int | float) else str(value)


def fill_state(optimizer: torch.optim.AdamW) -> None:
    """Create AdamW's state for every parameter before its first gradient: sharded checkpoints require all of them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Assemble tensors from their shards, as copies on the CPU, by name. All processes must call this."""
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
    }


def sharded_like(tensors: Mapping[str, Tensor], models: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move whole tensors to the device of the tensor of the same name in `models`, and shard them as it is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    return {
        name: distribute_tensor(tensors[name].to(model.device), model.device_mesh, model.placements)
        if isinstance(model, DTensor)
        else tensors[name].to(model.device)
        for name, model in models.items()
    }

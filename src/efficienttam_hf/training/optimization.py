"""How weights move: which learns at what rate, the schedule, the running average, and low-rank adapters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .config import ConfigError, LoraOptions, OptimizerOptions, StageOptions


def parameter_groups(model: nn.Module, stage: StageOptions, options: OptimizerOptions) -> list[dict[str, Any]]:
    """AdamW's groups of what learns, by name: rate and decay.

    Vectors (biases, norms) and embeddings do not decay. The image encoder has its own rate, and each of its blocks
    `vision_layer_decay` times that of the block after it (Bao et al., arXiv 2106.08254); its patch and position
    embeddings count as a block before the first, its neck as the last.
    """
    depth = 1 + max((int(n) for name, _ in model.named_parameters() for n in _BLOCK.findall(name)), default=-1)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = stage.learning_rate
        if "vision_encoder." in name:
            rate = stage.learning_rate if stage.vision_learning_rate is None else stage.vision_learning_rate
            block = _BLOCK.search(name)
            if block:
                rate *= options.vision_layer_decay ** (depth - 1 - int(block[1]))
            elif "patch_embed" in name:
                rate *= options.vision_layer_decay**depth
        decays = parameter.ndim > 1 and not _EMBEDDING.search(name)
        key = (rate, options.weight_decay if decays else 0.0)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("Nothing is left to learn: `freeze` names every part of the model.")
    return list(groups.values())


_BLOCK = re.compile(r"vision_encoder\.layers\.(\d+)\.")
_EMBEDDING = re.compile(
    r"position_embeddings|positional_encoding|no_memory_embedding|no_object_pointer|_embed\.weight$|_token(s)?\.weight$"
)


def rate_at(step: int, stage: StageOptions) -> float:
    """The share of the highest learning rate at a step of a stage: linear warm-up from 0, then a cosine."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Let parts of a model keep their weights.

    Raises:
        ConfigError: for a name that is no module of the model.
    """
    modules = dict(model.named_modules())
    for part in parts:
        if part not in modules:
            names = [name for name, _ in model.named_children()]
            raise ConfigError(f"`freeze` names {part!r}, which is no part of the model. Its parts are {names}.")
        modules[part].requires_grad_(False)


class RunningAverage:
    """An exponential moving average of the weights that learn, float32.

    In the first steps the decay is lower, `(1 + n) / (10 + n)` after n updates, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.shadow = {n: p.detach().clone().float() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's weights."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = {n: p.detach() for n, p in model.named_parameters() if n in self.shadow}
        torch._foreach_lerp_(list(self.shadow.values()), [current[n].float() for n in self.shadow], weight)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average of the same weights."""
        self.updates = state["updates"]
        for name, value in self.shadow.items():
            value.copy_(state["shadow"][name])


# ------------------------------------------------------------------------------------------------ low-rank adapters


def add_adapters(model: nn.Module, options: LoraOptions) -> None:
    """Freeze a model and give its linear layers low-rank adapters that learn (Hu et al., arXiv 2106.09685).

    Raises:
        ImportError: `peft` is not installed.
        ConfigError: the model has none of the target modules.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs `peft`: pip install 'efficienttam-hf[lora]'.") from error
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=options.target_modules
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ConfigError(f"`lora.target_modules` {options.target_modules}: {error}") from error


def merged_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model with adapters as those of the model without.

    Args:
        model: the model with adapters, or without any, which returns `weights` as they are.
        weights: by the names of `model.state_dict()`; need not be the values `model` has now.
    """
    adapted = {name: module.scaling["default"] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    if not adapted:
        return weights
    merged = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, scale in adapted.items():
        down, up = (weights[f"{name}.lora_{part}.default.weight"] for part in "AB")
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + scale * (up @ down)
    return merged


__all__ = ["RunningAverage", "add_adapters", "freeze", "merged_weights", "parameter_groups", "rate_at"]

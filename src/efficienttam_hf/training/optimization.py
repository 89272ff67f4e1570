"""Optimisation: parameter groups, the learning rate schedule, the running average, and low-rank adapters."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .config import ConfigError, LoraOptions, OptimizerOptions, StageOptions


__all__ = ["RunningAverage", "add_adapters", "freeze", "merged_weights", "parameter_groups", "rate_at"]


def parameter_groups(model: nn.Module, stage: StageOptions, options: OptimizerOptions) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW by learning rate and weight decay.

    Only the weights of linear layers and convolutions decay; biases, norms, embeddings and tokens do not. The image
    encoder has its own rate, and each of its blocks `vision_layer_decay` times that of the block after it (Bao et al.,
    arXiv 2106.08254); its patch and position embeddings count as a block before the first, its neck as the last.

    Args:
        model: an `EfficientTamVideoModel`, or a module that contains one.
        stage: the stage, which has the highest learning rates.
        options: the options of the optimizer, which have the decays.

    Raises:
        ConfigError: if no parameter is trainable.
    """
    decaying = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)}
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
        weight_decay = options.weight_decay if id(parameter) in decaying else 0.0
        group = groups.setdefault((rate, weight_decay), {"params": [], "lr": rate, "weight_decay": weight_decay})
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("Nothing is left to learn: `freeze` names every part that could. Freeze less.")
    return list(groups.values())


_BLOCK = re.compile(r"vision_encoder\.layers\.(\d+)\.")


def rate_at(step: int, stage: StageOptions) -> float:
    """The learning rate at a step of a stage, relative to the highest one: a linear warm-up, then a cosine.

    Step 0 has `1 / warmup_steps`, and the last step of the warm-up has 1; then the cosine falls to `final_rate`.
    """
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Freeze parts of a model; the adapters of a frozen part are not trained either.

    Args:
        model: the model.
        parts: names of modules (`"vision_encoder"`, `"vision_encoder.layers.0"`) or of single parameters.

    Raises:
        ConfigError: if the model has no part with a name.
    """
    known = {**dict(model.named_parameters()), **dict(model.named_modules())}
    for part in parts:
        if part not in known:
            names = ", ".join(name for name, _ in model.named_children())
            near = difflib.get_close_matches(part, known, n=1)
            raise ConfigError(
                f"`freeze` names {part!r}, which is no part of the model. "
                + (f"Did you mean {near[0]!r}? " if near else "")
                + f"Its parts are {names}."
            )
        known[part].requires_grad_(False)


class RunningAverage:
    """An exponential moving average of the trainable weights, in float32.

    In the first steps the decay is lower, `(1 + n) / (10 + n)` after n updates, so that the initial weights fade fast.
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
        current = dict(model.named_parameters())
        # The one form of it that weights in shards (FSDP) have too.
        torch._foreach_lerp_(list(self.shadow.values()), [current[name].float() for name in self.shadow], weight)

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average of the same weights."""
        self.updates = state["updates"]
        for name, value in self.shadow.items():
            value.copy_(state["shadow"][name])


# ------------------------------------------------------------------------------------------------ low-rank adapters


def add_adapters(model: nn.Module, options: LoraOptions) -> None:
    """Freeze a model and add trainable low-rank adapters to its linear layers (Hu et al., arXiv 2106.09685).

    Only the adapters are trained: biases, norms and the learned tokens of prompts and masks are frozen. New adapters do
    not change the output.

    Raises:
        ImportError: if `peft` is not installed.
        ConfigError: if a name in `target_modules` is not that of a linear layer of the model.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs `peft`: pip install efficienttam-hf[lora].") from error
    modules = dict(model.named_modules())
    for target in options.target_modules:
        found = [module for name, module in modules.items() if f".{name}".endswith(f".{target}")]
        if not found or not all(isinstance(module, nn.Linear) for module in found):
            ends = {name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, nn.Linear)}
            raise ConfigError(
                f"`lora.target_modules` names {target!r}, and no linear layers of the model are called so. Some are "
                f"called {', '.join(sorted(end for end in ends if not end.isdigit()))}; those in MLPs end in "
                "mlp.layers.0 and mlp.layers.1."
            )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank; any number will do
        lora_dropout=options.dropout,
        target_modules=options.target_modules,
    )
    inject_adapter_in_model(config, model)


def merged_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge the adapters into the weights of a model.

    Args:
        model: the model; if it has no adapters, `weights` are returned unchanged.
        weights: weights by the names of `model.state_dict()`; their values may differ from those of `model`.
    """
    adapted = {name: module.scaling["default"] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    if not adapted:
        return weights
    merged = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, scale in adapted.items():
        down, up = (weights[f"{name}.lora_{part}.default.weight"] for part in "AB")
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + scale * (up @ down)
    return merged

"""Loads the initial model of a run, models with given weights, and the loss options of a checkpoint."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..app.defaults import PRESET_PREFIX
from ..app.loading import load_config, load_weights, preset_config
from ..configuration_efficienttam import PRESETS, SMALL_PRESETS, EfficientTamConfig
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..remote_code import included_checkpoint
from ..structured_files import read_json
from .config import ConfigError, build_options
from .losses import LossOptions
from .processes import is_first_process


__all__ = [
    "LOSSES_FILE",
    "enable_activation_checkpointing",
    "load_model",
    "load_model_config",
    "losses_of",
    "save_losses",
    "with_weights",
]


logger = logging.getLogger(__name__)

LOSSES_FILE = "losses.json"  # a file in the folder of a checkpoint


def load_model_config(name: str, overrides: dict[str, Any]) -> EfficientTamConfig:
    """Load the configuration of the initial model of a run, without reading weights.

    Args:
        name: `preset:NAME`, or the name of a checkpoint for `app.loading.find_model`.
        overrides: fields of the preset's configuration with other values.

    Raises:
        ConfigError: if the name is neither a preset nor a checkpoint, or an override is invalid.
    """
    try:
        config = preset_config(name, **overrides)
        if config is not None:
            return config
        if overrides:
            raise ConfigError(
                f"`model_overrides` are for presets, which have fresh weights; {name} has its own configuration."
                + (f" {_fresh(name)}" if name in (*PRESETS, *SMALL_PRESETS) else "")
            )
        if name in PRESETS and not Path(name).is_dir() and is_first_process():
            logger.info("Training begins with the published weights of %s. %s", name, _fresh(name))
        return load_config(name)
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _no_model(name, error) from error


def load_model(name: str, config: EfficientTamConfig) -> EfficientTamVideoModel:
    """Create a preset's model with random weights from PyTorch's generator, or load a checkpoint; float32, on the CPU.

    Args:
        name: see `load_model_config`.
        config: the output of `load_model_config`.

    Raises:
        ConfigError: if a checkpoint cannot be loaded.
    """
    if name.startswith(PRESET_PREFIX):
        return EfficientTamVideoModel(config)
    try:
        return load_weights(EfficientTamVideoModel, name, config=config)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise _no_model(name, error) from error


def _no_model(name: str, error: Exception) -> ConfigError:
    presets = ", ".join(f"{PRESET_PREFIX}{preset}" for preset in (*SMALL_PRESETS, *PRESETS))
    hint = f" {_fresh(name)}" if name in (*PRESETS, *SMALL_PRESETS) else ""
    return ConfigError(f"`model` {name!r} is neither a preset ({presets}) nor a checkpoint that loads: {error}{hint}")


def _fresh(name: str) -> str:
    return f"For fresh weights, as that name meant before, write `model: {PRESET_PREFIX}{name}`."


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Make a model recompute activations in the backward pass, with the method of this version of Transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (model.gradient_checkpointing_enable if enable is None else enable)()


def with_weights(config: EfficientTamConfig, weights: dict[str, Tensor]) -> EfficientTamVideoModel:
    """Create a model with these weights, which fit any input size."""
    model = EfficientTamVideoModel(config)
    model.load_state_dict(weights)
    return model


def save_losses(losses: LossOptions, folder: Path) -> None:
    """Write the options of the losses into the folder of a checkpoint that was trained with them."""
    (folder / LOSSES_FILE).write_text(json.dumps(asdict(losses), indent=2) + "\n", encoding="utf-8")


def losses_of(name: str) -> LossOptions:
    """The loss options with which a checkpoint was trained; by default, those of the published recipe.

    Raises:
        ConfigError: if its file of loss options is invalid.
    """
    file = Path(included_checkpoint(name)) / LOSSES_FILE
    if not file.is_file():
        return LossOptions()
    return build_options(LossOptions, read_json(file, error=ConfigError, what="losses"), str(file))

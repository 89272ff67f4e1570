"""Loads a model and its processor by name, from a folder or from the Hub; no other module does this.

It also chooses the model if none is named: the authors' variant for the device, if it exists here or can be fetched,
and otherwise the included model.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub_files import is_offline
from ..published import (
    INCLUDED_MODELS,
    PUBLISHED_REPOSITORY,
    VARIANTS,
    FetchError,
    answers,
    fetch,
    found,
)
from .defaults import INCLUDED_MODEL, MODEL_VARIABLE, PRESET_PREFIX, default_on


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..configuration_efficienttam import EfficientTamConfig
    from ..processing_efficienttam import EfficientTamVideoProcessor


def quiet_transformers() -> None:
    """Suppress Transformers' advice and progress bars, except the progress bars of downloads."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()


def choose_device(name: str) -> torch.device:
    """The device with a name; `auto` means the best one of this machine.

    Raises:
        ValueError: if this machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


@dataclass(frozen=True)
class ModelSource:
    """The location of the weights of a named model.

    Attributes:
        name: the given name, or the name of the model that was chosen.
        location: the argument of `from_pretrained`: a folder, or an id on the Hub.
        description: a description of the model for the user; if it was chosen, with the reason.
    """

    name: str
    location: str
    description: str


def choose_model(given: str | None, device: torch.device) -> ModelSource:
    """Choose the model of a command: the named one, else the one of `EFFICIENTTAM_MODEL`, else the default.

    The default is the authors' variant for the device, if it is in the cache or can be fetched; otherwise it is the
    included model. If the Hub does not answer within seconds, the variant counts as not available.

    Args:
        given: a name (see `find_model`), or `None`.
        device: the device on which the model will run.

    Raises:
        FileNotFoundError, FetchError, ValueError: if the named model cannot be found; see `find_model`.
    """
    named = given or os.environ.get(MODEL_VARIABLE)
    if named:
        return find_model(named)
    wanted = default_on(device.type)
    kind = "a CPU" if device.type == "cpu" else "a GPU"
    problem = None
    if found(wanted) is None:
        problem = "HF_HUB_OFFLINE is set" if is_offline() else answers(wanted)
    if problem is None:
        try:
            source = find_model(wanted)
        except FetchError as error:
            problem = str(error)
        else:
            why = f"the default on {kind}; --model {INCLUDED_MODEL} takes a smaller and faster one"
            return ModelSource(source.name, source.location, f"{source.description} ({why})")
    small = find_model(INCLUDED_MODEL)
    why = (
        f"the authors' {wanted}, which is more accurate, is not here and cannot be fetched: {problem.rstrip('.')}; "
        f"`efficienttam models fetch {wanted}` gets it, and --model decides"
    )
    return ModelSource(small.name, small.location, f"{small.description} ({why})")


def find_model(name: str) -> ModelSource:
    """Find a named model. A published variant is fetched if it does not exist here; nothing else is loaded.

    A name is looked up in this order: a folder, an included model, a variant that the authors publish, an id on the
    Hub. A new type of name needs one more function in `_LOOKUPS`.

    Raises:
        FileNotFoundError: if there is no such model.
        FetchError: if a published variant does not exist here and cannot be fetched.
        ValueError: if the name is that of a file, or of a preset (random weights).
    """
    for look_up in _LOOKUPS:
        source = look_up(name)
        if source is not None:
            return source
    known = [*INCLUDED_MODELS, *VARIANTS]
    close = difflib.get_close_matches(name, known, n=1)
    raise FileNotFoundError(
        f"There is no folder '{name}' with a model in it, and no model of that name"
        + (f"; did you mean {close[0]}? " if close else ": ")
        + f"--model takes a folder, an id on the Hub such as user/model, or one of {', '.join(known)}."
    )


def _find_folder(name: str) -> ModelSource | None:
    path = Path(name)
    if path.is_file():
        raise ValueError(
            f"--model takes a folder; '{name}' is a file. If it is a published checkpoint, convert it first: "
            f"efficienttam convert {name} FOLDER --variant NAME"
        )
    if not path.is_dir():
        return None
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"The folder '{name}' holds no model: there is no config.json in it. --model takes a folder that "
            "save_pretrained, `efficienttam convert` or a training run wrote."
        )
    return ModelSource(name, str(path), f"the one in the folder '{name}'")


def _find_included(name: str) -> ModelSource | None:
    from ..remote_code import included_checkpoint

    folder = included_checkpoint(name)
    if folder == name:
        return None
    return ModelSource(name, str(folder), f"{name}, a small one that comes with this package")


def _find_published(name: str) -> ModelSource | None:
    if name not in VARIANTS:
        return None
    return ModelSource(name, str(fetch(name)), f"{name} of {PUBLISHED_REPOSITORY}")


def _find_preset(name: str) -> ModelSource | None:
    if name.startswith(PRESET_PREFIX):
        raise ValueError(
            f"{name} is a model with fresh weights, which only training, `efficienttam benchmark` and `efficienttam "
            f"export` accept; the trained model is {name.removeprefix(PRESET_PREFIX)}."
        )
    return None


def _find_on_hub(name: str) -> ModelSource | None:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    return ModelSource(name, name, f"{name} from the Hub")


_LOOKUPS = (_find_folder, _find_included, _find_published, _find_preset, _find_on_hub)


def preset_config(name: str, **overrides: Any) -> EfficientTamConfig | None:
    """The configuration of `preset:NAME`, a model with random weights; `None` for any other name.

    Raises:
        ValueError: if there is no such preset, or an override is invalid.
    """
    from ..configuration_efficienttam import EfficientTamConfig

    if not name.startswith(PRESET_PREFIX):
        return None
    return EfficientTamConfig.from_preset(name.removeprefix(PRESET_PREFIX), **overrides)


def load_config(name: str, **overrides: Any) -> EfficientTamConfig:
    """Load the configuration of a named model.

    Args:
        name: see `find_model`.
        overrides: fields with other values, such as `image_size`.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model of that name, or an override is invalid.
    """
    from transformers import PreTrainedConfig

    from ..checkpoints import read_config
    from ..configuration_efficienttam import EfficientTamConfig

    source = find_model(name)
    if Path(source.location).is_dir():
        read_config(Path(source.location) / "config.json")
        return EfficientTamConfig.from_pretrained(source.location, **overrides)
    try:
        content, _ = PreTrainedConfig.get_config_dict(source.location)
    except OSError as error:
        raise OSError(
            f"There is no folder '{name}', and no model could be loaded from the Hub: {_first_line(error)}"
        ) from error
    if content.get("model_type") != EfficientTamConfig.model_type:
        raise ValueError(
            f"'{name}' is a model of type {content.get('model_type')!r}, not {EfficientTamConfig.model_type!r}."
        )
    return EfficientTamConfig.from_pretrained(source.location, **overrides)


def load_weights(
    model_class: type[PreTrainedModel], name: str, dtype: str = "float32", config: EfficientTamConfig | None = None
) -> Any:
    """Load a named model on the CPU, in evaluation mode.

    Args:
        model_class: `EfficientTamModel` or `EfficientTamVideoModel`.
        name: see `find_model`.
        dtype: the dtype of weights and activations.
        config: the output of `load_config` for the name; by default, it is loaded without overrides.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model of that name, or its weights are damaged or incomplete.
    """
    import torch

    config = config or load_config(name)
    loaded: Any = model_class.from_pretrained(
        find_model(name).location, config=config, dtype=getattr(torch, dtype), output_loading_info=True
    )
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"The weights in '{name}' are not complete: {len(missing)} tensors are missing, such as {missing[0]}. "
            "Download or convert the model again."
        )
    return model.eval()


def load_model(
    model_class: type[PreTrainedModel], name: str, device: torch.device, dtype: str = "float32"
) -> tuple[Any, EfficientTamVideoProcessor]:
    """Load a named model, ready to run on a device, and its processor.

    The other arguments and the errors are those of `load_weights`.
    """
    from ..processing_efficienttam import EfficientTamVideoProcessor

    quiet_transformers()
    model = load_weights(model_class, name, dtype).to(device)
    return model, EfficientTamVideoProcessor.from_pretrained(find_model(name).location)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

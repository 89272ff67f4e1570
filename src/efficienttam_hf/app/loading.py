"""A name, a folder or an id on the Hub to a model, ready to run, and its processor: the only place that does this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .defaults import DEFAULT_MODEL


if TYPE_CHECKING:
    import torch

    from ..configuration_efficienttam import EfficientTamConfig
    from ..processing_efficienttam import EfficientTamVideoProcessor


def quiet_transformers() -> None:
    """Keep Transformers' advice and progress bars out of the output, all but those of downloads."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()


def choose_device(name: str) -> torch.device:
    """The device of a name, `auto` for the best there is.

    Raises:
        ValueError: if there is no such device here.
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
    """Where the weights of a named model are.

    Attributes:
        name: as it was given.
        location: what `from_pretrained` takes: a folder, or an id on the Hub.
        description: which model it is, for a line to the user.
    """

    name: str
    location: str
    description: str


def find_model(name: str) -> ModelSource:
    """Where a named model is; nothing is loaded.

    A name is looked up in this order: a folder, a model that comes with this package, an id on the Hub. The way in for
    another kind of name is one more function in `_LOOKUPS`.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is a file.
    """
    for look_up in _LOOKUPS:
        source = look_up(name)
        if source is not None:
            return source
    raise FileNotFoundError(
        f"There is no folder '{name}' with a model in it, and no model of that name: --model takes a folder, an id on "
        f"the Hub such as user/model, or {DEFAULT_MODEL}."
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
        raise FileNotFoundError(f"The folder '{name}' holds no model: there is no config.json in it.")
    return ModelSource(name, str(path), f"the one in the folder '{name}'")


def _find_included(name: str) -> ModelSource | None:
    from ..remote_code import included_checkpoint

    folder = included_checkpoint(name)
    if folder == name:
        return None
    return ModelSource(name, str(folder), f"{name}, a small one that comes with this package")


def _find_on_hub(name: str) -> ModelSource | None:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    return ModelSource(name, name, f"{name} from the Hub")


_LOOKUPS = (_find_folder, _find_included, _find_on_hub)


def load_config(name: str, **overrides: Any) -> EfficientTamConfig:
    """The configuration of a named model.

    Args:
        name: see `find_model`.
        overrides: fields that are to be otherwise, such as `image_size`.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model of that name, or the overrides do not fit.
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
        raise OSError(f"There is no folder '{name}', and on the Hub: {_first_line(error)}") from error
    if content.get("model_type") != EfficientTamConfig.model_type:
        raise ValueError(f"'{name}' is a model of type {content.get('model_type')!r}, not EfficientTAM.")
    return EfficientTamConfig.from_pretrained(source.location, **overrides)


def load_weights(model_class: type, name: str, dtype: str = "float32", config: EfficientTamConfig | None = None) -> Any:
    """A named model on the CPU, in evaluation mode.

    Args:
        model_class: `EfficientTamModel` or `EfficientTamVideoModel`.
        name: see `find_model`.
        dtype: of weights and activations.
        config: what `load_config` gave for the name, perhaps with overrides; read here by default.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model of that name, or its weights are damaged or not complete.
    """
    import torch
    from safetensors import SafetensorError

    config = config or load_config(name)
    try:
        model, loading = model_class.from_pretrained(
            find_model(name).location, config=config, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"The weights in '{name}' are damaged: {error}") from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"The weights in '{name}' are not complete: {len(missing)} tensors are missing, such as {missing[0]}."
        )
    return model.eval()


def load_model(
    model_class: type, name: str, device: torch.device, dtype: str = "float32"
) -> tuple[Any, EfficientTamVideoProcessor]:
    """A named model, ready to run on a device, and its processor.

    Args and raises as `load_weights`.
    """
    from ..processing_efficienttam import EfficientTamVideoProcessor

    quiet_transformers()
    model = load_weights(model_class, name, dtype).to(device)
    return model, EfficientTamVideoProcessor.from_pretrained(find_model(name).location)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

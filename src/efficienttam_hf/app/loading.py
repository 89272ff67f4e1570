"""A name, a folder or an id on the Hub to a model, ready to run, and its processor: the only place that does this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


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


def load_model(model_class: type, source: str, device: torch.device, dtype: str) -> tuple[Any, Any]:
    """A model, ready to run, and its processor.

    Args:
        model_class: `EfficientTamModel` or `EfficientTamVideoModel`.
        source: a folder, an id on the Hub, or the name of a model that comes with this package.

    Raises:
        ValueError, OSError: if there is no EfficientTAM model at `source`.
    """
    import torch
    from transformers import PreTrainedConfig

    from ..processing_efficienttam import EfficientTamVideoProcessor
    from ..remote_code import included_checkpoint

    quiet_transformers()
    path = Path(included_checkpoint(source))
    if path.is_file():
        raise ValueError(
            f"--model takes a folder; '{source}' is a file. If it is a published checkpoint, convert it first: "
            f"efficienttam convert {source} FOLDER --variant NAME"
        )
    if path.is_dir():
        source = str(path)
    elif source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no folder '{source}' with a model in it.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"The folder '{source}' holds no model: there is no config.json in it.")
    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
    except OSError as error:
        raise OSError(f"There is no folder '{source}', and on the Hub: {_first_line(error)}") from error
    if config.get("model_type") != "efficienttam":
        raise ValueError(f"'{source}' is a model of type {config.get('model_type')!r}, not EfficientTAM.")
    model, loading = model_class.from_pretrained(source, dtype=getattr(torch, dtype), output_loading_info=True)
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"The weights in '{source}' are not complete: {len(missing)} tensors are missing, such as {missing[0]}."
        )
    return model.to(device).eval(), EfficientTamVideoProcessor.from_pretrained(source)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

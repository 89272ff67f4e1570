"""The files that make a checkpoint folder loadable without this package, and the models included in the package.

A folder that `save_pretrained` wrote holds, beside the weights, the code that `trust_remote_code=True` needs where this
package is not installed. `RemoteCode` and `RemoteConfig` are mixins of what is saved and loaded so.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any, overload


# The files that make a checkpoint folder usable with `trust_remote_code=True`, where this package is not installed.
REMOTE_CODE_FILES = (
    "remote_code.py",
    "configuration_sizes.py",
    "presets.py",
    "configuration_efficienttam_backbone.py",
    "configuration_efficienttam.py",
    "kernel_choice.py",
    "cpu_kernels.py",
    "modeling_efficienttam_layers.py",
    "modeling_efficienttam_vision.py",
    "modeling_efficienttam_backbone.py",
    "modeling_efficienttam_decoder.py",
    "modeling_efficienttam.py",
    "modeling_efficienttam_memory.py",
    "modeling_efficienttam_video.py",
    "tracking_rules.py",
    "object_competition.py",
    "memory_selection.py",
    "memory_selection_distractors.py",
    "memory_selection_hypotheses.py",
    "memory_selection_motion.py",
    "object_memory.py",
    "memory.py",
    "tracking_session.py",
    "session_walk.py",
    "tracker_calls.py",
    "video_session.py",
    "video_outputs.py",
    "video_backend.py",
    "images.py",
    "prompts.py",
    "prompt_calls.py",
    "video_frames.py",
    "processing_efficienttam.py",
)


def copy_remote_code(folder: str | Path) -> None:
    """Copy the files of `REMOTE_CODE_FILES` that lie beside this one into `folder` (made if missing)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).resolve().parent
    for name in REMOTE_CODE_FILES:
        source, target = here / name, folder / name
        if source.is_file() and not (target.exists() and source.samefile(target)):
            shutil.copyfile(source, target)


@overload
def included_checkpoint(name: str | Path) -> str | Path: ...


@overload
def included_checkpoint(name: None) -> None: ...


def included_checkpoint(name: str | Path | None) -> str | Path | None:
    """The folder of a model that comes with this package, for its name (`"efficienttam-nano"`).

    Anything else, and a folder of that name where you are, is returned as it is.
    """
    if name is None:  # weights come from elsewhere, as Transformers allows
        return name
    folder = Path(__file__).resolve().parent / "pretrained" / str(name)
    is_name = Path(name).name == str(name)
    return folder if is_name and not Path(name).is_dir() and (folder / "config.json").is_file() else name


@overload
def named_checkpoint(name: str | Path, **options: Any) -> str | Path: ...


@overload
def named_checkpoint(name: None, **options: Any) -> None: ...


def named_checkpoint(name: str | Path | None, **options: Any) -> str | Path | None:
    """The folder of a model by its name: one that comes with this package, or a variant that its authors publish.

    For what looks names up itself, such as Transformers' Auto classes and pipelines, which know folders and ids on the
    Hub: `AutoModel.from_pretrained(named_checkpoint("efficienttam_s"))`.

    A published variant (`"efficienttam_s"`) is fetched and converted if it is not in the Hugging Face cache. Anything
    else, and a folder of that name where you are, is returned as it is.

    Args:
        name: as `from_pretrained` takes it.
        options: `cache_dir`, `token`, `local_files_only`, `revision` (of the authors' repository) and
            `force_download`, as `from_pretrained` takes them; others are for what is in the folder.

    Raises:
        OSError: a published variant that is not here and cannot be fetched.
        ValueError: a revision of a model that comes with this package and has none.
    """
    folder = included_checkpoint(name)
    if folder != name and options.get("revision") not in (None, "main"):
        raise ValueError(f"{name} comes with this package and has no revision {options['revision']!r}.")
    package = f"{__package__}.published"
    # In a checkpoint folder's copy of this file there is no such module, and a checkpoint has no other's name.
    if name is None or folder != name or Path(name).is_dir() or importlib.util.find_spec(package) is None:
        return folder
    published = importlib.import_module(package)
    if str(name) not in published.VARIANTS:
        return folder
    known = ("cache_dir", "token", "local_files_only", "revision", "force_download")
    return published.fetch(str(name), **{key: options[key] for key in known if options.get(key) is not None})


class DamagedFileError(OSError):
    """A file of a model cannot be read; the message names it and the way out."""


# The files of a model that are mappings in JSON.
JSON_FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "model.safetensors.index.json")


def damage_of(name: str | Path, **options: Any) -> str | None:
    """What is wrong with the files of a model that is here, as a sentence that names the file; `None` if nothing is.

    Args:
        name: a folder, or an id on the Hub, of which the files in the cache are looked at.
        options: `cache_dir`, `revision` and `subfolder`, as `from_pretrained` takes them.
    """
    from safetensors import SafetensorError, safe_open
    from transformers.utils import cached_file

    for file in (*JSON_FILES, "*.safetensors"):
        if Path(name).is_dir():
            paths = sorted(Path(name, options.get("subfolder") or "").glob(file))
        else:
            known = {key: options[key] for key in ("cache_dir", "revision", "subfolder") if options.get(key)}
            try:
                found = cached_file(str(name), file.replace("*", "model"), local_files_only=True, **known)
            except OSError:  # it is not in the cache
                continue
            paths = [Path(found)] if found else []
        for path in paths:
            try:
                if path.suffix == ".json":
                    if not isinstance(json.loads(path.read_bytes()), dict):
                        raise ValueError("it holds no mapping of fields")
                else:
                    with safe_open(path, "pt"):
                        pass
            except (SafetensorError, ValueError, RecursionError, OSError) as error:
                reason = " ".join(str(error).split())[:200]
                return (
                    f"'{path}' is damaged and cannot be read: {reason}. Copy, fetch or convert the model again; "
                    "`efficienttam verify FOLDER` compares the files of a folder with its checksums."
                )
    return None


class RemoteCode:
    """Mixin of what is loaded and saved: by the names of models too, and with the code for remote use."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, and by name: `"efficienttam-nano"`, which comes with this package, `"efficienttam_s"`.

        Raises:
            OSError: as in Transformers, and for a damaged file, which it names, with the way out.
        """
        name = named_checkpoint(pretrained_model_name_or_path, **kwargs)
        try:
            return super().from_pretrained(name, *args, **kwargs)  # type: ignore[misc]  # of what this is mixed into
        except Exception as error:  # goes on as it is, unless a file is damaged: parsers raise many kinds of errors
            damage = damage_of(name, **kwargs) if name is not None and not isinstance(error, DamagedFileError) else None
            if damage is None:
                raise
            raise DamagedFileError(damage) from error

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; also writes the code files that `trust_remote_code=True` needs."""
        if kwargs.get("is_main_process", True):
            copy_remote_code(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]  # of what this is mixed into

    def _get_files_timestamps(self, working_dir: Any) -> Any:
        # Transformers uploads the files that change after this; the code was copied before and is to go with them.
        timestamps = super()._get_files_timestamps(working_dir)  # type: ignore[misc]  # of what this is mixed into
        return {name: time for name, time in timestamps.items() if name not in REMOTE_CODE_FILES}


class RemoteConfig(RemoteCode):
    """Mixin of configurations that Auto classes load: the file says which class is which."""

    remote_classes: dict[str, str] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, and by name.

        Raises:
            OSError: as in Transformers, and for a damaged file.
            ValueError: naming the model, the field, its value and what is accepted.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except ValueError as error:
            raise ValueError(f"The configuration of '{pretrained_model_name_or_path}': {error}") from error

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; also writes the code files that `trust_remote_code=True` needs."""
        self.auto_map = dict(self.remote_classes)
        return super().save_pretrained(save_directory, *args, **kwargs)

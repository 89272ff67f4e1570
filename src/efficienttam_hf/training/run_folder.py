"""The folder of a run: atomic checkpoints, and one line of metrics per step.

    run/
      config.json            the configuration
      metrics.jsonl          one line every few steps
      overlays/              sample pictures
      tensorboard/           the files of Accelerate's tracker
      checkpoints/
        step-00000500/       loads with `from_pretrained`; `training_state/` is for resuming
        damaged-step-...     a checkpoint that was found damaged on resuming
      last -> checkpoints/step-...    the newest
      best -> checkpoints/step-...    the checkpoint with the best score

A checkpoint is written under a hidden name. It is renamed when all its files, with a checksum for each, are on the
disk. The links are relative and are renamed into place too, and a checkpoint is hidden before it is deleted. So a run
that is killed at any moment leaves its newest complete checkpoint, and the folder of a run can be moved or copied.
Files that are damaged later are found when the run is resumed; it then continues from the newest intact checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..app.defaults import PRESET_PREFIX
from ..atomic_file import atomic_path
from ..checksums import CHECKSUMS_FILE, damaged_files, sync_folder, sync_names, write_checksums
from ..structured_files import parse_json, read_json
from .config import ConfigError, TrainingConfig, load_config


__all__ = ["AVERAGE_FILE", "PROGRESS_FILE", "STATE_FOLDER", "RunFolder"]


STATE_FOLDER = "training_state"
PROGRESS_FILE = "progress.json"
AVERAGE_FILE = "average.pt"


class RunFolder:
    """One run on disk. Only the main process writes to it, except for the `training_state` of sharded models.

    Args:
        path: the folder of the run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    # --------------------------------------------------------------------------------------------------- beginning

    def claim(self, needed_bytes: int) -> None:
        """Lock the folder for this process until it ends, and remove the unfinished checkpoints of a killed run.

        Args:
            needed_bytes: roughly, how many bytes the run will write.

        Raises:
            ConfigError: if the folder cannot be made or written, has not enough free space, or is in use by another
                process that trains.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 -- open until the run ends
        except OSError as error:
            raise ConfigError(
                f"Cannot write to the run's folder {self.path}: {error.strerror or error}. Set `output` to a folder "
                "that can be written."
            ) from error
        if not _lock(self._lock):
            self._lock.seek(0)
            raise ConfigError(
                f"Process {self._lock.read().strip()} is training in {self.path}. Wait for it or stop it, or set "
                "`output` to another folder."
            )
        self._lock.truncate(0)
        print(os.getpid(), file=self._lock, flush=True)
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise ConfigError(
                f"{self.path} has {free / 2**20:.0f} MiB free; the checkpoints of this run need about "
                f"{needed_bytes / 2**20:.0f} MiB. Free some space, set `output` elsewhere or lower `keep_checkpoints`."
            )
        for path in self.checkpoints.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def save_config(self, config: TrainingConfig) -> None:
        """Write `config.json`."""
        with atomic_path(self.path / "config.json") as temporary:
            temporary.write_text(json.dumps(_plain(config), indent=2) + "\n", encoding="utf-8")

    def check_same_config(self, config: TrainingConfig) -> None:
        """Check that a run is resumed with its own configuration.

        Raises:
            ConfigError: if a field that affects the results differs; the message has both values.
        """
        path = self.path / "config.json"
        try:
            # Fields that were added to the package after the run began get their default values.
            saved = load_config(read_json(path, error=ConfigError, what="configuration"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Cannot resume: {path} cannot be read ({error}). Bring it back from a copy, or start a new run from "
                f"its weights (`model: {self.path / 'last'}`, another `output`)."
            ) from error
        if config.model == f"{PRESET_PREFIX}{saved.model}":  # from a version in which a preset had no prefix
            saved.model = config.model
        different = [
            f"`{name}`: {was!r} then, {now!r} now"
            for name, was, now in _differences(_plain(saved), _plain(config))
            if not FREE_TO_CHANGE & set(name.split("."))
        ]
        if different:
            raise ConfigError(
                f"Cannot resume {self.path} with another configuration. It differs in {'; '.join(different)}. Resume "
                "with the configuration it began with, or start a new run from its weights (`model: "
                f"{self.path / 'last'}`, another `output`)."
            )

    # ------------------------------------------------------------------------------------------------- checkpoints

    def steps(self) -> list[int]:
        """Return the steps of the existing checkpoints, oldest first."""
        found = {
            path.name
            for mark in (CHECKSUMS_FILE, f"{STATE_FOLDER}/{PROGRESS_FILE}")
            for path in self.checkpoints.glob("step-*")
            if (path / mark).is_file()
        }
        return sorted(int(name.removeprefix("step-")) for name in found if name.removeprefix("step-").isdigit())

    def damage(self, step: int) -> list[str]:
        """List the problems of the files of a checkpoint, one sentence for each."""
        try:
            return damaged_files(self.checkpoint(step))
        except FileNotFoundError:  # from a version without checksums: only the progress is checked
            progress = self.checkpoint(step) / STATE_FOLDER / PROGRESS_FILE
            try:
                read_json(progress, what="progress of a run")
            except (OSError, ValueError) as error:
                return [str(error)]
            return []

    def set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that the run can write that step again. No link points to it afterwards."""
        source, number = self.checkpoint(step), 0
        target = source.with_name(f"damaged-{source.name}")
        while target.exists():
            number += 1
            target = source.with_name(f"damaged-{source.name}-{number}")
        os.rename(source, target)
        left = self.steps()
        for name in ("last", "best"):
            link = self.path / name
            if link.is_symlink() and not link.exists():
                link.unlink()
                if name == "last" and left:
                    self._point(name, self.checkpoint(left[-1]))

    @property
    def has_best(self) -> bool:
        """Whether `best` points to a checkpoint."""
        return (self.path / "best").exists()

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def unfinished(self, step: int) -> Path:
        """Return the folder in which a checkpoint is written before it is complete."""
        return self.checkpoints / f".step-{step:08d}"

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Context for writing `path`. On failure, `path` is removed, and the error names the newest checkpoint.

        Raises:
            OSError: instead of any error that writing raises, for example on a full disk.
        """
        try:
            yield
        except BaseException as error:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            if not isinstance(error, OSError) and not any(word in repr(error) for word in ERRORS_OF_WRITERS):
                raise
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            newest = f"The newest whole checkpoint is {self.checkpoint(self.steps()[-1])}." if self.steps() else ""
            raise OSError(f"Could not write {path}: {reason}. {newest}") from error

    def finish(self, step: int, is_best: bool, keep: int) -> None:
        """Rename a complete checkpoint, let `last` (and `best`) point to it, and delete old checkpoints."""
        target = self.checkpoint(step)
        _finish_files(self.unfinished(step))
        os.rename(self.unfinished(step), target)
        sync_names(self.checkpoints)
        self._point("last", target)
        if is_best:
            self._point("best", target)
        sync_names(self.path)
        best = (self.path / "best").resolve()
        for old in map(self.checkpoint, self.steps()[:-keep]):
            if old.resolve() != best:
                hidden = old.with_name(f".{old.name}")
                os.rename(old, hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def _point(self, name: str, target: Path) -> None:
        """Make `name` a link to a checkpoint, atomically."""
        temporary = self.path / f".{name}-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.relative_to(self.path))
        os.replace(temporary, self.path / name)

    # ----------------------------------------------------------------------------------------------------- metrics

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        with self.writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "time": round(time.time(), 2)}) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove the lines of the steps after `step` (0 for all lines), because the run writes them again."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, LookupError):  # an incomplete line of a killed run
                if parse_json(line, str(path))["step"] <= step:
                    kept.append(line + "\n")
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


# The messages with which Safetensors and torch.save report a full disk.
ERRORS_OF_WRITERS = ("SafetensorError", "PytorchStreamWriter", "inline_container")

# Fields that may differ when a run is resumed, because they change at most the rounding of the results.
FREE_TO_CHANGE = {
    "output",
    "evaluation",
    "workers",
    "micro_batch_size",
    "gradient_checkpointing",
    "log_every",
    "overlay_every",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
}


def _plain(config: TrainingConfig) -> dict[str, Any]:
    """Convert a configuration to the types of JSON."""
    return json.loads(json.dumps(config.to_dict()))


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the leaves that differ between two nested values: name, old value, new value."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            yield from _differences(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from _differences(a, b, f"{name}.{i}")
    elif was != now:
        yield name, was, now


def _finish_files(folder: Path) -> None:
    """Finish the files of a checkpoint: write checksums, sync all to the disk, and set permissions by the umask."""
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)  # safetensors makes files for their owner only
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    write_checksums(folder)
    sync_folder(folder)


def _lock(file: IO) -> bool:
    """Lock a file until this process ends in any way. Return `False` if another process has locked it."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):  # the operating system or file system has no locks
        pass
    return True

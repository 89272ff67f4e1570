"""The folder of a run: atomic checkpoints, and one line of metrics per step.

    run/
      config.json            what was asked for
      metrics.jsonl          a line every few steps
      overlays/              sample pictures
      tensorboard/           of Accelerate's tracker
      checkpoints/
        step-00000500/       loads with `from_pretrained`; its `training_state/` is what resuming needs
        damaged-step-...     a checkpoint that resuming has set aside
      last -> checkpoints/step-...    the newest
      best -> checkpoints/step-...    the one that scored best

A checkpoint is written under a hidden name and renamed when all of it, with a checksum of each file, is on the disk;
the links, which are relative, are renamed into place too, and a checkpoint that goes is hidden first. So a run that is
killed at any moment leaves its newest whole checkpoint, and a run's folder can be moved or copied. What a disk or a
copy damages later is found when the run is resumed: it then goes on from the newest checkpoint that is intact.
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
    """One run on disk. Only the main process writes through it, but for `training_state` of sharded models.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    # --------------------------------------------------------------------------------------------------- beginning

    def claim(self, needed_bytes: int) -> None:
        """Have the folder for this process alone, until it ends, and remove what a killed run was writing.

        Args:
            needed_bytes: what the run is going to write, roughly.

        Raises:
            ConfigError: no permission, no folder, not enough space, or another process trains in it.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 -- open as long as the run
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
        """See that a run is resumed as what it was.

        Raises:
            ConfigError: a field that changes what is computed differs; the message has both values.
        """
        path = self.path / "config.json"
        try:
            # Fields that are younger than the run have their default values in it.
            saved = load_config(read_json(path, error=ConfigError, what="configuration"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Cannot resume: {path} cannot be read ({error}). Bring it back from a copy, or start a new run from "
                f"its weights (`model: {self.path / 'last'}`, another `output`)."
            ) from error
        if config.model == f"{PRESET_PREFIX}{saved.model}":  # begun when a preset's name alone meant fresh weights
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
        """Steps of the checkpoints there are, oldest first."""
        found = {
            path.name
            for mark in (CHECKSUMS_FILE, f"{STATE_FOLDER}/{PROGRESS_FILE}")
            for path in self.checkpoints.glob("step-*")
            if (path / mark).is_file()
        }
        return sorted(int(name.removeprefix("step-")) for name in found if name.removeprefix("step-").isdigit())

    def damage(self, step: int) -> list[str]:
        """What is wrong with the files of a checkpoint, a sentence each."""
        try:
            return damaged_files(self.checkpoint(step))
        except FileNotFoundError:  # written before checkpoints had checksums: what can be read is taken as it is
            progress = self.checkpoint(step) / STATE_FOLDER / PROGRESS_FILE
            try:
                read_json(progress, what="progress of a run")
            except (OSError, ValueError) as error:
                return [str(error)]
            return []

    def set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that the run can write that step again. No link points to it any more."""
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
        """The folder of a checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def unfinished(self, step: int) -> Path:
        """Where a checkpoint is written before it is whole."""
        return self.checkpoints / f".step-{step:08d}"

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Write something in this folder. If that fails, what was written is removed, and the error says what is left.

        Raises:
            OSError: in place of any error that a full disk or the like makes of writing.
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
        """Put a checkpoint that is all written in its place, point `last` (and `best`) at it, and drop old ones."""
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
        """Make `name` a link to a checkpoint, in one move."""
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
        """Drop the lines of steps after a checkpoint, 0 for all: they are written anew."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, LookupError):  # the line a killed run was writing
                if parse_json(line, str(path))["step"] <= step:
                    kept.append(line + "\n")
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


# How Safetensors and torch.save report a full disk.
ERRORS_OF_WRITERS = ("SafetensorError", "PytorchStreamWriter", "inline_container")

# What may differ when a run is resumed, as it changes nothing that is computed, or no more than the rounding.
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
    """A configuration as JSON has it."""
    return json.loads(json.dumps(config.to_dict()))


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves of two nested values that differ, by name."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            yield from _differences(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from _differences(a, b, f"{name}.{i}")
    elif was != now:
        yield name, was, now


def _finish_files(folder: Path) -> None:
    """Before a checkpoint gets its name: its checksums, all of it on the disk, and readable as the umask says."""
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)  # safetensors makes files that only their owner reads
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    write_checksums(folder)
    sync_folder(folder)


def _lock(file: IO) -> bool:
    """Lock a file until this process ends, however it does. Returns whether no other process has it."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):  # a system or a file system without locks
        pass
    return True

"""A run's folder: checkpoints that are whole or not there, and one line of numbers a step.

    run/
      config.json            what was asked for
      metrics.jsonl          a line every few steps
      overlays/              sample pictures
      tensorboard/           of Accelerate's tracker
      checkpoints/
        step-00000500/       loads with `from_pretrained`; its `training_state/` is what resuming needs
      last -> checkpoints/step-...    the newest
      best -> checkpoints/step-...    the one that scored best

A checkpoint is written under a hidden name and renamed when all of it is there; the links are renamed into place too. A
run that is killed at any moment leaves its newest whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from .config import ConfigError, TrainingConfig


STATE_FOLDER = "training_state"
PROGRESS_FILE = "progress.json"


class RunFolder:
    """One run on disk. Only the main process writes through it, but for `training_state` of sharded models.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    # --------------------------------------------------------------------------------------------------- beginning

    def check_writable(self, needed_bytes: int) -> None:
        """Find out before a run starts whether its checkpoints can be written.

        Raises:
            ConfigError: no permission, no folder, or not enough space.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"Cannot write to the run's folder {self.path}: {error.strerror or error}. Set `output` to a folder "
                "that can be written."
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise ConfigError(
                f"{self.path} has {free / 2**20:.0f} MiB free; the checkpoints of this run need about "
                f"{needed_bytes / 2**20:.0f} MiB. Free some space, set `output` elsewhere or lower `keep_checkpoints`."
            )

    def remove_unfinished(self) -> None:
        """Remove what a killed run was writing."""
        for path in self.checkpoints.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def save_config(self, config: TrainingConfig) -> None:
        """Write `config.json`."""
        with atomic_path(self.path / "config.json") as temporary:
            temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")

    def check_same_config(self, config: TrainingConfig) -> None:
        """See that a run is resumed as what it was.

        Raises:
            ConfigError: a field that changes what is computed differs; the message has both values.
        """
        path = self.path / "config.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot resume: {path} cannot be read ({error}).") from error
        wanted = json.loads(json.dumps(config.to_dict()))
        different = [
            f"{name}: {was!r} then, {now!r} now"
            for name, was, now in _differences(saved, wanted)
            if name.partition(".")[0] not in FREE_TO_CHANGE
        ]
        if different:
            raise ConfigError(
                f"Cannot resume {self.path} with another configuration. Different are {'; '.join(different)}. Resume "
                "with the configuration it began with, or start a new run from its weights (`model: "
                f"{self.path / 'last'}`, another `output`)."
            )

    # ------------------------------------------------------------------------------------------------- checkpoints

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first."""
        whole = (path.parents[1].name for path in self.checkpoints.glob(f"step-*/{STATE_FOLDER}/{PROGRESS_FILE}"))
        return sorted(int(name.removeprefix("step-")) for name in whole)

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def unfinished(self, step: int) -> Path:
        """Where a checkpoint is written before it is whole."""
        return self.checkpoints / f".step-{step:08d}"

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Say which file could not be written, and what is left, when a disk is full.

        Raises:
            ConfigError: in place of an `OSError` of the block.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            # torch.save and safetensors report a full disk as errors of their own.
            if not isinstance(error, OSError) and "write" not in str(error) and "space" not in str(error):
                raise
            newest = f"The newest whole checkpoint is {self.checkpoint(self.steps()[-1])}." if self.steps() else ""
            raise ConfigError(f"Could not write {what} of {self.path}: {error}. {newest}") from error

    def finish(self, step: int, is_best: bool, keep: int) -> Path:
        """Put a checkpoint that is all written in its place, point `last` (and `best`) at it, and drop old ones."""
        target = self.checkpoint(step)
        if target.exists():  # a resumed run that passes the same step again
            shutil.rmtree(target)
        _to_disk(self.unfinished(step))
        os.rename(self.unfinished(step), target)
        self._point("last", target)
        if is_best:
            self._point("best", target)
        best = (self.path / "best").resolve() if (self.path / "best").exists() else None
        for old in self.steps()[: -max(1, keep)]:
            if self.checkpoint(old).resolve() != best:
                shutil.rmtree(self.checkpoint(old), ignore_errors=True)
        return target

    def _point(self, name: str, target: Path) -> None:
        """Make `name` a link to a checkpoint, in one move."""
        temporary = self.path / f".{name}-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.relative_to(self.path))
        os.replace(temporary, self.path / name)

    # ----------------------------------------------------------------------------------------------------- metrics

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "time": round(time.time(), 2)}) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps after a checkpoint: a resumed run writes them anew."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the line a killed run was writing
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


# What may differ when a run is resumed, as it changes nothing that is computed for the weights.
FREE_TO_CHANGE = {
    "output",
    "evaluation",
    "workers",
    "log_every",
    "overlay_every",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
}


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


def _to_disk(folder: Path) -> None:
    """Have everything in a folder on the disk before its name says that it is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


__all__ = ["PROGRESS_FILE", "STATE_FOLDER", "RunFolder"]

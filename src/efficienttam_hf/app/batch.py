"""Tracks many videos: shares them out among processes, resumes, reports those that fail, and writes a table of masks.

The folder of a batch:

    settings.json                         the settings of the run; other settings are refused
    videos/<name>/                        what `efficienttam track` writes for a video
    videos/<name>/done.json               written last: the video is finished, or why it could not be tracked
    table/masks-00000-of-00002.parquet    the masks of all finished videos; see `mask_table.py`

Each video's folder has its own list of files (see `output_folders.py`) and is written by one process only; the files
beside them are listed by the first process. So no two processes write to one file, on one machine or on several that
share a file system. A video is finished if its `done.json` has the stamp of its files, its prompts and the settings.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..discovery import NothingFoundError
from ..evaluation.result_folder import check_settings, write_settings
from ..evaluation.runner import VIDEO_ERRORS, reason_of
from ..evaluation.sharing import Processes, balanced_shares
from ..output_folders import OutputFolder
from ..structured_files import read_json
from .batch_jobs import VideoJob
from .mask_table import check_pyarrow, write_shard


__all__ = ["Batch", "Outcome"]

RECORD, TABLE, VIDEOS, SETTINGS = "done.json", "table", "videos", "settings.json"
SIGNALS = (130, 143)  # exit codes after Ctrl-C and SIGTERM


@dataclass(frozen=True)
class Outcome:
    """What became of a video: the note says why nothing was tracked, the error why it failed; both are lines."""

    note: str | None = None
    error: str | None = None


class Batch:
    """A run over many videos, in one process or several.

    Args:
        jobs: the videos.
        output: the folder of results. Processes on several machines must share it.
        settings: the options that decide the results, JSON values by name.
        processes: the processes that share the work, each of which makes the same calls.

    Raises:
        ImportError: if PyArrow is not installed.
    """

    def __init__(self, jobs: Sequence[VideoJob], output: Path, settings: dict[str, Any], processes: Processes):
        check_pyarrow()
        self.jobs, self.output, self.settings, self.processes = list(jobs), output, settings, processes
        self._done: dict[int, Outcome] = {}

    def prepare(self, overwrite: bool) -> None:
        """Prepare the folder, and find the videos that an earlier run finished.

        Args:
            overwrite: whether results of other settings may be replaced, and every video is tracked again.

        Raises:
            FileExistsError: if files that this package did not write are in the place of results.
            ValueError: if the folder has results of other settings and `overwrite` is false, or another process does
                not see it.
        """
        if self.processes.is_main:
            folder = OutputFolder(self.output)
            folder.check(SETTINGS, TABLE, overwrite=True)
            check_settings(self.output / SETTINGS, self.settings, overwrite)
            write_settings(folder, self.settings)
            for index in range(len(self.jobs)):
                if overwrite or self._record(index) is None:
                    self._folder(index).remove(RECORD)
        self.processes.wait()
        if not (self.output / SETTINGS).is_file():
            raise ValueError(
                f"Process {self.processes.index} does not see '{self.output}', which process 0 wrote: give an --output "
                "on a file system that all machines share, or start one run on each machine with its own jobs."
            )
        found = {index: self._record(index) for index in range(len(self.jobs))}
        self._done = {index: outcome for index, outcome in found.items() if outcome is not None}
        self.processes.wait()  # all processes list the finished videos before any of them goes on

    @property
    def num_done(self) -> int:
        """The number of videos that are finished already."""
        return len(self._done)

    def run(self, track: Callable[[VideoJob, Path, Callable[[], None]], int]) -> int:
        """Track this process's share of the videos, and write its shard of the table.

        Args:
            track: a function that tracks a video, with the folder for its results and a function to be called after
                each frame. It returns an exit code.

        Returns:
            The exit code: 0; 1 if some videos failed; 130 or 143 if a signal stopped the run.
        """
        todo = [index for index in range(len(self.jobs)) if index not in self._done]
        shares = balanced_shares([self.jobs[index].size for index in todo], self.processes.count)
        start = time.monotonic()
        with _Progress(self, todo) as progress:
            for place in shares[self.processes.index]:
                index = todo[place]
                code = self._track_one(index, track, progress.frame)
                if code in SIGNALS:
                    self._say_stopped()
                    return code
                progress.video()
            mine = [(todo[place], self._done[todo[place]]) for place in shares[self.processes.index]]
            outcomes = {**self._done, **dict(progress.gather(mine))}
        seconds = time.monotonic() - start
        shards, num_rows = self._write_table(outcomes)
        if self.processes.is_main:
            self._report(outcomes, len(todo), seconds, shards, num_rows)
        return 1 if any(outcome.error for outcome in outcomes.values()) else 0

    def _track_one(self, index: int, track: Callable[..., int], frame_done: Callable[[], None]) -> int:
        job, code = self.jobs[index], 0
        try:
            code = track(job, self._path(index), frame_done)
            outcome = Outcome()
        except NothingFoundError as error:
            outcome = Outcome(note=reason_of(error))
        except VIDEO_ERRORS as error:
            outcome = Outcome(error=reason_of(error))
            _write(f"efficienttam: {job.name}: {outcome.error}")
        if code in SIGNALS:
            return code
        self._done[index] = outcome
        record = {"stamp": self._stamp(index), "note": outcome.note, "error": outcome.error}
        try:
            with atomic_path(self._folder(index).add(RECORD)) as temporary:
                temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
        except OSError as error:  # a file of the user is in the way
            self._done[index] = Outcome(error=outcome.error or reason_of(error))
        return code

    def _write_table(self, outcomes: dict[int, Outcome]) -> tuple[list[str], int]:
        """Write the shards. A shard has videos that follow one another, so that the rows are in the order of the jobs.

        Returns:
            The names of the shards, and the number of rows of all.
        """
        tracked = [i for i in range(len(self.jobs)) if not (outcomes[i].error or outcomes[i].note)]
        count = max(1, min(self.processes.count, len(tracked)))
        names = [f"{TABLE}/masks-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
        if self.processes.is_main:
            folder = OutputFolder(self.output)
            folder.claim(TABLE, overwrite=True)
            for name in names:
                folder.add(name)
        self.processes.wait()
        own, rows = self.processes.index, 0
        if own < count:
            begin, end = (len(tracked) * bound // count for bound in (own, own + 1))
            videos = [(self.jobs[i].name, self._path(i) / "masks.json") for i in tracked[begin:end]]
            rows = write_shard(self.output / names[own], videos)
        return names, sum(self.processes.gather([rows]))

    def _report(self, outcomes: dict[int, Outcome], new: int, seconds: float, shards: list[str], rows: int) -> None:
        """Print the summary."""
        failed = [index for index in sorted(outcomes) if outcomes[index].error]
        empty = [index for index in sorted(outcomes) if outcomes[index].note]
        before = len(self.jobs) - new
        print(
            f"{len(self.jobs) - len(failed)} of {len(self.jobs)} videos are done: {new - len(failed)} now, in "
            f"{seconds:.1f} s, and {before} before."
        )
        for index in empty:
            print(f"  no masks: {self.jobs[index].name}: {outcomes[index].note}")
        for index in failed:
            print(f"  left out: {self.jobs[index].name}: {outcomes[index].error}")
        if failed:
            print("Run the same command again to retry them.")
        print(f"  videos   {self.output / VIDEOS}")
        files = shards[0] if len(shards) == 1 else f"{TABLE}/masks-*-of-{len(shards):05d}.parquet"
        print(f"  table    {self.output / files} ({rows} rows)")

    def _say_stopped(self) -> None:
        if self.processes.is_main:
            _write(f"Stopped. Finished videos are in '{self.output / VIDEOS}'; run the same command again to go on.")

    def _path(self, index: int) -> Path:
        return self.output / VIDEOS / self.jobs[index].name

    def _folder(self, index: int) -> OutputFolder:
        return OutputFolder(self._path(index))

    def _stamp(self, index: int) -> str:
        return self.jobs[index].stamp(self.settings)

    def has_record(self, index: int) -> bool:
        """Whether a video was finished, or failed, in this run or before."""
        return (self._path(index) / RECORD).is_file()

    def _record(self, index: int) -> Outcome | None:
        """The stored outcome of a video; `None` if it must be tracked."""
        try:
            stored = read_json(self._path(index) / RECORD, what="record")
            if stored["stamp"] != self._stamp(index) or stored["error"] is not None:
                return None
            has_masks = (self._path(index) / "masks.json").is_file()
            return Outcome(stored["note"]) if has_masks or stored["note"] else None
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, LookupError):
            return None


class _Progress:
    """The progress bar of the first process, over the videos of all processes."""

    def __init__(self, batch: Batch, todo: Sequence[int]):
        self._batch, self._waiting, self._frames = batch, set(todo), 0

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        done, total = self._batch.num_done, len(self._batch.jobs)
        is_main = self._batch.processes.is_main
        self._bar = tqdm(total=total, initial=done, desc="track", unit="video", disable=not is_main)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def frame(self) -> None:
        """Count a frame of this process."""
        self._frames += 1
        self._bar.set_postfix_str(f"{self._frames} frames here", refresh=False)
        self._bar.update(0)

    def video(self) -> None:
        """Count the videos that any process has finished."""
        if self._batch.processes.is_main:
            finished = {index for index in self._waiting if self._batch.has_record(index)}
            self._waiting -= finished
            self._bar.update(len(finished))

    def gather(self, items: list[Any]) -> list[Any]:
        """Gather the items of all processes; the first one shows the progress of the others in the meantime."""
        processes = self._batch.processes
        if not (processes.is_main and processes.count > 1):
            return processes.gather(items)
        gathered: Future[list[Any]] = Future()

        def wait() -> None:
            try:
                gathered.set_result(processes.gather(items))
            except BaseException as error:  # noqa: BLE001 -- raised below
                gathered.set_exception(error)

        waiting = threading.Thread(target=wait, daemon=True)  # so that a signal can end this process while it waits
        waiting.start()
        while waiting.is_alive():
            waiting.join(0.5)
            self.video()
        return gathered.result()


def _write(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)

"""`efficienttam track` from the video to the result files: decoding, tracking, writing and drawing in parallel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..discovery import NothingFoundError, ObjectFinder
from ..prompts import Prompts, prompts_as_json, scaled_prompts
from .conversion import convert_results
from .events import LossWatch
from .finding import found_as_json, name_of
from .frames import ResizedFrames
from .plan import Reference, TrackedFrame, add_prompts, open_session, plan_tracking, track_objects
from .results import ObjectName
from .stopping import exit_code, stopped_by


if TYPE_CHECKING:
    import numpy as np

    from ..video_io import FrameSource
    from .effect_output import EffectWriter
    from .plan import Tracker, TrackerProcessor
    from .results import OverlayWriter, TrackFolder


MOST_NAMED = 12  # objects in a line of the report
LOST = 3  # the exit code if tracking stopped because an object was lost


@dataclass
class Job:
    """One run of the command. Frame numbers are those of the whole video; in the session, frame `first` is number 0.

    While the model tracks a frame, the next frame is decoded and, if this saves time, encoded. At the same time the
    results of the previous frame are written and, if tracking goes in the order of the video, drawn into the overlay.

    Attributes:
        memory: options of the session for memory selection.
        stop_when_lost: whether tracking ends on the frame on which an object is lost; see `events.LossWatch`.
        timeline: whether a plot of the scores over the frames is written.
        references: reference images of objects.
        labels: the names of objects by object id.
        formats: the names of the formats that the results are also written in.
        frame_done: called after each frame. If it is given, no progress and no report are shown: the caller does that.
    """

    source: FrameSource
    first: int
    size: tuple[int, int]
    prompts: Prompts
    model: Tracker
    processor: TrackerProcessor
    folder: TrackFolder
    memory: Mapping[str, Any] = field(default_factory=dict)
    stop_when_lost: bool = False
    timeline: bool = False
    references: Sequence[Reference] = ()
    labels: Mapping[int, str] = field(default_factory=dict)
    formats: Sequence[str] = ()
    frame_done: Callable[[], None] | None = None
    last_kept: int | None = None

    def __post_init__(self) -> None:
        self._frames = ResizedFrames(self.source, self.size)
        self._session: Any = None
        self._finder: ObjectFinder | None = None
        self._found_on = 0  # counted in the session, as in all that a finder says
        self._names: dict[int, ObjectName] = {}  # read by the thread that draws

    def find_objects(self, finder: ObjectFinder, frame: int) -> None:
        """Find the objects that are tracked beside those with prompts. Nothing is written before this has succeeded.

        Args:
            finder: finds objects now, and new ones while these are tracked.
            frame: the number of the frame on which it looks, the only one that may have prompts.

        Raises:
            NothingFoundError: if no object is found.
            DetectionError: if the detector fails.
        """
        self._finder, self._found_on = finder, frame - self.first
        self._session = open_session(self.model, self.processor, self._frames, self.memory)
        for object_id, given in self._scaled_prompts().get(frame, {}).items():
            add_prompts(self.model, self.processor, self._session, self._found_on, object_id, given)
        try:
            found = finder.seed(self._session, self._found_on)
        except NothingFoundError as error:
            raise NothingFoundError(error.looks_for, frame) from error
        self._names.update((one.object_id, name_of(one)) for one in found)
        if not self._is_quiet:
            print(f"Found on frame {frame}: {self._named()}.")

    @property
    def _is_quiet(self) -> bool:
        return self.frame_done is not None

    def _named(self) -> str:
        """The found objects, for the user."""
        names = list(self._names.values())
        listed = ", ".join(name.long for name in names[:MOST_NAMED])
        return listed if len(names) <= MOST_NAMED else f"{listed} and {len(names) - MOST_NAMED} more"

    def run(self, direction: str | None, model_name: str) -> int:
        from tqdm import tqdm

        from .background import Background
        from .encoding_ahead import encoding_ahead_pays

        prompts = {t - self.first: on_frame for t, on_frame in self._scaled_prompts().items()}
        prompted = {t: list(on_frame) for t, on_frame in prompts.items()}
        if self._finder is not None:
            prompted.setdefault(self._found_on, []).extend(self._finder.objects)
        referenced = {one.object_id for one in self.references}
        plan = plan_tracking(prompted, direction, referenced, len(self.source))
        # Objects that begin later are tracked backward from there, if the plan goes both ways.
        in_order = plan.in_order and (self._finder is None or plan.direction == "forward")
        total = plan.num_steps(len(self.source))
        stop: BaseException | None = None
        watch, lost = LossWatch(), []
        start, num_done = time.monotonic(), 0
        overlay: OverlayWriter | EffectWriter | None = None
        with tqdm(total=total, desc="track", unit="frame", disable=self._is_quiet) as progress:
            try:
                if in_order:
                    overlay = self.folder.open_overlay(
                        self.size, self.source.fps, self._scaled_prompts(), self.source.sound, names=self._drawn_names
                    )
                ahead = encoding_ahead_pays(self.model, len(plan.first))
                how = (plan, ahead, self.memory, self._session, self._finder, self.references)
                tracked = track_objects(self.model, self.processor, self._frames, prompts, *how)
                with closing(tracked), Background() as writing:  # writes while the model computes
                    for done in tracked:
                        if self._finder is not None:
                            self._names.update((i, name_of(one)) for i, one in self._finder.objects.items())
                            progress.total = total = plan.num_steps(len(self.source))
                        if done.object_ids:
                            image = None if overlay is None else self._frames[done.index]
                            writing.submit(self._keep, done, overlay, image)
                        progress.update()
                        num_done += 1
                        if self.frame_done is not None:
                            self.frame_done()
                        seen = (logits.max(initial=-1) > 0 for logits in done.logits)
                        lost = watch.lost(done.index, dict(zip(done.object_ids, seen, strict=True)))
                        if lost and self.stop_when_lost:
                            break
            except BaseException as error:  # after any error, finished frames are kept
                stop = error
        rate = num_done / max(time.monotonic() - start, 1e-9)
        frames = self.folder.frames
        if not frames:
            if overlay is not None:
                overlay.abort()
            self.folder.discard()
            if isinstance(stop, KeyboardInterrupt):
                print(
                    f"Stopped by {stopped_by(stop)} before the first frame was done; there are no results.",
                    file=sys.stderr,
                )
                return exit_code(stop)
            raise stop or ValueError("No frame could be tracked, so there are no results.")

        if isinstance(stop, KeyboardInterrupt):
            print(
                f"Stopped by {stopped_by(stop)} after frame {self.last_kept}. "
                "Writing what is done; Ctrl-C again leaves the overlay out.",
                file=sys.stderr,
            )
        self._write_json(model_name, complete=stop is None and num_done == total)
        if self.timeline:
            self.folder.write_timeline({i: name.short for i, name in self._names.items() if name.label})
        if overlay is None:
            self._write_overlay(frames)
        else:
            overlay.close()
        converted = convert_results(self.folder.path, self.formats, None, overwrite=True) if self.formats else []
        if not self._is_quiet:
            self._report(frames, rate, sys.stderr if stop else sys.stdout)
            for folder in converted:
                print(f"  {folder.name:8} {folder}", file=sys.stderr if stop else sys.stdout)
        if isinstance(stop, KeyboardInterrupt):
            return exit_code(stop)
        if stop is not None:
            raise stop
        if lost and self.stop_when_lost and self.last_kept is not None:
            self._ask(lost, self.last_kept)
            return LOST
        return 0

    def _ask(self, lost: list[int], frame: int) -> None:
        """Print which objects were lost on a frame, and how to go on."""
        what = f"Object {lost[0]} was" if len(lost) == 1 else f"Objects {', '.join(map(str, lost))} were"
        print(
            f"{what} lost on frame {frame}, and tracking stopped there as --on-lost stop asks for. To go on, "
            f"run the command again with another prompt on a frame that shows what was lost, such as --frame "
            f"{frame + 1} --object {lost[0]} --point X,Y, and --overwrite; without --on-lost stop it goes on "
            "by itself.",
            file=sys.stderr,
        )

    def _keep(self, done: TrackedFrame, overlay: OverlayWriter | EffectWriter | None, image: np.ndarray | None) -> None:
        """Write the results of a frame, and draw them on the frame's image if there is an overlay."""
        frame, name = self.first + done.index, self.source.frame_name(done.index)
        self.folder.add(frame, name, done.object_ids, done.logits, done.scores)
        self.last_kept = frame
        if overlay is not None and image is not None:
            overlay.add(frame, image, self.folder.masks(frame), *self._times(frame))

    def _times(self, frame: int) -> tuple[float, float]:
        """The times at which a frame begins and ends, in seconds of the video."""
        index = frame - self.first
        return self.source.frame_time(index), self.source.frame_time(index + 1)

    def _scaled_prompts(self) -> Prompts:
        """The prompts in pixels of the results."""
        return scaled_prompts(self.prompts, (self.source.height, self.source.width), self.size)

    @property
    def _drawn_names(self) -> dict[int, ObjectName] | None:
        return None if self._finder is None else self._names

    def _write_json(self, model_name: str, complete: bool) -> None:
        height, width = self.size
        self.folder.write_json(
            {
                "video": {"name": self.source.name, "width": width, "height": height, "fps": self.source.fps},
                "prompt_size": {"width": self.source.width, "height": self.source.height},
                "complete": complete,
                "model": model_name,
                "objects": self._objects_json(),
            }
        )

    def _objects_json(self) -> list[dict[str, Any]]:
        """The objects with their prompts, and with their labels, detections and reference images if they have any."""
        objects = {entry["id"]: entry for entry in prompts_as_json(self.prompts)}
        for one in self.references:
            entry = objects.setdefault(one.object_id, {"id": one.object_id, "prompts": []})
            entry.setdefault("references", []).append(one.name)
        for object_id, label in self.labels.items():
            objects[object_id]["label"] = label
        entries = list(objects.values())
        if self._finder is not None:
            found = self._finder.objects.values()
            entries += found_as_json(found, self.first, self.size, (self.source.height, self.source.width))
        return sorted(entries, key=lambda entry: entry["id"])

    def _write_overlay(self, frames: list[int]) -> None:
        """Read the video again and draw the masks, because tracking went through the frames in another order."""
        from tqdm import tqdm

        resized = ResizedFrames(self.source, self.size)
        self.folder.write_overlay(
            lambda frame: resized[frame - self.first],
            self.size,
            self.source.fps,
            self._scaled_prompts(),
            tqdm(frames, desc=self.folder.overlay.stem, unit="frame", disable=self._is_quiet),
            self._times,
            self.source.sound,
            names=self._drawn_names,
        )

    def _report(self, frames: list[int], rate: float, file: Any) -> None:
        found = f"Objects found: {self._named()}.\n" if self._names else ""
        drawn = f"\n  scores   {self.folder.timeline}" if self.timeline else ""
        print(
            f"Tracked frames {frames[0]} to {frames[-1]} ({rate:.2f} frames/s).\n{found}"
            f"  {self.folder.overlay.stem:8} {self.folder.overlay}\n"
            f"  masks    {self.folder.annotations} (indexed PNG)\n"
            f"           {self.folder.json} (COCO run-length encoding){drawn}",
            file=file,
        )

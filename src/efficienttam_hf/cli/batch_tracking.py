"""`efficienttam track --batch`: the options of `track`, applied to many videos."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app.defaults import DEFAULT_OUTPUT, MAX_OBJECT_ID
from .detect_arguments import detector_of, finder_options, finding_frame
from .memory_arguments import memory_options
from .prompts import gather, gather_references


if TYPE_CHECKING:
    import numpy as np

    from ..app.batch_jobs import VideoJob
    from ..app.effect_output import EffectOutput
    from ..app.plan import Tracker, TrackerProcessor
    from ..prompts import Prompts

    Masks = Callable[[Tracker, TrackerProcessor], Iterator[np.ndarray]]
    Loader = Callable[[argparse.Namespace, Masks], tuple[str, Tracker, TrackerProcessor]]

# The options that decide the results, for `settings.json`.
SETTINGS: tuple[str, ...] = (
    "engine",
    "max_side",
    "direction",
    "memory",
    "memory_stride",
    "memory_option",
    "effect",
    "effect_format",
)
SETTINGS += ("text", "detect", "everything", "detect_frame", "detect_every", "detect_threshold", "max_objects")
SETTINGS += ("no_return", "start", "end", "timeline", "format")


def track_batch(args: argparse.Namespace, finds: bool, effect: EffectOutput | None, load: Loader) -> int:
    """Track the videos of `--batch`. Returns 1 if some could not be tracked, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        args: the options of `track`, checked as they are for one video.
        finds: whether objects are to be found.
        effect: effects in place of the overlay.
        load: a function that loads the model, as `track` does.
    """
    from ..app.batch import Batch
    from ..app.batch_jobs import read_jobs
    from ..evaluation.sharing import Processes
    from ..output_folders import check_place
    from ..safe_names import safe_name

    _check_options(args, finds)
    jobs = read_jobs(args.batch)
    bare = next((job for job in jobs if not job.prompts), None)
    if bare is not None and not (args.prompts or finds):
        raise ValueError(
            f"What is to be tracked in '{bare.video}'? Give it \"objects\" in the jobs, or for all videos a prompt, "
            "such as --box X0,Y0,X1,Y1, or what is to be found, such as --text 'a dog' or --everything."
        )
    output = args.output or DEFAULT_OUTPUT / safe_name(args.batch.resolve().stem)
    check_place(output)
    processes = Processes()
    if processes.device is not None and args.device == "auto":
        args.device = str(processes.device)
    if not processes.is_main:
        processes.wait()  # the first process fetches the model and measures what is measured once
    model_name, model, processor = _load_quietly(args, load, processes.is_main)
    if processes.is_main:
        processes.wait()

    settings: dict[str, Any] = {name: getattr(args, name) for name in SETTINGS}
    settings |= {"model": model_name, "dtype": str(getattr(model, "dtype", "float32")).removeprefix("torch.")}
    settings["prompts"] = [[p.kind, _plain(p.value), p.object_id, p.frame] for p in args.prompts]
    settings = {name: _plain(value) for name, value in settings.items()}
    batch = Batch(jobs, output, settings, processes)
    batch.prepare(args.overwrite)
    detector: Any = None
    if finds:
        of_torch: Any = model
        detector = detector_of(args, of_torch.device)

    def track(job: VideoJob, folder: Path, frame_done: Callable[[], None]) -> int:
        with job.path() as path:
            return _track_video(args, job, path, folder, effect, detector, (model_name, model, processor), frame_done)

    return batch.run(track)


def _track_video(
    args: argparse.Namespace,
    job: VideoJob,
    path: Path,
    output: Path,
    effect: EffectOutput | None,
    detector: Any,
    loaded: tuple[str, Tracker, TrackerProcessor],
    frame_done: Callable[[], None],
) -> int:
    """Track one video as `track` does, and return its exit code."""
    from ..app.frames import limited_size
    from ..app.pipeline import Job
    from ..app.results import TrackFolder
    from ..video_io import open_video

    model_name, model, processor = loaded
    start = args.start if job.start is None else job.start
    end = args.end if job.end is None else job.end
    with open_video(path, start=start, end=end) as source:
        first = start or 0
        frames, original = range(first, first + len(source)), (source.height, source.width)
        size = limited_size(original, args.max_side)
        prompts = _checked(job.prompts, original, frames) if job.prompts else gather(args.prompts, original, frames)
        ids = {object_id for on_frame in prompts.values() for object_id in on_frame}
        references = gather_references(args.prompts)
        if effect is not None and detector is None:
            effect.check_objects(ids | {one.object_id for one in references})
        formats = list(dict.fromkeys(args.format or ()))
        folder = TrackFolder(output, job.name, args.timeline, effect, formats)
        folder.check(overwrite=True)  # a video that is not finished starts again
        how: dict[str, Any] = {"memory": memory_options(args, args.memory), "timeline": args.timeline}
        how |= {"references": references, "formats": formats}
        run = Job(source, first, size, prompts, model, processor, folder, **how, frame_done=frame_done)
        if detector is not None:
            from ..discovery import ObjectFinder

            of_torch: tuple[Any, Any] = (model, processor)
            find_on = finding_frame(args, frames, prompts)
            run.find_objects(ObjectFinder(*of_torch, detector, finder_options(args)), find_on)
        folder.prepare(overwrite=True)
        try:
            return run.run(args.direction, model_name)
        finally:
            folder.close()


def _check_options(args: argparse.Namespace, finds: bool) -> None:
    """Raise `ValueError` for options of `track` that do not go with `--batch`, before anything is loaded."""
    if args.video is not None:
        raise ValueError(f"--batch says which videos are tracked: leave out '{args.video}', or --batch.")
    if args.init is not None or args.init_frames is not None:
        raise ValueError("--init begins one video: leave it out, and give each video its prompts in the jobs.")
    if any(given.kind == "reference" for given in args.prompts) and finds:
        raise ValueError("--reference shows which object is looked for, so it cannot go with --text and the like.")
    if args.on_lost == "stop":
        raise ValueError("--on-lost stop waits for another prompt, which --batch cannot: leave it out.")
    if args.compile:
        raise ValueError("--compile is for one video, as the number of objects decides what is compiled: leave it out.")
    memory_options(args, args.memory)


def _load_quietly(args: argparse.Namespace, load: Loader, is_main: bool) -> tuple[str, Tracker, TrackerProcessor]:
    """Load the model; only the first process prints a line about it."""
    import io
    from contextlib import nullcontext, redirect_stdout

    from ..app.plan import first_masks
    from ..prompts import ObjectPrompts

    def masks(model: Tracker, processor: TrackerProcessor) -> Iterator[np.ndarray]:
        """Segment the object of the synthetic clip, as no video of the batch is like the others."""
        from ..app.example_clip import example_frames

        frames, click = example_frames()
        return first_masks(model, processor, frames, {0: {1: ObjectPrompts([click], [1])}})

    with nullcontext() if is_main else redirect_stdout(io.StringIO()):
        return load(args, masks)


def _checked(prompts: Prompts, size: tuple[int, int], frames: range) -> Prompts:
    """Return the prompts of a job if they are on a video's frames.

    Args:
        prompts: the prompts by frame number.
        size: (height, width) of the video's frames.
        frames: the numbers of the frames that are tracked.

    Raises:
        ValueError: if a frame or a coordinate is outside, or an id is not from 1 to 255.
    """
    for frame, on_frame in prompts.items():
        if frame not in frames:
            raise ValueError(f"A prompt is on frame {frame}; the frames are {frames.start} to {frames.stop - 1}.")
        for object_id, given in on_frame.items():
            if not 1 <= object_id <= MAX_OBJECT_ID:
                raise ValueError(f"An object id is from 1 to {MAX_OBJECT_ID}, got {object_id}.")
            given.check(size, f" of object {object_id} on frame {frame}")
    return prompts


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it, so that it equals what is read again."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

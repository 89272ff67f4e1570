"""`efficienttam track`: track objects through a video from prompts on any of its frames."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..app.defaults import DEFAULT_OUTPUT
from .common import add_model_arguments, add_output_arguments, add_size_argument
from .detect_arguments import add_detect_arguments, detector_of, finder_options, finding_frame, finds_objects
from .effect_arguments import add_effect_arguments, effect_output
from .engine_arguments import add_engine_arguments, check_engine
from .export_masks import add_format_argument
from .memory_arguments import add_memory_arguments, memory_options
from .prompts import GivenPrompt, add_prompt_arguments, check_order, gather, gather_references


if TYPE_CHECKING:
    import numpy as np

    from ..app.plan import Tracker, TrackerProcessor

EXAMPLE = "synthetic-clip"


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "track",
        help="track objects through a video",
        description="Track objects through a video from points, boxes or masks, or objects that are found by texts, by "
        "a detector or by the model itself. Write an overlay video, the masks as "
        "indexed PNGs in DAVIS layout, and the masks as COCO run-length JSON. Without VIDEO, the command generates a "
        "short synthetic video and tracks its object.",
        epilog="example: efficienttam track cups.mp4 --object 1 --point 480,300 "
        "--object 2 --box 500,200,640,420 --frame 30 --object 1 --negative 520,310",
        **options,
    )
    parser.add_argument(
        "video", metavar="VIDEO", nargs="?", help="a video file, an animated image, or a folder of numbered images"
    )
    parser.add_argument(
        "--batch",
        metavar="JOBS",
        type=Path,
        help="track many videos, in place of VIDEO: a file with a JSON object a line (video, objects), a folder of "
        "videos, or a table of `datasets` (Parquet, CSV, or a saved folder) with a column video. Prompts, or what is "
        "to be found, apply to every video that has no prompts of its own. Finished videos are not tracked again; "
        "torchrun and accelerate launch share the videos out (see docs/batch.md)",
    )
    add_prompt_arguments(parser, video=True)
    add_detect_arguments(parser)
    group = parser.add_argument_group("annotations")
    group.add_argument(
        "--init",
        metavar="FILE",
        type=Path,
        help="begin from the masks and boxes of a file or folder of annotations, in any format of --format, or of "
        "earlier results",
    )
    group.add_argument(
        "--init-frames",
        metavar="N",
        type=_number_of_frames,
        help="largest number of frames of --init on which each object is prompted, spread evenly; all: no limit "
        "(default: 8). Tracking takes longer the more there are",
    )
    add_model_arguments(parser, auto_dtype=True)
    add_engine_arguments(parser)
    group = parser.add_argument_group("range and size")
    group.add_argument("--start", metavar="F", type=int, help="first frame to track (default: 0)")
    group.add_argument("--end", metavar="F", type=int, help="first frame not to track (default: the number of frames)")
    group.add_argument(
        "--direction",
        choices=("forward", "backward", "both"),
        help="forward: from the first prompted frame to the end; both: then also back to the beginning; backward: from "
        "the last prompted frame to the beginning. The default is forward if all objects are prompted on the first "
        "frame, and otherwise both",
    )
    add_size_argument(group)
    add_memory_arguments(parser)
    group = parser.add_argument_group("output")
    add_output_arguments(group, f"{DEFAULT_OUTPUT}/<name of the video>")
    add_effect_arguments(group, video=True)
    group.add_argument(
        "--timeline", action="store_true", help="also draw the probability of each object over the frames"
    )
    add_format_argument(group)
    group.add_argument(
        "--on-lost",
        choices=("continue", "stop"),
        default="continue",
        help="what to do when the mask of an object becomes empty: continue (default), or stop with exit code 3, so "
        "that "
        "you can prompt it again",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Track and write the results. Returns 130 after Ctrl-C, 143 after SIGTERM, 3 after `--on-lost stop`."""
    from ..app.frames import limited_size
    from ..app.initial import add_initial, read_initial
    from ..app.results import TrackFolder
    from ..prompts import ObjectPrompts, scaled_prompts
    from ..safe_names import safe_name
    from ..video_io import open_video

    check_order(args)
    finds = finds_objects(args)
    check_engine(args, finds)
    effect = effect_output(args)
    if args.batch is not None:
        from .batch_tracking import track_batch

        return track_batch(args, finds, effect, _load)
    video, given, out, overwrite = args.video, args.prompts, args.output, args.overwrite
    formats = list(dict.fromkeys(args.format or ()))
    if args.init_frames is not None and args.init is None:
        raise ValueError("--init-frames limits the annotations of --init, which is not given.")
    if video is None:
        # The synthetic video is always the same, so a second run may replace the first in the default folder.
        overwrite = overwrite or out is None
        out = out or DEFAULT_OUTPUT / EXAMPLE
        TrackFolder(out, EXAMPLE, effect=effect, formats=formats).check(overwrite)
        video, click = _example_clip(out)
        given = given or (() if finds or args.init else (click,))
    if not given and not finds and args.init is None:
        raise ValueError(
            "What is to be tracked? Give a prompt, such as --point X,Y or --box X0,Y0,X1,Y1, or what is to be found, "
            "such as --text 'a dog' or --everything."
        )
    memory = memory_options(args, args.memory)

    with open_video(video, start=args.start, end=args.end) as source:
        first = args.start or 0
        size = limited_size((source.height, source.width), args.max_side)
        frames = range(first, first + len(source))
        prompts = gather(given, (source.height, source.width), frames)
        references = gather_references(given)
        if references and finds:
            raise ValueError("--reference shows which object is looked for, so it cannot go with --text and the like.")
        initial = read_initial(args.init, source, frames, args.init_frames)
        add_initial(prompts, initial.prompts)
        find_on = finding_frame(args, frames, prompts) if finds else None
        ids = {object_id for on_frame in prompts.values() for object_id in on_frame}
        ids |= {one.object_id for one in references}
        if effect is not None and not finds:
            effect.check_objects(ids)
        out = out or DEFAULT_OUTPUT / safe_name(source.name)
        folder = TrackFolder(out, source.name, args.timeline, effect, formats)
        folder.check(overwrite)

        from ..app.frames import ResizedFrames
        from ..app.pipeline import Job
        from ..app.plan import first_masks

        def masks(model: Tracker, processor: TrackerProcessor) -> Iterator[np.ndarray]:
            middle = {first: {1: ObjectPrompts([(source.width / 2, source.height / 2)], [1])}}
            given = scaled_prompts(prompts or middle, (source.height, source.width), size)
            on_frames = {index - first: on_frame for index, on_frame in given.items()}
            return first_masks(model, processor, ResizedFrames(source, size), on_frames)

        model_name, model, processor = _load(args, masks)
        if args.compile:
            _compile(model, ids)
        how = {"memory": memory, "stop_when_lost": args.on_lost == "stop", "timeline": args.timeline}
        how |= {"references": references, "labels": initial.labels, "formats": formats}
        job = Job(source, first, size, prompts, model, processor, folder, **how)
        if find_on is not None:
            from ..discovery import ObjectFinder

            of_torch: tuple[Any, Any] = (model, processor)  # `check_engine` makes sure of that
            detector = detector_of(args, of_torch[0].device)
            job.find_objects(ObjectFinder(*of_torch, detector, finder_options(args)), find_on)
        folder.prepare(overwrite)
        return job.run(args.direction, model_name)


def _load(
    args: argparse.Namespace, masks: Callable[[Tracker, TrackerProcessor], Iterator[np.ndarray]]
) -> tuple[str, Tracker, TrackerProcessor]:
    """Load the model for the engine, and print a line about it. Returns its name, the tracker and its processor.

    Args:
        masks: as in `app.precision.load_with_dtype`.
    """
    from ..app.loading import choose_device, choose_model, quiet_transformers

    quiet_transformers()
    device = choose_device("cpu" if args.engine != "torch" else args.device)
    if args.engine == "torch":
        from ..app.precision import load_with_dtype
        from ..modeling_efficienttam_video import EfficientTamVideoModel

        chosen = choose_model(args.model, device)
        model, processor, dtype = load_with_dtype(EfficientTamVideoModel, chosen.name, device, args.dtype, masks)
        print(f"Model: {chosen.description}; {device}, {dtype}.")
        return chosen.name, model, processor

    from ..app.engines import exported_graphs, load_tracker

    if args.graphs is not None:
        tracker = load_tracker(args.engine, args.graphs)
        name, description = tracker.graphs.manifest.source, f"the graphs in '{args.graphs}'"
    else:
        chosen = choose_model(args.model, device)
        tracker = load_tracker(args.engine, exported_graphs(chosen.name))
        name, description = chosen.name, chosen.description
    print(f"Model: {description}; {args.engine} on the CPU, {tracker.graphs.manifest.dtype}.")
    return name, tracker, tracker


def _compile(model: Any, object_ids: set[int]) -> None:
    """Compile the image encoder for the number of threads with which the pipeline will run it."""
    import torch

    from ..app.compiling import compile_image_encoder
    from ..app.encoding_ahead import encoding_ahead_pays

    num_threads = torch.get_num_threads()
    compile_image_encoder(model, num_threads // 2 if encoding_ahead_pays(model, len(object_ids)) else num_threads)


def _example_clip(out: Path) -> tuple[Path, GivenPrompt]:
    """Write the synthetic video to the result folder. Returns its path and a point on its object."""
    from ..app.example_clip import make_example_clip
    from ..output_folders import OutputFolder

    video, click = make_example_clip(OutputFolder(out).add(f"{EXAMPLE}.mp4"))
    print(f"No VIDEO was given. A synthetic video is tracked: {video}")
    return video, GivenPrompt("point", click, 1, None)


def _number_of_frames(text: str) -> int:
    """The value of `--init-frames`; 0 means all."""
    if text == "all":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of frames, from 1 on, nor all")
    return int(text)

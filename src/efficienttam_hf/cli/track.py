"""`efficienttam track`: objects through a video, from prompts on any of its frames.

Every object begins where its prompts say. Forward, that is its first prompted frame, and it joins those tracked
already when they arrive there; backward, likewise, from its last. In both directions an object is tracked forward from
its first prompted frame to the end, then backward from there to the beginning, with the memory of what followed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    ResizedFrames,
    add_model_arguments,
    add_size_argument,
    choose_device,
    limited_size,
    load_model,
)
from .prompts import GivenPrompt, Prompts, add_prompt_arguments, check_order, gather


if TYPE_CHECKING:
    from ..modeling_efficienttam_video import EfficientTamVideoModel, EfficientTamVideoSegmentationOutput
    from ..processing_efficienttam import EfficientTamVideoProcessor
    from ..video_io import FrameSource
    from ..video_session import EfficientTamVideoInferenceSession
    from .outputs import TrackFolder

DEFAULT_OUT = Path("efficienttam-out")

# Without a video: an animal that walks, and another that passes in front of it.
DEMO_SIZE, DEMO_FRAMES, DEMO_SEED, DEMO_CLIP = (360, 640), 33, 3, 2
DEMO_SCENE = {
    "aspect_ratios": (),
    "figure": 0.9,
    "still": 0.0,
    "leave": 0.0,
    "occluder": 0.3,
    "max_untracked": 2,
    "noise": 0.0,
    "compression": 0.0,
    "low_resolution": 0.0,
    "camouflage": 0.0,
    "fast": 0.0,
}


def add_parser(commands: argparse._SubParsersAction, **options) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "track",
        help="track objects through a video",
        description="Track objects through a video from clicks, boxes or masks, and write an overlay video, masks as "
        "indexed PNGs in the layout of DAVIS, and masks as COCO run-length JSON. Without VIDEO, a small synthetic clip "
        "is made and its object is tracked.",
        epilog="example: efficienttam track cups.mp4 --object 1 --point 480,300 "
        "--object 2 --box 500,200,640,420 --frame 30 --object 1 --negative 520,310",
        **options,
    )
    parser.add_argument("video", metavar="VIDEO", nargs="?", help="a video file or a folder of numbered images")
    add_prompt_arguments(parser, video=True)
    add_model_arguments(parser)
    group = parser.add_argument_group("what to track")
    group.add_argument("--start", metavar="F", type=int, help="first frame to use; the beginning by default")
    group.add_argument("--end", metavar="F", type=int, help="the frame to stop before; the end by default")
    group.add_argument(
        "--direction",
        choices=("forward", "backward", "both"),
        help="from the prompts on; forward by default, both if an object is first prompted on a later frame",
    )
    add_size_argument(group)
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="DIR", type=Path, help=f"default: {DEFAULT_OUT}/<name of the video>")
    group.add_argument("--overwrite", action="store_true", help="replace results of an earlier run in DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Track and write. Returns 130 if it was stopped by Ctrl-C, after writing what was done."""
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..video_io import open_video
    from .outputs import TrackFolder

    check_order(args)
    given, out, overwrite = args.prompts, args.out, args.overwrite
    if args.video is None:
        # Our own folder of a clip that is always the same: a second run may replace the first.
        overwrite = overwrite or out is None
        out = out or DEFAULT_OUT / "synthetic-clip"
        video, click = _make_clip(out / "synthetic-clip.mp4")
        given = given or (GivenPrompt("point", click, 1, None),)
        print(f"No VIDEO was given, so here is a synthetic clip: {video}")
    else:
        video = args.video
    if not given:
        raise ValueError("What is to be tracked? Give a prompt, such as --point X,Y or --box X0,Y0,X1,Y1.")

    with open_video(video, start=args.start, end=args.end) as source:
        first = args.start or 0
        size = limited_size((source.height, source.width), args.max_side)
        prompts = gather(given, (source.height, source.width), range(first, first + len(source)))
        device = choose_device(args.device)
        model, processor = load_model(EfficientTamVideoModel, args.model, device, args.dtype)
        folder = TrackFolder(out or DEFAULT_OUT / source.name, source.name)
        folder.prepare(overwrite)
        job = _Job(source, first, size, prompts, model, processor, folder)
        return job.run(args.direction, args.model)


def _make_clip(path: Path) -> tuple[Path, tuple[float, float]]:
    """Write the synthetic clip as a video file; the file, and a click on its object."""
    from ..data.synthetic import SyntheticClips
    from ..evaluation.semi_supervised import center_click
    from ..video_writer import VideoWriter

    (height, width), num_frames = DEMO_SIZE, DEMO_FRAMES
    clip = SyntheticClips((height, width), num_frames, max_objects=1, seed=DEMO_SEED, options=DEMO_SCENE)[DEMO_CLIP]
    with VideoWriter(path, 24, width, height, crf=12) as writer:
        for frame in clip.frames.permute(0, 2, 3, 1).numpy():
            writer.write(frame)
    return path, center_click(clip.masks[0, 0].numpy())


@dataclass
class _Job:
    """One run of the command. Frame numbers are the whole video's; the session's begin with 0 at `first`."""

    source: FrameSource
    first: int
    size: tuple[int, int]
    prompts: Prompts
    model: EfficientTamVideoModel
    processor: EfficientTamVideoProcessor
    folder: TrackFolder

    def run(self, direction: str | None, model_name: str) -> int:
        from tqdm import tqdm

        plan = plan_tracking({t - self.first: list(on_frame) for t, on_frame in self.prompts.items()}, direction)
        session = self.processor.init_video_session(
            ResizedFrames(self.source, self.size),
            inference_device=self.model.device,
            dtype=self.model.dtype,
            keep_history=False,
        )
        total = plan.num_steps(len(self.source))
        stop: BaseException | None = None
        at = None
        with tqdm(total=total, desc="track", unit="frame") as progress:
            try:
                for output, ids in plan.run(self.model, session, lambda id_: self._add_prompts(session, id_)):
                    if ids:
                        self._keep(output, ids)
                        at = self.first + output.frame_idx
                    progress.update()
            except BaseException as error:  # whatever happened, what is done is kept
                stop = error
            rate = progress.n / max(progress.format_dict["elapsed"], 1e-9)
        frames = self.folder.frames
        if not frames:
            self.folder.discard()
            if isinstance(stop, KeyboardInterrupt):
                print("Stopped by Ctrl-C before the first frame was done; there are no results.", file=sys.stderr)
                return 130
            raise stop or ValueError("No frame could be tracked.")

        interrupted = isinstance(stop, KeyboardInterrupt)
        if interrupted:
            print(
                f"Stopped by Ctrl-C after frame {at}. Writing what is done; Ctrl-C again leaves the overlay out.",
                file=sys.stderr,
            )
        self._write_json(model_name, complete=stop is None and progress.n == total)
        self._write_overlay(frames)
        self._report(frames, rate, sys.stderr if stop else sys.stdout)
        if stop is not None and not interrupted:
            raise stop
        return 130 if interrupted else 0

    def _add_prompts(self, session: EfficientTamVideoInferenceSession, object_id: int) -> None:
        """All prompts of one object."""
        x, y = self.size[1] / self.source.width, self.size[0] / self.source.height
        for frame, on_frame in self.prompts.items():
            if object_id not in on_frame:
                continue
            prompts = on_frame[object_id].scaled(x, y, self.size)
            has_points = bool(prompts.points)
            self.processor.add_inputs_to_inference_session(
                session,
                frame - self.first,
                object_id,
                input_points=[[[list(point) for point in prompts.points]]] if has_points else None,
                input_labels=[[prompts.labels]] if has_points else None,
                input_boxes=[[list(prompts.box)]] if prompts.box else None,
                input_masks=prompts.mask,
            )

    def _keep(self, output: EfficientTamVideoSegmentationOutput, ids: list[int]) -> None:
        """Write the masks of some objects on a frame."""
        rows = [output.object_ids.index(object_id) for object_id in ids]
        logits = self.processor.post_process_masks([output.pred_masks[rows]], [self.size], binarize=False)[0][:, 0]
        scores = output.object_score_logits[rows, 0].sigmoid().tolist()
        name = self.source.frame_name(output.frame_idx)
        self.folder.add(self.first + output.frame_idx, name, ids, logits.cpu().numpy(), scores)

    def _write_json(self, model_name: str, complete: bool) -> None:
        objects: dict[int, list] = {}
        for frame, on_frame in sorted(self.prompts.items()):
            for object_id, prompts in on_frame.items():
                objects.setdefault(object_id, []).append({"frame": frame, **prompts.as_json()})
        height, width = self.size
        self.folder.write_json(
            {
                "video": {"name": self.source.name, "width": width, "height": height, "fps": self.source.fps},
                "complete": complete,
                "model": model_name,
                "objects": [{"id": object_id, "prompts": given} for object_id, given in sorted(objects.items())],
            }
        )

    def _write_overlay(self, frames: list[int]) -> None:
        """The video once more, with the masks drawn: tracking may have passed it in another order."""
        from tqdm import tqdm

        from ..video_writer import VideoWriter
        from ..visualization import overlay_masks

        x, y = self.size[1] / self.source.width, self.size[0] / self.source.height
        several = len({object_id for on_frame in self.prompts.values() for object_id in on_frame}) > 1
        resized = ResizedFrames(self.source, self.size)
        with VideoWriter(self.folder.overlay, self.source.fps, self.size[1], self.size[0]) as writer:
            for frame in tqdm(frames, desc="overlay", unit="frame"):
                here = [p.scaled(x, y, self.size) for p in self.prompts.get(frame, {}).values()]
                picture = overlay_masks(
                    resized[frame - self.first],
                    self.folder.masks(frame),
                    labels=several,
                    points=[(*xy, label) for p in here for xy, label in zip(p.points, p.labels, strict=True)],
                    boxes=[p.box for p in here if p.box],
                )
                writer.write(picture)

    def _report(self, frames: list[int], rate: float, file: Any) -> None:
        print(
            f"Tracked frames {frames[0]} to {frames[-1]} ({rate:.2f} frames/s).\n"
            f"  overlay  {self.folder.overlay}\n"
            f"  masks    {self.folder.annotations} (indexed PNG)\n"
            f"           {self.folder.json} (COCO run-length encoding)",
            file=file,
        )


# ------------------------------------------------------------------------------------------------------------ planning


@dataclass
class TrackingPlan:
    """Which objects to track from which frame, in which direction.

    Attributes:
        first, last: each object's first and last prompted frame.
        direction: "forward", "backward" or "both".
    """

    first: dict[int, int]
    last: dict[int, int]
    direction: str

    def num_steps(self, num_frames: int) -> int:
        """How many frames `run` yields on a video of this length."""
        if self.direction == "backward":
            return max(self.last.values()) + 1
        forward = num_frames - min(self.first.values())
        latest = max(self.first.values())
        return forward + (latest + 1 if self.direction == "both" and latest else 0)

    def run(
        self,
        model: EfficientTamVideoModel,
        session: EfficientTamVideoInferenceSession,
        add_prompts: Callable[[int], None],
    ) -> Iterator[tuple[EfficientTamVideoSegmentationOutput, list[int]]]:
        """Track, yielding each frame as it is done, with the ids of the objects whose result it is.

        Args:
            add_prompts: adds all prompts of an object to the session.
        """
        if self.direction == "backward":
            begins, reverse = self.last, True
        else:
            begins, reverse = self.first, False
        stages = sorted(set(begins.values()), reverse=reverse)
        for begin, following in zip(stages, [*stages[1:], None], strict=True):
            for object_id, own in begins.items():
                if own == begin:
                    add_prompts(object_id)
            count = None if following is None else abs(following - begin) - 1
            for output in _propagate(model, session, begin, count, reverse):
                yield output, list(output.object_ids)

        latest = max(self.first.values())
        if self.direction == "both" and latest > 0:
            for object_id in [i for i, begin in self.first.items() if begin == 0]:
                session.remove_object(object_id)
            for output in _propagate(model, session, latest, None, reverse=True):
                yield output, [i for i in output.object_ids if output.frame_idx < self.first[i]]


def plan_tracking(prompted: dict[int, list[int]], direction: str | None = None) -> TrackingPlan:
    """The plan for objects prompted on frames.

    Args:
        prompted: for each prompted frame, counted from the first one tracked, the ids of the objects.
        direction: if not given, "forward" where every object is prompted on the first frame, else "both".
    """
    frames: dict[int, list[int]] = {}
    for frame, ids in sorted(prompted.items()):
        for object_id in ids:
            frames.setdefault(object_id, []).append(frame)
    first = {object_id: own[0] for object_id, own in frames.items()}
    last = {object_id: own[-1] for object_id, own in frames.items()}
    if direction is None:
        direction = "both" if any(first.values()) else "forward"
    return TrackingPlan(first, last, direction)


def _propagate(
    model: EfficientTamVideoModel,
    session: EfficientTamVideoInferenceSession,
    begin: int,
    count: int | None,
    reverse: bool,
) -> Iterator[EfficientTamVideoSegmentationOutput]:
    """`propagate_in_video_iterator`, also backward from the first frame: that yields the first frame."""
    if reverse and begin == 0:
        model(session, frame_idx=0, reverse=True)  # runs prompts that wait there
        yield model(session, frame_idx=0, reverse=True)  # tracks the objects that had none
    else:
        yield from model.propagate_in_video_iterator(session, begin, count, reverse=reverse)

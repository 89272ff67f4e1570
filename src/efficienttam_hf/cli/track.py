"""`efficienttam track`: objects through a video, from prompts on any of its frames."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts import Prompts, prompts_as_json, scaled_prompts
from .common import (
    ResizedFrames,
    add_model_arguments,
    add_size_argument,
    choose_device,
    limited_size,
    load_model,
)
from .prompts import GivenPrompt, add_prompt_arguments, check_order, gather
from .tracking import TrackedFrame, plan_tracking, track_objects


if TYPE_CHECKING:
    import numpy as np

    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor
    from ..video_io import FrameSource
    from .outputs import OverlayWriter, TrackFolder

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
        video, click = make_example_clip(out / "synthetic-clip.mp4")
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
        job = Job(source, first, size, prompts, model, processor, folder)
        return job.run(args.direction, args.model)


def make_example_clip(path: Path, number: int = DEMO_CLIP, max_objects: int = 1) -> tuple[Path, tuple[float, float]]:
    """Write a synthetic clip, another for each number, as a video file; the file, and a click on an object in it."""
    from ..data.synthetic import SyntheticClips
    from ..evaluation.prompted import center_click
    from ..video_writer import VideoWriter

    (height, width), num_frames = DEMO_SIZE, DEMO_FRAMES
    clip = SyntheticClips((height, width), num_frames, max_objects=max_objects, seed=DEMO_SEED, options=DEMO_SCENE)[
        number
    ]
    with VideoWriter(path, 24, width, height, crf=12) as writer:
        for frame in clip.frames.permute(0, 2, 3, 1).numpy():
            writer.write(frame)
    return path, center_click(clip.masks[0, 0].numpy())


@dataclass
class Job:
    """One run of the command. Frame numbers are the whole video's; the session's begin with 0 at `first`.

    While the model tracks a frame, the next one is decoded and, where that pays, encoded too; the one before is
    written and, where tracking goes in the order of the video, drawn and put into the overlay.
    """

    source: FrameSource
    first: int
    size: tuple[int, int]
    prompts: Prompts
    model: EfficientTamVideoModel
    processor: EfficientTamVideoProcessor
    folder: TrackFolder
    last_kept: int | None = None

    def run(self, direction: str | None, model_name: str) -> int:
        from tqdm import tqdm

        from .background import Background
        from .encoding_ahead import encoding_ahead_pays
        from .outputs import OverlayWriter

        prompts = {t - self.first: on_frame for t, on_frame in self._scaled_prompts().items()}
        plan = plan_tracking(prompts, direction)
        frames_in = ResizedFrames(self.source, self.size)
        total = plan.num_steps(len(self.source))
        stop: BaseException | None = None
        overlay: OverlayWriter | None = None
        with tqdm(total=total, desc="track", unit="frame") as progress:
            try:
                if plan.in_order:
                    overlay = OverlayWriter(self.folder.overlay, self.size, self.source.fps, self._scaled_prompts())
                ahead = encoding_ahead_pays(self.model, len(plan.first))
                tracked = track_objects(self.model, self.processor, frames_in, prompts, plan, ahead)
                with closing(tracked), Background() as writing:  # while the model computes the next frame
                    for done in tracked:
                        if done.object_ids:
                            image = None if overlay is None else frames_in[done.index]
                            writing.submit(self._keep, done, overlay, image)
                        progress.update()
            except BaseException as error:  # whatever happened, what is done is kept
                stop = error
            rate = progress.n / max(progress.format_dict["elapsed"], 1e-9)
        frames = self.folder.frames
        if not frames:
            if overlay is not None:
                overlay.abort()
            self.folder.discard()
            if isinstance(stop, KeyboardInterrupt):
                print("Stopped by Ctrl-C before the first frame was done; there are no results.", file=sys.stderr)
                return 130
            raise stop or ValueError("No frame could be tracked.")

        interrupted = isinstance(stop, KeyboardInterrupt)
        if interrupted:
            print(
                f"Stopped by Ctrl-C after frame {self.last_kept}. "
                "Writing what is done; Ctrl-C again leaves the overlay out.",
                file=sys.stderr,
            )
        self._write_json(model_name, complete=stop is None and progress.n == total)
        if overlay is None:
            self._write_overlay(frames)
        else:
            overlay.close()
        self._report(frames, rate, sys.stderr if stop else sys.stdout)
        if stop is not None and not interrupted:
            raise stop
        return 130 if interrupted else 0

    def _keep(self, done: TrackedFrame, overlay: OverlayWriter | None, image: np.ndarray | None) -> None:
        """Write what tracking found on a frame, and draw it on the frame's image where there is an overlay."""
        frame, name = self.first + done.index, self.source.frame_name(done.index)
        self.folder.add(frame, name, done.object_ids, done.logits, done.scores)
        self.last_kept = frame
        if overlay is not None:
            overlay.add(frame, image, self.folder.masks(frame))

    def _scaled_prompts(self) -> Prompts:
        """The prompts in pixels of the results."""
        return scaled_prompts(self.prompts, (self.source.height, self.source.width), self.size)

    def _write_json(self, model_name: str, complete: bool) -> None:
        height, width = self.size
        self.folder.write_json(
            {
                "video": {"name": self.source.name, "width": width, "height": height, "fps": self.source.fps},
                "complete": complete,
                "model": model_name,
                "objects": prompts_as_json(self.prompts),
            }
        )

    def _write_overlay(self, frames: list[int]) -> None:
        """The video once more, with the masks drawn: tracking passed it in another order."""
        from tqdm import tqdm

        resized = ResizedFrames(self.source, self.size)
        self.folder.write_overlay(
            lambda frame: resized[frame - self.first],
            self.size,
            self.source.fps,
            self._scaled_prompts(),
            tqdm(frames, desc="overlay", unit="frame"),
        )

    def _report(self, frames: list[int], rate: float, file: Any) -> None:
        print(
            f"Tracked frames {frames[0]} to {frames[-1]} ({rate:.2f} frames/s).\n"
            f"  overlay  {self.folder.overlay}\n"
            f"  masks    {self.folder.annotations} (indexed PNG)\n"
            f"           {self.folder.json} (COCO run-length encoding)",
            file=file,
        )

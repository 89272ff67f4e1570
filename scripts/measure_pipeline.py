"""How long tracking takes from a video file to an overlay file, against the sum of its stages run one after another.

    python scripts/measure_pipeline.py my.mp4 --point 640,360

Below 1 the stages overlap: decoding goes ahead of the model, and results are written, drawn and encoded behind it.
Both are measured in turns, so that a busy machine slows both alike; the table has medians over the rounds. Loading the
model is left out. Stages hand on all their frames at once, which takes about 12 MB a frame at 720p.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.benchmark.timing import clock_for
from efficienttam_hf.cli.common import DEFAULT_MODEL, choose_device, load_model
from efficienttam_hf.cli.outputs import OverlayWriter, TrackFolder
from efficienttam_hf.cli.prompts import ObjectPrompts, Prompts
from efficienttam_hf.cli.track import Job
from efficienttam_hf.cli.tracking import add_prompts, read_output
from efficienttam_hf.video_io import open_video
from efficienttam_hf.video_session import EfficientTamVideoInferenceSession


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--point", metavar="X,Y", required=True, help="a click on the object, on the first frame")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)

    model, processor = load_model(EfficientTamVideoModel, args.model, choose_device(args.device), args.dtype)
    x, y = map(float, args.point.split(","))
    prompts = {0: {1: ObjectPrompts(points=[(x, y)], labels=[1])}}
    rounds = []
    for number in range(args.rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            alone = time_stages(args.video, args.frames, prompts, model, processor, Path(scratch))
            whole = time_whole(args.video, args.frames, prompts, model, processor, Path(scratch))
        if number:  # the first warms up
            rounds.append({**alone, "sum of the stages": sum(alone.values()), "file to overlay file": whole})
    print(report(rounds))


def time_stages(
    video: Path, num_frames: int, prompts: Prompts, model: Any, processor: Any, scratch: Path
) -> dict[str, float]:
    """Milliseconds a frame of each stage, each over all frames with nothing beside it."""
    taken: dict[str, float] = {}
    clock = clock_for(model.device)

    def timed(stage: str, run: Callable[[], list]) -> list:
        start = clock()
        done = run()
        taken[stage] = (clock() - start) / len(done) * 1e3
        return done

    with open_video(video, end=num_frames) as source:
        size, fps = (source.height, source.width), source.fps
        frames = timed("decode", lambda: list(source))
    pixels = timed("resize and normalise", lambda: [processor.process_frame(f, model.device)[0] for f in frames])
    session = EfficientTamVideoInferenceSession(
        torch.stack(pixels), *size, model.device, model.device, model.device, model.dtype, keep_history=False
    )
    add_prompts(model, processor, session, 0, 1, prompts[0][1])
    outputs = timed("model", lambda: list(model.propagate_in_video_iterator(session)))
    tracked = timed("masks to the video's size", lambda: [read_output(processor, session, o, [1]) for o in outputs])
    folder = TrackFolder(scratch / "stages", video.stem)
    folder.prepare(overwrite=False)
    timed(
        "PNG and run lengths",
        lambda: [folder.add(t.index, str(t.index), t.object_ids, t.logits, t.scores) for t in tracked],
    )
    overlay = OverlayWriter(folder.overlay, size, fps, prompts)
    masks = [folder.masks(t.index) for t in tracked]
    pictures = timed("draw", lambda: list(map(overlay.draw, folder.frames, frames, masks)))

    def encode() -> list:
        with overlay:
            return [overlay.write(picture) for picture in pictures]

    timed("encode", encode)
    return taken


def time_whole(video: Path, num_frames: int, prompts: Prompts, model: Any, processor: Any, scratch: Path) -> float:
    """Milliseconds a frame of what `efficienttam track` does, from opening the video on."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        start = time.perf_counter()
        with open_video(video, end=num_frames) as source:
            folder = TrackFolder(scratch / "whole", source.name)
            folder.prepare(overwrite=False)
            Job(source, 0, (source.height, source.width), prompts, model, processor, folder).run("forward", "")
        return (time.perf_counter() - start) / len(folder.frames) * 1e3


def report(rounds: list[dict[str, float]]) -> str:
    """A table of medians, and the median of the rounds' ratios."""
    lines = ["| stage | ms a frame |", "| --- | ---: |"]
    lines += [f"| {name} | {statistics.median(each[name] for each in rounds):.1f} |" for name in rounds[0]]
    ratio = statistics.median(each["file to overlay file"] / each["sum of the stages"] for each in rounds)
    return "\n".join([*lines, "", f"File to overlay file takes {ratio:.2f}x the sum of the stages."])


if __name__ == "__main__":
    main()

"""How long tracking takes from a video file to an overlay file, against the sum of its stages run one after another.

    python scripts/measure_pipeline.py my.mp4 --point 640,360

Below 1 the stages overlap: decoding goes ahead of the model, results are written, drawn and encoded behind
it, and a small model encodes the next frame beside the tracking of this one.
Both are measured in turns, so that a busy machine slows both alike; the table has medians over the rounds. Loading the
model is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.app.defaults import INCLUDED_MODEL
from efficienttam_hf.app.loading import choose_device, load_model
from efficienttam_hf.app.pipeline import Job
from efficienttam_hf.app.plan import add_prompts, read_output
from efficienttam_hf.app.results import TrackFolder
from efficienttam_hf.benchmark.timing import clock_for
from efficienttam_hf.prompts import ObjectPrompts, Prompts
from efficienttam_hf.video_io import open_video
from efficienttam_hf.video_session import EfficientTamVideoInferenceSession


AT_A_TIME = 8  # frames that a stage hands on to the next


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--point", metavar="X,Y", required=True, help="a click on the object, on the first frame")
    parser.add_argument("--model", default=INCLUDED_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--frames", type=int, help="only so many (default: the whole video)")
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
    video: Path, num_frames: int | None, prompts: Prompts, model: Any, processor: Any, scratch: Path
) -> dict[str, float]:
    """Milliseconds a frame of each stage, by turns on some frames each, with nothing beside it."""
    taken: dict[str, float] = defaultdict(float)
    clock = clock_for(model.device)

    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        start = clock()
        yield
        taken[name] += (clock() - start) * 1e3

    with contextlib.ExitStack() as open_files:
        with stage("decode"):
            source = open_files.enter_context(open_video(video, end=num_frames, prefetch=0))
        size, count = (source.height, source.width), len(source)
        coming = Coming(count)
        session = EfficientTamVideoInferenceSession(
            None,
            *size,
            *[model.device] * 3,
            model.dtype,
            frames=coming,
            process_frame=lambda pixels: (pixels, size),
            keep_history=False,
        )
        tracking = model.propagate_in_video_iterator(session)
        folder = TrackFolder(scratch / "stages", video.stem)
        folder.prepare(overwrite=False)
        overlay = open_files.enter_context(folder.open_overlay(size, source.fps, prompts))
        for begin in range(0, count, AT_A_TIME):
            some = range(begin, min(begin + AT_A_TIME, count))
            with stage("decode"):
                frames = [source[i] for i in some]
            with stage("resize and normalise"):
                coming.take(begin, [processor.process_frame(frame, model.device)[0] for frame in frames])
            if not begin:
                add_prompts(model, processor, session, 0, 1, prompts[0][1])
            with stage("model"):
                outputs = [next(tracking) for _ in some]
            with stage("masks to the video's size"):
                tracked = [read_output(processor, session, output, [1]) for output in outputs]
            with stage("PNG and run lengths"):
                for done in tracked:
                    folder.add(done.index, str(done.index), done.object_ids, done.logits, done.scores)
            with stage("draw"):
                pictures = [overlay.draw(i, frame, folder.masks(i)) for i, frame in zip(some, frames, strict=True)]
            with stage("encode"):
                for picture in pictures:
                    overlay.write(picture)
        with stage("PNG and run lengths"):
            folder.write_json({})
        with stage("encode"):
            overlay.close()
    return {name: total / count for name, total in taken.items()}


class Coming:
    """A video of `count` frames of which only the last few taken are here."""

    def __init__(self, count: int):
        self._count, self._here = count, {}

    def take(self, begin: int, frames: list) -> None:
        self._here = dict(enumerate(frames, begin))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._here[index]


def time_whole(
    video: Path, num_frames: int | None, prompts: Prompts, model: Any, processor: Any, scratch: Path
) -> float:
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

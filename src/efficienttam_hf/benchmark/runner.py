"""Runs the benchmark: makes the contenders, warms them up, and times them in turns on the same frames.

For each number of objects, every contender tracks until its memory bank is full. Then the operations of one frame of
each are counted. Then there are rounds in which whole frames are timed, and rounds in which stages are timed, in turns
with a matrix product. At the end, each contender tracks the video once more in a new process, for its memory use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .building import build, track_video
from .contenders import Contender, ContenderSpec, our_config
from .machine import MatrixProduct, MemoryUse, check_device, describe_machine, with_peak_memory
from .peers import check_peer
from .reference import check_checkout, published_variant
from .results import FRAME_PARTS, BenchmarkReport, ContenderResult
from .stages import STAGES, StageMeter, count_flops
from .timing import Clock, Spread, clock_for, interleave, paired_ratios
from .video import BenchmarkVideo, draw_video


__all__ = ["BenchmarkOptions", "FrameTime", "TimedTrack", "plan", "run"]

INPUT_FRAMES = 5


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured.

    Attributes:
        models: models of this package: presets (with random weights), names, folders. All ratios are relative to the
            first.
        peers: names of `peers.PEERS`.
        reference: the folder of a checkout of the published implementation, which is run for each of `models` too.
        reference_dtype: its dtype, if it is not `dtype`.
        objects: the numbers of objects that are tracked at once; each number is measured.
        frames: the number of frames that are timed of each contender; the stages of as many further frames are timed.
        warmup: the number of frames before that; None continues until the memory bank is full.
        image_size: the side of every model's input in pixels, a multiple of 32; None is each model's own.
        video_size: (width, height) of the frames.
        device, dtype, compiled: see `ContenderSpec`.
        threads: the number of threads; None is torch's default.
        memory: whether memory use is measured, which takes as long again as tracking.
    """

    models: Sequence[str]
    peers: Sequence[str] = ()
    reference: Path | None = None
    reference_dtype: str | None = None
    objects: Sequence[int] = (1,)
    frames: int = 10
    warmup: int | None = None
    image_size: int | None = None
    video_size: tuple[int, int] = (1280, 720)
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    compiled: bool = False
    memory: bool = True

    @property
    def warmup_frames(self) -> int:
        """The number of frames before the measurement.

        The memory bank has its seven spatial memories after seven frames. Compiled code must have run with all lengths
        of its input, and the number of object pointers grows up to sixteen.
        """
        return self.warmup if self.warmup is not None else 20 if self.compiled else 8

    @property
    def video_frames(self) -> int:
        """The number of frames: the warm-up, one for counting operations, and timed ones with and without stages."""
        return self.warmup_frames + 1 + 2 * self.frames


def plan(options: BenchmarkOptions) -> list[ContenderSpec]:
    """Check the options and return the contenders. Nothing is measured.

    Raises:
        ValueError: if a number is out of range, a model or peer is unknown, the device or dtype cannot be used, a
            folder is not a checkout, or the published implementation does not have a model.
        ImportError: if a package that a peer needs is not installed.
    """
    if not options.models:
        raise ValueError("There is nothing to measure: name at least one model.")
    for name, least in (("objects", 1), ("frames", 1), ("warmup_frames", 2), ("threads", 1), ("video_size", 32)):
        value = getattr(options, name)
        smallest = min(value) if isinstance(value, Sequence) else value
        if smallest is not None and smallest < least:
            raise ValueError(f"{name.replace('_', ' ')} must be at least {least}, got {smallest}.")
    if options.image_size is not None and (options.image_size < 64 or options.image_size % 32):
        raise ValueError(f"The image size must be a multiple of 32 from 64 on, got {options.image_size}.")
    for dtype in (options.dtype, options.reference_dtype or options.dtype):
        check_device(torch.device(options.device), dtype)
    for peer in options.peers:
        check_peer(peer, options.image_size)
    if options.reference is not None:
        check_checkout(options.reference)
    common: dict[str, Any] = {
        "device": options.device,
        "dtype": options.dtype,
        "image_size": options.image_size,
        "compiled": options.compiled,
        "threads": options.threads or torch.get_num_threads(),
    }
    specs = []
    for model in options.models:
        config = our_config(model, options.image_size)
        specs.append(ContenderSpec("ours", model, **common))
        if options.reference is not None:
            published_variant(config)
            own = common | {"dtype": options.reference_dtype or options.dtype}
            specs.append(ContenderSpec("reference", model, checkout=options.reference, **own))
    specs += [ContenderSpec("peer", peer, **common) for peer in options.peers]
    names = [spec.name for spec in specs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"Contenders need names of their own; {', '.join(repeated)} is there more than once.")
    return specs


class FrameTime(NamedTuple):
    """The seconds of a frame: for `tracking` it, and for resizing its masks to the video (`output`)."""

    tracking: float
    output: float

    @property
    def total(self) -> float:
        """The seconds of both."""
        return self.tracking + self.output


class TimedTrack:
    """A contender that tracks a video frame by frame.

    Args:
        contender: the contender.
        video: a video that is long enough for all steps.
        num_objects: the number of objects that are tracked at once.
        clock: a clock in seconds; by default one that waits for the device.
    """

    def __init__(self, contender: Contender, video: BenchmarkVideo, num_objects: int, clock: Clock | None = None):
        self.contender, self._video = contender, video
        self._clock = clock or clock_for(contender.spec.device)
        self._frames = contender.track(video, num_objects, preload=True)
        self._meter = StageMeter(contender.model, self._clock)

    def step(self) -> FrameTime:
        """Track the next frame and return its time.

        The first step includes the start of the session and the prompts.
        """
        start = self._clock()
        output = next(self._frames)
        tracked = self._clock()
        self.contender.to_video_size(output, self._video)
        return FrameTime(tracked - start, self._clock() - tracked)

    def step_by_parts(self) -> dict[str, float]:
        """Track the next frame and return the seconds of each of `FRAME_PARTS`, whose sum is the time of the frame."""
        with self._meter.listening() as taken:
            time = self.step()
        stages = {stage: taken[stage] for stage in STAGES}
        return {**stages, "other": time.tracking - sum(stages.values()), "output": time.output}

    def count_flops(self) -> dict[str, int]:
        """Track the next frame and return its operations; see `stages.count_flops`."""
        return count_flops(self.contender.model, lambda: next(self._frames))


def run(options: BenchmarkOptions, on_progress: Callable[[str], None] = lambda message: None) -> BenchmarkReport:
    """Run the benchmark.

    Args:
        options: what is measured.
        on_progress: a function that is called with a short description of each step that begins.

    Raises:
        ValueError, ImportError: see `plan`; raised before anything is measured.
        MemoryError: if the system ended the process in which memory use was measured.
    """
    specs = plan(options)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(specs[0].threads)
    try:
        with tempfile.TemporaryDirectory(prefix="efficienttam-benchmark-") as folder:
            on_progress("drawing the video")
            video = draw_video(Path(folder), options.video_frames, options.video_size)
            return _measure(specs, video, options, on_progress)
    finally:
        torch.set_num_threads(threads_before)


def _measure(
    specs: list[ContenderSpec], video: BenchmarkVideo, options: BenchmarkOptions, on_progress: Callable[[str], None]
) -> BenchmarkReport:
    """Measure all contenders, for each number of objects."""
    device = torch.device(options.device)
    machine = describe_machine(device)
    contenders = {}
    for spec in specs:
        on_progress(f"making {spec.name}")
        contenders[spec.name] = build(spec)
    products = {dtype: MatrixProduct(device, dtype) for dtype in dict.fromkeys(("float32", options.dtype))}
    rates: dict[str, list[float]] = {dtype: [] for dtype in products}
    inputs = _time_inputs(contenders, video, clock_for(device))
    results = []
    for num_objects in options.objects:
        timed = _time_frames(contenders, video, num_objects, options, products, on_progress)
        for dtype in products:
            rates[dtype] += timed.rates[dtype]
        for name, contender in contenders.items():
            memory = None
            if options.memory:
                on_progress(f"memory of {name}, objects: {num_objects}")
                _, memory = with_peak_memory(options.device, track_video, contender.spec, video, num_objects)
            peak = Spread.of(timed.rates[contender.spec.dtype]).median
            results.append(_summarise(contender, num_objects, timed, inputs[name], peak, memory))
    return BenchmarkReport(machine, _settings(options), {dtype: Spread.of(rates[dtype]) for dtype in rates}, results)


def _settings(options: BenchmarkOptions) -> dict[str, Any]:
    """Return the options as they are stored in the report."""
    settings = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(options).items()}
    return settings | {"warmup": options.warmup_frames, "reference": options.reference is not None}


class _Timed(NamedTuple):
    """The results of the rounds: times of frames, times of parts and operations by contender; rates by dtype."""

    frames: dict[str, list[float]]
    parts: dict[str, list[dict[str, float]]]
    flops: dict[str, dict[str, int]]
    rates: dict[str, list[float]]


def _time_frames(
    contenders: dict[str, Contender],
    video: BenchmarkVideo,
    num_objects: int,
    options: BenchmarkOptions,
    products: dict[str, MatrixProduct],
    on_progress: Callable[[str], None],
) -> _Timed:
    """Warm the contenders up and time their frames in turns, and then their stages."""
    tracks, flops = {}, {}
    for name, contender in contenders.items():
        on_progress(f"warming up {name}, objects: {num_objects}")
        tracks[name] = TimedTrack(contender, video, num_objects)
        for _ in range(options.warmup_frames):
            tracks[name].step()
        flops[name] = tracks[name].count_flops()
    on_progress(f"timing frames, objects: {num_objects}")
    frames = _collect(interleave({name: track.step for name, track in tracks.items()}, options.frames))
    on_progress(f"timing stages, objects: {num_objects}")
    steps: dict[Any, Callable[[], Any]] = {name: track.step_by_parts for name, track in tracks.items()}
    steps |= {(dtype,): product.rate for dtype, product in products.items()}
    parts = _collect(interleave(steps, options.frames))
    return _Timed(
        {name: [time.total for time in frames[name]] for name in tracks},
        {name: parts[name] for name in tracks},
        flops,
        {dtype: parts[(dtype,)] for dtype in products},
    )


def _collect(rounds: Iterator[dict[Any, Any]]) -> dict[Any, list[Any]]:
    """Combine the results of all rounds to one list for each name."""
    collected = list(rounds)
    return {name: [results[name] for results in collected] for name in collected[0]}


def _time_inputs(contenders: dict[str, Contender], video: BenchmarkVideo, clock: Clock) -> dict[str, Spread]:
    """Measure the seconds to decode a frame and convert it to the model's input, for each contender."""

    def read(contender: Contender, paths: Iterator[Path]) -> float:
        path, start = next(paths), clock()
        contender.read_frame(path)
        return clock() - start

    paths = {name: iter(video.frames) for name in contenders}
    steps = {name: lambda name=name: read(contenders[name], paths[name]) for name in contenders}
    seconds = _collect(interleave(steps, min(INPUT_FRAMES, video.num_frames)))
    return {name: Spread.of(values) for name, values in seconds.items()}


def _summarise(
    contender: Contender,
    num_objects: int,
    timed: _Timed,
    input_seconds: Spread,
    peak: float,
    memory: MemoryUse | None,
) -> ContenderResult:
    """Return the result of a contender for one number of objects."""
    spec, seconds = contender.spec, timed.frames[contender.spec.name]
    parts = {part: Spread.of([frame[part] for frame in timed.parts[spec.name]]) for part in FRAME_PARTS}
    flops = timed.flops[spec.name]
    busy = {"frame": Spread.of(seconds).median} | {stage: parts[stage].median for stage in STAGES}
    return ContenderResult(
        name=spec.name,
        kind=spec.kind,
        weights="random" if spec.has_random_weights else spec.model,
        image_size=contender.image_size,
        objects=num_objects,
        parameters=sum(parameter.numel() for parameter in contender.model.parameters()),
        frame_seconds=seconds,
        frame=Spread.of(seconds),
        ratio=paired_ratios(seconds, next(iter(timed.frames.values()))),
        parts=parts,
        input=input_seconds,
        flops=flops,
        share_of_peak={stage: flops[stage] / busy[stage] / peak for stage in busy if flops.get(stage) and busy[stage]},
        memory=memory,
    )

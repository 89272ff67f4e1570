"""The benchmark itself: contenders are made, warmed up, and take turns on the same frames.

For each number of objects: every contender tracks until its memory is full; one frame of each has its operations
counted; then come the rounds in which whole frames are timed, and after them rounds with meters on the stages, in turns
with a matrix product. At the end each contender tracks the video once more in a process of its own, for its memory.
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
        models: of this package: presets (with random weights), names, folders. All ratios are to the first.
        peers: names in `peers.PEERS`.
        reference: a checkout of the published implementation, to run each of `models` too.
        reference_dtype: its type, where that is not `dtype`.
        objects: how many are tracked at once, one after another.
        frames: that are timed of each contender; as many again with meters on the stages.
        warmup: frames before that; by default until memory is full.
        image_size: side of every model's input, in place of its own; a multiple of 32.
        video_size: (width, height) of the frames.
        device, dtype, threads, compiled: as in `ContenderSpec`; `threads` by default as many as torch takes.
        memory: whether memory is measured, which takes as long again as tracking.
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
        """Seven memories are full after seven frames; compiled code must also have seen all lengths of its input,
        and pointers grow for sixteen."""
        return self.warmup if self.warmup is not None else 20 if self.compiled else 8

    @property
    def video_frames(self) -> int:
        """Warm-up, a frame for counting, and the timed ones with and without meters."""
        return self.warmup_frames + 1 + 2 * self.frames


def plan(options: BenchmarkOptions) -> list[ContenderSpec]:
    """The contenders, after all checks that need no measuring.

    Raises:
        ValueError: for a number out of range, an unknown model or peer, a device or type that cannot be used, a folder
            that is no checkout, a model that the published implementation does not have.
        ImportError: if a peer needs what is not installed.
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
    """Seconds of a frame: `tracking` it, and bringing its masks to the video's size (`output`)."""

    tracking: float
    output: float

    @property
    def total(self) -> float:
        return self.tracking + self.output


class TimedTrack:
    """A contender under way in a video, a frame at a time.

    Args:
        contender: who.
        video: long enough for all steps.
        num_objects: tracked at once.
        clock: seconds; by default one that waits for the device.
    """

    def __init__(self, contender: Contender, video: BenchmarkVideo, num_objects: int, clock: Clock | None = None):
        self.contender, self._video = contender, video
        self._clock = clock or clock_for(contender.spec.device)
        self._frames = contender.track(video, num_objects, preload=True)
        self._meter = StageMeter(contender.model, self._clock)

    def step(self) -> FrameTime:
        """The next frame. The very first step also starts the session and prompts."""
        start = self._clock()
        output = next(self._frames)
        tracked = self._clock()
        self.contender.to_video_size(output, self._video)
        return FrameTime(tracked - start, self._clock() - tracked)

    def step_by_parts(self) -> dict[str, float]:
        """The next frame with meters on its stages: seconds of each of `FRAME_PARTS`; together they are the frame."""
        with self._meter.listening() as taken:
            time = self.step()
        stages = {stage: taken[stage] for stage in STAGES}
        return {**stages, "other": time.tracking - sum(stages.values()), "output": time.output}

    def count_flops(self) -> dict[str, int]:
        """The next frame with its operations counted."""
        return count_flops(self.contender.model, lambda: next(self._frames))


def run(options: BenchmarkOptions, on_progress: Callable[[str], None] = lambda message: None) -> BenchmarkReport:
    """Measure.

    Args:
        on_progress: called with what begins, in a few words.

    Raises:
        ValueError, ImportError: as `plan`, before anything is measured.
        MemoryError: if the system ended the process that memory was measured in.
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
    """The options as they are written down."""
    settings = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(options).items()}
    return settings | {"warmup": options.warmup_frames, "reference": options.reference is not None}


class _Timed(NamedTuple):
    """What rounds gave: by contender the frames, the parts of other frames, and operations; by type, rates."""

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
    """Rounds of results by name to results of all rounds by name."""
    collected = list(rounds)
    return {name: [results[name] for results in collected] for name in collected[0]}


def _time_inputs(contenders: dict[str, Contender], video: BenchmarkVideo, clock: Clock) -> dict[str, Spread]:
    """Seconds to decode a frame and make it the model's input."""

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

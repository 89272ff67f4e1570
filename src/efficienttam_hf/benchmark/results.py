"""What a benchmark gives, as data: written to JSON and read back without loss."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..structured_files import build, read_json
from .machine import MemoryUse
from .stages import STAGES
from .timing import Spread


__all__ = ["BenchmarkReport", "ContenderResult"]

# What a frame's seconds are made of: the network's stages, what it does around them, masks to the video's size.
FRAME_PARTS = (*STAGES, "other", "output")


@dataclass(frozen=True)
class ContenderResult:
    """One contender with one number of objects.

    Attributes:
        name: as in tables; kind: `"ours"`, `"peer"` or `"reference"`.
        weights: where they come from: `"random"`, or the checkpoint.
        image_size: side of the model's input, in pixels.
        objects: tracked at once.
        parameters: of the model.
        frame_seconds: every timed frame in order, from the model's input to masks at the video's size.
        frame: their spread.
        ratio: seconds over those of the first contender, taken within rounds.
        parts: seconds of each of `FRAME_PARTS`, from frames of their own.
        input: seconds to decode a frame and make it the model's input; not in `frame`.
        flops: operations of a frame, by stage and for the `"frame"`.
        share_of_peak: of the measured rate of the matrix product in its type, which a stage and the frame reach.
        memory: `None` where it was not measured.
    """

    name: str
    kind: str
    weights: str
    image_size: int
    objects: int
    parameters: int
    frame_seconds: list[float]
    frame: Spread
    ratio: Spread
    parts: dict[str, Spread]
    input: Spread
    flops: dict[str, int]
    share_of_peak: dict[str, float]
    memory: MemoryUse | None

    @property
    def frames_per_second(self) -> float:
        """Of the median frame."""
        return 1 / self.frame.median


@dataclass(frozen=True)
class BenchmarkReport:
    """A run of the benchmark.

    Attributes:
        machine: as `describe_machine` gives it.
        settings: of the run, as the command line says them.
        matrix_product: operations a second that a matrix product reached, by type.
        results: contender by contender for the first number of objects, then the next.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    matrix_product: dict[str, Spread]
    results: list[ContenderResult]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> BenchmarkReport:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or is something else; the message names the file and the field.
        """
        return build(cls, read_json(path, what="benchmark"), f"The benchmark '{path}'")

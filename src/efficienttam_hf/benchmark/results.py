"""The results of a benchmark as data, which can be written to JSON and read back without loss."""

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

# The parts of a frame's time: the network's stages, the work around them, and resizing masks to the video's size.
FRAME_PARTS = (*STAGES, "other", "output")


@dataclass(frozen=True)
class ContenderResult:
    """One contender with one number of objects.

    Attributes:
        name: as in tables; kind: `"ours"`, `"peer"` or `"reference"`.
        weights: the source of the weights: `"random"`, or the checkpoint.
        image_size: side of the model's input, in pixels.
        objects: the number of objects that are tracked at once.
        parameters: the number of parameters of the model.
        frame_seconds: seconds of every timed frame in order, from the model's input to masks at the video's size.
        frame: the spread of `frame_seconds`.
        ratio: seconds relative to those of the first contender, taken within rounds.
        parts: seconds of each of `FRAME_PARTS`, measured on other frames.
        input: seconds to decode a frame and convert it to the model's input; not part of `frame`.
        flops: operations of a frame, by stage and for the `"frame"`.
        share_of_peak: the rate of each stage and of the frame, relative to the measured rate of a matrix product.
        memory: the memory use; `None` if it was not measured.
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
        """Frames per second, from the median frame."""
        return 1 / self.frame.median


@dataclass(frozen=True)
class BenchmarkReport:
    """A run of the benchmark.

    Attributes:
        machine: the output of `describe_machine`.
        settings: the settings of the run, by their names on the command line.
        matrix_product: operations a second that a matrix product reached, by type.
        results: the results of all contenders for the first number of objects, then for the next.
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
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read or is not such a file; the message names the file and the field.
        """
        return build(cls, read_json(path, what="benchmark"), f"The benchmark '{path}'")

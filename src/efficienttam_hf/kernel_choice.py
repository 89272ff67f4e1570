"""Chooses among several implementations of an operation: by timing them once, from a stored file, or by a setting.

No one way is fastest on every processor: what doubles the speed on one with AVX-512 costs a third on one with AMX. So
the candidates are timed, in turns, when a model first computes on a CPU, with the threads that torch then has; it takes
about a second. What was found is kept in the user's cache directory, so that the next process takes the same, and all
processes of one run do: of several that measure at once, the first to finish decides. Where that directory cannot be
written, and wherever gradients are recorded, the choice follows from what the processor has. For a given choice results
are always the same.

The environment variable `EFFICIENTTAM_KERNELS` says otherwise:

- `plain`: PyTorch's own way everywhere.
- `measured`: as above; the default.
- `capability`: by what the processor has, without measuring.
- `linear.float32=onednn,attention.bfloat16=rows`: these; the rest by what the processor has.

`efficienttam benchmark --kernels` shows what is chosen and what was measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


VARIABLE = "EFFICIENTTAM_KERNELS"
PLAIN = "plain"  # every operation's first candidate: PyTorch's own way
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Of the time of the preferred candidate, what another must take less than; less gain may be noise. PyTorch's own way is
# preferred for its simplicity, and so has to be beaten clearly.
GAIN, SMALL_GAIN = 0.9, 0.98
ROUNDS = (5, 25)  # at least and at most, of measuring an operation
SECONDS_EACH = 0.12  # after which there are no more than the least rounds
HOPELESS = 4.0  # times the fastest, after which a candidate is not run again


@dataclass(frozen=True)
class Operation:
    """An operation that can be computed in several ways, all with the same result but for rounding.

    Attributes:
        candidates: by dtype, the names of the ways; the first is `PLAIN`.
        example: makes the call to be timed, of a candidate, on tensors of the model's shapes.
        by_capability: by dtype and capability (`amx`, `avx512`, `avx2`, `other`), the candidate where nothing is
            measured; where it says nothing, `preferred`.
        preferred: the candidate that others must beat.
    """

    candidates: dict[str, tuple[str, ...]]
    example: Callable[[str, torch.dtype], Callable[[], Any]]
    by_capability: dict[str, dict[str, str]] = field(default_factory=dict)
    preferred: str = PLAIN


@dataclass(frozen=True)
class Measured:
    """What is known of a dtype's operations: the choice of each, and the milliseconds of each candidate that ran."""

    choices: dict[str, str]
    milliseconds: dict[str, dict[str, float]]


def capability() -> str:
    """What the processor has for products: `amx`, `avx512`, `avx2`, or `other` (ARM and the rest)."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    if has_amx():
        return "amx"
    name = torch.backends.cpu.get_cpu_capability().lower()
    return name if name in ("avx512", "avx2") else "other"


class KernelChoices:
    """The choice of candidates for a set of operations, made once a process.

    It is about the machine, not about a model, so that there is one for all models of a process.

    Args:
        operations: what there is to choose.
        prepare: called once, before the first choice that is not forced to be plain.
    """

    def __init__(self, operations: dict[str, Operation], prepare: Callable[[], None] = lambda: None):
        self.operations = operations
        self._prepare: Callable[[], None] | None = prepare
        self._lock = threading.Lock()
        self._setting: str | None = None
        self._chosen: dict[tuple[str, torch.dtype, bool], str] = {}
        self._measured: dict[str, Measured | None] = {}

    def of(self, operation: str, dtype: torch.dtype, measure: bool) -> str:
        """The candidate to take. `measure`: whether to go by what is measured, measuring where that is yet to be done.

        Raises:
            ValueError: for a value of `EFFICIENTTAM_KERNELS` that names what is not there.
        """
        key = (operation, dtype, measure)
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = self._choose(operation, dtype, measure)
        return chosen

    @contextlib.contextmanager
    def setting(self, value: str) -> Iterator[None]:
        """Within the block, `value` in place of the environment variable's, for the whole process."""
        before = self._setting, self._chosen
        self._setting, self._chosen = value, {}
        try:
            parse(value, self.operations)
            yield
        finally:
            self._setting, self._chosen = before

    def _choose(self, operation: str, dtype: torch.dtype, measure: bool) -> str:
        name = str(dtype).removeprefix("torch.")
        if name not in self.operations[operation].candidates:
            return PLAIN
        value = self._setting if self._setting is not None else os.environ.get(VARIABLE, "measured")
        mode, forced = parse(value, self.operations)
        if mode == PLAIN:
            return PLAIN
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            prepare()
        if f"{operation}.{name}" in forced:
            return forced[f"{operation}.{name}"]
        if mode == "measured" and measure:
            with self._lock:
                found = self.measured(name)
            if found is not None:
                return found.choices[operation]
        return by_capability(self.operations[operation], name)

    def measured(self, dtype: str) -> Measured | None:
        """What was measured for a dtype, measuring now where nothing is kept; None where nothing can be kept.

        Once a process: it does not change with the number of threads later.
        """
        if dtype not in self._measured:
            self._measured[dtype] = self._read_or_measure(dtype)
        return self._measured[dtype]

    def _read_or_measure(self, dtype: str) -> Measured | None:
        path = cache_file(dtype)
        kept = self._read(path, dtype)
        if kept is not None:
            return kept
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".kernels-", suffix=".json") as file:
                found = self._measure_apart(dtype)
                if found is None:
                    return None
                content = {"machine": machine(dtype), "choices": found.choices, "milliseconds": found.milliseconds}
                file.write(json.dumps(content, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
                return self._keep(Path(file.name), path, dtype) or found
        except OSError:  # a disk that is read-only or full, a home that is not there
            return None

    def _keep(self, written: Path, path: Path, dtype: str) -> Measured | None:
        """Put a written file in its place unless another process was first; what that one found, if so."""
        try:
            os.link(written, path)
        except FileExistsError:
            kept = self._read(path, dtype)
            if kept is not None:
                return kept
            path.unlink(missing_ok=True)  # damaged
            os.link(written, path)
        return None

    def _read(self, path: Path, dtype: str) -> Measured | None:
        """What a file says, if it says all that is needed and nothing that is not there."""
        try:
            content = json.loads(path.read_text())
            found = Measured(dict(content["choices"]), dict(content["milliseconds"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
            return None
        for name, operation in self.operations.items():
            if found.choices.get(name, PLAIN) not in operation.candidates.get(dtype, (PLAIN,)):
                return None
        return found if set(found.choices) == {n for n, o in self.operations.items() if dtype in o.candidates} else None

    def _measure_apart(self, dtype: str) -> Measured | None:
        """`measure` on a thread: there no mode of torch is on that would count, record or fake what is computed.

        Where measuring fails, a warning says so, and the default of this kind of processor is taken.
        """
        threads = torch.get_num_threads()
        found: list[Measured] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                torch.set_num_threads(threads)
                with torch.no_grad():
                    found.append(measure(self.operations, dtype))
            except Exception as error:  # a choice among equal ways is no reason to stop anybody's work
                errors.append(error)

        thread = threading.Thread(target=work, name="efficienttam-kernels")
        thread.start()
        thread.join()
        if errors:
            warnings.warn(
                f"The ways of computing in {dtype} could not be measured ({type(errors[0]).__name__}: {errors[0]}); "
                f"the default of this kind of processor is taken. {VARIABLE}=capability does without measuring.",
                stacklevel=2,
            )
        return found[0] if found else None


def parse(value: str, operations: dict[str, Operation]) -> tuple[str, dict[str, str]]:
    """A value of `EFFICIENTTAM_KERNELS` as its mode and what it forces.

    Raises:
        ValueError: naming what is accepted.
    """
    if value in (PLAIN, "measured", "capability"):
        return value, {}
    known = {
        f"{name}.{dtype}": c for name, operation in operations.items() for dtype, c in operation.candidates.items()
    }
    forced = dict(part.strip().partition("=")[::2] for part in value.split(",") if part.strip())
    for name, choice in forced.items():
        if choice not in known.get(name, ()):
            accepted = "; ".join(f"{name}={'|'.join(choices)}" for name, choices in known.items())
            raise ValueError(
                f"{VARIABLE} is {value!r}; accepted are {PLAIN}, measured, capability, or a list, with commas between, "
                f"of {accepted}."
            )
    return "capability", forced


def by_capability(operation: Operation, dtype: str) -> str:
    """The candidate of an operation where nothing is measured."""
    chosen = operation.by_capability.get(dtype, {}).get(capability(), operation.preferred)
    return chosen if chosen in operation.candidates[dtype] else operation.preferred


def measure(operations: dict[str, Operation], dtype: str) -> Measured:
    """Time the candidates of each operation, in turns, and choose.

    What decides is the median, over rounds, of a candidate's time beside that of the preferred one in the same round:
    another program that takes the processor for a while slows neighbours alike.
    """
    choices, milliseconds = {}, {}
    for name, operation in operations.items():
        if dtype not in operation.candidates:
            continue
        calls = _that_run({choice: operation.example(choice, DTYPES[dtype]) for choice in operation.candidates[dtype]})
        rounds: list[dict[str, float]] = []
        end = time.perf_counter() + SECONDS_EACH
        while len(calls) > 1 and (len(rounds) < ROUNDS[0] or time.perf_counter() < end) and len(rounds) < ROUNDS[1]:
            rounds.append({choice: _seconds(call) for choice, call in calls.items()})
        preferred = operation.preferred if operation.preferred in calls else PLAIN
        ratios = {c: statistics.median(times[c] / times[preferred] for times in rounds) for c in calls if rounds}
        winner = min(ratios, key=ratios.__getitem__, default=preferred)
        choices[name] = winner if ratios.get(winner, 1.0) < (GAIN if preferred == PLAIN else SMALL_GAIN) else preferred
        milliseconds[name] = {c: round(1e3 * statistics.median(times[c] for times in rounds), 3) for c in ratios}
    return Measured(choices, milliseconds)


def _that_run(calls: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The candidates that this build of torch has and that are not hopelessly slow, each called twice."""
    first: dict[str, float] = {}
    for choice, call in calls.items():
        try:
            first[choice] = _seconds(call)
        except RuntimeError:
            if choice == PLAIN:
                raise
    # A first call also makes what later ones find there; only what is far behind is not given a second.
    second = {c: _seconds(calls[c]) for c in first if c == PLAIN or first[c] <= 5 * HOPELESS * min(first.values())}
    return {c: calls[c] for c in second if c == PLAIN or second[c] <= HOPELESS * min(second.values())}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def machine(dtype: str) -> dict[str, Any]:
    """What a measurement holds for."""
    try:
        version = importlib.metadata.version("efficienttam-hf")
    except importlib.metadata.PackageNotFoundError:  # the code of a checkpoint folder
        version = "none"
    return {
        "processor": _processor(),
        "capability": capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "efficienttam": version,
        "dtype": dtype,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_file(dtype: str) -> Path:
    """Where the measurement of a dtype is kept: a file for each machine, number of threads and version."""
    if os.name == "nt":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(json.dumps(machine(dtype), sort_keys=True).encode()).hexdigest()[:16]
    return Path(root) / "efficienttam" / f"kernels-{digest}.json"

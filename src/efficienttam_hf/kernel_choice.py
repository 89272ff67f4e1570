"""Chooses among several implementations of an operation: by timing them once, from a stored file, or by a setting.

No implementation is fastest on every processor: one that doubles the speed on a processor with AVX-512 takes a third
longer on one with AMX. So the candidates are timed in turns when a model first computes on a CPU, with torch's number
of threads at that time. This takes about a second. The result is stored in the user's cache directory, so that later
processes and all processes of one run choose the same; if several processes measure at once, the first that finishes
decides. If the directory is not writable, and whenever gradients are recorded, the choice depends on the processor's
instructions only. Results are reproducible for a given choice.

The environment variable `EFFICIENTTAM_KERNELS` changes this:

- `plain`: PyTorch's implementation is used for every operation.
- `measured`: candidates are timed, as described above. This is the default.
- `capability`: the choice depends on the processor's instructions, without timing.
- `linear.float32=onednn,attention.bfloat16=rows`: these candidates are used, and `capability` chooses the others.

`efficienttam benchmark --kernels` shows the choices and the measured times.
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
PLAIN = "plain"  # the first candidate of every operation: PyTorch's implementation
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Where PyTorch's implementation is preferred, which is the simplest, another candidate is chosen if it takes less than
# this share of its time, since a smaller gain may be noise. Another preferred candidate is used unless one is faster.
GAIN = 0.9
ROUNDS = (5, 25)  # the smallest and the largest number of rounds in which an operation is timed
SECONDS_EACH = 0.12  # after this time, an operation is timed no longer than the smallest number of rounds
HOPELESS = 4.0  # a candidate that takes more than this many times the fastest candidate's time is not run again


@dataclass(frozen=True)
class Operation:
    """An operation with several implementations, whose results differ only in rounding.

    Attributes:
        candidates: the names of the implementations by dtype; the first is `PLAIN`.
        example: a function that returns, for a candidate and a dtype, the call to be timed, on tensors of the model's
            shapes.
        by_capability: the candidate to use without a measurement, by dtype and capability (`amx`, `avx512`, `avx2`,
            `other`). If there is no entry, `preferred` is used.
        preferred: the candidate that is used unless another one is faster, see `GAIN`.
    """

    candidates: dict[str, tuple[str, ...]]
    example: Callable[[str, torch.dtype], Callable[[], Any]]
    by_capability: dict[str, dict[str, str]] = field(default_factory=dict)
    preferred: str = PLAIN


@dataclass(frozen=True)
class Measured:
    """A measurement of all operations of a dtype.

    Attributes:
        choices: the chosen candidate of each operation.
        milliseconds: the median time of each candidate that ran, by operation.
    """

    choices: dict[str, str]
    milliseconds: dict[str, dict[str, float]]


def capability() -> str:
    """Return the processor's best instructions for matrix products: `amx`, `avx512`, `avx2` or `other` (ARM, ...)."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
    if has_amx():
        return "amx"
    name = torch.backends.cpu.get_cpu_capability().lower()
    return name if name in ("avx512", "avx2") else "other"


class KernelChoices:
    """Chooses the candidates of a set of operations, once per process.

    The choice depends on the machine and not on the model, so all models of a process share one object.

    Args:
        operations: the operations by name.
        prepare: a function that is called once, before the first choice, unless the setting is `plain`.
        kind: the beginning of the names of the files in which choices are stored, one for each set of operations.
    """

    def __init__(
        self, operations: dict[str, Operation], prepare: Callable[[], None] = lambda: None, kind: str = "kernels"
    ):
        self.operations = operations
        self.kind = kind
        self._prepare: Callable[[], None] | None = prepare
        self._lock = threading.Lock()
        self._setting: str | None = None
        self._chosen: dict[tuple[str, torch.dtype, bool], str] = {}
        self._measured: dict[str, Measured | None] = {}

    def of(self, operation: str, dtype: torch.dtype, measure: bool) -> str:
        """Return the name of the candidate to use.

        Args:
            operation: the name of the operation.
            dtype: the dtype of its tensors.
            measure: whether the choice may follow a measurement, which is made now if none is stored. If False, it
                depends on the processor's instructions.

        Raises:
            ValueError: if `EFFICIENTTAM_KERNELS` names an unknown mode, operation or candidate.
        """
        key = (operation, dtype, measure)
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = self._choose(operation, dtype, measure)
        return chosen

    @contextlib.contextmanager
    def setting(self, value: str) -> Iterator[None]:
        """Use `value` instead of the environment variable within a `with` block, in all threads of the process.

        Raises:
            ValueError: if the value names an unknown mode, operation or candidate.
        """
        before = self._setting, self._chosen
        self._setting, self._chosen = value, {}
        try:
            parse(value, self.operations)
            yield
        finally:
            self._setting, self._chosen = before

    def _choose(self, operation: str, dtype: torch.dtype, measure: bool) -> str:
        """Return the candidate by the setting, the measurement or the processor's instructions, in this order."""
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
        """Return the measurement for a dtype. If none is stored, the candidates are timed now.

        The result is kept for the process, even if torch's number of threads changes later.

        Args:
            dtype: `"float32"` or `"bfloat16"`.

        Returns:
            The measurement, or None if it could not be made or stored.
        """
        if dtype not in self._measured:
            self._measured[dtype] = self._read_or_measure(dtype)
        return self._measured[dtype]

    def _read_or_measure(self, dtype: str) -> Measured | None:
        """Return the stored measurement for a dtype, or measure and store it; None if that is impossible."""
        path = cache_file(dtype, self.kind)
        kept = self._read(path, dtype)
        if kept is not None:
            return kept
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{self.kind}-", suffix=".json") as file:
                found = self._measure_apart(dtype)
                if found is None:
                    return None
                content = {"machine": machine(dtype), "choices": found.choices, "milliseconds": found.milliseconds}
                file.write(json.dumps(content, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
                return self._keep(Path(file.name), path, dtype) or found
        except OSError:  # for example a full or read-only disk, or a missing home directory
            return None

    def _keep(self, written: Path, path: Path, dtype: str) -> Measured | None:
        """Move a written file to its place. If another process was first, return that process's measurement."""
        try:
            os.link(written, path)
        except FileExistsError:
            kept = self._read(path, dtype)
            if kept is not None:
                return kept
            path.unlink(missing_ok=True)  # the file is damaged
            os.link(written, path)
        return None

    def _read(self, path: Path, dtype: str) -> Measured | None:
        """Read a stored measurement; None if it is damaged, incomplete or names an unknown candidate."""
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
        """Run `measure` in another thread, where none of the caller's torch modes (such as profilers) is active.

        If this fails, a warning names the error, and the result is None.
        """
        threads = torch.get_num_threads()
        found: list[Measured] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                torch.set_num_threads(threads)
                with torch.no_grad():
                    found.append(measure(self.operations, dtype))
            except Exception as error:  # all candidates give the same result, so the user's work goes on without timing
                errors.append(error)

        thread = threading.Thread(target=work, name="efficienttam-kernels")
        thread.start()
        thread.join()
        if errors:
            warnings.warn(
                f"The kernels for {dtype} could not be measured ({type(errors[0]).__name__}: {errors[0]}); the default "
                f"for this kind of processor is used. Set {VARIABLE}=capability to skip the measurement.",
                stacklevel=2,
            )
        return found[0] if found else None


def parse(value: str, operations: dict[str, Operation]) -> tuple[str, dict[str, str]]:
    """Parse a value of `EFFICIENTTAM_KERNELS`.

    Args:
        value: the value, as described at the top of this file.
        operations: the operations by name.

    Returns:
        The mode (`plain`, `measured` or `capability`), and the candidates that the value names, by
        `operation.dtype`.

    Raises:
        ValueError: if the value names an unknown mode, operation or candidate; the message lists the accepted ones.
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
                f"{VARIABLE} is {value!r}; accepted are {PLAIN}, measured, capability, or a comma-separated list of "
                f"{accepted}."
            )
    return "capability", forced


def by_capability(operation: Operation, dtype: str) -> str:
    """Return the candidate of an operation by the processor's instructions, without a measurement."""
    chosen = operation.by_capability.get(dtype, {}).get(capability(), operation.preferred)
    return chosen if chosen in operation.candidates[dtype] else operation.preferred


def measure(operations: dict[str, Operation], dtype: str) -> Measured:
    """Time the candidates of each operation in turns, and choose.

    The choice depends on the median over rounds of a candidate's time relative to the preferred candidate's time in the
    same round, because another program on the machine slows both of them.

    Args:
        operations: the operations by name.
        dtype: `"float32"` or `"bfloat16"`; operations without candidates for it are left out.

    Returns:
        The choices and the median times.
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
        choices[name] = winner if ratios.get(winner, 1.0) < (GAIN if preferred == PLAIN else 1.0) else preferred
        milliseconds[name] = {c: round(1e3 * statistics.median(times[c] for times in rounds), 3) for c in ratios}
    return Measured(choices, milliseconds)


def _that_run(calls: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Call each candidate twice; return those that run in this build of torch and are not far slower than others."""
    first: dict[str, float] = {}
    for choice, call in calls.items():
        try:
            first[choice] = _seconds(call)
        except RuntimeError:
            if choice == PLAIN:
                raise
    # The first call includes initialization, so only a candidate that is very far behind gets no second call.
    second = {c: _seconds(calls[c]) for c in first if c == PLAIN or first[c] <= 5 * HOPELESS * min(first.values())}
    return {c: calls[c] for c in second if c == PLAIN or second[c] <= HOPELESS * min(second.values())}


def _seconds(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes.

    With one thread of torch, the time counts that this thread spends on the processor, so that other programs do not
    count. Several threads also wait for each other; only the time on the clock shows that.
    """
    is_precise = time.get_clock_info("thread_time").resolution <= 1e-6  # it is not on Windows
    clock = time.thread_time if torch.get_num_threads() == 1 and is_precise else time.perf_counter
    start = clock()
    call()
    return max(clock() - start, 1e-9)


def machine(dtype: str) -> dict[str, Any]:
    """Return what a measurement depends on: processor, number of threads, versions and dtype."""
    try:
        version = importlib.metadata.version("efficienttam-hf")
    except importlib.metadata.PackageNotFoundError:  # this code was loaded from a checkpoint folder
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
    """Return the name of the processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Return this package's folder in the user's cache directory."""
    if os.name == "nt":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "efficienttam"


def cache_file(dtype: str, kind: str = "kernels") -> Path:
    """Return the path of the measurement of a dtype: one file for each kind and result of `machine`."""
    digest = hashlib.sha256(json.dumps(machine(dtype), sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{kind}-{digest}.json"

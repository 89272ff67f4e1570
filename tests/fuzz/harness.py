"""Damaged and hostile files, made by the thousand, against everything of the package that reads files.

A :class:`Kind` says which good files there are and what reads them. Each case is a good file with a few changes that
follow from the seed, the kind and the number of the case, so that a failure can be repeated. Cases run in a process of
their own with a limit on its memory. A file must be read, or refused with one of the expected exceptions and a message
of one line that names the file. Anything else is a failure: another exception, the end of the process, a case that
takes too long. A kind is added by putting it into the list ``KINDS`` of a module ``kinds_*.py`` beside this file;
such a module imports PyTorch in its functions only, as every process loads all of them.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
SECONDS_PER_CASE = 30
SECONDS_TO_START = 300  # importing PyTorch and writing the good files, on a busy machine


@dataclass
class Kind:
    """One kind of file.

    Attributes:
        name: Of the kind.
        samples: Writes good files or folders into an empty folder and returns their paths.
        read: Reads one of them, as a user of the package would, in full.
        mutate: Changes the bytes of a file; `mutate_bytes` or `mutate_json`.
        refused: The exceptions with which a file may be refused.
        names_file: Whether a refusal must name the file, or the folder if it was a file of a folder.
        memory: Megabytes that reading may take beyond what the process holds before.
        suffixes: Of the files of a folder that are changed; all files if empty.
    """

    name: str
    samples: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    mutate: Callable[[random.Random, bytes], bytes]
    refused: tuple[type[Exception], ...] = (ValueError, OSError)
    names_file: bool = True
    memory: int = 1024
    suffixes: tuple[str, ...] = ()


@dataclass
class Report:
    """What came of the cases of one kind."""

    outcomes: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------------------- mutations

NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 1_000_000)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few changes that corruption or an attacker would make: bits, runs, sizes, missing and repeated parts."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            return bytes(changed)
        # Headers are short, and where most of the decisions are made.
        at = rng.randrange(min(len(changed), 400) if rng.random() < 0.5 else len(changed))
        length = min(rng.choice((1, 2, 4, 16, 200)), len(changed) - at)
        how = rng.randrange(8)
        if how == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b" ")) * length
        elif how == 2:
            changed[at : at + length] = rng.randbytes(length)
        elif how == 3:
            number = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS))
            changed[at : at + 4] = number
        elif how == 4:
            del changed[at : at + length]
        elif how == 5:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
        elif how == 6:
            number = struct.pack(rng.choice("<>") + "H", rng.choice(NUMBERS) & 0xFFFF)
            changed[at : at + 2] = number
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**18), 1.5, 1e308, float("nan"), float("inf"), "", "0", "../../x",
    "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "x" * 10_000, [], {}, [[]], [None], {"": None}, [1e308] * 6,
)  # fmt: skip


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Values of other types and sizes in a JSON file, missing keys, deep nesting; or bytes changed."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        parent, key = rng.choice(places)
        how = rng.random()
        if how < 0.15:
            del parent[key]
        elif how < 0.25:
            parent[key] = _nested(rng.choice((100, 3000)))
        elif how < 0.35 and isinstance(parent[key], (list, str)):
            parent[key] = parent[key] * rng.choice((0, 2, 1000))
        elif how < 0.5 and isinstance(parent[key], (int, float)):
            parent[key] = rng.choice((-1, 0, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 1e9, -1e9, 1e20, 0.5))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    try:
        text = json.dumps(content)
    except RecursionError:
        text = '{"a":' * 100_000
    return text.encode("utf-8", "surrogatepass")


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each value in a JSON document, by what holds it and its key there."""
    waiting = [content]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


# -------------------------------------------------------------------------------------------------------------- a case


def make_case(kind: Kind, samples: list[Path], seed: int, number: int, folder: Path) -> tuple[Path, Path]:
    """Write the input of a case into an empty folder; what is to be read, and the file that was changed."""
    rng = random.Random(f"{seed} {kind.name} {number}")
    sample = rng.choice(samples)
    target = folder / sample.name
    if sample.is_dir():
        shutil.copytree(sample, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        changed = rng.choice([path for path in files if not kind.suffixes or path.suffix in kind.suffixes])
    else:
        shutil.copyfile(sample, target)
        changed = target
    changed.write_bytes(kind.mutate(rng, changed.read_bytes()))
    return target, changed


def run_case(kind: Kind, target: Path, changed: Path) -> tuple[str, str]:
    """Read the input of a case: "read", "refused" or "failed", and why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(target)
    except kind.refused as error:
        message = str(error)
        if len(message.strip().splitlines()) != 1 or len(message) > 2000:
            size = f"{len(message.splitlines())} lines, {len(message)} characters"
            return "failed", f"refused in {size}: {message[:200]!r}"
        names = {target.name, changed.name, changed.parent.name}
        if kind.names_file and not any(name in message for name in names):
            return "failed", f"refused without naming the file: {type(error).__name__}: {message}"
        return "refused", message
    except Exception as error:  # noqa: BLE001 -- which is what is looked for
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return "read", ""


def limit_memory(megabytes: int) -> None:
    """Let the process take this much more address space than it has now, where the system can tell how much that is."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def work(kind: Kind, seed: int, first: int, until: int, folder: Path) -> None:
    """Run the cases of a kind and print what comes of each; the process that does it is given up where it ends."""
    good = folder / "good"
    good.mkdir(parents=True)
    samples = kind.samples(good)
    for sample in samples:
        kind.read(sample)  # fails here if the kind itself is wrong, and loads what reading needs
    limit_memory(kind.memory)
    print("ready", flush=True)
    for number in range(first, until):
        place = folder / f"case{number}"
        place.mkdir()
        target, changed = make_case(kind, samples, seed, number, place)
        print(json.dumps(["begin", number]), flush=True)
        outcome, reason = run_case(kind, target, changed)
        print(json.dumps(["end", number, outcome, reason]), flush=True)
        shutil.rmtree(place, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------- all cases


def load_kinds(folder: Path = HERE) -> dict[str, Kind]:
    """The kinds of all modules `kinds_*.py` in a folder, by name."""
    kinds: dict[str, Kind] = {}
    for path in sorted(folder.glob("kinds_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kinds.update({kind.name: kind for kind in module.KINDS})
    return kinds


def run_kind(
    name: str,
    seed: int,
    cases: int,
    seconds: float,
    kinds_folder: Path = HERE,
    seconds_per_case: float = SECONDS_PER_CASE,
) -> Report:
    """Run the cases of a kind, as many as the time allows, in processes that may die.

    Args:
        name: Of the kind.
        seed: From which all changes follow.
        cases: How many at most.
        seconds: Time for all, without the start of the processes.
        kinds_folder: Where the modules `kinds_*.py` are.
        seconds_per_case: After which a case is taken to hang.
    """
    report, next_case, left = Report(), 0, seconds
    while next_case < cases and left > 0 and len(report.failures) < 20:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "run.py"), "--worker", name, "--seed", str(seed)]
            command += ["--first", str(next_case), "--cases", str(cases)]
            command += ["--folder", folder, "--kinds", str(kinds_folder)]
            with open(Path(folder) / "errors", "w+b") as errors:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
                try:
                    next_case, left = _follow(process, report, name, seed, next_case, cases, left, seconds_per_case)
                finally:
                    process.kill()
                    process.wait()
                    process.stdout.close()
                if report.failures and report.failures[-1].endswith("did not start"):
                    errors.seek(0)
                    report.failures[-1] += ": " + errors.read().decode(errors="replace").strip()[-1500:]
                    return report
    return report


def _follow(
    process: subprocess.Popen,
    report: Report,
    name: str,
    seed: int,
    next_case: int,
    cases: int,
    left: float,
    seconds_per_case: float,
) -> tuple[int, float]:
    """Read what a worker prints until it is done, dies, hangs or the time is over; the next case and the time left."""
    lines = _lines(process)
    if next(lines, (None, SECONDS_TO_START)) != "ready":
        report.failures.append(f"{name}: the process did not start")
        return cases, 0
    begun, started = None, time.monotonic()
    while True:
        line = lines.send(seconds_per_case)
        spent = time.monotonic() - started
        if line is None or line == "":
            if begun is not None:
                what = "hangs" if line is None else f"ended the process (exit code {process.wait()})"
                report.failures.append(f"{name}, seed {seed}, case {begun}: {what}")
                report.outcomes["failed"] += 1
                return begun + 1, left - spent
            return cases, left - spent
        content = json.loads(line)
        if content[0] == "begin":
            begun = content[1]
            continue
        _, number, outcome, reason = content
        begun = None
        report.outcomes[outcome] += 1
        if outcome == "failed":
            report.failures.append(f"{name}, seed {seed}, case {number}: {reason}")
        if spent > left or number + 1 >= cases:
            return number + 1, left - spent


def _lines(process: subprocess.Popen) -> Iterator[str | None]:
    """Lines that a process prints. Sent how many seconds to wait for one; None if it did not come, '' at the end."""
    buffer, wait = b"", SECONDS_TO_START
    descriptor = process.stdout.fileno()
    while True:
        deadline = time.monotonic() + wait
        while b"\n" not in buffer:
            if not select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
                break
            part = os.read(descriptor, 65536)
            if not part:
                break
            buffer += part
        if b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            wait = (yield line.decode()) or wait
        elif time.monotonic() >= deadline:
            wait = (yield None) or wait
        else:
            wait = (yield "") or wait

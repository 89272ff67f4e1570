"""Run the fuzz cases: `python tests/fuzz/run.py --seconds 120`, and of one kind `--kind video --cases 500 --seed 7`.

Prints what came of each kind, and each failure with what repeats it: `--kind KIND --seed SEED --case NUMBER`, which
keeps the input and shows the traceback. Exits with 1 if anything failed. See `harness.py` for what a failure is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import harness


def main() -> int:
    parser = argparse.ArgumentParser(description="Read damaged and hostile files of every kind.")
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="from which all cases follow")
    parser.add_argument("--cases", type=int, default=100_000, help="of each kind, at most")
    parser.add_argument("--seconds", type=float, default=120, help="for all kinds together, shared equally")
    parser.add_argument("--case", type=int, help="repeat this case of the one kind given, in this process")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kinds", type=Path, default=harness.HERE, help=argparse.SUPPRESS)
    args = parser.parse_args()
    kinds = harness.load_kinds(args.kinds)
    if args.worker:
        harness.work(kinds[args.worker], args.seed, args.first, args.cases, args.folder)
        return 0
    if unknown := sorted(set(args.kind or ()) - set(kinds)):
        parser.error(f"there is no kind {', '.join(unknown)}; there are {', '.join(kinds)}")
    if args.case is not None:
        if len(args.kind or ()) != 1:
            parser.error("--case needs one --kind")
        return repeat(kinds[args.kind[0]], args.seed, args.case)

    chosen = args.kind or list(kinds)
    failures = []
    for name in chosen:
        report = harness.run_kind(name, args.seed, args.cases, args.seconds / len(chosen), args.kinds)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
        print(f"{name}: {counts or 'no cases'}", flush=True)
        failures += report.failures
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def repeat(kind: harness.Kind, seed: int, number: int) -> int:
    """Run one case here, keep its input, and let what it raises be seen."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "good").mkdir()
    (folder / "case").mkdir()
    target, changed = harness.make_case(kind, kind.samples(folder / "good"), seed, number, folder / "case")
    print(f"{kind.name}, seed {seed}, case {number}: {changed}")
    kind.read(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())

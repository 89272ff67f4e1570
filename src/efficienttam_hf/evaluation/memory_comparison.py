"""Compares memory selection strategies: the same model on the same videos with each strategy.

If the objects have a few categories, the table has a column for each. The stress set uses the type of event as the
category, so that the table shows which strategy helps with which event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ..atomic_file import atomic_path
from ..output_folders import OutputFolder
from ..safe_names import markdown_code, markdown_command, markdown_text
from .paper_tables import title_of
from .results import EvaluationResult


__all__ = ["by_category", "comparison_markdown", "write_comparison"]

TIMING = "Seconds per frame are of tracking alone, with the image encoder."
MOST_CATEGORIES = 8  # a table with more columns is hard to read


def by_category(result: EvaluationResult) -> dict[str, float]:
    """The mean J&F of the objects of each category, by its name; objects without a category are left out."""
    values: dict[str, list[float]] = {}
    for video in result.scored:
        for scores in video.objects:
            if scores.category is not None:
                values.setdefault(scores.category, []).append(scores.j_and_f)
    return {name: math.fsum(own) / len(own) for name, own in sorted(values.items())}


def comparison_markdown(
    results: Mapping[str, EvaluationResult], command: str | None = None, timing: str = TIMING
) -> str:
    """A table with a row for each strategy.

    Args:
        results: one or more results by the name of the strategy, of the same model and videos; changes are relative to
            the first.
        command: the command line that repeats the comparison.
        timing: a sentence that says what the seconds per frame include.
    """
    first = next(iter(results.values()))
    categories = list(by_category(first))
    categories = categories if len(categories) <= MOST_CATEGORIES else []
    device = first.settings.get("device_name") or first.settings.get("device", "")
    model, data = Path(first.model).name, title_of(first.dataset, first.split)
    lines = [f"# Memory strategies of {markdown_text(model)} on {markdown_text(data)}", ""]
    lines += [
        f"{len(first.scored)} of {len(first.videos)} videos scored by the convention "
        f"{markdown_code(first.convention)}, prompt {markdown_code(first.prompt)}, {markdown_text(device)}. {timing}",
        "",
        "| memory | " + " | ".join(["J&F", "change", "J", "F", *map(markdown_text, categories), "s/frame"]) + " |",
        "| --- |" + " ---: |" * (5 + len(categories)),
    ]
    base = first.summary.get("J&F", math.nan)
    for name, result in results.items():
        summary, own = result.summary, by_category(result)
        score = summary.get("J&F", math.nan)
        change = "–" if result is first else _number(100 * (score - base), "+.1f")
        cells = [_percent(score), change, _percent(summary.get("J", math.nan)), _percent(summary.get("F", math.nan))]
        cells += [_percent(own.get(category, math.nan)) for category in categories]
        cells.append(_number(1 / result.frames_per_second, ".3f"))
        lines.append(f"| {markdown_code(name)} | " + " | ".join(cells) + " |")
    if command:
        lines += ["", "## How to do it again", "", markdown_command(command)]
    return "\n".join(lines) + "\n"


def write_comparison(results: Mapping[str, EvaluationResult], folder: str | Path, command: str | None = None) -> Path:
    """Write the table to `report.md` in a folder; returns its path. Arguments are those of `comparison_markdown`.

    Raises:
        FileExistsError: if there is a `report.md` that this package did not write.
    """
    path = OutputFolder(folder).add("report.md")
    with atomic_path(path) as temporary:
        temporary.write_text(comparison_markdown(results, command), encoding="utf-8")
    return path


def _percent(value: float) -> str:
    return _number(100 * value, ".1f")


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value + 0.0, form)

"""Reports of a benchmark: tables in Markdown, and a plot of published accuracy against measured speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..app.defaults import PRESET_PREFIX
from ..atomic_file import atomic_path
from ..evaluation.paper_tables import rows_for
from ..output_folders import OutputFolder
from ..published import VARIANTS
from ..safe_names import markdown_text, plot_text
from .results import FRAME_PARTS, BenchmarkReport, ContenderResult
from .timing import Spread


__all__ = ["check_plotting", "draw_plot", "published_accuracy", "to_markdown", "write_report"]

# The names in the paper of the contenders that it has results of, at their own input size. Its SAM 2 is base-plus.
PAPER_METHODS = {name: variant.paper_name for name, variant in VARIANTS.items() if variant.paper_name}
PAPER_METHODS["sam2-base-plus"] = "SAM 2"
PAPER_SIZE = 1024
ACCURACY_COLUMN = "SA-V test J&F"


def published_accuracy(result: ContenderResult) -> float | None:
    """Return J&F on the SA-V test set from the paper's Table 1, in percent; `None` if the table does not have it."""
    method = PAPER_METHODS.get(result.name.removeprefix("published ").removeprefix(PRESET_PREFIX))
    if method is None or result.image_size != PAPER_SIZE:
        return None
    return next((row.values.get(ACCURACY_COLUMN) for row in rows_for(1) if row.method == method), None)


def to_markdown(report: BenchmarkReport) -> str:
    """Return two tables, the description of the machine, and notes on how to read them, in Markdown."""
    base = markdown_text(report.results[0].name)
    speed = [["contender", "objects", "frames/s", "ms a frame", f"time / {base}", "M params", "GFLOP", "peak MB"]]
    parts = [["contender", "objects", *(f"{part}, ms" for part in FRAME_PARTS), "input, ms"]]
    parts[0] += ["encoder, % of peak", "attention, % of peak"]
    for result in report.results:
        who = [markdown_text(result.name), str(result.objects)]
        speed.append(
            [
                *who,
                f"{result.frames_per_second:.2f}",
                _spread(result.frame, 1e3),
                _spread(result.ratio),
                f"{result.parameters / 1e6:.1f}",
                f"{result.flops['frame'] / 1e9:.1f}",
                "–" if result.memory is None else f"{result.memory.own / 1e6:.0f}",
            ]
        )
        share = [result.share_of_peak.get(stage) for stage in ("image encoder", "memory attention")]
        parts.append(
            [
                *who,
                *(f"{1e3 * result.parts[part].median:.1f}" for part in FRAME_PARTS),
                f"{1e3 * result.input.median:.1f}",
                *("–" if x is None else f"{100 * x:.0f}" for x in share),
            ]
        )
    settings, machine = report.settings, report.machine
    rates = ", ".join(f"{dtype} {_spread(rate, 1e-9)} GFLOP/s" for dtype, rate in report.matrix_product.items())
    width, height = settings["video_size"]
    published = settings.get("reference_dtype")
    return "\n".join(
        [
            *_table(speed),
            "",
            *_table(parts),
            "",
            f"{settings['dtype']}{f' (published code: {published})' if published else ''}"
            f"{', compiled' if settings['compiled'] else ''}, {machine['device']} "
            f"({machine['processor']}), {machine['threads']} threads, load {machine['load average at the start']} at "
            f"the start; torch {machine['torch']}, Transformers {machine['transformers']}; {machine['date']}.",
            f"{width}x{height} video; {settings['warmup']} frames of warm-up, then {settings['frames']} rounds in "
            "which each contender tracks one frame in turn. Medians; quartiles in brackets; time ratios within rounds.",
            f"Matrix product, in turns with the stages: {rates}. Shares are of the one in the contender's type.",
            "A frame goes from the model's input to masks at the video's size. Input (decoding, resizing) is not in "
            "it. Stages were timed on other frames. Peak memory is without the libraries'.",
        ]
    )


def _spread(spread: Spread, scale: float = 1.0) -> str:
    """Format a spread as median and quartiles."""
    median, low, high = (_figures(x * scale) for x in (spread.median, spread.low, spread.high))
    return f"{median} ({low}–{high})"


def _figures(value: float) -> str:
    """Format a number with about three figures."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table with aligned columns: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0], *(f"{'-' * (w - 1)}:" for w in widths[1:])]
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]


def check_plotting() -> None:
    """Check that the plot can be drawn, before the time for measuring is spent.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "A folder of results has a plot in it, which needs Matplotlib: pip install matplotlib. Without --output, "
            "the tables are printed."
        ) from error


def draw_plot(report: BenchmarkReport, path: Path) -> list[str]:
    """Draw published accuracy against frames per second, for the first number of objects.

    Args:
        report: the results.
        path: the path of the PNG file.

    Returns:
        The names of the contenders without published accuracy, which are not in the plot.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    check_plotting()
    from matplotlib.figure import Figure

    objects = report.results[0].objects
    results = [result for result in report.results if result.objects == objects]
    accuracies = {result.name: published_accuracy(result) for result in results}
    unknown = [name for name, accuracy in accuracies.items() if accuracy is None]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        accuracy = accuracies[result.name]
        if accuracy is None:
            continue
        speeds = [1 / seconds for seconds in (result.frame.high, result.frame.median, result.frame.low)]
        ends = [[speeds[1] - speeds[0]], [speeds[2] - speeds[1]]]
        marker = {"ours": "o", "peer": "s", "reference": "^"}[result.kind]
        axes.errorbar(speeds[1], accuracy, xerr=ends, fmt=marker, capsize=3)
        axes.annotate(
            plot_text(result.name), (speeds[1], accuracy), xytext=(6, 6), textcoords="offset points", fontsize=8
        )
    axes.set_xlabel(
        f"frames a second, {objects} object{'' if objects == 1 else 's'}, {report.settings['dtype']}, measured here"
    )
    axes.set_ylabel(f"{ACCURACY_COLUMN}, published (Table 1)")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    if len(unknown) == len(results):
        axes.set(xticks=[], yticks=[])
    if unknown:
        labels = {
            result.name: f"{plot_text(result.name)} ({result.frames_per_second:.1f} frames/s)" for result in results
        }
        axes.set_title("no published accuracy: " + ", ".join(labels[name] for name in unknown), fontsize=7, wrap=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=150)
    return unknown


def write_report(report: BenchmarkReport, folder: Path) -> list[Path]:
    """Write `benchmark.json`, `benchmark.md` and `benchmark.png` to a folder.

    Returns:
        The paths of the three files.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    output = OutputFolder(folder)
    paths = [output.add(f"benchmark.{ending}") for ending in ("json", "md", "png")]
    report.save(paths[0])
    unknown = draw_plot(report, paths[2])
    plot = "![published accuracy against measured speed](benchmark.png)\n"
    if unknown:
        plot += f"\nWithout published accuracy, and so not in the plot: {', '.join(map(markdown_text, unknown))}.\n"
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(f"# Benchmark\n\n{to_markdown(report)}\n\n{plot}", encoding="utf-8")
    return paths

"""The report of an evaluation: the model and the data, the scores, the videos, and the paper's rows.

:func:`write_report` writes a folder for a result:

    report.md        the summary to read first
    results.json     the whole result, see `results`; `EvaluationResult.read` reads it
    scores.csv       a row for each object
    plots/           J and F over the frames of each video; for images, mIoU over clicks
    reliability.png  the model's own scores beside the truth
    worst.jpg        the videos with the lowest scores, if pictures of them were drawn during tracking

:func:`write_overview` compares several results, such as those of the prompts of Table 2 or of several datasets.
Scores are from 0 to 1 in the files for programs (JSON, CSV) and in percent in the files for people.
"""

from __future__ import annotations

import csv
import datetime
import math
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..atomic_file import atomic_path
from ..output_folders import OutputFolder
from ..safe_names import markdown_code, markdown_command, markdown_text, safe_path, spreadsheet_cell
from .paper_tables import Measured, beside_published, title_of
from .reliability import Reliability, reliability
from .report_plots import plot_clicks, plot_reliability, plot_video, worst_sheet
from .results import EvaluationResult, ObjectResult, VideoResult
from .scores import statistics


__all__ = ["paper_comparison", "report_markdown", "scores_rows", "write_overview", "write_report"]

WORST_SHOWN = 6
RELIABILITY_PLOT = "reliability.png"
MOST_ROWS = 200  # of videos in the report; `scores.csv` lists all of them

SHOWN_AS = {
    "mask": "its mask",
    "box": "its bounding box",
    "1-click": "a click at its centre",
    "3-click": "three simulated clicks",
    "5-click": "five simulated clicks",
}
COLUMN_OF_PROMPT = {"box": "bounding box", "mask": "ground-truth mask"}  # columns of the paper's Table 2


def write_report(
    result: EvaluationResult,
    folder: str | os.PathLike,
    *,
    command: str | None = None,
    date: str | None = None,
) -> Path:
    """Write all files of a report.

    Args:
        result: the result of any protocol.
        folder: the folder of the report, created if it is missing. The `picture` of each video is a path in it.
        command: the command line that reproduces the result.
        date: the date of the measurement; today by default.

    Returns:
        The path of `report.md`.

    Raises:
        ImportError: if matplotlib or OpenCV is not installed.
        FileExistsError: if a file with one of these names exists that this package did not write.
    """
    output = OutputFolder(folder)
    result.write(output.add("results.json"))
    _write_csv(result, output.add("scores.csv"))
    if result.protocol == "images":
        if result.summary:
            plot_clicks(result.summary, output.add("plots/clicks.png"))
    else:
        for video in result.scored:
            plot_video(video, output.add(_plot_path(video)))
        if (found := _reliability(result)) is not None:
            plot_reliability(found, output.add(RELIABILITY_PLOT))
    has_sheet = worst_sheet(result.worst(WORST_SHOWN), output.path, output.add("worst.jpg"))
    path = output.add("report.md")
    _write_text(report_markdown(result, command=command, date=date, worst="worst.jpg" if has_sheet else None), path)
    return path


def write_overview(
    results: Sequence[EvaluationResult],
    folder: str | os.PathLike,
    *,
    command: str | None = None,
    date: str | None = None,
) -> Path:
    """Write a `report.md` that compares several results; each of them has its own report in another folder.

    Raises:
        ValueError: if there are no results.
        FileExistsError: if a `report.md` exists that this package did not write.
    """
    if not results:
        raise ValueError("An overview needs at least one result, got none.")
    names = list(dict.fromkeys(name for result in results for name in _headline(result)))
    lines = [f"# {markdown_text(_model_name(results[0]))}: {len(results)} evaluations", ""]
    lines += ["| data | prompt | " + " | ".join(names) + " | scored | frames/s |"]
    lines += ["| --- | --- | " + "---: | " * len(names) + "---: | ---: |"]
    for result in results:
        numbers = [_percent(result.summary.get(name, math.nan)) for name in names]
        cells = [
            _title(result),
            markdown_text(result.prompt),
            *numbers,
            f"{len(result.scored)} of {len(result.videos)}",
        ]
        lines.append(_row([*cells, _number(result.frames_per_second)]))
    lines += ["", *_compared(results, date), *_reproduced(command)]
    path = OutputFolder(folder).add("report.md")
    _write_text("\n".join(lines) + "\n", path)
    return path


def report_markdown(
    result: EvaluationResult,
    *,
    command: str | None = None,
    date: str | None = None,
    worst: str | None = None,
) -> str:
    """Return the text of `report.md`.

    Args:
        command, date: see `write_report`.
        worst: the path of the sheet of the worst videos, relative to the report; `None` if there is no sheet.
    """
    lines = [f"# {markdown_text(_model_name(result))} on {_title(result)}", "", _what_was_done(result), ""]
    lines += _summary_table(result) if result.summary else ["Nothing could be scored: no masks beyond the prompts."]
    lines += ["", *_compared([result], date)]
    lines += [f"## {_unit(result).capitalize()}s, the lowest score first", "", *_video_table(result), ""]
    if result.protocol == "images" and result.summary:
        lines += ["![mIoU over clicks](plots/clicks.png)", ""]
    lines += _reliability_section(result)
    if worst is not None:
        lines += ["## The worst", "", "Tracked masks above, annotated ones below.", "", f"![]({worst})", ""]
    if result.failures:
        lines += [f"## {_count(len(result.failures), _unit(result))} could not be evaluated", ""]
        lines += [f"- {markdown_code(v.name)}: {markdown_text(v.error)}" for v in result.failures] + [""]
    lines += ["## Settings", "", "| | |", "| --- | --- |"]
    lines += [
        _row([markdown_text(name.replace("_", " ")), markdown_code(value)]) for name, value in _settings(result).items()
    ]
    lines += ["", *_reproduced(command)]
    return "\n".join(lines).rstrip() + "\n"


def paper_comparison(results: Sequence[EvaluationResult], date: str | None = None) -> str:
    """Compare results with the published rows of the paper's table for the same protocol, in Markdown.

    Semi-supervised tracking from masks is compared with Table 1, other prompts with Table 2, images with Table 3.
    Results of one model on the same videos, for example with several kinds of prompts, share a row.
    """
    tables: dict[int, dict[tuple, Measured]] = {}
    for result in results:
        number, values = _paper_values(result)
        if not values:
            continue
        where = (result.model, result.dataset, result.split, len(result.scored))
        rows = tables.setdefault(number, {})
        before = rows[where].values if where in rows else {}
        rows[where] = _measured(result, {**before, **values}, date)
    return "\n\n".join(
        f"Table {number} of the paper.\n\n{beside_published(number, list(rows.values()))}"
        for number, rows in sorted(tables.items())
    )


def scores_rows(result: EvaluationResult) -> list[dict[str, object]]:
    """Return the rows of `scores.csv`: one row for each object, with scores from 0 to 1."""
    rows = []
    for video in result.scored:
        for scores in video.objects:
            row = {"video": video.name, "object": scores.object_id, "category": scores.category or ""}
            if result.protocol == "images":
                row |= {f"IoU_{number}_click": value for number, value in enumerate(scores.clicks, start=1)}
                row["IoU_1_click_best_of_three"] = scores.best_of_three
            else:
                row |= {"frames": len(scores.frames), "J&F": scores.j_and_f, **_measures(scores)}
            rows.append(row)
    return rows


# ---------------------------------------------------------------------------------------------------------------- parts


def _what_was_done(result: EvaluationResult) -> str:
    """Describe the protocol, the data, and whether the evaluation is complete, in a few sentences."""
    scored, objects = result.scored, sum(len(video.objects) for video in result.videos)
    count = f"{_count(len(scored), _unit(result))} with {_count(objects, 'object')}"
    if result.protocol == "images":
        what = (
            f"Prompted image segmentation: each object is clicked on up to {result.prompt.removesuffix('-click')} "
            "times, first at its centre, then at the centre of the largest region that is wrong."
        )
        text = f"{what} {count}; the score is the IoU with the annotation, its mean over objects."
    else:
        what = (
            f"Video object segmentation: each object is shown by {SHOWN_AS.get(result.prompt, result.prompt)} on the "
            "first frame it is annotated in, and tracked from there."
        )
        frames = _count(sum(video.tracked_frames for video in result.videos), "frame")
        text = f"{what} {count} were scored, {frames} tracked; scored by the convention `{result.convention}`."
    if result.failures:
        failed, unit = _count(len(result.failures), _unit(result)), _unit(result)
        text += f" **{failed} could not be evaluated**, see below: the scores are over {len(scored)} of "
        text += f"{_count(len(result.videos), unit)}."
    return text


def _summary_table(result: EvaluationResult) -> list[str]:
    names = [*_headline(result), *(name for name in result.summary if name not in _headline(result))]
    names = [name for name in names if not (result.protocol == "images" and name == "mIoU")]
    heads = [f"**{names[0]}**", *(name.replace("_", " ") for name in names[1:]), f"{_unit(result, 'frame')}s/s"]
    values = [_percent(result.summary[name]) for name in names] + [_number(result.frames_per_second)]
    timed = "tracking, prompts included; decoding and scoring are"
    if result.protocol == "images":
        timed = "encoding an image, and of placing, decoding and scoring all clicks on its objects; reading it is"
    return [
        "| " + " | ".join(heads) + " |",
        "|" + " ---: |" * len(heads),
        _row([f"**{values[0]}**", *values[1:]]),
        "",
        f"Accuracies in percent. Speed is that of {timed} not in it.",
    ]


def _reliability(result: EvaluationResult) -> Reliability | None:
    """The reliability of a model's own scores over all scored objects; `None` if they were not recorded."""
    return reliability(found for video in result.scored for found in video.objects)


def _reliability_section(result: EvaluationResult) -> list[str]:
    found = None if result.protocol == "images" else _reliability(result)
    if found is None:
        return []
    lines = ["## Can its scores be trusted?", "", f"![reported and measured scores]({RELIABILITY_PLOT})", ""]
    if found.iou is not None:
        lines.append(
            f"- The predicted IoU differs from the measured one by {_percent(found.iou.error)} on average "
            f"(expected calibration error {_percent(found.iou.calibration_error)})."
        )
    if found.absent_frames:
        absent = _count(found.absent_frames, "scored frame")
        lines.append(f"- The object is absent from {absent}. The model says so on {_percent(found.found_absent)} %.")
    else:
        lines.append("- The object is in every scored frame.")
    if not math.isnan(found.false_alarms):
        lines.append(f"- It is called absent on {_percent(found.false_alarms)} % of the frames that show it.")
    return [*lines, ""]


def _compared(results: Sequence[EvaluationResult], date: str | None) -> list[str]:
    table = paper_comparison(results, date)
    return ["## Beside the paper", "", table, ""] if table else []


def _video_table(result: EvaluationResult) -> list[str]:
    if not result.scored:
        return ["None has scores."]
    worst = result.worst(MOST_ROWS)
    if result.protocol == "images":
        clicks = sorted({1, len(result.scored[0].objects[0].clicks)})
        heads = ["image", "objects", *(f"IoU, {n} click{'s' * (n > 1)}" for n in clicks), "size"]
        rows = [_image_row(video, clicks) for video in worst]
        names = 1
    else:
        heads = ["video", "plot", "objects", "frames", "J&F", "J", "F", "J recall", "J decay", "frames/s"]
        rows = [_video_row(video) for video in worst]
        names = 2
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * names + " ---: |" * (len(heads) - names)]
    lines += [_row(row) for row in rows]
    if len(result.scored) > len(worst):
        lines += ["", f"{len(result.scored) - len(worst)} more, with higher scores, are in `scores.csv`."]
    return lines


def _video_row(video: VideoResult) -> list[str]:
    of_objects = [_measures(scores) for scores in video.objects]
    recall, decay = (math.fsum(m[name] for m in of_objects) / len(of_objects) for name in ("J_recall", "J_decay"))
    name = markdown_text(video.name)
    name = f"[{name}]({quote(video.picture)})" if video.picture else name
    numbers = [_percent(value) for value in (video.j_and_f, video.j, video.f, recall, decay)]
    counts = [str(len(video.objects)), str(video.num_frames)]
    return [name, f"[plot]({quote(_plot_path(video))})", *counts, *numbers, _number(video.frames_per_second)]


def _image_row(image: VideoResult, clicks: list[int]) -> list[str]:
    means = [math.fsum(o.clicks[n - 1] for o in image.objects) / len(image.objects) for n in clicks]
    size = f"{image.width}x{image.height}"
    return [markdown_text(image.name), str(len(image.objects)), *(_percent(value) for value in means), size]


def _measures(scores: ObjectResult) -> dict[str, float]:
    """Return the mean, recall and decay of J and of F."""
    j, f = statistics(scores.j), statistics(scores.f)
    named = {"J": j.mean, "J_recall": j.recall, "J_decay": j.decay}
    return {**named, "F": f.mean, "F_recall": f.recall, "F_decay": f.decay}


def _settings(result: EvaluationResult) -> dict[str, object]:
    named = ("protocol", "dataset", "split", "model", "prompt", "convention")
    described = {name: getattr(result, name) for name in named if getattr(result, name)}
    return {**described, **{k: v for k, v in result.settings.items() if v is not None and k not in described}}


def _reproduced(command: str | None) -> list[str]:
    if not command:
        return []
    return ["## How to do it again", "", markdown_command(command), ""]


# ---------------------------------------------------------------------------------------------------- beside the paper


def _paper_values(result: EvaluationResult) -> tuple[int, dict[str, float]]:
    """Return the number of the paper's table for a result, and the values of its row, in percent."""
    summary = {name: 100 * value for name, value in result.summary.items()}
    if result.protocol == "images":
        return 3, {name: summary[name] for name in ("1-click mIoU", "5-click mIoU") if name in summary}
    measure = "G" if "G" in summary else "J&F"
    if measure not in summary:
        return 1, {}
    if result.protocol == "vos" and result.prompt == "mask":
        values = {measure: summary[measure]}
        if "parameters" in result.settings:
            values["parameters"] = result.settings["parameters"] / 1e6
        return 1, values
    return 2, {COLUMN_OF_PROMPT.get(result.prompt, result.prompt): summary[measure]}


def _measured(result: EvaluationResult, values: dict[str, float], date: str | None) -> Measured:
    settings = result.settings
    device = settings.get("device_name") or settings.get("device") or "device not recorded"
    count = _count(len(result.scored), _unit(result))
    day = date or datetime.date.today().isoformat()
    remarks = []
    if settings.get("max_frames"):
        remarks.append(f"Only the first {settings['max_frames']} frames of each video were tracked.")
    if result.failures:
        remarks.append(f"Left out, because of errors: {_count(len(result.failures), _unit(result))}.")
    return Measured(
        markdown_text(_model_name(result)),
        markdown_text(f"measured here: {day}, {device}, {title_of(result.dataset, result.split)}, {count}"),
        result.dataset,
        result.split,
        len(result.scored),
        values,
        "image" if result.protocol == "images" else "video",
        remarks,
    )


# ------------------------------------------------------------------------------------------------------------- wording


def _headline(result: EvaluationResult) -> list[str]:
    """Return the names of the scores at the top of the report."""
    if result.protocol == "images":
        names = [name for name in result.summary if name.endswith("-click mIoU")]
        return [*names, *(name for name in result.summary if name.endswith("best-of-three mIoU"))]
    return [name for name in ("G", "J&F", "J", "F") if name in result.summary]


def _model_name(result: EvaluationResult) -> str:
    return Path(result.model).name or "model"


def _title(result: EvaluationResult) -> str:
    return markdown_text(title_of(result.dataset, result.split))


def _unit(result: EvaluationResult, video: str = "video") -> str:
    return "image" if result.protocol == "images" else video


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(value: float) -> str:
    return _number(100 * value)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plot_path(video: VideoResult) -> str:
    return f"plots/{safe_path(video.name).as_posix()}.png"


def _write_text(text: str, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_csv(result: EvaluationResult, path: Path) -> None:
    rows = scores_rows(result)
    columns = list(rows[0]) if rows else ["video", "object", "category"]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)

"""Tables 1, 2 and 3 of the paper as data, and tables that compare them with measured scores.

`paper_tables.json` has the numbers with their source. A published and a measured number can only be compared if they
are of the same dataset. A measured number therefore goes into the column of its dataset, or into a new column if the
paper has none, and notes below the table name other differences (another set, or a part of the set).

Accuracies are in percent, as in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal


__all__ = [
    "Column",
    "Measured",
    "PublishedRow",
    "PublishedSet",
    "PublishedTable",
    "beside_published",
    "find_set",
    "load_sets",
    "load_table",
    "rows_for",
    "title_of",
]

MARK = "†"  # marks a measured number that is not fully comparable; a note below the table gives the reason


@dataclass(frozen=True)
class PublishedSet:
    """A dataset on which results are published.

    Attributes:
        title: the name in papers, such as `"DAVIS 2017 val"`.
        kind: a key of `data.layouts.LAYOUTS`.
        splits: the names that the split may have there; empty if there is only one split.
        videos: number of videos.
    """

    title: str
    kind: str
    splits: tuple[str, ...]
    videos: int


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the heading.
        measure: the measure in this column, a key of `Measured.values`.
        dataset: the title of the dataset or collection of this column; `None` if it is that of the whole table.
    """

    name: str
    measure: str
    dataset: str | None


@dataclass(frozen=True)
class PublishedRow:
    """A method in the paper: its name, and its published numbers by the headings of columns."""

    method: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
        number: 1, 2 or 3.
        title: the title of the table.
        source: the source that every row states.
        collection: the collection over which all numbers are means, if that is not one dataset.
    """

    number: int
    title: str
    source: str
    collection: str | None
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class Measured:
    """A measured row.

    Attributes:
        method: the model.
        source: the date, the device and the data of the measurement.
        kind, split: kind and split of the dataset, as in `data.loading.load_records`.
        videos: number of videos that were scored.
        values: values in percent, by measure: `"J&F"` or `"G"` (Table 1), `"1-click"`, `"3-click"`, `"5-click"`,
            `"bounding box"` or `"ground-truth mask"` (Table 2), `"1-click mIoU"` and `"5-click mIoU"` (Table 3); in
            Table 1 also `"parameters"`, in millions.
        unit: the items that `videos` counts.
        remarks: other reasons why the row is not comparable.
    """

    method: str
    source: str
    kind: str
    split: str
    videos: int
    values: Mapping[str, float]
    unit: Literal["video", "image"] = "video"
    remarks: Sequence[str] = field(default=())


@cache
def _stored() -> dict[str, Any]:
    return json.loads(files(__package__).joinpath("paper_tables.json").read_text(encoding="utf-8"))


@cache
def load_sets() -> dict[str, PublishedSet]:
    """The datasets with published results whose size is known, by title."""
    return {
        title: PublishedSet(title, entry["kind"], tuple(entry["splits"]), entry["videos"])
        for title, entry in _stored()["sets"].items()
    }


@cache
def load_table(number: int) -> PublishedTable:
    """Load Table 1, 2 or 3 of the paper.

    Raises:
        ValueError: if the number is another.
    """
    for stored in _stored()["tables"]:
        if stored["number"] == number:
            columns = tuple(Column(entry["name"], entry["measure"], entry["set"]) for entry in stored["columns"])
            names = [column.name for column in columns]
            rows = tuple(
                PublishedRow(method, dict(zip(names, values, strict=True))) for method, *values in stored["rows"]
            )
            source = f"published (arXiv 2411.18933, Table {number})"
            return PublishedTable(number, stored["title"], source, stored.get("collection"), columns, rows)
    raise ValueError(f"The paper's accuracies are in its Tables 1, 2 and 3; there is no Table {number} here.")


def rows_for(table: int) -> tuple[PublishedRow, ...]:
    """The rows of Table 1, 2 or 3.

    Raises:
        ValueError: if the number is another.
    """
    return load_table(table).rows


def find_set(kind: str, split: str) -> PublishedSet | None:
    """The dataset with a kind and split; `None` if results on it are not published."""
    for known in load_sets().values():
        if known.kind == kind and (not known.splits or split in known.splits):
            return known
    return None


def title_of(kind: str, split: str) -> str:
    """The name of a dataset: as in papers if it is known, else its kind and split."""
    known = find_set(kind, split)
    return known.title if known else f"{kind} {split}".strip()


def beside_published(number: int, measured: Sequence[Measured]) -> str:
    """A table of the paper in Markdown with measured rows below, and notes on differences under the table.

    Args:
        number: 1, 2 or 3.
        measured: the measured rows. Measures that the table does not have are left out.
    """
    table = load_table(number)
    columns = list(table.columns)
    cells: list[dict[str, str]] = []
    notes: list[str] = []
    for row in measured:
        differences = _differences(table, row)
        notes += [note for note in differences if note not in notes]
        mark = f" {MARK}" if differences else ""
        own: dict[str, str] = {}
        for measure in dict.fromkeys(column.measure for column in table.columns if column.measure in row.values):
            column = _column_for(table, row, measure)
            if column not in columns:
                columns.insert(sum(c.measure != "parameters" for c in columns), column)
            own[column.name] = f"{row.values[measure]:.1f}{'' if measure == 'parameters' else mark}"
        cells.append(own)

    lines = [
        "| method | " + " | ".join(column.name for column in columns) + " | source |",
        "| --- | " + "---: | " * len(columns) + "--- |",
    ]
    for published in table.rows:
        numbers = [published.values.get(column.name) for column in columns]
        lines.append(_line(published.method, ["" if n is None else f"{n:.1f}" for n in numbers], table.source))
    for row, own in zip(measured, cells, strict=True):
        lines.append(_line(f"**{row.method}**", [own.get(column.name, "") for column in columns], row.source))
    return "\n".join(lines + [f"\n{MARK} {note}" for note in notes])


def _line(method: str, cells: list[str], source: str) -> str:
    return f"| {method} | " + " | ".join(cell or "–" for cell in cells) + f" | {source} |"


def _column_for(table: PublishedTable, row: Measured, measure: str) -> Column:
    """The column of a measured number: the paper's column of the same dataset, or else a new one."""
    here = find_set(row.kind, row.split)
    for column in table.columns:
        if column.measure == measure and (column.dataset is None or (here and column.dataset == here.title)):
            return column
    title = title_of(row.kind, row.split)
    return Column(f"{title} {measure}", measure, title)


def _differences(table: PublishedTable, row: Measured) -> list[str]:
    """Sentences on the differences between our measurement and the paper's."""
    known = find_set(row.kind, row.split)
    count = f"{row.videos} {row.unit}{'' if row.videos == 1 else 's'}"
    if known and row.unit == "video" and row.videos <= known.videos:
        count = f"{'all' if row.videos == known.videos else f'{row.videos} of the'} {known.videos} videos"
    here = f"measured on {title_of(row.kind, row.split)} ({count})"
    notes = []
    titles = [column.dataset for column in table.columns if column.dataset]
    if table.collection:
        notes.append(f"Not the paper's set: {here}; the published numbers are means over {table.collection}.")
    elif known is None or known.title not in titles:
        notes.append(
            f"Not one of the paper's sets: {here}; the published numbers are on "
            f"{', '.join(dict.fromkeys(titles))}. Numbers in different columns are not comparable."
        )
    elif row.videos != known.videos:
        notes.append(f"Not the paper's set: it has {known.videos} videos of {known.title}; measured on {count}.")
    return notes + list(row.remarks)

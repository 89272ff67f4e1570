"""Writes the results of `track` and `segment` in the formats of other tools, from the folder of the results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..formats.registry import check_formats, write_annotations
from ..formats.result_files import read_results
from ..output_folders import OutputFolder


__all__ = ["convert_results"]


def convert_results(results: Path, names: Sequence[str], output: Path | None, overwrite: bool) -> list[Path]:
    """Write the results of `track` or `segment` in several formats.

    Args:
        results: the folder of the results, or its `masks.json`.
        names: the names of the formats.
        output: the folder in which each format gets a folder of its name; by default that of the results.
        overwrite: whether an earlier conversion is replaced.

    Returns:
        The folders that were written.

    Raises:
        FileNotFoundError: if there are no results.
        FileExistsError: if there is an earlier conversion and `overwrite` is false, or a file of somebody else.
        ValueError: if the results are damaged or empty, or a format cannot hold them.
    """
    media = read_results(results)
    check_formats(list(names), media.is_video)
    if not media.object_ids:
        raise ValueError(f"The results in '{results}' have no objects, so there is nothing to write.")
    folder = OutputFolder(output or (results if results.is_dir() else results.parent))
    folder.claim(*names, overwrite=overwrite)
    for name in names:
        write_annotations(name, media, partial(_add, folder, name))
    return [folder.path / name for name in names]


def _add(folder: OutputFolder, name: str, file: str) -> Path:
    return folder.add(f"{name}/{file}")

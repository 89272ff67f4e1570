"""SHA-256 sums of the files of a checkpoint, so that damage is found before the weights are used.

A folder that this package converts, trains or includes holds a file `SHA256SUMS` with a line for each other file, as
`sha256sum --check` reads it. Files of weights have no checksums of their own: a flipped bit in a `.safetensors` file
loads as another number. Nothing in here needs torch or Transformers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path


__all__ = [
    "CHECKSUMS_FILE",
    "ChecksumError",
    "damaged_files",
    "read_checksums",
    "sha256_of",
    "sync_folder",
    "sync_names",
    "verify_folder",
    "write_checksums",
]


CHECKSUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_BLOCK_BYTES = 2**20


class ChecksumError(ValueError):
    """A folder's files are not those that were written; the message names each that differs."""


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: str | Path, leave_out: Iterable[str] = ()) -> Path:
    """Write `SHA256SUMS` for every file in a folder and its subfolders.

    Args:
        folder: the folder.
        leave_out: paths in it, with `/` between their parts, of files that may change later.

    Returns:
        The file of checksums.
    """
    folder = Path(folder)
    left_out = {CHECKSUMS_FILE, *leave_out}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names if name not in left_out]
    path = folder / CHECKSUMS_FILE
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read_checksums(folder: str | Path) -> dict[str, str]:
    """The checksums that were written with a folder: SHA-256 in hexadecimal by a file's path in it.

    Raises:
        FileNotFoundError: the folder has no file of checksums.
        ChecksumError: that file is damaged itself, or names a file outside the folder.
    """
    path = Path(folder) / CHECKSUMS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CHECKSUMS_FILE}: no checksums were written with it.")
    sums: dict[str, str] = {}
    lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ChecksumError(f"{path} is damaged: line {number} is not a checksum and a file's name.")
        name = match[2]
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise ChecksumError(f"{path} names a file outside its folder in line {number}: {name!r}.")
        sums[name] = match[1]
    if not sums:
        raise ChecksumError(f"{path} is damaged: it is empty.")
    return sums


def damaged_files(folder: str | Path) -> list[str]:
    """What is wrong with the files of a folder, a sentence each; nothing if they are as they were written.

    Files that have no checksum are not looked at.

    Raises:
        FileNotFoundError: the folder has no file of checksums.
    """
    folder = Path(folder)
    try:
        sums = read_checksums(folder)
    except ChecksumError as error:
        return [str(error)]
    problems = []
    for name, expected in sums.items():
        if not (folder / name).is_file():
            problems.append(f"{folder / name} is missing.")
            continue
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            problems.append(f"{folder / name} cannot be read: {error.strerror or error}.")
        else:
            if found != expected:
                problems.append(f"{folder / name} is damaged: its checksum is not the one it was written with.")
    return problems


def verify_folder(folder: str | Path) -> int:
    """Hold a folder's files against the checksums that were written with them.

    Returns:
        How many files were compared, all of them as they were written.

    Raises:
        FileNotFoundError: no such folder, or no checksums in it.
        ChecksumError: naming each file that is missing or was changed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    problems = damaged_files(folder)
    if problems:
        raise ChecksumError("\n  ".join([f"{folder} is not as it was written:", *problems]))
    return len(read_checksums(folder))


def sync_folder(folder: str | Path) -> None:
    """Have all files of a folder, its subfolders, and their names on the disk, whatever happens to the machine next."""
    folder = Path(folder)
    paths = [*folder.rglob("*")]
    for path in paths:
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    for path in [*(path for path in paths if path.is_dir()), folder]:
        sync_names(path)


def sync_names(folder: str | Path) -> None:
    """Have the names in a folder on the disk, after a file was made, moved or removed there."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and moves are written through
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

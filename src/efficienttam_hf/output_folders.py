"""Folders for results: files that this package wrote there may be replaced; other files are never changed.

Every folder of results has a list, `.efficienttam-files`, of the files that were written there, with one relative path
per line. A file is listed before it is made, so the list is correct after any interruption. `--overwrite` only removes
listed files. If a file that is not listed is in the way, the command stops before it does any work and names the file.
So a folder with a user's own files, a name that leads elsewhere, or a symbolic link leads to an error message, and no
data is lost.

Folders are used in one of two ways. An :class:`OutputFolder` adds files beside other content. A :func:`new_folder` is
made completely or not at all, and replaces an earlier folder only if every file in it is listed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from .atomic_file import atomic_path, sync_to_disk, unfinished_stem


__all__ = ["LIST_NAME", "OutputFolder", "check_place", "check_replaceable", "new_folder"]

LIST_NAME = ".efficienttam-files"
_HEADING = "# Written by efficienttam. Overwriting removes the files listed here and nothing else."


def check_place(path: str | os.PathLike) -> None:
    """Check that a folder can be made or written to at a path, before anything is computed for it.

    Raises:
        NotADirectoryError: if the path, or a part of it, is a file.
        PermissionError: if the folder is not writable.
    """
    path = Path(path)
    existing = next(part for part in (path, *path.absolute().parents) if os.path.lexists(part))
    if not existing.is_dir():
        raise NotADirectoryError(
            f"The output '{path}' needs a folder, but '{existing}' is a file: choose another name."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"The output '{path}' cannot be written: there is no permission to write to '{existing}'."
        )


class OutputFolder:
    """A folder that results are written to, beside other content.

    Args:
        path: the path of the folder, which need not exist.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._listed: set[str] | None = None

    @property
    def listed(self) -> set[str]:
        """Relative paths, with forward slashes, of the files that were written here."""
        if self._listed is None:
            self._listed = _read_list(self.path)
        return self._listed

    def check(self, *names: str, overwrite: bool = False) -> None:
        """Check that files or folders of these names can be written here. Nothing is changed.

        Args:
            names: relative paths with forward slashes.
            overwrite: whether results of an earlier run may be replaced.

        Raises:
            FileExistsError: if something is there that may not be replaced or was not written by this package.
            NotADirectoryError, PermissionError: if the folder cannot be made or written to.
        """
        check_place(self.path)
        for name in names:
            place = self._place(name)
            if os.path.lexists(place) and not overwrite:
                raise FileExistsError(
                    f"'{place}' exists already: choose another output, or replace earlier results with --overwrite."
                )
            for foreign in self._not_listed(name):
                raise FileExistsError(_foreign(foreign))

    def claim(self, *names: str, overwrite: bool = False) -> None:
        """Make the folder, and remove files and folders of these names that an earlier run left there.

        The folder is checked first, and nothing is changed if that fails.

        Args:
            names: relative paths with forward slashes.
            overwrite: whether results of an earlier run may be replaced.

        Raises:
            FileExistsError, NotADirectoryError, PermissionError: see `check`.
        """
        self.check(*names, overwrite=overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        removed = {file for name in names for file in self.listed if file == name or file.startswith(f"{name}/")}
        unfinished = [file for name in names for file in _files(self._place(name)) if self._is_unfinished(file)]
        for path in unfinished:
            path.unlink(missing_ok=True)
        for file in removed:
            with suppress(FileNotFoundError):
                self._place(file).unlink()
        folders = {str(folder) for file in removed for folder in PurePosixPath(file).parents}
        for folder in sorted(folders, key=len, reverse=True):
            if folder != ".":
                with suppress(OSError):  # the folder is not empty
                    self._place(folder).rmdir()
        if removed:
            self._rewrite(self.listed - removed)

    def add(self, name: str) -> Path:
        """List a file that is about to be written, and make its folders.

        A listed file of this name may exist already, to be replaced.

        Args:
            name: a relative path with forward slashes.

        Returns:
            The path to write to.

        Raises:
            FileExistsError: if a file of this name exists that was not written by this package.
        """
        path = self._place(name)
        if name not in self.listed:
            for foreign in self._not_listed(name):
                raise FileExistsError(_foreign(foreign))
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not (self.path / LIST_NAME).exists()
            with (self.path / LIST_NAME).open("a", encoding="utf-8") as file:
                file.write(f"{_HEADING}\n{name}\n" if fresh else f"{name}\n")
            self.listed.add(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def remove(self, name: str) -> None:
        """Remove a listed file if it exists. Its name stays in the list, so it may be written again."""
        if name in self.listed:
            self._place(name).unlink(missing_ok=True)

    def discard(self, *folders: str) -> None:
        """Remove the list if no listed file exists, and then the given folders and this one if they are empty."""
        if not any(os.path.lexists(self._place(file)) for file in self.listed):
            (self.path / LIST_NAME).unlink(missing_ok=True)
            self._listed = None
        for path in (*map(self._place, folders), self.path):
            with suppress(OSError):
                path.rmdir()

    def _place(self, name: str) -> Path:
        """Return the path of a name, or raise ValueError if it is not inside this folder."""
        if not _is_inside(name):
            raise ValueError(f"{name!r} is not a relative path inside the folder '{self.path}'.")
        return self.path / name

    def _folders(self, name: str) -> list[Path]:
        """Return the folders inside this one that contain a file of this name, the outermost first."""
        return [self.path / folder for folder in reversed(PurePosixPath(name).parents) if str(folder) != "."]

    def _not_listed(self, name: str) -> Iterator[Path]:
        """Yield everything at a name, below it, or in place of a folder above it, that this package did not write."""
        for folder in self._folders(name):
            if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
                yield folder
                return
        place = self._place(name)
        if place.is_dir() and not place.is_symlink():
            for file in _files(place):
                if file.relative_to(self.path).as_posix() not in self.listed and not self._is_unfinished(file):
                    yield file
        elif os.path.lexists(place) and name not in self.listed:
            yield place

    def _is_unfinished(self, file: Path) -> bool:
        """Whether a file was left by a killed process that was writing a listed one; see `atomic_file`."""
        stem = unfinished_stem(file.name)
        folder = file.parent.relative_to(self.path)
        stems = {path.stem for name in self.listed if (path := PurePosixPath(name)).parent == PurePosixPath(folder)}
        return stem in stems and not file.is_symlink()

    def _rewrite(self, names: set[str]) -> None:
        """Replace the list."""
        with atomic_path(self.path / LIST_NAME) as temporary:
            temporary.write_text("\n".join([_HEADING, *sorted(names)]) + "\n", encoding="utf-8")
        self._listed = names


def check_replaceable(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Check that a folder can be made at a path, in place of an earlier one that this package made.

    Args:
        path: the path of the folder.
        overwrite: whether an earlier folder may be replaced.

    Raises:
        FileExistsError: if something is there that may not be replaced, or a folder with files that this package did
            not write.
        NotADirectoryError, PermissionError: if no folder can be made there.
    """
    path = Path(path)
    check_place(path.absolute().parent)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"'{path}' exists already: choose another name, or replace it with --overwrite.")
    if path.is_symlink() or not path.is_dir():
        raise FileExistsError(_foreign(path))
    listed = _read_list(path)
    for file in _files(path):
        if file.name != LIST_NAME and file.relative_to(path).as_posix() not in listed:
            raise FileExistsError(_foreign(file))


@contextmanager
def new_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder completely or not at all.

    A temporary folder beside it is yielded, and is moved to its path if the `with` block ends without an error. The
    list of its files is written at the end. If the block raises an error, an earlier folder is unchanged.

    Args:
        path: the path of the folder.
        overwrite: whether it may replace a folder in which every file is listed.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: see `check_replaceable`; raised before anything is
            written.
    """
    path = Path(path)
    check_replaceable(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", dir=path.parent) as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        yield whole
        names = sorted(file.relative_to(whole).as_posix() for file in _files(whole))
        (whole / LIST_NAME).write_text("\n".join([_HEADING, *names]) + "\n", encoding="utf-8")
        sync_to_disk(whole)
        check_replaceable(path, overwrite)  # checked again, because the block may have taken a long time
        if path.exists():
            shutil.move(path, Path(temporary) / "replaced")
        whole.rename(path)
    sync_to_disk(path.parent)


def _read_list(folder: Path) -> set[str]:
    """Return the listed files of a folder. A list may come from strangers, so entries for other places are ignored."""
    try:
        lines = (folder / LIST_NAME).read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise FileExistsError(
            f"'{folder / LIST_NAME}' cannot be read, so nothing there is replaced: {error}"
        ) from error
    return {line for line in lines[1:] if _is_inside(line)} if lines[0] == _HEADING else set()


def _is_inside(name: str) -> bool:
    """Whether a name is a relative path with forward slashes that stays inside a folder."""
    path = PurePosixPath(name)
    unusual = any(character in name for character in "\\\n\r\0")
    return name not in ("", ".") and not (path.is_absolute() or ".." in path.parts or unusual) and str(path) == name


def _files(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder except folders. Symbolic links count as files and are not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted(files + links):
            yield Path(parent) / name


def _foreign(path: Path) -> str:
    """Return the message about a file that this package did not write."""
    return (
        f"'{path}' was not written by efficienttam, so it is not replaced, not even with --overwrite: move it away, or "
        "choose another output."
    )

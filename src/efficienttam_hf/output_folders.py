"""Folders for results: files that this package wrote there may be replaced; other files are never changed.

Every folder of results holds a list, `.efficienttam-files`, of the files that were written there, one relative path a
line; a file is listed before it is made, so that the list is true after any interruption. `--overwrite` removes listed
files and nothing else. Where something that is not listed stands in the way, the command stops before it has done any
work and says what it is. So a folder with a user's own files, a name that leads elsewhere or a symbolic link cost an
error message and no data.

Folders are used in one of two ways. An :class:`OutputFolder` collects files beside whatever else lies there. A
:func:`new_folder` is made whole or not at all and replaces an earlier one only if every file in that is listed.
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
    """Check that a folder can be made, or written to, at a path: before anything is computed for it.

    Raises:
        NotADirectoryError: the path, or a part of it, is a file.
        PermissionError: nothing can be written there.
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
    """A folder that results are written to, beside whatever else lies there.

    Args:
        path: the folder; it need not exist.
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
            names: relative, with forward slashes.
            overwrite: whether what an earlier run wrote there may be replaced.

        Raises:
            FileExistsError: something is there, and it may not be replaced or was not written by this package.
            NotADirectoryError, PermissionError: the folder cannot be made or written to.
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
        """Make the folder, without files or folders of these names: what an earlier run left of them is removed.

        Args and raises as `check`, which comes first: where it fails, nothing has been changed.
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
                with suppress(OSError):  # not empty
                    self._place(folder).rmdir()
        if removed:
            self._rewrite(self.listed - removed)

    def add(self, name: str) -> Path:
        """List a file that is about to be written, and make the folders it lies in.

        A listed file of that name may be there already, to be replaced.

        Args:
            name: relative, with forward slashes.

        Returns:
            The path to write to.

        Raises:
            FileExistsError: a file of that name is there that was not written by this package.
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
        """Remove a listed file, if it is there. The list keeps its name, which may be written again."""
        if name in self.listed:
            self._place(name).unlink(missing_ok=True)

    def discard(self, *folders: str) -> None:
        """Remove the list if no listed file is left, and folders, this one last, as far as they are empty."""
        if not any(os.path.lexists(self._place(file)) for file in self.listed):
            (self.path / LIST_NAME).unlink(missing_ok=True)
            self._listed = None
        for path in (*map(self._place, folders), self.path):
            with suppress(OSError):
                path.rmdir()

    def _place(self, name: str) -> Path:
        if not _is_inside(name):
            raise ValueError(f"{name!r} is not a relative path inside the folder '{self.path}'.")
        return self.path / name

    def _folders(self, name: str) -> list[Path]:
        """The folders inside this one in which a file of this name lies, outermost first."""
        return [self.path / folder for folder in reversed(PurePosixPath(name).parents) if str(folder) != "."]

    def _not_listed(self, name: str) -> Iterator[Path]:
        """What stands at a name, or under it, or in place of a folder above it, and is not ours."""
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
        """Whether a file is what a process that was killed left of a listed one; see `atomic_file`."""
        stem = unfinished_stem(file.name)
        folder = file.parent.relative_to(self.path)
        stems = {path.stem for name in self.listed if (path := PurePosixPath(name)).parent == PurePosixPath(folder)}
        return stem in stems and not file.is_symlink()

    def _rewrite(self, names: set[str]) -> None:
        with atomic_path(self.path / LIST_NAME) as temporary:
            temporary.write_text("\n".join([_HEADING, *sorted(names)]) + "\n", encoding="utf-8")
        self._listed = names


def check_replaceable(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Check that a whole folder can be made at a path, in place of one that this package made, if there is one.

    Raises:
        FileExistsError: there is something that may not be replaced, or that holds files which this package did not
            write.
        NotADirectoryError, PermissionError: no folder can be made there.
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
    """Make a folder whole or not at all: yields a temporary one beside it, moved into place if the block ends well.

    The list of its files is written at the end. A folder that was there before stays as it was if the block raises.

    Args:
        path: the folder to make.
        overwrite: whether it may replace one in which every file is listed.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: as `check_replaceable`, before anything is written.
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
        check_replaceable(path, overwrite)  # once more: making it took a while
        if path.exists():
            shutil.move(path, Path(temporary) / "replaced")
        whole.rename(path)
    sync_to_disk(path.parent)


def _read_list(folder: Path) -> set[str]:
    """The listed files of a folder. A list may come from strangers: what it says of other places does not count."""
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
    path = PurePosixPath(name)
    unusual = any(character in name for character in "\\\n\r\0")
    return name not in ("", ".") and not (path.is_absolute() or ".." in path.parts or unusual) and str(path) == name


def _files(folder: Path) -> Iterator[Path]:
    """All that is not a folder under a folder. Symbolic links count as files and are not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted(files + links):
            yield Path(parent) / name


def _foreign(path: Path) -> str:
    return (
        f"'{path}' was not written by efficienttam, so it is not replaced, not even with --overwrite: move it away, or "
        "choose another output."
    )

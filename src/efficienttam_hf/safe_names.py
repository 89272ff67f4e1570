"""Makes names and texts from data safe to write: in file names, in tables and in Markdown.

A video's name may come from a JSON file, a table on the Hub or a folder that somebody else made. As a path it could
leave the folder of results, in a spreadsheet it could be a formula, and in a report a tag or a table's border.
Code that writes such a name calls this file first; code that opens a file that data names calls
:func:`contained_path`; and messages that quote a value or another library's reason take it from :func:`shown` and
:func:`reason_of`, which bound its length.

Ordinary names come back unchanged, so that archives hold exactly the names that a benchmark's
server expects.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import unicodedata
from pathlib import Path
from typing import Any


__all__ = ["contained_path", "markdown_text", "one_line", "plot_text", "reason_of", "safe_name", "safe_path", "shown"]
__all__ += ["spreadsheet_cell"]

MAX_PART, MAX_PATH = 255, 2048  # characters of a name that is read; file systems allow no longer parts
MAX_NAME_BYTES = 160  # leaves room for a suffix and for the name of a temporary file; most systems allow 255
# Windows' separators count on every system: archives are unpacked there too. Elsewhere, a colon is an ordinary one.
_UNSAFE = re.compile(
    r'[<>"|?*/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]' if os.name != "nt" else r'[<>:"|?*/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]'
)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
MAX_SHOWN = 60  # characters of a value in a message
MAX_REASON = 300  # characters of another library's message
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = MAX_SHOWN
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN = str.maketrans({c: "\\" + c for c in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def safe_name(name: str) -> str:
    """Convert a name from data to the name of one file or folder.

    Separators, control characters, characters that Windows refuses, a leading dot and an excessive length are replaced.
    A name that was changed ends in a digest of the original, so that different names stay different.

    Returns:
        A nonempty name without separators that is neither ``.`` nor ``..`` and is not hidden; `name` itself where it
        is such a name.
    """
    safe = _UNSAFE.sub("_", name)
    if safe.startswith("."):
        safe = "_" + safe[1:]
    if safe.endswith((".", " ")):
        safe = safe[:-1] + "_"
    if _DEVICES.match(safe):
        safe = "_" + safe
    if safe == name and name and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    kept = safe.encode()[: MAX_NAME_BYTES - 11].decode(errors="ignore")
    return f"{kept}-{digest}" if kept else f"unnamed-{digest}"


def safe_path(name: str) -> Path:
    """Turn a name from data into a path: ``subset/video`` keeps its folders, anything else becomes one safe name.

    Returns:
        A relative path, every part of which :func:`safe_name` leaves unchanged. An absolute name, one with ``..`` or
        one with an unsafe part becomes a single file name.
    """
    parts = name.split("/")
    return Path(*parts) if all(safe_name(part) == part for part in parts) else Path(safe_name(name))


def contained_path(folder: str | os.PathLike, name: object, within: str | os.PathLike | None = None) -> Path:
    """Return the path of a file that data names, which must lie in a folder.

    Symbolic links are followed, because only the owner of the folder can make them.

    Args:
        folder: the folder to which names are relative.
        name: the name in the data.
        within: the folder that must not be left; by default `folder`.

    Raises:
        ValueError: if `name` is not text, is empty, absolute or longer than any file's, or leaves the folder by ``..``.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"A file name must be nonempty text, got {shown(name)}.")
    if len(name) > MAX_PATH or any(len(part) > MAX_PART for part in re.split(r"[\\/]", name)):
        raise ValueError(
            f"The file name {shown(name)} is too long: at most {MAX_PART} characters a part and {MAX_PATH} in all are "
            "accepted."
        )
    if os.path.isabs(name) or re.match(r"[A-Za-z]:[\\/]|\\", name):
        raise ValueError(f"The file name {shown(name)} is absolute; a name relative to '{folder}' is accepted.")
    limit = os.path.normpath(folder if within is None else within)
    path = os.path.normpath(os.path.join(folder, name.replace("\\", "/") if os.name == "nt" else name))
    if os.path.commonpath([os.path.abspath(limit), os.path.abspath(path)]) != os.path.abspath(limit):
        raise ValueError(
            f"The file name {shown(name)} leaves the folder '{limit}'; files are read from inside it only."
        )
    return Path(folder) / name


def shown(value: Any) -> str:
    """Format any value for a message: its `repr` on one line, with at most 60 characters.

    Only the shown part is formatted: a nested value of a few bytes of YAML may expand to gigabytes of text.
    """
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # whole numbers of more than 4300 digits have no decimal text
        text = type(value).__name__
    text = one_line(text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def reason_of(error: BaseException) -> str:
    """Format another library's error for a message: on one line, with at most 300 characters.

    Such texts often quote the file at length. Errors without a text give their type's name.
    """
    text = one_line(" ".join(str(error)[:3000].split())) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


def one_line(text: object) -> str:
    """Put a text on one line: line breaks, control characters and direction marks become visible escapes."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Cs") else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def markdown_text(text: object) -> str:
    """Escape a text so that Markdown, with its tables and HTML, shows it unchanged, on one line."""
    return one_line(text).translate(_MARKDOWN)


def markdown_code(value: object) -> str:
    """Format a value as Markdown code on one line, which is also valid in a cell of a table."""
    return f"`{one_line(value).replace('`', chr(39)).replace('|', chr(0xA6))}`"


def markdown_command(command: str) -> str:
    """Format a command line as a Markdown code block that no part of the command can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}"


def plot_text(text: object) -> str:
    """Escape a text for Matplotlib: dollar signs begin no formula; one line of at most 60 characters."""
    line = one_line(text)
    return (line if len(line) <= 60 else f"{line[:57]}...").replace("$", r"\$")


def spreadsheet_cell(value: object) -> object:
    """Convert a value for a CSV file: an apostrophe is put before text that a spreadsheet would read as a formula."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return "'" + text if value.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text

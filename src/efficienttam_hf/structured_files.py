"""Reads JSON and YAML files; every error names the file and the field.

Parsers raise a dozen kinds of errors for damaged or hostile files: numbers that are too large, nesting that is too
deep, text that is not UTF-8. And code that trusts a file's structure raises `KeyError` and `TypeError` far from it.
Here the file is parsed, and :func:`field` and :func:`build` take values out of it with their types checked.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .safe_names import reason_of, shown


__all__ = ["build", "field", "parse_json", "parse_yaml", "read_json", "read_yaml"]

T = TypeVar("T")
MAX_BYTES = 4 * 2**30  # the largest annotation files that are published take less than 1 GB
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def read_json(
    path: str | os.PathLike, *, error: type[ValueError] = ValueError, what: str = "file", max_bytes: int = MAX_BYTES
) -> Any:
    """Read the content of a JSON file.

    Args:
        path: the path of the file, in UTF-8.
        error: the type of the error that is raised if the file is invalid.
        what: a description of the file, for the message.
        max_bytes: larger files are refused without reading them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: (as `error`) if it is not a regular file, too large, not UTF-8 or not JSON. The message names it.
    """
    return parse_json(_read(Path(path), error, what, max_bytes), f"The {what} '{path}'", error=error)


def read_yaml(
    path: str | os.PathLike, *, error: type[ValueError] = ValueError, what: str = "file", max_bytes: int = 64 * 2**20
) -> Any:
    """Read the content of a YAML file, which may be JSON; see :func:`read_json`.

    Raises:
        ImportError: if PyYAML is not installed.
    """
    return parse_yaml(_read(Path(path), error, what, max_bytes), f"The {what} '{path}'", error=error)


def parse_json(text: str | bytes, where: str, *, error: type[ValueError] = ValueError) -> Any:
    """Parse a JSON text; the message of the `error` begins with `where`."""
    collects = gc.isenabled()
    gc.disable()  # it would scan all objects repeatedly, which takes four times as long
    try:
        return json.loads(text)
    except RecursionError as problem:
        raise error(f"{where} is nested too deeply to be read.") from problem
    except (ValueError, OverflowError, MemoryError) as problem:
        raise error(f"{where} is not JSON that can be read: {reason_of(problem)}") from problem
    finally:
        if collects:
            gc.enable()


def parse_yaml(text: str | bytes, where: str, *, error: type[ValueError] = ValueError) -> Any:
    """Parse a YAML text; the message of the `error` begins with `where`."""
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError as problem:
        raise error(f"{where} is nested too deeply to be read.") from problem
    # PyYAML raises plain errors for dates that do not exist, keys that cannot be hashed and numbers that are too large.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as problem:
        raise error(f"{where} is neither YAML nor JSON: {reason_of(problem)}") from problem


def _read(path: Path, error: type[ValueError], what: str, max_bytes: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise error(f"The {what} '{path}' is not a regular file.")
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"The {what} '{path}' has {size} bytes; at most {max_bytes} are accepted.")
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise FileNotFoundError(f"There is no {what} '{path}'.") from problem
    except OSError as problem:
        raise error(f"The {what} '{path}' cannot be read: {problem.strerror or reason_of(problem)}") from problem


_MISSING: Any = object()


def field(
    content: Any,
    name: str | int,
    kind: type | tuple[type, ...],
    where: str,
    *,
    error: type[ValueError] = ValueError,
    default: Any = _MISSING,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """Return a checked value of a mapping (by key) or a list (by number).

    Args:
        content: the parsed mapping or list; anything else is refused.
        name: the key or number of the field.
        kind: the accepted type, or several. ``float`` accepts whole numbers too, ``int`` accepts no bool.
        where: the file and the path to `content` in it, for the message.
        error: the type of the error that is raised.
        default: the value if the field is missing; without a default, a missing field is an error.
        least, most: the bounds of a number.

    Raises:
        ValueError: (as `error`) if the value is missing, of another type, out of bounds, or not finite.
    """
    holder = list if isinstance(name, int) else Mapping
    if not isinstance(content, holder):
        raise error(f"{where} must be {'a list' if holder is list else 'a mapping'}, got {shown(content)}.")
    try:
        value = content[name]  # type: ignore[index]  # `holder` says which of the two it is
    except LookupError as problem:
        if default is not _MISSING:
            return default
        raise error(f"{where} lacks the field {name!r}.") from problem
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if float in kinds and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not any(isinstance(value, k) and not (k in (int, float) and isinstance(value, bool)) for k in kinds):
        expected = " or ".join(_NAMES.get(k, k.__name__) for k in kinds)
        raise error(f"{where}: {name!r} must be {expected}, got {shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where}: {name!r} must be finite, got {value}.")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and ((least is not None and value < least) or (most is not None and value > most)):
        limits = f"at least {least}" if most is None else f"at most {most}" if least is None else f"{least} to {most}"
        raise error(f"{where}: {name!r} must be {limits}, got {shown(value)}.")
    return value


def build(kind: Callable[..., T], content: Any, where: str, *, error: type[ValueError] = ValueError) -> T:
    """Build a dataclass from the mapping in a file, and check the types of all nested fields.

    Unknown fields are refused, because they may have a meaning in a newer version of the package. Nested lists,
    mappings, optional values and dataclasses are checked too.

    Raises:
        ValueError: (as `error`) if a field is invalid; the message names it after `where`.
    """
    if not isinstance(content, Mapping):
        raise error(f"{where} must be a mapping, got {shown(content)}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := [shown(name) for name in content if name not in fields]:
        raise error(f"{where} has the unknown field {', '.join(unknown[:5])}; it may be of another version.")
    for name, f in fields.items():
        if name not in content and f.default is f.default_factory is dataclasses.MISSING:
            raise error(f"{where} lacks the field {name!r}.")
    hints = typing.get_type_hints(kind)
    values = {name: _checked(hints[name], value, f"{where}, {name}", error) for name, value in content.items()}
    try:
        return kind(**values)
    except error:
        raise
    except (ValueError, TypeError, OverflowError) as problem:
        raise error(f"{where}: {reason_of(problem)}") from problem


def _checked(hint: Any, value: Any, where: str, error: type[ValueError]) -> Any:
    """Return the value converted to a declared type, or raise `error`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        for kind in kinds[:-1]:
            try:
                return _checked(kind, value, where, error)
            except error:
                continue
        return _checked(kinds[-1], value, where, error)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, error=error)
    if origin is list:
        items = field({"": value}, "", list, where, error=error)
        return [_checked(arguments[0], item, f"{where}[{i}]", error) for i, item in enumerate(items)]
    if origin is dict:
        items = field({"": value}, "", dict, where, error=error)
        return {k: _checked(arguments[1], item, f"{where}.{k}", error) for k, item in items.items()}
    if hint is float and type(value) is float:
        return value  # scores may be NaN if no frame was judged
    if hint in _NAMES:
        if isinstance(value, bool) != (hint is bool) or not isinstance(value, (int, float) if hint is float else hint):
            raise error(f"{where} must be {_NAMES[hint]}, got {shown(value)}.")
        try:
            return float(value) if hint is float else value
        except OverflowError as problem:
            raise error(f"{where} is a number that is too large.") from problem
    return value

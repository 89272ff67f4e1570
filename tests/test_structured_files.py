"""JSON and YAML that are damaged, hostile or of another structure: one kind of error, which names file and field."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

import pytest

from efficienttam_hf.structured_files import build, field, read_json, read_yaml


class FileError(ValueError):
    pass


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}", b"nul", b'{"a": 1} x'],
    ids=["empty", "cut", "not text", "deep", "large number", "word", "more"],
)
def test_damaged_json_names_its_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileError, match=r"The annotation '.*a\.json'"):
        read_json(tmp_path / "a.json", error=FileError, what="annotation")


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"\xff\xff", b"[" * 20_000, b"a: 2024-99-99", b"? {a: 1}\n: 2", b"a: !!python/object:os.system x", b"\0"],
    ids=["cut", "not text", "deep", "date", "key", "object", "control"],
)
def test_damaged_yaml_names_its_file(tmp_path, content):
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(FileError, match=r"The configuration '.*a\.yaml'"):
        read_yaml(tmp_path / "a.yaml", error=FileError, what="configuration")


def test_what_is_no_regular_file_is_not_read(tmp_path):
    for path in ("/dev/zero", tmp_path):
        with pytest.raises(FileError, match="not a regular file"):
            read_json(path, error=FileError)
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(FileError, match="has 6 bytes; at most 5"):
        read_json(tmp_path / "a.json", error=FileError, max_bytes=5)
    with pytest.raises(FileNotFoundError, match="There is no"):
        read_json(tmp_path / "b.json")


def test_fields_are_checked():
    content = {"n": 3, "x": 2.5, "name": "a", "flag": True, "big": 10**400, "nan": float("nan"), "items": [1]}
    assert field(content, "n", int, "f") == 3 and field(content, "n", float, "f") == 3.0
    assert field(content, "none", int, "f", default=7) == 7 and field(content["items"], 0, int, "f") == 1
    for name, kind, message in [
        ("none", int, "'f' lacks the field 'none'"),
        ("name", int, "'name' must be a whole number, got 'a'"),
        ("flag", int, "'flag' must be a whole number, got True"),
        ("x", int, "'x' must be a whole number"),
        ("big", float, "'big' must be finite"),
        ("nan", float, "'nan' must be finite"),
    ]:
        with pytest.raises(FileError, match=message):
            field(content, name, kind, "'f'", error=FileError)
    with pytest.raises(FileError, match="'n' must be 4 to 9, got 3"):
        field(content, "n", int, "f", error=FileError, least=4, most=9)
    for wrong in (None, 5, "text", [1]):
        with pytest.raises(FileError, match="f must be a mapping"):
            field(wrong, "n", int, "f", error=FileError)


@dataclass
class Inner:
    size: list[int]
    score: float = 0.0


@dataclass
class Outer:
    name: str
    inner: Inner
    many: list[Inner] = dataclass_field(default_factory=list)
    note: str | None = None


def test_dataclasses_are_built_from_what_files_hold():
    made = build(Outer, {"name": "a", "inner": {"size": [1, 2]}, "many": [{"size": [], "score": 1}]}, "f")
    assert made == Outer("a", Inner([1, 2]), [Inner([], 1.0)])
    for content, message in [
        (None, "f must be a mapping"),
        ({"name": "a"}, "f lacks the field 'inner'"),
        ({"name": 1, "inner": {"size": []}}, "f, name must be text, got 1"),
        ({"name": "a", "inner": {"size": ["x"]}}, r"f, inner, size\[0\] must be a whole number"),
        ({"name": "a", "inner": {"size": []}, "new": 1}, "unknown field 'new'"),
        ({"name": "a", "inner": {"size": [], "score": 10**400}}, "too large"),
    ]:
        with pytest.raises(FileError, match=message):
            build(Outer, content, "f", error=FileError)

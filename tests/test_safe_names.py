"""Names and texts from data: they stay inside the folder, and act neither in a spreadsheet nor in a report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from efficienttam_hf.safe_names import (
    contained_path,
    markdown_text,
    one_line,
    plot_text,
    reason_of,
    safe_name,
    safe_path,
    shown,
    spreadsheet_cell,
)


HOSTILE = [
    "..", ".", "", "...", "../../x", "/etc/passwd", "a/../../b", "a\\..\\b", "C:\\x", "a\nb", "a\0b", ".hidden",
    "con", "NUL.txt",
    "x" * 5000, "é" * 300, "a/", "/", "a//b", "<script>", "a|b", "tail.", "tail ", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", ["bmx-trees", "00000", "sav_000001", "my video (2)", "Übung", "12:30:05", "a.b", "猫"])
def test_ordinary_names_stay_as_they_are(name):
    assert safe_name(name) == name and safe_path(name) == Path(name)


def test_folders_within_a_name_stay():
    assert safe_path("train/one/00000") == Path("train/one/00000")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_folder(name, tmp_path):
    for safe in (Path(safe_name(name)), safe_path(name)):
        path = tmp_path / "results" / safe
        assert not safe.is_absolute() and path.resolve().is_relative_to((tmp_path / "results").resolve())
        assert path.resolve() != (tmp_path / "results").resolve() and not path.name.startswith(".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".json").write_text("x")  # a name that file systems take, with room for a suffix


def test_different_names_stay_different():
    assert len({safe_path(name) for name in HOSTILE}) == len(HOSTILE)


def test_files_that_data_names_lie_in_its_folder(tmp_path):
    assert contained_path(tmp_path, "sub/x.jpg") == tmp_path / "sub" / "x.jpg"
    assert contained_path(tmp_path / "val", "../other/x.jpg", within=tmp_path)
    for name in ("../x.jpg", "a/../../x.jpg", "/dev/zero", "C:\\x.jpg", "", None, 5, "a\0b"):
        with pytest.raises(ValueError, match="file name|File name|A file name"):
            contained_path(tmp_path, name)
    with pytest.raises(ValueError, match="leaves the folder"):
        contained_path(tmp_path / "val", "../../x.jpg", within=tmp_path)
    for name in ("x" * 20_000 + ".jpg", "/".join(["long"] * 1000)):
        with pytest.raises(ValueError, match="too long") as refused:
            contained_path(tmp_path, name)
        assert len(str(refused.value)) < 300


def test_formulas_become_text():
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"):
        assert str(spreadsheet_cell(text)).startswith("'")
    assert spreadsheet_cell("bmx-trees") == "bmx-trees" and spreadsheet_cell(-0.5) == -0.5


def test_tags_and_borders_of_tables_are_shown_as_they_are():
    assert markdown_text("<script>a|b</script>") == "&lt;script&gt;a\\|b&lt;/script&gt;"
    assert markdown_text("[x](javascript:y)`") == "\\[x\\](javascript:y)\\`"
    assert one_line("a\r\nb\u202ec\u2028d") == "a\\r\\nb\\u202ec\\u2028d"
    assert markdown_text("bmx-trees_2 (é)") == "bmx-trees_2 (é)"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
def test_dollars_begin_no_formula_in_a_plot():
    assert plot_text("$\\frac$\nx") == r"\$\frac\$\nx"
    assert len(plot_text("x" * 1000)) == 60


def test_atomic_files_reach_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    from efficienttam_hf.atomic_file import atomic_path

    events = []
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with atomic_path(tmp_path / "folder" / "a.txt") as temporary:
        temporary.write_text("x")
    assert events == [temporary.name, "replace", "folder"]


def test_quoted_values_are_short_whatever_they_are():
    nested, shared = [], ["x"]
    for _ in range(60):
        shared = [shared, shared]  # 2**60 texts if all of them were written out
    for _ in range(100_000):
        nested = [nested]
    for value in ("x" * 10_000, "a\nb" * 9_000, shared, nested, 10**5000, dict.fromkeys(range(999), "y" * 999)):
        text = shown(value)
        assert 0 < len(text) <= 60 and len(text.splitlines()) == 1
    assert (shown("clip"), shown(-3), shown([1, "a"])) == ("'clip'", "-3", "[1, 'a']")
    assert len(reason_of(ValueError("x\n" * 9_000))) <= 300 and reason_of(KeyError()) == "KeyError"

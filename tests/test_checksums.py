"""Checksums beside a model's files: what they find, what they refuse, and the command that compares them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from efficienttam_hf.checksums import (
    CHECKSUMS_FILE,
    ChecksumError,
    damaged_files,
    read_checksums,
    verify_folder,
    write_checksums,
)
from efficienttam_hf.cli import main


@pytest.fixture
def folder(tmp_path):
    """A folder of three files, one of them in a subfolder, with their checksums."""
    folder = tmp_path / "model"
    (folder / "state").mkdir(parents=True)
    for name in ("weights", "config.json", "state/average"):
        (folder / name).write_text(f"content of {name}")
    write_checksums(folder)
    return folder


def test_a_folder_as_it_was_written_is_sound(folder):
    assert verify_folder(folder) == 3
    (folder / "notes.txt").write_text("added later, and nobody's business")
    assert verify_folder(folder) == 3


def test_what_was_changed_and_what_is_gone_are_both_named(folder):
    (folder / "weights").write_text("content of weightz")
    (folder / "state" / "average").unlink()
    with pytest.raises(ChecksumError) as caught:
        verify_folder(folder)
    assert f"{folder / 'weights'} is damaged" in str(caught.value)
    assert f"{folder / 'state' / 'average'} is missing" in str(caught.value)
    assert "config.json" not in str(caught.value)


def test_files_that_may_change_are_left_out(folder):
    write_checksums(folder, leave_out=["state/average"])
    (folder / "state" / "average").write_text("changed")
    assert verify_folder(folder) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no checksum\n", b"0" * 64])
def test_a_damaged_file_of_checksums_is_damage(content, folder):
    (folder / CHECKSUMS_FILE).write_bytes(content)
    (problem,) = damaged_files(folder)
    assert CHECKSUMS_FILE in problem and "damaged" in problem


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "state/../../outside", "C:/x", "a\\..\\b"])
def test_a_name_outside_the_folder_is_refused(name, folder):
    (folder / CHECKSUMS_FILE).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ChecksumError, match="outside its folder"):
        read_checksums(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="sha256sum is not there")
def test_sha256sum_reads_the_file_too(folder):
    done = subprocess.run(["sha256sum", "--check", CHECKSUMS_FILE], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_included_model_is_what_was_included(capsys):
    assert main(["verify", "efficienttam-nano"]) == 0
    assert "'efficienttam-nano' is as it was written: 4 files" in capsys.readouterr().out


def test_the_command_names_what_is_wrong_in_one_message(folder, tmp_path, capsys):
    (folder / "weights").write_text("x")
    assert main(["verify", str(folder)]) == 2
    assert str(folder / "weights") in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    assert main(["verify", str(tmp_path / "bare")]) == 2
    assert "no checksums were written with it" in capsys.readouterr().err

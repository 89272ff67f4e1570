"""Only files that this package wrote are ever replaced or removed, in each way in which a folder of results is used."""

import os

import pytest

from efficienttam_hf.output_folders import LIST_NAME, OutputFolder, check_place, check_replaceable, new_folder


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write(folder, *names):
    output = OutputFolder(folder)
    for name in names:
        output.add(name).write_text("ours")


def test_what_was_written_is_replaced_and_what_lies_beside_it_stays(tmp_path):
    write(tmp_path, "masks.json", "masks/v/0.png", "masks/v/1.png")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="masks.json' exists already.*--overwrite"):
        OutputFolder(tmp_path).claim("masks.json", "masks/v")
    OutputFolder(tmp_path).claim("masks.json", "masks/v", overwrite=True)
    assert files(tmp_path) == [LIST_NAME, "thesis.tex"]
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("foreign", ["masks/v/notes.txt", "masks/v/deep/thesis.tex", "masks.json"])
def test_a_file_that_is_not_ours_makes_it_stop_before_anything_is_removed(foreign, tmp_path):
    write(tmp_path, "masks/v/0.png", "overlay.mp4")
    (tmp_path / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / foreign).write_text("mine")
    before = files(tmp_path)
    for act in (OutputFolder(tmp_path).check, OutputFolder(tmp_path).claim):
        with pytest.raises(FileExistsError, match="was not written by efficienttam"):
            act("masks.json", "masks/v", "overlay.mp4", overwrite=True)
    assert files(tmp_path) == before
    if foreign == "masks.json":
        with pytest.raises(FileExistsError, match="was not written by efficienttam"):
            OutputFolder(tmp_path).add("masks.json")


def test_a_removed_name_is_not_ours_any_more(tmp_path):
    write(tmp_path, "masks/0.png", "masks/1.png")
    OutputFolder(tmp_path).claim("masks", overwrite=True)
    write(tmp_path, "masks/0.png")
    (tmp_path / "masks" / "1.png").write_text("mine")
    with pytest.raises(FileExistsError, match="1.png"):
        OutputFolder(tmp_path).claim("masks", overwrite=True)


def test_a_forged_list_reaches_nothing_outside(tmp_path):
    outside, folder = tmp_path / "thesis.tex", tmp_path / "results"
    outside.write_text("mine")
    write(folder, "masks/0.png")
    with (folder / LIST_NAME).open("a") as file:
        file.write(f"masks/../../thesis.tex\n{outside}\n../thesis.tex\n")
    OutputFolder(folder).claim("masks", overwrite=True)
    assert outside.exists() and not (folder / "masks").exists()
    for name in ("../thesis.tex", str(outside), "..", "", "masks/../../x", "a\nb"):
        with pytest.raises(ValueError, match="not a relative path inside"):
            OutputFolder(folder).add(name)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights here")
@pytest.mark.parametrize("link", ["masks", "masks/v"])
def test_links_are_not_followed(link, tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "results"
    (elsewhere / "v").mkdir(parents=True)
    for name in ("0.png", "v/0.png"):
        (elsewhere / name).write_text("mine")
    write(folder, "masks/v/0.png")
    (folder / "masks/v/0.png").unlink()
    (folder / "masks/v").rmdir()
    if link == "masks":
        (folder / "masks").rmdir()
    (folder / link).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(FileExistsError, match="was not written by efficienttam"):
        OutputFolder(folder).claim("masks/v", overwrite=True)
    assert files(elsewhere) == ["0.png", "v/0.png"]


def test_places_where_nothing_can_be_written_are_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="is a file"):
            check_place(path)
    check_place(tmp_path / "new" / "b:c")
    assert not (tmp_path / "new").exists()


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path):
    output = OutputFolder(tmp_path / "out")
    output.claim("masks")
    output.add("masks/0.png")
    output.discard("masks")
    assert not (tmp_path / "out").exists()


def test_a_whole_folder_replaces_only_one_that_was_made_here(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with new_folder(path, overwrite=True) as folder:
            (folder / "weights").write_text(content)
    assert (path / "weights").read_text() == "second"
    with pytest.raises(FileExistsError, match="exists already"), new_folder(path):
        pass
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis.tex' was not written by efficienttam"):
        check_replaceable(path, overwrite=True)
    with pytest.raises(FileExistsError), new_folder(path, overwrite=True):
        pass
    assert (path / "thesis.tex").read_text() == "mine"
    assert files(tmp_path) == ["model/" + name for name in (LIST_NAME, "thesis.tex", "weights")]


def test_what_appears_while_a_folder_is_made_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match="exists already"), new_folder(tmp_path / "model"):
        (tmp_path / "model").mkdir()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

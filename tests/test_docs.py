"""The code blocks of the README, the documents and the model cards, run as a reader would who pastes them one by one.

The blocks of a file share their names, from top to bottom. What they load lies in the folder where they run: a small
random model in a folder `efficienttam_s`, which comes before the published one of that name, small videos, and data
sets of a few frames.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import pytest
from dataset_trees import TREES, davis_tree
from PIL import Image
from reference import save_tiny_model, write_frames

from efficienttam_hf import EfficientTamConfig, video_io
from efficienttam_hf.app.mask_table import write_shard
from efficienttam_hf.cli import build_parser
from efficienttam_hf.hub.model_cards import model_card
from efficienttam_hf.mask_io import encode_rle
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.training.config import load_config


ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """The code blocks of a language: their first line's number, and the code."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


def with_blocks(language: str) -> list:
    """The documents that have a block of a language, as parameters of a test."""
    return [pytest.param(path, id=path.name) for path in DOCUMENTS if blocks(path.read_text("utf-8"), language)]


def run_blocks(text: str, name: str) -> None:
    """Run the Python blocks of a text; a failure shows the line in it."""
    names: dict = {"__name__": "__main__"}
    for line, code in blocks(text, "python"):
        exec(compile("\n" * line + code, name, "exec"), names)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The folder in which blocks run."""
    root = tmp_path_factory.mktemp("reader")
    save_tiny_model(root / "efficienttam_s")
    clip = make_clip(32, 854, 480)
    Image.fromarray(clip.frames[0]).save(root / "truck.jpg")
    Image.fromarray(clip.frames[0]).save(root / "mosaic.tif")
    (root / "my_media").mkdir()
    Image.fromarray(clip.frames[0]).save(root / "my_media" / "photo.jpg")
    for name, count in (("my.mp4", 8), ("cups.mp4", 32)):
        write_frames(root / name, 24, clip.frames[:count])
    folders = {"youtube_vos2019": "YouTubeVOS2019", "mose": "MOSE", "lvos": "LVOS_v2", "folder": "my_videos"}
    for kind in (*folders, "sav_train", "sav_val", "sa1b", "coco"):
        write, _ = TREES[kind]
        write(root / folders.get(kind, kind))
    davis_tree(root / "DAVIS", frames=8)
    shutil.copytree(root / "DAVIS" / "Annotations" / "480p", root / "predictions")
    (root / "DAVIS" / "ImageSets" / "2016").mkdir()
    (root / "DAVIS" / "ImageSets" / "2016" / "val.txt").write_text("cow\n")
    one = {"id": 1, "bbox": [0, 0, 1, 1], "score": 1, "segmentation": encode_rle(clip.masks[0] > 0)}
    results = {
        "video": {"name": "my.mp4", "width": 854, "height": 480, "fps": 24.0},
        "objects": [{"id": 1}],
        "frames": [{"frame": 0, "name": "00000", "objects": [one]}],
    }
    (root / "masks.json").write_text(json.dumps(results))
    (root / "results" / "jobs" / "table").mkdir(parents=True)
    write_shard(root / "results" / "jobs" / "table" / "masks-00000-of-00001.parquet", [("a", root / "masks.json")])
    return root


@pytest.fixture
def reader(files, monkeypatch, tmp_path):
    """In that folder, with a file for a camera and a folder for a place on the Hub."""
    monkeypatch.chdir(files)
    plain = datasets.load_dataset

    def load_dataset(name, split, data_files=None):
        if data_files is not None:
            return plain(name, split=split, data_files=data_files, cache_dir=str(tmp_path / "cache"))
        return datasets.load_from_disk(str(tmp_path / name))

    monkeypatch.setattr(video_io, "open_camera", lambda index: video_io.CameraStream("cups.mp4"))
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda table, name: table.save_to_disk(tmp_path / name))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.slow
@pytest.mark.parametrize("path", with_blocks("python"))
def test_python_blocks_run_from_top_to_bottom(path, reader):
    run_blocks(path.read_text("utf-8"), str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficienttam_s_2", "efficienttam-nano"])
def test_the_examples_of_a_model_card_run(name, reader):
    run_blocks(model_card(name, "efficienttam_s"), f"card of {name}")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("EFFICIENTTAM_MODEL", "efficienttam-nano")  # whatever can be fetched
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells), f"{path.name} is kept without outputs"
    done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [out for cell in done.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 4
    with video_io.open_video(tmp_path / "overlay.mp4") as overlay:
        assert len(overlay) == 24


@pytest.mark.parametrize("path", with_blocks("bash"))
def test_commands_have_the_options_they_are_shown_with(path):
    for line, code in blocks(path.read_text("utf-8"), "bash"):
        for command in code.replace("\\\n", " ").splitlines():
            words = shlex.split(command.replace("X,Y", "480,300"), comments=True)
            scripts = [word for word in words if word.startswith("scripts/")]
            assert all((ROOT / script).is_file() for script in scripts), f"{path.name}, line {line}: {command}"
            if words and words[0].endswith("efficienttam") and words[1].isidentifier() and words[1].islower():
                build_parser().parse_args(words[1:])


@pytest.mark.parametrize("path", with_blocks("yaml"))
def test_configurations_are_ones_that_a_run_takes(path, tmp_path):
    for _, code in blocks(path.read_text("utf-8"), "yaml"):
        (tmp_path / "run.yaml").write_text(code)
        load_config(tmp_path / "run.yaml")


def test_fields_of_the_configuration_that_are_named_are_there():
    config = EfficientTamConfig()
    for path in DOCUMENTS:
        for part, field in re.findall(r"`(\w+_config)\.(\w+)`", path.read_text("utf-8")):
            assert hasattr(getattr(config, part), field), f"{path.name} names {part}.{field}"


def test_links_between_documents_lead_somewhere():
    for path in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_document_is_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [path.name for path in DOCUMENTS[1:] if path.name != "index.md"]  # the start page of the site
    assert [name for name in pages if f"(docs/{name})" not in readme] == []

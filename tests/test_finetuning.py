"""One command from a folder of frames and masks to a fine-tuned model with scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import save_tiny_model, write_davis

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.cli import main
from efficienttam_hf.mask_io import write_indexed_png
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.training.config import ConfigError
from efficienttam_hf.training.finetuning import kind_of, split_videos
from efficienttam_hf.training.losses import LossOptions
from efficienttam_hf.training.models import save_losses


FAST = ["stages.0.batch_size=2", "user.correction_clicks=1", "trackers=[]", "overlay_every=0"]


def write_folder(root: Path, names: list[str], num_frames: int = 5) -> Path:
    """Videos laid out as somebody's own: frames/<video>, masks/<video>."""
    for seed, name in enumerate(names):
        clip = make_clip(num_frames, 96, 64, seed)
        (root / "frames" / name).mkdir(parents=True)
        for i, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
            Image.fromarray(frame).save(root / "frames" / name / f"{i:05d}.jpg")
            write_indexed_png(root / "masks" / name / f"{i:05d}.png", mask.astype("uint8"))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def finetune(data: Path, model: Path, output: Path, *options: str) -> int:
    arguments = [str(data), "--model", str(model), "--output", str(output), "--steps", "2", "--num-frames", "3"]
    return main(["finetune", *arguments, *options, "--set", *FAST])


def test_a_folder_of_videos_becomes_a_model_with_scores(model, tmp_path, capsys):
    data, output = write_folder(tmp_path / "mine", ["a", "b", "c"]), tmp_path / "run"
    assert finetune(data, model, output, "--hold-out", "b") == 0
    scores = json.loads((output / "scores.json").read_text())
    assert list(scores["before"]) == list(scores["after"]) == ["b"]
    assert all(0 <= score <= 100 for part in scores.values() for score in part.values())
    printed, progress = capsys.readouterr()
    assert "scoring before: video 1/1" in progress and "scoring: video 1/1" in progress
    assert f"{scores['before']['b']:.1f}" in printed and f"{scores['after']['b']:.1f}" in printed

    tuned = EfficientTamVideoModel.from_pretrained(output / "last")
    EfficientTamVideoProcessor.from_pretrained(output / "last")
    before = EfficientTamVideoModel.from_pretrained(model).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in tuned.state_dict().items())


def test_it_trains_on_what_is_not_held_back(model, tmp_path):
    data, output = write_davis(tmp_path / "davis", ["a", "b", "c"]), tmp_path / "run"
    (data / "ImageSets" / "2016").mkdir(parents=True)
    assert finetune(data, model, output, "--hold-out", "a") == 0
    config = json.loads((output / "config.json").read_text())
    assert config["data"][0]["kind"] == "davis2016"
    assert config["data"][0]["sequences"] == ["b", "c"]
    assert config["evaluation"]["sequences"] == ["a"]


def test_one_video_is_trained_on_and_not_scored(model, tmp_path, capsys):
    data, output = write_folder(tmp_path / "mine", ["only"]), tmp_path / "run"
    assert finetune(data, model, output) == 0
    assert "too few videos" in capsys.readouterr().out
    assert not (output / "scores.json").exists() and (output / "last" / "model.safetensors").is_file()


def test_a_fifth_of_the_videos_is_held_back_by_default():
    names = [f"v{i}" for i in range(10)]
    training, held_out = split_videos(names, None)
    assert len(held_out) == 2 and sorted(training + held_out) == names
    assert split_videos(["a", "b"], None)[1] in (["a"], ["b"])
    assert split_videos(["a"], None) == (["a"], [])
    assert split_videos(names, ["v3"]) == ([n for n in names if n != "v3"], ["v3"])


def test_what_cannot_be_held_back_is_named():
    with pytest.raises(ConfigError, match="no video zebra .*; there are a, b"):
        split_videos(["a", "b"], ["zebra"])
    with pytest.raises(ConfigError, match="none is left"):
        split_videos(["a", "b"], ["a", "b"])


def test_the_kind_of_a_folder_is_seen_by_its_layout(tmp_path):
    (tmp_path / "JPEGImages" / "480p").mkdir(parents=True)
    assert kind_of(tmp_path) == "davis2017"
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    assert kind_of(tmp_path) == "davis2016"
    assert kind_of(tmp_path / "JPEGImages") == "folder"


def test_bad_data_is_refused_before_anything_is_written(model, tmp_path, capsys):
    data = write_folder(tmp_path / "mine", ["a", "b"])
    Image.new("L", (10, 10)).save(data / "masks" / "a" / "00002.png")
    assert finetune(data, model, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "00002.png" in error and "10x10" in error
    assert not (tmp_path / "run" / "last").exists()
    assert finetune(tmp_path / "nowhere", model, tmp_path / "run") == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_loop_that_the_document_shows_learns_from_a_folder(model, tmp_path, monkeypatch, capsys):
    """The Python block of docs/training.md, with the tiny model in the place of the one that it names."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    write_folder(tmp_path / "my_videos", ["a"])
    shutil.copytree(model, tmp_path / "efficienttam-nano")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "docs/training.md", "exec"), names)
    before = EfficientTamVideoModel.from_pretrained(model).state_dict()
    changed = {name for name, value in names["model"].state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} >= {"vision_encoder", "memory_attention", "memory_encoder"}
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.slow
def test_a_model_is_tuned_with_the_losses_it_was_trained_with(model, tmp_path):
    data, given = write_folder(tmp_path / "mine", ["a", "b"]), shutil.copytree(model, tmp_path / "given")
    save_losses(LossOptions(focal_alpha=0.6), given)
    for start, output in ((given, tmp_path / "first"), (tmp_path / "first" / "last", tmp_path / "second")):
        assert finetune(data, start, output) == 0
        assert json.loads((output / "config.json").read_text())["losses"]["focal_alpha"] == 0.6

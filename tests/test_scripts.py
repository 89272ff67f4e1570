"""The scripts, on local files and a stand-in for the Hub."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from reference import tiny_config

from efficienttam_hf import PRESETS, EfficientTamConfig, checkpoints
from efficienttam_hf.checkpoints import published_layout
from efficienttam_hf.data.layouts.stress import Stress
from efficienttam_hf.evaluation.results import ObjectResult, VideoResult
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_video
from efficienttam_hf.hub_files import Download
from efficienttam_hf.memory_selection import make_strategy


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch):
    """`scripts/convert_published.py`, with the tiny model for every variant."""
    spec = importlib.util.spec_from_file_location("convert_published", ROOT / "scripts" / "convert_published.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(EfficientTamConfig, "from_preset", classmethod(lambda cls, name: tiny_config()))
    return module


@pytest.fixture
def published(tmp_path):
    """A folder with the eight files."""
    folder = tmp_path / "published"
    folder.mkdir()
    for seed, variant in enumerate(PRESETS):
        torch.manual_seed(seed)
        tensors = {name: torch.randn(shape) for name, (_, shape) in published_layout(tiny_config()).items()}
        torch.save({"model": tensors}, folder / f"{variant}.pt")
    return folder


@pytest.mark.slow
def test_all_eight_are_converted_from_a_folder(script, published, tmp_path, capsys):
    assert script.main(["--from-folder", str(published), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(PRESETS)
    checkpoints.publish_checkpoint(tmp_path / "out" / "efficienttam_s_1", tmp_path / "back.pt")
    back = checkpoints.read_published(tmp_path / "back.pt")
    there = checkpoints.read_published(published / "efficienttam_s_1.pt")
    assert all(torch.equal(back[name], tensor) for name, tensor in there.items())
    script.main(["--from-folder", str(published), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.count("is there already") == 8


def test_chosen_ones_are_fetched_from_the_hub(script, published, tmp_path, monkeypatch):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return Download(published / filename, {"repository": repository, "file": filename})

    monkeypatch.setattr(script, "download", download)
    chosen = ["efficienttam_ti", "efficienttam_s_512x512"]
    assert script.main([*chosen, "--out", str(tmp_path / "out")]) == 0
    assert asked == [("yunyangx/efficient-track-anything", f"{variant}.pt") for variant in chosen]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(chosen)


@pytest.mark.slow
def test_one_that_fails_does_not_stop_the_others(script, published, tmp_path, capsys):
    (published / "efficienttam_s.pt").write_bytes(b"cut")
    (published / "efficienttam_ti.pt").unlink()
    assert script.main(["--from-folder", str(published), "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "efficienttam_s: not converted." in out
    assert "efficienttam_ti: not converted. There is no checkpoint file" in out
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_an_unknown_variant_is_refused(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["efficienttam_xl"])
    assert stop.value.code == 2
    assert "there is no variant efficienttam_xl" in capsys.readouterr().err


@pytest.fixture
def measure_memory():
    """`scripts/measure_memory.py`."""
    pytest.importorskip("cv2")
    spec = importlib.util.spec_from_file_location("measure_memory", ROOT / "scripts" / "measure_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_is_measured_as_it_is_evaluated(measure_memory, model, processor):
    record = Stress(size=(96, 160), num_frames=24).record("crossing-0")
    expected = evaluate_video(model, processor, record, RunOptions(memory={"memory_selection": "motion"}, max_frames=6))
    measured = measure_memory.MeasuredModel(model.config).eval()
    measured.load_state_dict(model.state_dict())
    encoded = []
    measured.vision_encoder.register_forward_hook(lambda *_: encoded.append(1))
    candidates = [("motion", {}), ("quality", {"quality_threshold": 0.5}), ("motion", {})]
    found = [measure_memory.measure(measured, processor, record, *candidate, 6) for candidate in candidates]
    assert len(encoded) == 6, "each frame is encoded once for all candidates"
    assert [o.j_and_f for o in found[0].objects] == [o.j_and_f for o in expected.objects]
    assert found[2].objects == found[0].objects and all(result.seconds > 0 for result in found)
    titles = [measure_memory.title(*candidate) for candidate in candidates[:2]]
    lines = measure_memory.compare(
        measured, "stress", {name: [one] for name, one in zip(titles, found, strict=False)}
    ).splitlines()
    assert "| memory | J&F | change | J | F | crossing | s/frame |" in lines
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["`motion`", "`quality quality_threshold=0.5`"]


def test_results_of_a_stopped_run_are_read_again(measure_memory, tmp_path):
    result = VideoResult("crossing-0", 6, 96, 160, 5, 0.5, [ObjectResult(1, [1], [0.5], [0.25], "crossing")])
    assert measure_memory.read(tmp_path / "none") == {}
    (tmp_path / "rows").write_text(json.dumps({"candidate": "motion", "result": result.to_dict()}) + "\n")
    assert measure_memory.read(tmp_path / "rows") == {("crossing-0", "motion"): result}


def test_candidates_are_strategies_with_numbers(measure_memory):
    assert measure_memory.candidate("quality:quality_threshold=0.6") == ("quality", {"quality_threshold": 0.6})
    for name, tried in measure_memory.GRID.items():
        for options in tried:
            make_strategy(name, options)
    with pytest.raises(ValueError, match="no memory selection"):
        measure_memory.candidate("best")

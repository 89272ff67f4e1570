"""`efficienttam evaluate`, from the command line to the report: one model, small datasets."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference import save_model, tiny_config, with_objects

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.cli import main
from efficienttam_hf.evaluation import runner
from efficienttam_hf.evaluation.results import EvaluationResult
from efficienttam_hf.mask_io import write_indexed_png
from efficienttam_hf.memory_selection import strategies
from efficienttam_hf.synthetic_clip import make_clip


SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "evaluate.py"

# The command, whose second video never ends.
STUCK = """
import sys, time
from efficienttam_hf.cli import main
from efficienttam_hf.evaluation import runner
frames_of = runner.frames_of
def slowly(record, max_frames):
    for t, frame in enumerate(frames_of(record, max_frames)):
        if record.video_id == "b" and t == 2:
            time.sleep(600)
        yield frame
runner.frames_of = slowly
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a small model, in which objects are judged present."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = with_objects(EfficientTamVideoModel(tiny_config()))
    save_model(model, folder)
    return folder


@pytest.fixture
def davis(tmp_path):
    """Two sequences in DAVIS's layout, and a list with both."""
    root = tmp_path / "DAVIS"
    for seed, name in enumerate("ab"):
        clip = make_clip(num_frames=4, width=64, height=48, seed=seed)
        frames = root / "JPEGImages" / "480p" / name
        frames.mkdir(parents=True)
        for t in range(4):
            Image.fromarray(clip.frames[t]).save(frames / f"{t:05d}.jpg")
            write_indexed_png(root / "Annotations" / "480p" / name / f"{t:05d}.png", clip.masks[t])
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("a\nb\n")
    return root


@pytest.fixture
def command(model, davis, tmp_path):
    """The start of every command line: the data, the model, where results go."""

    def options(protocol, *more, out="out"):
        places = ["--data", str(davis), "--model", str(model), "--device", "cpu", "--output", str(tmp_path / out)]
        return ["evaluate", protocol, *places, *more]

    return options


def scores(folder):
    result = EvaluationResult.read(folder / "results.json")
    return result.summary, [(video.name, video.objects) for video in result.videos]


def test_davis_from_end_to_end(command, tmp_path, capsys, monkeypatch):
    assert main(command("vos", "--zip")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("davis2017 val mask: J&F ")
    result = EvaluationResult.read(tmp_path / "out" / "results.json")
    assert (result.protocol, result.dataset, result.split, result.convention) == (
        "vos",
        "davis2017",
        "val",
        "davis2017",
    )
    assert [(video.name, len(video.objects)) for video in result.scored] == [("a", 1), ("b", 1)]
    assert f"J&F {100 * result.summary['J&F']:.1f}" in printed
    for name in ("report.md", "scores.csv", "pictures/a.jpg", "predictions/b/00003.png"):
        assert (tmp_path / "out" / name).is_file()
    assert len(zipfile.ZipFile(tmp_path / "out" / "davis2017-val.zip").namelist()) == 8

    # Nothing is tracked a second time.
    monkeypatch.setattr(runner, "evaluate_video", None)
    assert main(command("vos", "--zip")) == 0
    assert main(command("vos", "--prompt", "box")) == 2
    assert "other settings (prompt 'mask', now 'box')" in capsys.readouterr().err


def test_prompts_are_compared(command, tmp_path, capsys):
    assert main(command("prompted-video", "--prompt", "1-click", "box", "--limit", "1", "--max-frames", "3")) == 0
    for prompt in ("1-click", "box"):
        result = EvaluationResult.read(tmp_path / "out" / prompt / "results.json")
        assert (result.protocol, result.prompt, [video.name for video in result.videos]) == (
            "prompted-video",
            prompt,
            ["a"],
        )
    overview = (tmp_path / "out" / "report.md").read_text()
    assert "| 1-click |" in overview
    assert "| box |" in overview


@pytest.mark.slow
def test_memory_strategies_are_compared(model, tmp_path, capsys):
    out = ["--model", str(model), "--device", "cpu", "--output", str(tmp_path / "out"), "--max-frames", "4"]
    stress = ["evaluate", "vos", "--dataset", "stress", "--limit", "2", *out]
    assert main([*stress, "--memory", "all", "--memory-stride", "2", "--memory-option", "quality_threshold=0.5"]) == 0
    table = (tmp_path / "out" / "report.md").read_text()
    assert table in capsys.readouterr().out
    assert "| memory | J&F | change | J | F | occlusion | reentry | s/frame |" in table
    for name in strategies():
        assert f"| `{name}` | " in table
        memory = EvaluationResult.read(tmp_path / "out" / name / "results.json").settings["memory"]
        options = {"quality_threshold": 0.5}
        assert memory == {"memory_selection": name, "memory_options": options, "memory_stride": 2}
    assert main([*stress, "--memory", "recent", "quality", "--memory-option", "quality_threshold=high"]) == 2
    assert "quality_threshold is a number, such as 0.01; got 'high'" in capsys.readouterr().err
    assert main(["evaluate", "prompted-video", "--dataset", "stress", *out, "--memory", "all"]) == 2
    assert "give one --prompt" in capsys.readouterr().err
    assert main(["evaluate", "vos", *out]) == 2
    assert "The dataset's folder is missing: give --data ROOT" in capsys.readouterr().err


def test_images_and_ablations(command, tmp_path, capsys):
    assert main(command("images", "--clicks", "2", "--frames-per-video", "1", out="images")) == 0
    assert "2-click mIoU" in capsys.readouterr().out
    few = ["--ablations", "object-pointers", "--limit", "1", "--max-frames", "3"]
    assert main(command("ablate", *few, out="ablations")) == 0
    assert "| without |" in capsys.readouterr().out


def test_a_bad_video_costs_itself_alone_and_the_exit_code_says_so(command, davis, tmp_path, capsys):
    frame = davis / "JPEGImages" / "480p" / "a" / "00002.jpg"
    intact = frame.read_bytes()
    frame.write_bytes(intact[:300])
    assert main(command("vos", "--zip")) == 1
    printed = capsys.readouterr().out
    assert "left out: a: frame 2, " in printed
    assert "No zip was made" in printed
    assert [name for name, objects in scores(tmp_path / "out")[1] if objects] == ["b"]
    frame.write_bytes(intact)
    assert main(command("vos", "--zip")) == 0
    assert [name for name, objects in scores(tmp_path / "out")[1] if objects] == ["a", "b"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_scores_the_same(command, tmp_path):
    kept = tmp_path / "out" / "videos" / "a.json"
    half = tmp_path / "out" / "predictions" / "b" / "00001.png"
    run = subprocess.Popen([sys.executable, "-c", STUCK, *command("vos", "--save-masks")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not half.is_file():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.kill()
        assert run.wait() == -signal.SIGKILL
    first = kept.read_bytes()
    assert not (tmp_path / "out" / "results.json").exists()
    assert main(command("vos", "--save-masks")) == 0
    assert kept.read_bytes() == first
    assert main(command("vos", "--save-masks", out="whole")) == 0
    assert scores(tmp_path / "out") == scores(tmp_path / "whole")
    assert [path.name for path in sorted(half.parent.iterdir())] == [f"{t:05d}.png" for t in range(4)]


def test_ctrl_c_keeps_what_is_done(command, tmp_path, capsys, monkeypatch):
    plain = runner.evaluate_video

    def interrupted(model, processor, record, options):
        if record.video_id == "b":
            raise KeyboardInterrupt
        return plain(model, processor, record, options)

    monkeypatch.setattr(runner, "evaluate_video", interrupted)
    assert main(command("vos")) == 130
    assert "run the same command again to continue" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["a.json"]


@pytest.mark.slow
def test_two_processes_share_the_videos_and_find_what_one_does(command, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "efficienttam_hf.cli"]
    done = subprocess.run(
        [*launch, *command("vos")], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("davis2017 val mask: J&F") == 1
    assert main(command("vos", out="alone")) == 0
    assert scores(tmp_path / "out") == scores(tmp_path / "alone")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sequences", "a", "dog"], "has no video dog; it has a, b"),
        (["--split", "test"], "has no split 'test'"),
        (["--dataset", "davis2018"], "There is no kind of dataset 'davis2018'"),
        (["--dataset", "mose", "--split", "valid"], "not laid out as MOSE"),
        (["--convention", "best"], "There is no scoring convention 'best'"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--prompt", "scribble"], "invalid choice: 'scribble'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, capsys, more, message):
    assert main(command("vos", *more)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("where", ["..", "JPEGImages", "JPEGImages/480p/a"])
def test_a_root_on_the_wrong_level_is_told_the_right_one(command, davis, capsys, where):
    assert main(command("vos", "--dataset", "davis2017", "--data", str((davis / where).resolve()))) == 2
    assert f"give '{davis}'" in capsys.readouterr().err


def test_the_script_is_the_command(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command("vos", "--limit", "1")[1:]])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["dataset"] == "davis2017"

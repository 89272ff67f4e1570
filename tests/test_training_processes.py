"""Training runs as users start them: the command line, signals, `kill -9`, two processes, shards."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training_runs import (
    at_step,
    largest_difference,
    metrics,
    run_config,
    run_values,
    save_tiny_model,
    single_stage,
    start_run,
    state,
    wait_for,
    weights,
)

from efficienttam_hf.cli import main
from efficienttam_hf.training.config import load_config
from efficienttam_hf.training.loop import train
from efficienttam_hf.training.run_folder import RunFolder


accelerate = pytest.importorskip("accelerate", reason="training needs accelerate")

PATIENCE = 900  # seconds after which a process hangs, however busy the machine is
TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Here and in processes that are started, so that sums are in the same order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", dropout=0.0)


def write_config(path: Path, model: Path, **fields) -> Path:
    path.write_text(yaml.safe_dump(run_values(path.with_suffix(""), model, **fields)))
    return path


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def steps_logged(folder: Path) -> list[int]:
    return [line["step"] for line in metrics(folder) if "loss" in line]


# ------------------------------------------------------------------------------------------------- the command line


def test_the_command_trains_and_says_where_the_model_is(model, tmp_path, capsys, caplog):
    arguments = ["--model", str(model), "--output", str(tmp_path / "run"), "--seed", "3"]
    fields = ["stages.0.steps=2", "stages.0.image_size=64", "stages.0.num_frames=1", "stages.0.batch_size=1"]
    assert main(["train", *arguments, *fields]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"Done: 2 steps. The model is in {tmp_path / 'run' / 'last'}.\n"
    assert "Training in 1 process on " in caplog.text
    assert re.search(r"step 2/2 \[.* clips loss \d+\.\d+ iou \d", captured.err)
    # Nothing of other libraries in between.
    assert not re.search("shards|Loading|Warning|huggingface", captured.err)

    assert main(["train", *arguments, *fields]) == 2
    assert capsys.readouterr().err.startswith(
        f"efficienttam: error: {tmp_path / 'run'} already holds a run of 2 steps. Resume it (`--resume`)"
    )
    assert main(["train", *arguments, *fields, "--resume"]) == 0
    assert "Done: 2 steps" in capsys.readouterr().out


def test_help_names_every_option(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--config FILE", "--resume", "--model NAME", "--output FOLDER", "KEY=VALUE", "accelerate launch"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no configuration. Give --config FILE, or at least --model and --output."),
        (["--config", "nowhere.yaml"], "There is no configuration 'nowhere.yaml'."),
        (["colour=red"], "There is no field 'colour'. The fields are output, model, "),
        (["--output", "run: 1", "--model", "/nowhere"], "`model` '/nowhere' is neither a preset (preset:"),
    ],
)
def test_errors_of_the_user_are_one_message(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"efficienttam: error: {message}")
    assert "Traceback" not in captured.err and not captured.out


def test_the_end_by_a_loss_that_is_no_number_is_one_message(model, tmp_path, capsys, monkeypatch):
    def poison(trainer):
        next(p for p in trainer.tracker.parameters()).data.fill_(float("nan"))

    at_step(monkeypatch, 2, poison)
    config = write_config(tmp_path / "run.yaml", model, stages=single_stage(), checkpoint_every=1)
    assert main(["train", "--config", str(config)]) == 1
    error = capsys.readouterr().err
    assert "efficienttam: error: In step 2 (stage 'clips') the loss is nan" in error
    assert "Traceback" not in error


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_step_and_saves(number, model, tmp_path):
    config = write_config(tmp_path / "run.yaml", model, stages=single_stage(steps=1000), workers=1)
    folder = RunFolder(tmp_path / "run")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs have it
    try:
        process = start_run(config)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: lines_of(folder.path) >= 2, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    (step,) = folder.steps()
    assert f"Stopped after step {step}. {folder.checkpoint(step)} is saved; --resume continues from it." in output
    assert "Traceback" not in output
    assert steps_logged(folder.path) == list(range(1, step + 1))

    process = start_run(config, "--resume")
    wait_for(lambda: lines_of(folder.path) > step, process)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert steps_logged(folder.path) == list(range(1, folder.steps()[-1] + 1))


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_newest_whole_checkpoint(model, tmp_path):
    fields = {"stages": single_stage(steps=5), "checkpoint_every": 1, "ema_decay": 0.9}
    config = write_config(tmp_path / "run.yaml", model, **fields)
    folder = RunFolder(tmp_path / "run")
    for step in (2, 4):
        process = start_run(config, "--resume")
        wait_for(lambda step=step: (folder.unfinished(step) / "training_state").exists(), process)
        process.kill()
        process.communicate()
        assert folder.steps()[-1] in (step - 1, step)
    train(load_config(config), resume=True)
    train(run_config(tmp_path / "unstopped", model, **fields))
    assert metrics(folder.path) == metrics(tmp_path / "unstopped")
    assert largest_difference(state(folder.path), state(tmp_path / "unstopped")) == 0
    assert not list(folder.checkpoints.glob(".*"))


@pytest.mark.slow
def test_a_folder_in_use_is_not_used_by_another_process(model, tmp_path, capsys):
    config = write_config(tmp_path / "run.yaml", model, stages=single_stage(steps=1000))
    process = start_run(config)
    wait_for(lambda: lines_of(tmp_path / "run") >= 1, process)
    assert main(["train", "--config", str(config), "--resume"]) == 2
    assert f"Process {process.pid} is training in {tmp_path / 'run'}. Wait for it" in capsys.readouterr().err
    process.kill()
    process.communicate()


# -------------------------------------------------------------------------------------------------- two processes


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    return output


@pytest.fixture(scope="module")
def in_one_process(model, tmp_path_factory):
    """A run of one process, with all that two are to come to as well."""
    output = tmp_path_factory.mktemp("runs") / "one"
    train(run_config(output, model, **TOGETHER))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    return output


TOGETHER = {"stages": [*single_stage(batch_size=4), *single_stage(batch_size=2, image_size=96)], "ema_decay": 0.9}


def alike(folder: Path, other: Path) -> None:
    """Two runs logged the same and learnt the same, to float error."""
    for line, expected in zip(metrics(folder), metrics(other), strict=True):
        assert line.pop("stage") == expected.pop("stage")
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert largest_difference(weights(folder), weights(other)) < 5e-6  # the rate is 5e-5


@pytest.mark.slow
def test_two_processes_with_half_the_batch_learn_what_one_learns(in_one_process, model, tmp_path):
    config = write_config(tmp_path / "run.yaml", model, **TOGETHER)
    process = start_run(config, launcher=TWO_PROCESSES)
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("Done: 6 steps") == 1 and "Training in 2 processes on cpu" in output
    alike(tmp_path / "run", in_one_process)


@pytest.mark.slow
def test_two_processes_stop_and_resume_together(model, tmp_path):
    fields = {"stages": single_stage(batch_size=4, steps=8), "ema_decay": 0.9}
    unstopped = write_config(tmp_path / "unstopped.yaml", model, **fields)
    finish(start_run(unstopped, launcher=TWO_PROCESSES))
    config = write_config(tmp_path / "run.yaml", model, **fields)
    process = start_run(config, launcher=TWO_PROCESSES)
    wait_for(lambda: lines_of(tmp_path / "run") >= 2, process)
    process.terminate()  # the launcher, which passes it on
    assert "Stopped after step" in finish(process)
    (step,) = RunFolder(tmp_path / "run").steps()
    assert 2 <= step < 8
    finish(start_run(config, "--resume", launcher=TWO_PROCESSES))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unstopped")
    assert largest_difference(state(tmp_path / "run"), state(tmp_path / "unstopped")) == 0


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two(in_one_process, model, tmp_path):
    folder = RunFolder(shutil.copytree(in_one_process, tmp_path / "run", symlinks=True))
    shutil.rmtree(folder.checkpoint(6))
    config = write_config(tmp_path / "run.yaml", model, **TOGETHER)
    process = start_run(config, "--resume", launcher=TWO_PROCESSES)
    assert process.wait(PATIENCE) == 0, process.communicate()[0]
    alike(tmp_path / "run", in_one_process)


POISONED = """
import math, sys, torch
from efficienttam_hf.cli import main
from efficienttam_hf.data import synthetic

class Poisoned(synthetic.SyntheticClips):
    def __getitem__(self, index):
        clip = super().__getitem__(index)
        if index == 6:  # of the second step, and of the second process
            if {raises}:
                raise ValueError("clip 6 is torn")
            clip.frames = torch.full(clip.frames.shape, math.nan)
        return clip

synthetic.SyntheticClips = Poisoned
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("raises", [False, True], ids=["no number", "no clip"])
def test_what_is_wrong_in_one_process_ends_all(raises, model, tmp_path):
    script = tmp_path / "poisoned.py"
    script.write_text(POISONED.format(raises=raises))
    config = write_config(tmp_path / "run.yaml", model, stages=single_stage(batch_size=4), checkpoint_every=1)
    done = subprocess.run(
        [*TWO_PROCESSES, script, "--config", config], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    message = "error: clip 6 is torn" if raises else "the loss is nan"
    assert done.stderr.count(message) == 1
    assert raises or "synthetic clip 6 of seed" in done.stderr
    assert RunFolder(tmp_path / "run").steps() == [1]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_said_once(model, tmp_path):
    config = write_config(tmp_path / "run.yaml", model, stages=single_stage(batch_size=3))
    output = finish(start_run(config, launcher=TWO_PROCESSES))
    assert output.count("`batch_size` (3) of stage 'clips' must be a multiple of the number of processes (2)") == 1


# -------------------------------------------------------------------------------------------------------- shards

# Accelerate offers FSDP on GPUs only. PyTorch's runs on a CPU too, so this tells Accelerate that it was asked for.
SHARDED = """
import sys
from accelerate import state
from accelerate.utils import DistributedType

init = state.AcceleratorState.__init__

def init_sharded(self, *args, fsdp_plugin=None, **kwargs):
    init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    self.__dict__.setdefault("fsdp_plugin", fsdp_plugin)
    self.distributed_type = DistributedType.FSDP

state.AcceleratorState.__init__ = init_sharded
from efficienttam_hf.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["EfficientTamVisionLayer", ""], ids=["by layer", "as one"])
def test_a_sharded_model_learns_what_a_whole_one_learns(layers, in_one_process, model, tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    settings = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP" if layers else "NO_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": layers,
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    config = write_config(tmp_path / "run.yaml", model, **TOGETHER, checkpoint_every=4, keep_checkpoints=9)
    launch = [*TWO_PROCESSES, script, "--config", config]

    def run(*arguments):
        done = subprocess.run(
            [*launch, *arguments], env={**os.environ, **settings}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    run()
    alike(tmp_path / "run", in_one_process)
    folder = RunFolder(tmp_path / "run")
    shards = list((folder.checkpoint(6) / "training_state").glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(shards) == 2
    # Resumed in the middle of the second stage.
    shutil.rmtree(folder.checkpoint(5), ignore_errors=True)
    shutil.rmtree(folder.checkpoint(6))
    run("--resume")
    alike(tmp_path / "run", in_one_process)

"""Training runs in this process: stopped and resumed, in micro-batches, at all precisions, and what ends them."""

import json
import logging
import math
import os
import resource
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import (
    STAGES,
    at_step,
    largest_difference,
    metrics,
    run_config,
    save_tiny_model,
    single_stage,
    state,
    weights,
    write_davis,
)

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.data.synthetic import SyntheticClips
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_videos
from efficienttam_hf.mask_io import write_indexed_png
from efficienttam_hf.training import loop, processes
from efficienttam_hf.training.config import ConfigError
from efficienttam_hf.training.loop import TrainingError, train
from efficienttam_hf.training.run_folder import RunFolder


accelerate = pytest.importorskip("accelerate", reason="training needs accelerate")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model_without_dropout(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", dropout=0.0)


@pytest.fixture(scope="module")
def unstopped(model, tmp_path_factory):
    """A run that never stopped."""
    output = tmp_path_factory.mktemp("runs") / "unstopped"
    train(run_config(output, model, ema_decay=0.9))
    return output


def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)


# --------------------------------------------------------------------------------------------------- stop and resume


@pytest.mark.parametrize(
    ("step", "stage", "workers"),
    [
        pytest.param(1, 0, 0, id="mid-stage", marks=pytest.mark.slow),
        pytest.param(2, 0, 0, id="stage's end", marks=pytest.mark.slow),
        pytest.param(4, 1, 2, id="workers"),
    ],
)
def test_a_resumed_run_is_as_one_that_never_stopped(step, stage, workers, unstopped, model, tmp_path, monkeypatch):
    config = run_config(tmp_path, model, ema_decay=0.9, workers=workers)
    with monkeypatch.context() as patch:
        at_step(patch, step, interrupt)
        result = train(config)
    assert (result.stopped, result.steps) == (True, step)
    progress = json.loads((result.checkpoint / "training_state" / "progress.json").read_text())
    assert (progress["stage"], progress["stage_step"]) == (stage, step - 2 * stage)

    result = train(config, resume=True)
    assert (result.stopped, result.steps) == (False, 5)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert metrics(tmp_path) == metrics(unstopped)
    assert largest_difference(weights(tmp_path), weights(unstopped)) == 0
    assert largest_difference(state(tmp_path), state(unstopped)) == 0


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(unstopped, model, tmp_path, monkeypatch):
    config = run_config(tmp_path, model, ema_decay=0.9, checkpoint_every=3)

    def fail(*_):
        raise RuntimeError("power is off")

    with monkeypatch.context() as patch:
        at_step(patch, 5, fail)
        with pytest.raises(RuntimeError, match="power is off"):
            train(config)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "los')
    train(config, resume=True)
    assert metrics(tmp_path) == metrics(unstopped)
    assert largest_difference(weights(tmp_path), weights(unstopped)) == 0


def test_half_a_checkpoint_does_not_count(unstopped, model, tmp_path):
    shutil.copytree(unstopped, tmp_path / "run", symlinks=True)
    folder = RunFolder(tmp_path / "run")
    newest = folder.checkpoint(5)
    folder.unfinished(6).mkdir()
    shutil.copytree(newest / "training_state", folder.unfinished(6) / "training_state")
    folder.checkpoint(7).mkdir()  # not this program's doing: without progress it is none
    assert folder.steps() == [2, 5]
    result = train(run_config(tmp_path / "run", model, ema_decay=0.9), resume=True)
    assert result.steps == 5 and result.checkpoint == newest
    assert not folder.unfinished(6).exists()


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "truncated":
        content = content[:-10]
    else:
        content = b""
    path.write_bytes(content)


CHECKPOINT_FILES = [
    "model.safetensors",
    "config.json",
    "SHA256SUMS",
    "training_state/model.safetensors",
    "training_state/optimizer.bin",
    "training_state/average.pt",
    "training_state/progress.json",
]


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_damage_to_any_file_of_a_checkpoint_is_found_and_the_file_named(name, unstopped, tmp_path):
    source = RunFolder(unstopped).checkpoint(5)
    folder = RunFolder(tmp_path)
    for how in ("flipped", "truncated", "empty", "missing"):
        shutil.copytree(source, folder.checkpoint(5))
        assert folder.damage(5) == []
        if how == "missing":
            (folder.checkpoint(5) / name).unlink()
        else:
            damage(folder.checkpoint(5) / name, how)
        assert folder.steps() == [5]
        problems = folder.damage(5)
        if name == "SHA256SUMS" and how == "missing":  # as checkpoints of earlier versions are
            assert problems == []
        elif name == "SHA256SUMS":
            assert problems
        else:
            assert len(problems) == 1 and str(folder.checkpoint(5) / name) in problems[0]
        shutil.rmtree(folder.checkpoint(5))


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(
    unstopped, model, tmp_path, caplog
):
    shutil.copytree(unstopped, tmp_path / "run", symlinks=True)
    folder = RunFolder(tmp_path / "run")
    path = folder.checkpoint(5) / "training_state" / "optimizer.bin"
    damage(path, "flipped")
    with caplog.at_level(logging.WARNING):
        result = train(run_config(tmp_path / "run", model, ema_decay=0.9), resume=True)
    assert f"{path} is damaged" in caplog.text
    assert "Going on from the newest intact checkpoint, step 2" in caplog.text
    assert result.steps == 5
    assert metrics(tmp_path / "run") == metrics(unstopped)
    assert largest_difference(state(tmp_path / "run"), state(unstopped)) == 0
    assert (folder.checkpoints / "damaged-step-00000005").is_dir()
    assert os.readlink(tmp_path / "run" / "last") == "checkpoints/step-00000005"


def test_without_an_intact_checkpoint_every_damaged_file_is_named(unstopped, model, tmp_path):
    shutil.copytree(unstopped, tmp_path / "run", symlinks=True)
    folder = RunFolder(tmp_path / "run")
    paths = [folder.checkpoint(step) / "training_state" / "progress.json" for step in folder.steps()]
    for path in paths:
        damage(path, "empty")
    with pytest.raises(TrainingError, match="no checkpoint in it is intact") as caught:
        train(run_config(tmp_path / "run", model, ema_decay=0.9), resume=True)
    assert all(str(path) in str(caught.value) for path in paths)
    assert folder.steps() == [2, 5]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_run_whose_configuration_is_damaged_is_not_resumed(content, unstopped, model, tmp_path):
    shutil.copytree(unstopped, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="config.json cannot be read .*Bring it back from a copy"):
        train(run_config(tmp_path / "run", model, ema_decay=0.9), resume=True)


def test_a_run_that_is_there_is_not_begun_again(unstopped, model):
    before = metrics(unstopped)
    with pytest.raises(ConfigError, match=r"unstopped already holds a run of 5 steps. Resume it \(`--resume`\)"):
        train(run_config(unstopped, model, ema_decay=0.9))
    assert metrics(unstopped) == before


def test_a_second_interrupt_ends_at_once(model, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("efficienttam_hf.training.stopping.time.monotonic", lambda: clock.now)

    def press_thrice(_):
        interrupt()
        interrupt()  # a launcher passes on the same press
        clock.now = 5.0
        interrupt()

    at_step(monkeypatch, 2, press_thrice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(run_config(tmp_path, model, checkpoint_every=1))
    assert signal.getsignal(signal.SIGINT) is before
    assert RunFolder(tmp_path).steps() == [1]


# -------------------------------------------------------------------------------------------------- the run's folder


def test_checkpoints_load_and_track_and_the_folder_can_be_moved(unstopped, model, tmp_path):
    moved = shutil.copytree(unstopped, tmp_path / "moved", symlinks=True)
    assert os.readlink(moved / "last") == "checkpoints/step-00000005"
    tracker = EfficientTamVideoModel.from_pretrained(moved / "last").eval()
    processor = EfficientTamVideoProcessor.from_pretrained(moved / "last")
    assert tracker.config.image_size == 96  # the last stage's
    session = processor.init_video_session(np.full((3, 48, 64, 3), 90, dtype=np.uint8))
    processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[20, 20]]]], input_labels=[[[1]]])
    assert len(list(tracker.propagate_in_video_iterator(session, start_frame_idx=0))) == 3
    # The average is saved, not the weights as they are, which are for resuming.
    average = torch.load(moved / "last" / "training_state" / "average.pt")["shadow"]
    saved = weights(moved)
    assert all(torch.equal(saved[name], value) for name, value in average.items())
    modes = {oct(path.stat().st_mode & 0o777) for path in (moved / "last").rglob("*") if path.is_file()}
    assert modes == {oct((moved / "config.json").stat().st_mode & 0o777)}


@pytest.mark.slow
def test_only_the_newest_checkpoints_and_the_best_are_kept(model, tmp_path, monkeypatch):
    scores = iter([0.3, 0.6, 0.5, 0.4, 0.2])
    monkeypatch.setattr(loop.Trainer, "_evaluate", lambda self: setattr(self, "score", next(scores)))
    data = write_davis(tmp_path / "DAVIS", ["one"])
    evaluation = {"kind": "davis2016", "root": str(data), "every": 1}
    config = run_config(tmp_path / "run", model, keep_checkpoints=2, evaluation=evaluation)
    result = train(config)
    assert (result.score, result.best_score) == (0.2, 0.6)
    assert RunFolder(tmp_path / "run").steps() == [2, 4, 5]
    assert os.readlink(tmp_path / "run" / "best") == "checkpoints/step-00000002"
    assert os.readlink(tmp_path / "run" / "last") == "checkpoints/step-00000005"
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[0].startswith("step-")


def test_a_full_disk_ends_the_run_and_leaves_its_newest_checkpoint(unstopped, model, tmp_path, monkeypatch):
    config = run_config(tmp_path, model, ema_decay=0.9, checkpoint_every=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1])))
        try:
            with pytest.raises(
                OSError, match="Could not write .*.step-00000003: .*whole checkpoint is .*/step-00000002"
            ):
                train(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    assert metrics(tmp_path) == metrics(unstopped)[:3]


@pytest.mark.parametrize("writer", ["safetensors", "torch", "plain"])
def test_each_writer_tells_of_a_full_disk_alike(writer, tmp_path):
    from safetensors.torch import save_file

    folder = RunFolder(tmp_path)
    tensors = {"x": torch.zeros(500_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.unfinished(1).mkdir(parents=True)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        with pytest.raises(OSError, match="Could not write .*step-00000001"), folder.writing(folder.unfinished(1)):
            if writer == "safetensors":
                save_file(tensors, folder.unfinished(1) / "x")
            elif writer == "torch":
                torch.save(tensors, folder.unfinished(1) / "x")
            else:
                (folder.unfinished(1) / "x").write_bytes(bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not folder.unfinished(1).exists()


def test_too_little_space_is_found_out_before_the_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * 2**20))
    with pytest.raises(ConfigError, match=r"has 50 MiB free; the checkpoints of this run need about 99 MiB"):
        train(run_config(tmp_path, model))
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_cannot_be_written_is_found_out_before_the_run(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="Cannot write to the run's folder .*file.*: Not a directory"):
        train(run_config(tmp_path / "file" / "run", model))


# ------------------------------------------------------------------------------------------------------ one step


def first_gradients(output, model, monkeypatch, **fields):
    """Gradients of a run's first step, unclipped, and its numbers."""
    kept = {}
    with monkeypatch.context() as patch:

        def keep(self, *_):
            for name, parameter in self._model().named_parameters():
                kept[name] = torch.zeros(1) if parameter.grad is None else parameter.grad.clone()

        patch.setattr(loop.Trainer, "_check_finite", keep)
        stages = single_stage(steps=1, batch_size=4, **fields.pop("stage", {}))
        train(run_config(output, model, stages=stages, optimizer={"max_grad_norm": 0.0}, **fields))
    return kept, {name: value for name, value in metrics(output)[0].items() if name != "stage"}


@pytest.mark.slow
def test_micro_batches_give_the_gradients_of_the_batch(model_without_dropout, tmp_path, monkeypatch):
    whole, numbers = first_gradients(tmp_path / "whole", model_without_dropout, monkeypatch)
    for size in (1, 2):
        parts, others = first_gradients(
            tmp_path / f"{size}", model_without_dropout, monkeypatch, stage={"micro_batch_size": size}
        )
        scale = max(gradient.abs().max() for gradient in whole.values())
        assert scale > 0.1
        assert largest_difference(whole, parts) < 1e-5 * scale
        assert others == pytest.approx(numbers, rel=1e-4)


@pytest.mark.slow
def test_checkpointed_gradients_are_the_same(model, tmp_path, monkeypatch):
    # With dropout: what is recomputed draws the same.
    kept, numbers = first_gradients(tmp_path / "kept", model, monkeypatch)
    recomputed, others = first_gradients(tmp_path / "recomputed", model, monkeypatch, gradient_checkpointing=True)
    scale = max(gradient.abs().max() for gradient in kept.values())
    assert largest_difference(kept, recomputed) < 1e-5 * scale
    assert others == pytest.approx(numbers, rel=1e-5)


def test_gradients_are_clipped_to_their_norm(model, tmp_path, monkeypatch):
    norms = []

    def keep(self, *_):
        gradients = [p.grad.flatten() for p in self.tracker.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(loop.Trainer, "_check_finite", keep)
    train(run_config(tmp_path, model, stages=single_stage(steps=2), optimizer={"max_grad_norm": 0.25}))
    assert norms == pytest.approx([0.25, 0.25], rel=1e-3)
    assert all(line["grad_norm"] > 1 for line in metrics(tmp_path))


def test_half_precision_computes_nearly_the_same_and_keeps_float32_weights(model, tmp_path):
    stages = single_stage(steps=1)
    train(run_config(tmp_path / "no", model, stages=stages))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    train(run_config(tmp_path / "bf16", model, stages=stages, precision="bf16"))
    (half,), (full,) = metrics(tmp_path / "bf16"), metrics(tmp_path / "no")
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert half["loss"] != full["loss"]
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "bf16").values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
@pytest.mark.parametrize("fast", [False, True])
def test_precision_auto_is_bf16_where_that_is_fast_and_asking_for_it_elsewhere_is_commented(fast, monkeypatch, caplog):
    monkeypatch.setattr(processes, "has_fast_bfloat16", lambda: fast)
    assert processes._precision("auto", on_cpu=True) == ("bf16" if fast else "no")
    assert not caplog.text
    assert processes._precision("bf16", on_cpu=True) == "bf16"
    assert ("no instructions for bfloat16" in caplog.text) is not fast


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only where there is no GPU")
def test_fp16_is_refused_on_a_cpu(model, tmp_path):
    with pytest.raises(ConfigError, match="`precision` fp16 needs a GPU. On a CPU, use bf16 or no."):
        train(run_config(tmp_path, model, precision="fp16"))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"rank": 2}], ids=["frozen", "adapters"])
def test_what_does_not_learn_keeps_its_weights_over_stages(lora, model, tmp_path):
    if lora:
        pytest.importorskip("peft")
    train(run_config(tmp_path, model, freeze=["vision_encoder"], lora=lora, ema_decay=0.5))
    before, after = EfficientTamVideoModel.from_pretrained(model).state_dict(), weights(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("vision_encoder") for name in changed)
    if lora:
        assert all(name.endswith(("proj.weight", "qkv.weight")) for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"rank": 2}], ids=["weights", "adapters"])
def test_a_loss_falls_over_stages(lora, model, tmp_path):
    """The same batch again and again, over two stages: what one has learnt is what the next begins with."""
    if lora:
        pytest.importorskip("peft")
    stage = {"steps": 8, "image_size": 64, "num_frames": 1, "batch_size": 2, "learning_rate": 2e-3, "warmup_steps": 1}
    config = run_config(tmp_path, model, stages=[stage, {**stage, "image_size": 96}], lora=lora)
    train(config)
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert np.mean(losses[-4:]) < np.mean(losses[:2])
    assert losses[8] < losses[0]


# --------------------------------------------------------------------------------------------------- looking on


def test_videos_are_scored_every_so_often_and_the_best_is_kept(model, tmp_path, capsys):
    data = write_davis(tmp_path / "DAVIS", ["one", "two", "three"])
    evaluation = {"kind": "davis2016", "root": str(data), "sequences": ["two", "one"], "every": 2, "max_frames": 4}
    config = run_config(
        tmp_path / "run", model, evaluation=evaluation, overlay_every=2, trackers=["tensorboard"], log_every=2
    )
    pytest.importorskip("tensorboard")
    result = train(config)
    lines = metrics(tmp_path / "run")
    scored = [line for line in lines if "j_and_f" in line]
    assert [line["step"] for line in scored] == [2, 4, 5]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 5]  # the last step as well
    for line in scored:
        assert list(line["videos"]) == ["two", "one"]
        assert 0 < line["j_and_f"] <= 100
        assert line["j_and_f"] == pytest.approx(np.mean(list(line["videos"].values())))
    assert result.score == scored[-1]["j_and_f"]
    assert result.best_score == max(line["j_and_f"] for line in scored)
    best = next(line["step"] for line in scored if line["j_and_f"] == result.best_score)
    assert os.readlink(tmp_path / "run" / "best") == f"checkpoints/step-{best:08d}"
    assert f"J&F {result.score:.1f}" in capsys.readouterr().err

    # What the best checkpoint scores when it is loaded is what was logged.
    tracker = EfficientTamVideoModel.from_pretrained(tmp_path / "run" / "best").eval()
    processor = EfficientTamVideoProcessor.from_pretrained(tmp_path / "run" / "best")
    videos = loop.annotated_videos(config.evaluation)
    again = evaluate_videos(tracker, processor, videos, RunOptions(max_frames=4))
    assert 100 * again.summary["J&F"] == pytest.approx(result.best_score)

    overlays = sorted((tmp_path / "run" / "overlays").iterdir())
    assert [path.name for path in overlays] == ["00000002.png", "00000004.png"]
    assert Image.open(overlays[1]).width > 3 * 96

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 5]
    assert [event.step for event in events.Images("overlays")] == [2, 4]
    assert [event.step for event in events.Scalars("j_and_f")] == [2, 4, 5]
    (parameters,) = (tmp_path / "run" / "tensorboard").glob("*/hparams.yml")
    assert "stages.1.num_frames: 3" in parameters.read_text()


def test_a_tracker_that_is_not_installed_is_named_and_done_without(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with caplog.at_level(logging.WARNING):
        train(run_config(tmp_path, model, stages=single_stage(steps=1), trackers=["wandb"], log_every=10))
    said = "`trackers` names wandb, which is not installed: pip install wandb. Numbers go to metrics.jsonl."
    assert said in caplog.text
    assert [line["step"] for line in metrics(tmp_path)] == [1]  # a run of less than `log_every` steps has a loss


def test_a_launch_that_started_one_process_for_several_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # as `accelerate launch --cpu --num_processes 2` leaves it
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="asked for several processes and started one.*torchrun --nproc-per-node 2"):
        train(run_config(tmp_path, model))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": ["vision_encoders"]}, "Did you mean 'vision_encoder'?"),
        ({"lora": {"rank": 2, "target_modules": ["kkv"]}}, "`lora.target_modules` names 'kkv'"),
        ({"distillation": {"teacher": "/nowhere"}}, "`distillation.teacher` '/nowhere'"),
    ],
)
def test_a_part_or_a_teacher_that_is_not_there_is_found_before_weights_and_videos_are_read(
    fields, message, model, tmp_path, monkeypatch
):
    if "lora" in fields:
        pytest.importorskip("peft")

    def too_early(*_, **__):
        raise AssertionError("read before the configuration was checked")

    monkeypatch.setattr(loop, "load_model", too_early)
    monkeypatch.setattr(loop, "TrainingData", too_early)
    with pytest.raises(ConfigError) as caught:
        train(run_config(tmp_path / "run", model, **fields))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- bad input


class _Poisoned(SyntheticClips):
    """Clip 3 has frames that are not numbers."""

    def __getitem__(self, index):
        clip = super().__getitem__(index)
        if index == 3:
            clip.frames = torch.full(clip.frames.shape, math.nan)
        return clip


def test_a_loss_that_is_no_number_names_the_sample_and_spares_the_weights(model, tmp_path, monkeypatch):
    monkeypatch.setattr("efficienttam_hf.data.synthetic.SyntheticClips", _Poisoned)
    config = run_config(tmp_path, model, stages=single_stage(), checkpoint_every=1)
    with pytest.raises(TrainingError, match="In step 2 .stage 'clips'. the loss is nan") as caught:
        train(config)
    assert "synthetic clip 3 of seed" in str(caught.value)
    assert "synthetic clip 2 of seed" not in str(caught.value)
    assert RunFolder(tmp_path).steps() == [1]
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_a_gradient_that_is_no_number_spares_the_weights_too(model, tmp_path, monkeypatch):
    def poison(trainer):
        parameter = next(p for p in trainer.tracker.parameters() if p.requires_grad)
        parameter.register_hook(lambda gradient: gradient * math.nan)

    at_step(monkeypatch, 2, poison)
    with pytest.raises(TrainingError, match="norm of its gradient nan, with: synthetic clip 2 .*; synthetic clip 3 "):
        train(run_config(tmp_path, model, stages=single_stage(), checkpoint_every=1))
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_made_is_named_without_a_traceback(workers, model, tmp_path, monkeypatch):
    original = SyntheticClips.__getitem__

    def torn(self, index):
        if index == 3:
            raise ValueError("clip 3 is torn")
        return original(self, index)

    monkeypatch.setattr(SyntheticClips, "__getitem__", torn)
    with pytest.raises(ValueError) as caught:
        train(run_config(tmp_path, model, stages=single_stage(), workers=workers, checkpoint_every=1))
    assert str(caught.value) == "clip 3 is torn"
    assert RunFolder(tmp_path).steps() == [1]


@pytest.fixture
def davis(tmp_path):
    return write_davis(tmp_path / "DAVIS", ["one", "two"])


def refused(davis, model, tmp_path, **fields):
    """The message with which a run on these videos is refused."""
    values = {"data": [{"kind": "davis2016", "root": str(davis)}], **fields}
    with pytest.raises(ConfigError) as caught:
        train(run_config(tmp_path / "run", model, **values))
    assert not (tmp_path / "run" / "config.json").exists()
    return str(caught.value)


def test_what_is_wrong_with_a_dataset_is_said_at_once_and_in_full(davis, model, tmp_path):
    frames, masks = davis / "JPEGImages" / "480p", davis / "Annotations" / "480p"
    (frames / "one" / "00001.jpg").write_bytes((frames / "one" / "00001.jpg").read_bytes()[:400])
    write_indexed_png(masks / "two" / "00002.png", np.zeros((10, 10), dtype=np.uint8))
    message = refused(davis, model, tmp_path)
    assert "`data[0]`" in message
    assert str(frames / "one" / "00001.jpg") in message
    assert str(masks / "two" / "00002.png") in message and "10x10" in message


def test_a_frame_that_is_missing_is_named(davis, model, tmp_path):
    (davis / "JPEGImages" / "480p" / "one" / "00002.jpg").unlink()
    assert "one" in refused(davis, model, tmp_path)


def test_a_video_without_objects_is_named(davis, model, tmp_path):
    for path in (davis / "Annotations" / "480p" / "two").iterdir():
        write_indexed_png(path, np.zeros((64, 96), dtype=np.uint8))
    assert "'two' of davis2016 has no object" in refused(davis, model, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": [{"kind": "davis2018", "root": "x"}]}, "`data[0]`: There is no kind of dataset 'davis2018'"),
        ({"data": [{"kind": "davis2016"}]}, "`data[0]` is a dataset of kind 'davis2016', which needs `root`"),
        ({"data": [{"kind": "davis2016", "root": "/nowhere"}]}, "'/nowhere' does not exist"),
        ({"data": [{"options": {"rain": 1}}]}, "rain"),
        ({"data": [{"root": "/nowhere"}]}, "/nowhere"),
        ({"evaluation": {"kind": "davis2016", "root": "/nowhere"}}, "`evaluation`: The dataset folder '/nowhere'"),
        ({"stages": [*STAGES, {"image_size": 100}]}, "`stages[2].image_size`"),
        ({"model": "/nowhere"}, "`model` '/nowhere' is neither a preset"),
        ({"freeze": ["head"]}, "`freeze` names 'head'"),
        ({"trackers": ["paper"]}, "`trackers` names 'paper', which Accelerate does not know. It knows "),
    ],
)
def test_other_things_that_are_wrong_are_named_before_the_first_step(fields, message, model, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(run_config(tmp_path / "run", **{"model": model, **fields}))
    assert message in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_sequences_and_sampling_are_options(davis, model, tmp_path):
    data = [
        {"kind": "davis2016", "root": str(davis), "sequences": ["two"], "weight": 2},
        {"kind": "synthetic", "options": {"options": {"max_untracked": 1}}},
    ]
    data[0]["options"] = {"sampling": {"stride": [1, 1], "augmentation": {"flip_probability": 0.0}}}
    train(run_config(tmp_path / "run", model, data=data, stages=single_stage(steps=2)))
    assert len(metrics(tmp_path / "run")) == 2
    message = refused(davis, model, tmp_path / "other", data=[{**data[0], "sequences": ["three"]}])
    assert "no video three; it has one, two" in message
    data[0]["options"] = {"sampling": {"augmentation": {"flips": 1}}}
    assert "no field 'sampling.augmentation.flips'" in refused(davis, model, tmp_path / "other", data=data)

"""What the tests of training runs share: a tiny model, small videos, configurations, and how two runs are compared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from reference import tiny_config
from safetensors.torch import load_file

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.mask_io import write_indexed_png
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.training import loop
from efficienttam_hf.training.config import TrainingConfig, load_config


ROOT = Path(__file__).resolve().parents[1]
STAGES = [
    {"name": "images", "steps": 2, "image_size": 64, "num_frames": 1, "batch_size": 2},
    {"name": "clips", "steps": 3, "image_size": 96, "num_frames": 3, "batch_size": 2},
]


def save_tiny_model(folder: Path, dropout: float = 0.1) -> Path:
    """A checkpoint of the tiny model, with fresh weights."""
    torch.manual_seed(0)
    config = tiny_config()
    config.memory_attention_config.dropout = config.memory_attention_config.attention_dropout = dropout
    model = EfficientTamVideoModel(config)
    # It takes every object for present, so that its masks are not empty and have some score.
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[-1].bias, 5.0)
    model.save_pretrained(folder)
    EfficientTamVideoProcessor.from_config(config).save_pretrained(folder)
    return folder


def run_values(output: Path, model: Path, **fields: Any) -> dict[str, Any]:
    """A run of five steps in two stages, with few clicks, as plain values."""
    values = {
        "output": str(output),
        "model": str(model),
        "stages": STAGES,
        "user": {"correction_clicks": 1},
        "optimizer": {"max_grad_norm": 1.0},
        "log_every": 1,
        "overlay_every": 0,
        "checkpoint_every": 0,
        "trackers": [],
    }
    return {**values, **fields}


def run_config(output: Path, model: Path, **fields: Any) -> TrainingConfig:
    return load_config(run_values(output, model, **fields))


def single_stage(**fields: Any) -> list[dict[str, Any]]:
    """One stage of short clips."""
    stage = {"name": "clips", "steps": 3, "image_size": 64, "num_frames": 3, "batch_size": 2, "warmup_steps": 1}
    return [{**stage, **fields}]


def write_davis(root: Path, names: list[str], num_frames: int = 5, size: tuple[int, int] = (96, 64)) -> Path:
    """Videos with one object each, laid out as DAVIS 2016."""
    width, height = size
    for seed, name in enumerate(names):
        clip = make_clip(num_frames, width, height, seed)
        for folder in ("JPEGImages", "Annotations"):
            (root / folder / "480p" / name).mkdir(parents=True)
        for i, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
            Image.fromarray(frame).save(root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg")
            write_indexed_png(root / "Annotations" / "480p" / name / f"{i:05d}.png", mask.astype("uint8") * 255)
    return root


def at_step(monkeypatch, step: int, action) -> None:
    """Do something in the middle of the run's `step`-th step, counted from 1."""
    original = loop.Trainer.step

    def patched(self, *args):
        if self.global_step + 1 == step:
            action(self)
        return original(self, *args)

    monkeypatch.setattr(loop.Trainer, "step", patched)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a run's newest checkpoint."""
    return load_file(folder / "last" / "model.safetensors")


def state(folder: Path) -> dict[str, torch.Tensor]:
    """What a run's newest checkpoint would be resumed from: weights, optimizer and running average."""
    folder = folder / "last" / "training_state"
    tensors = dict(load_file(folder / "model.safetensors"))
    for key, moments in torch.load(folder / "optimizer.bin")["state"].items():
        tensors.update({f"optimizer.{key}.{name}": value for name, value in moments.items()})
    if (folder / "average.pt").exists():
        average = torch.load(folder / "average.pt")
        tensors.update({f"average.{name}": value for name, value in average["shadow"].items()})
        tensors["average.updates"] = torch.tensor(average["updates"])
    return tensors


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def start_run(config: Path, *arguments: str, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen:
    """`scripts/train.py` in a process of its own; its output is in one pipe."""
    command = [*launcher, str(ROOT / "scripts" / "train.py"), "--config", str(config), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process: subprocess.Popen, seconds: float = 900) -> None:
    """Wait until something is so while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[0]}"
        if time.monotonic() > end:
            process.send_signal(signal.SIGKILL)
            raise AssertionError(f"waited too long: {process.communicate()[0]}")
        time.sleep(0.005)

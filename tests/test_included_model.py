"""The small model that comes with the package: found by its name, small, and better than methods that learn nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamModel,
    EfficientTamProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
)
from efficienttam_hf.configuration_efficienttam import SMALL_PRESETS
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.evaluation.region_boundary import region_similarity
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_videos
from efficienttam_hf.evaluation.semi_supervised import track
from efficienttam_hf.remote_code import included_checkpoint
from efficienttam_hf.synthetic_clip import make_clip


NAME = "efficienttam-nano"
DAVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "DAVIS"
WARPING_THE_FIRST_MASK = 43.3  # J&F of the first mask, carried on by DIS optical flow, on these sequences


def load() -> tuple[EfficientTamVideoModel, EfficientTamVideoProcessor]:
    model = EfficientTamVideoModel.from_pretrained(NAME).eval()
    return model, EfficientTamVideoProcessor.from_pretrained(NAME)


def test_it_is_found_by_its_name():
    model, processor = load()
    size = model.config.image_size
    assert model.dtype == torch.float32
    assert processor.video_processor.size["height"] == size
    assert EfficientTamModel.from_pretrained(NAME).config.image_size == size
    assert EfficientTamProcessor.from_pretrained(NAME).image_processor.size["height"] == size


def test_it_is_what_its_preset_says():
    config, preset = EfficientTamConfig.from_pretrained(NAME), EfficientTamConfig.from_preset("efficienttam_nano")
    for part in ("vision_config", "mask_decoder_config", "memory_attention_config", "memory_encoder_config"):
        for field in SMALL_PRESETS["efficienttam_nano"][part]:
            assert getattr(getattr(config, part), field) == getattr(getattr(preset, part), field), (part, field)
    assert (config.image_size, config.num_maskmem) == (preset.image_size, preset.num_maskmem)


def test_it_is_small_enough_for_everybody_to_download():
    folder = Path(included_checkpoint(NAME))
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 16 * 2**20


def test_a_folder_of_that_name_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert included_checkpoint(NAME) == NAME
    assert included_checkpoint("somebody/efficienttam-nano") == "somebody/efficienttam-nano"


@pytest.mark.parametrize(("prompt", "least"), [("mask", 0.6), ("box", 0.5), ("1-click", 0.4)])
def test_it_tracks_a_shape_that_it_never_saw(prompt, least):
    model, processor = load()
    clip = make_clip(12, 320, 240, seed=5)
    video = ((frame, {1: mask}) for frame, mask in zip(clip.frames, clip.masks, strict=True))
    scores = [region_similarity(t.predicted[1], t.truth[1]) for t in track(model, processor, video, prompt)]
    assert sum(scores[1:-1]) / 10 > least


@pytest.mark.slow
@pytest.mark.skipif(not DAVIS.is_dir(), reason="needs the DAVIS sequences, which are not part of the project")
def test_it_tracks_real_objects_better_than_optical_flow_does():
    records = load_records("davis2016", DAVIS)
    assert len(records) == 8
    result = evaluate_videos(*load(), records, RunOptions(convention="davis2016"))
    assert 100 * result.summary["J&F"] > WARPING_THE_FIRST_MASK

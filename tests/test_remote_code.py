"""A saved folder works with `trust_remote_code=True` where this package is not installed, and uploads as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reference import tiny_config
from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor
from transformers.dynamic_module_utils import get_relative_import_files

import efficienttam_hf
from efficienttam_hf import (
    EfficientTamImageProcessor,
    EfficientTamProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    EfficientTamVideoVideoProcessor,
    EfficientTamVisionModel,
)
from efficienttam_hf.remote_code import REMOTE_CODE_FILES


# Runs in an interpreter that cannot import the package. Prints the sum of a tracked mask.
STRANGER = """
import sys

sys.modules["efficienttam_hf"] = None
folder = sys.argv[1]

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoProcessor, AutoVideoProcessor, pipeline
)

options = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **options)
assert type(config).__name__ == "EfficientTamConfig" and config.memory_attention_config.memory_size == 16
assert type(AutoImageProcessor.from_pretrained(folder, **options)).__name__ == "EfficientTamImageProcessor"
assert type(AutoVideoProcessor.from_pretrained(folder, **options)).__name__ == "EfficientTamVideoVideoProcessor"
processor = AutoProcessor.from_pretrained(folder, **options)
assert type(processor).__name__ == "EfficientTamVideoProcessor"
assert type(processor.image_processor).__name__ == "EfficientTamImageProcessor"

rng = np.random.default_rng(0)
frames = [Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)) for _ in range(3)]

image_model = AutoModelForMaskGeneration.from_pretrained(folder, **options).eval()
assert type(image_model).__name__ == "EfficientTamModel"
inputs = processor(images=frames[0], input_points=[[[[60, 40]]]], input_labels=[[[1]]], return_tensors="pt")
with torch.no_grad():
    outputs = image_model(**inputs)
assert processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0].shape == (1, 3, 90, 120)

generator = pipeline("mask-generation", model=folder, **options)
found = generator(frames[0], points_per_crop=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
assert set(found) >= {"masks", "scores"}

model = AutoModel.from_pretrained(folder, **options).eval()
assert type(model).__name__ == "EfficientTamVideoModel"
session = processor.init_video_session(video=frames)
processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[60, 40]]]], input_labels=[[[1]]])
tracked = [output.pred_masks for output in model.propagate_in_video_iterator(session)]
assert len(tracked) == 3 and tracked[0].shape == (1, 1, 32, 32)
back = model.propagate_in_video_iterator(session, start_frame_idx=2, reverse=True)
assert [output.frame_idx for output in back] == [2, 1, 0]


class Truncated(list):
    def __getitem__(self, index):
        if index == 2:
            raise IndexError("the file ends here")
        return super().__getitem__(index)


import warnings

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    session = processor.init_video_session(video=Truncated(frames))
    processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[60, 40]]]], input_labels=[[[1]]])
    assert len(list(model.propagate_in_video_iterator(session))) == 2
assert any("Tracking stopped before frame 2" in str(warning.message) for warning in said)

# What was loaded so can be saved so.
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
torch.save(torch.cat(tracked), sys.argv[3])
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small model and its processor, saved."""
    torch.manual_seed(0)
    config = tiny_config()
    EfficientTamVideoModel(config).save_pretrained(tmp_path / "model")
    EfficientTamVideoProcessor.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_stranger(folder: Path, saved: Path, masks: Path, home: Path) -> None:
    """Run `STRANGER` on a folder, with caches in `home` and no network."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith(("HF_", "PYTEST"))}
    # Transformers may itself be on PYTHONPATH; only the package's sources must not be.
    sources = Path(efficienttam_hf.__file__).resolve().parents[1]
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != sources]
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    home.mkdir(exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(saved), str(masks)],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.slow
def test_a_folder_works_without_the_package(folder, tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    run_stranger(folder, tmp_path / "saved again", first, tmp_path / "home")
    run_stranger(tmp_path / "saved again", tmp_path / "saved thrice", second, tmp_path / "other home")
    assert torch.equal(torch.load(first), torch.load(second))


def test_the_code_that_is_shipped_is_all_that_is_needed():
    source = Path(efficienttam_hf.__file__).parent
    needed = set()
    for name in ("modeling_efficienttam_video.py", "processing_efficienttam.py"):
        needed |= {name} | {Path(path).name for path in get_relative_import_files(source / name)}
    assert set(REMOTE_CODE_FILES) == needed


def test_a_folder_names_its_classes(folder):
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_efficienttam.EfficientTamConfig",
        "AutoModel": "modeling_efficienttam_video.EfficientTamVideoModel",
        "AutoModelForMaskGeneration": "modeling_efficienttam.EfficientTamModel",
    }
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": "processing_efficienttam.EfficientTamVideoProcessor"}
    assert processor["image_processor"]["auto_map"] == {
        "AutoImageProcessor": "processing_efficienttam.EfficientTamImageProcessor"
    }
    assert processor["video_processor"]["auto_map"] == {
        "AutoVideoProcessor": "processing_efficienttam.EfficientTamVideoVideoProcessor"
    }
    for name in REMOTE_CODE_FILES:
        assert (folder / name).is_file()


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_the_installed_package_is_preferred_to_the_folders_code(folder, trust_remote_code):
    options = {} if trust_remote_code is None else {"trust_remote_code": trust_remote_code}
    assert type(AutoProcessor.from_pretrained(folder, **options)) is EfficientTamVideoProcessor
    assert type(AutoImageProcessor.from_pretrained(folder, **options)) is EfficientTamImageProcessor
    assert type(AutoVideoProcessor.from_pretrained(folder, **options)) is EfficientTamVideoVideoProcessor


def test_the_image_models_processor_loads_through_its_auto_class(tmp_path):
    EfficientTamProcessor.from_config(tiny_config()).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is EfficientTamProcessor


def test_saving_what_was_loaded_changes_nothing(folder, tmp_path):
    processor = EfficientTamVideoProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "processor_config.json").read_text()
    assert json.loads(again) == json.loads((folder / "processor_config.json").read_text())


# ------------------------------------------------------------------------------------------------------- uploading


@pytest.fixture
def uploads(monkeypatch):
    """The Hub, stood in for: repository names to the names of the files that were uploaded to them."""
    uploaded: dict[str, set[str]] = {}

    def create_repo(api, repo_id, **kwargs):
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(api, repo_id, operations, **kwargs):
        uploaded.setdefault(repo_id, set()).update(operation.path_in_repo for operation in operations)

    def create_card(*args, **kwargs):
        return SimpleNamespace(save=lambda path: Path(path).write_text("# A card"))

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", create_commit)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", create_card)
    monkeypatch.setattr("transformers.modeling_utils.create_and_tag_model_card", create_card)
    return uploaded


def savable() -> dict[str, tuple]:
    """What a user can save or upload, and the files of its own that it makes."""
    config = tiny_config()
    processor = EfficientTamVideoProcessor.from_config(config)
    return {
        "config": (config, {"config.json"}),
        "model": (EfficientTamVideoModel(config), {"config.json", "model.safetensors"}),
        "vision model": (EfficientTamVisionModel(config.vision_config), {"config.json", "model.safetensors"}),
        "processor": (processor, {"processor_config.json"}),
        "image processor": (processor.image_processor, {"preprocessor_config.json"}),
        "video processor": (processor.video_processor, {"video_preprocessor_config.json"}),
    }


@pytest.mark.parametrize("kind", ["config", "model", "vision model", "processor", "image processor", "video processor"])
def test_push_to_hub_uploads_what_save_pretrained_writes(kind, uploads, tmp_path):
    thing, files = savable()[kind]
    thing.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == files | set(REMOTE_CODE_FILES)

    thing.push_to_hub("someone/pushed")
    assert uploads["someone/pushed"] - {"README.md"} == files | set(REMOTE_CODE_FILES)

    thing.save_pretrained(str(tmp_path / "both"), push_to_hub=True, repo_id="someone/saved-and-pushed")
    assert uploads["someone/saved-and-pushed"] - {"README.md"} == files | set(REMOTE_CODE_FILES)

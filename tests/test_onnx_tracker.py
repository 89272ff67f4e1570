"""The tracker on exported graphs: torch's masks without torch, in every way of prompting, and on real videos."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees import davis_tree
from reference import (
    SHARED,
    VideoSuite,
    build_folder,
    compare,
    lively_model,
    load_frames,
    load_models,
    load_suites,
    write_frames,
)

from efficienttam_hf import EfficientTamModel, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.synthetic_clip import make_clip


pytest.importorskip("onnxscript", reason="exporting needs the extra: pip install efficienttam-hf[export]")

from efficienttam_hf.export.exporting import export_onnx  # noqa: E402
from efficienttam_hf.export.onnx_segmenter import OnnxImageSegmenter  # noqa: E402
from efficienttam_hf.export.onnx_tracker import OnnxVideoTracker  # noqa: E402


ROOT = Path(__file__).resolve().parents[1]
CLIP = make_clip(6, 96, 64)

# Tracks a clip where torch and transformers cannot be imported. Arguments: the exported folder, the clip, the masks.
STRANGER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers", "huggingface_hub", "safetensors", "tqdm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
import efficienttam_hf
from efficienttam_hf.export.onnx_tracker import OnnxVideoTracker

tracker = OnnxVideoTracker(sys.argv[1], num_threads=1)
session = tracker.init_video_session(np.load(sys.argv[2]))
tracker.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[24, 38]]]], input_labels=[[[1]]])
np.save(sys.argv[3], [output.pred_masks for output in tracker.propagate_in_video_iterator(session)])
assert not any(name.startswith(("torch", "transformers")) for name in sys.modules)
try:
    efficienttam_hf.EfficientTamVideoModel
except ImportError as error:
    assert "needs t" in str(error), error  # torch, or transformers, whichever is looked for first
"""


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module")
def tracker(exported):
    return OnnxVideoTracker(exported, num_threads=1)


def tracked(model, processor, prompt, **propagation) -> list:
    """The outputs of a clip with three objects: prompted by `prompt`, a box, and a mask; the last one late."""
    session = processor.init_video_session(video=list(CLIP.frames))
    processor.add_inputs_to_inference_session(session, 0, [1, 5], **prompt)
    processor.add_inputs_to_inference_session(session, 2, 7, input_masks=CLIP.masks[2])
    outputs = list(model.propagate_in_video_iterator(session, **propagation))
    # A correction of a tracked frame, and on from there.
    processor.add_inputs_to_inference_session(session, 3, 1, input_points=[[[[30, 30]]]], input_labels=[[[0]]])
    outputs.append(model(session, frame_idx=3))
    return outputs + list(model.propagate_in_video_iterator(session, start_frame_idx=3, reverse=True))


CLICKS = {"input_points": [[[[24, 38]], [[50, 30]]]], "input_labels": [[[1], [1]]]}
BOXES = {"input_boxes": [[[10, 25, 40, 50], [40, 20, 60, 40]]]}


@pytest.mark.parametrize("prompt", [CLICKS, BOXES, CLICKS | BOXES], ids=["clicks", "boxes", "both"])
def test_objects_are_tracked_as_with_torch(model, processor, tracker, prompt):
    ours, expected = tracked(tracker, tracker, prompt), tracked(model, processor, prompt)
    assert [o.frame_idx for o in ours] == [o.frame_idx for o in expected]
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.object_ids == theirs.object_ids == [1, 5, 7]
        for name in ("pred_masks", "object_score_logits", "iou_scores", "object_pointer"):
            value = getattr(theirs, name).numpy()
            assert getattr(mine, name).dtype == np.float32
            np.testing.assert_allclose(getattr(mine, name), value, atol=2e-3 * max(1, np.abs(value).max()))


def test_a_stream_is_tracked_as_the_same_video(tracker):
    outputs = {}
    for name in ("video", "stream"):
        session = tracker.init_video_session(CLIP.frames if name == "video" else None)
        tracker.add_inputs_to_inference_session(session, 0, 1, **one(CLICKS), original_size=(64, 96))
        if name == "video":
            outputs[name] = list(tracker.propagate_in_video_iterator(session))
        else:
            outputs[name] = [tracker(session, frame=frame) for frame in CLIP.frames]
    for a, b in zip(*outputs.values(), strict=True):
        np.testing.assert_array_equal(a.pred_masks, b.pred_masks)


def one(prompt: dict) -> dict:
    return {name: [values[0][:1]] for name, values in prompt.items()}


def test_masks_come_at_the_size_of_the_video(processor, tracker):
    logits = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)
    (ours,) = tracker.post_process_masks([logits], [(64, 96)], binarize=False)
    (expected,) = processor.post_process_masks([torch.from_numpy(logits)], [(64, 96)], binarize=False)
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)
    assert tracker.post_process_masks([logits], [(64, 96)])[0].dtype == bool


@pytest.mark.parametrize("several", [True, False])
def test_images_are_segmented_as_with_torch(model, processor, exported, several):
    image_model = EfficientTamModel(model.config).eval()
    image_model.load_state_dict(model.state_dict(), strict=False)
    prompt = {"input_points": [[[[24, 38], [60, 20]], [[50, 30]]]], "input_labels": [[[1, 0], [1]]]}
    inputs = processor(images=CLIP.frames[0], return_tensors="pt", **prompt)
    with torch.no_grad():
        expected = image_model(**{k: v for k, v in inputs.items() if "sizes" not in k}, multimask_output=several)
    output = OnnxImageSegmenter(exported, num_threads=1)(CLIP.frames[0], multimask_output=several, **prompt)
    for name in ("iou_scores", "pred_masks", "object_score_logits"):
        np.testing.assert_allclose(getattr(output, name), getattr(expected, name).numpy(), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_points": [[[[500, 1]]]], "input_labels": [[[1]]]}, "outside the frame"),
        ({"input_points": [[[[5, 1]]]]}, "input_points and input_labels must be provided together"),
        ({"input_points": [[5, 1]], "input_labels": [[1]]}, "nested as|does not match"),
        ({"input_boxes": [[[5, 1, 2, 3]]]}, "empty"),
        ({"input_masks": np.zeros((64, 96))}, "empty"),
        ({"input_masks": np.ones((2, 2))}, "the frame is 96x64"),
        ({}, "There is no prompt"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tracker, options, message):
    session = tracker.init_video_session(CLIP.frames)
    with pytest.raises(ValueError, match=message):
        tracker.add_inputs_to_inference_session(session, 0, 1, **options)
    assert session.obj_ids == []


def test_tracking_needs_no_torch(exported, tracker, tmp_path):
    np.save(tmp_path / "clip.npy", CLIP.frames)
    arguments = [str(exported), str(tmp_path / "clip.npy"), str(tmp_path / "masks.npy")]
    result = subprocess.run([sys.executable, "-c", STRANGER, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    session = tracker.init_video_session(CLIP.frames)
    tracker.add_inputs_to_inference_session(session, 0, 1, **one(CLICKS))
    expected = [output.pred_masks for output in tracker.propagate_in_video_iterator(session)]
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), expected)


def test_an_export_is_scored_as_its_model(model, processor, exported, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    main = runpy.run_path(str(ROOT / "scripts" / "evaluate_exported.py"))["main"]
    data = davis_tree(tmp_path / "DAVIS", frames=5)
    assert main([str(exported), "--model", str(tmp_path / "model"), "--data", str(data), "--prompt", "box"]) == 0
    (_, torchs), (name, ours) = (
        (cells[1], [float(cell) for cell in cells[2:5]])
        for cells in (re.split(r" *\| *", line) for line in capsys.readouterr().out.splitlines()[2:])
    )
    assert name == exported.name
    assert 0 < torchs[0] < 100
    np.testing.assert_allclose(ours, torchs, atol=0.5)


# ------------------------------------------------------------------------------------------------------ slow tests


@pytest.mark.slow
def test_tracking_runs_where_only_onnxruntime_numpy_and_pillow_are_installed(exported, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime", "pillow"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(ROOT)], check=True)
    np.save(tmp_path / "clip.npy", CLIP.frames)
    arguments = [str(exported), str(tmp_path / "clip.npy"), str(tmp_path / "masks.npy")]
    result = subprocess.run([python, "-c", STRANGER, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "masks.npy").shape == (6, 1, 1, 32, 32)


VIDEO_SUITES = [suite for suite in load_suites("tiny.json") if suite["kind"] == "video"]


@pytest.mark.parametrize("name", ["skip_absent", "quality", "motion", "distractor_aware", "hypotheses"])
def test_memories_are_selected_as_with_torch(model, processor, tracker, name):
    options = {"stable_frames": 2, "motion_weight": 0.9, "quality_threshold": 0.5}
    outputs = []
    for tracks, sessions in ((model, processor), (tracker, tracker)):
        session = sessions.init_video_session(
            list(CLIP.frames) * 3, memory_selection=name, memory_options=options, keep_history=False
        )
        sessions.add_inputs_to_inference_session(session, 0, [1, 5], **CLICKS)
        outputs.append(list(tracks.propagate_in_video_iterator(session)))
    for torchs, ours in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours.pred_masks, torchs.pred_masks.numpy(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("competition", ["shown", "remembered"])
def test_objects_compete_as_with_torch(model, processor, tracker, competition):
    outputs = []
    for tracks, sessions in ((model, processor), (tracker, tracker)):
        session = sessions.init_video_session(list(CLIP.frames), object_competition=competition)
        sessions.add_inputs_to_inference_session(session, 0, [1, 5], **CLICKS)
        outputs.append(list(tracks.propagate_in_video_iterator(session)))
    for torchs, ours in zip(*outputs, strict=True):
        # Where two logits are equal but for rounding, a pixel may go to the other object.
        assert (np.isclose(ours.pred_masks, torchs.pred_masks.numpy(), rtol=1e-2, atol=1e-2)).mean() > 0.98
        if ours.frame_idx:
            assert ((ours.pred_masks[:, 0] > 0).sum(axis=0) <= 1).all()


@pytest.fixture(scope="module")
def suite_models(tmp_path_factory):
    """For each kind of attention of the reference suites: the model, its processor and the tracker on its graphs."""
    made, root = {}, tmp_path_factory.mktemp("suites")

    def models_for(suite):
        key = suite["attention"]
        if key not in made:
            _, model, processor = load_models(build_folder(suite, root / key))
            export_onnx(model, root / f"{key}_onnx", key)
            made[key] = model, processor, OnnxVideoTracker(root / f"{key}_onnx", num_threads=1)
        return made[key]

    return models_for


@pytest.mark.slow
@pytest.mark.parametrize("suite", VIDEO_SUITES, ids=lambda suite: suite["name"])
def test_a_reference_suite_gives_torchs_masks(suite, suite_models):
    model, processor, tracker = suite_models(suite)
    frames = load_frames(suite)
    expected = VideoSuite(model, processor, suite, frames).run()
    result = compare(VideoSuite(tracker, tracker, suite, frames).run(), expected)
    assert result["sign"] > 0.999, result
    assert result["median"] < 1e-3, result


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999), ("float16", 0.99), ("int8", 0.98)])
def test_the_included_model_tracks_a_real_video_as_with_torch(dtype, least, tmp_path):
    if not (SHARED / "data" / "videos" / "dog.mp4").is_file():
        pytest.skip("the test videos are not here (they lie in ../shared/data/videos beside some checkouts)")
    from efficienttam_hf.video_io import open_video

    model = EfficientTamVideoModel.from_pretrained("efficienttam-nano").eval()
    processor = EfficientTamVideoProcessor.from_pretrained("efficienttam-nano")
    export_onnx(model, tmp_path / "out", "efficienttam-nano", dtype)
    tracker = OnnxVideoTracker(tmp_path / "out")
    with open_video(SHARED / "data" / "videos" / "dog.mp4") as video:
        frames = [video[i] for i in range(30)]
    masks = []
    for runner, preparer in ((model, processor), (tracker, tracker)):
        session = preparer.init_video_session(video=frames)
        height, width = frames[0].shape[:2]
        preparer.add_inputs_to_inference_session(
            session, 0, 1, input_points=[[[[width / 2, height / 2]]]], input_labels=[[[1]]]
        )
        outputs = [output.pred_masks for output in runner.propagate_in_video_iterator(session)]
        masks.append(np.stack([np.asarray(preparer.post_process_masks([m], [(height, width)])[0]) for m in outputs]))
    assert (masks[0] == masks[1]).mean() > least
    assert masks[0].any()


@pytest.mark.slow
def test_the_documented_code_runs(exported, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano-onnx").symlink_to(exported)
    clip = make_clip(4, 640, 480)
    Image.fromarray(clip.frames[0]).save("truck.jpg")
    write_frames("my.mp4", 24, clip.frames)
    text = (ROOT / "docs" / "export.md").read_text()
    for code in re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(code, {})


def test_a_reference_image_gives_the_masks_of_torch(model, tracker):
    processor = EfficientTamVideoProcessor.from_config(model.config)
    found = []
    for library in (processor, tracker):
        session = library.init_video_session(CLIP.frames[1:])
        library.add_reference_to_session(session, CLIP.frames[0][:, :80], CLIP.masks[0][:, :80], 1)
        runs = model if library is processor else tracker
        found.append([np.asarray(output.pred_masks) for output in runs.propagate_in_video_iterator(session)])
    assert len(found[0]) == len(CLIP.frames) - 1
    for torch_masks, onnx_masks in zip(*found, strict=True):
        np.testing.assert_allclose(onnx_masks, torch_masks, atol=2e-2)

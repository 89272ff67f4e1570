"""Detectors of Transformers, as tiny random models saved locally, and `efficienttam track` with them."""

import json

import numpy as np
import pytest
import torch
from reference import save_model, tiny_config, with_objects, write_frames
from tiny_detectors import save_grounding_dino, save_owlvit, save_yolos

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.app.finding import find_on_frame
from efficienttam_hf.cli import main
from efficienttam_hf.discovery import Detection, DetectionError, FinderOptions, load_detector, transformers_detectors
from efficienttam_hf.discovery.track_book import MatchRules
from efficienttam_hf.synthetic_clip import make_clip


pytest.importorskip("av", reason="the command line reads and writes video files with PyAV")
pytest.importorskip("cv2", reason="the command line draws with OpenCV")
pytest.importorskip("pycocotools", reason="the command line writes run-length masks with pycocotools")

CLIP = make_clip(6, 96, 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with tiny models: detectors, and the tracker."""
    root = tmp_path_factory.mktemp("models")
    found = {
        "yolos": save_yolos(root / "yolos"),
        "owlvit": save_owlvit(root / "owlvit"),
        "dino": save_grounding_dino(root / "dino"),
    }
    torch.manual_seed(0)
    save_model(with_objects(EfficientTamVideoModel(tiny_config())), root / "tracker")
    write_frames(root / "clip.mp4", 12, CLIP.frames, crf=1)
    return found | {"tracker": str(root / "tracker"), "clip": str(root / "clip.mp4"), "root": root}


# ------------------------------------------------------------------------------------------------------- detectors


@pytest.mark.parametrize("name", ["owlvit", "dino"])
def test_a_model_for_texts_finds_them_through_the_real_pipeline(folders, name):
    detector = load_detector(folders[name], ["a Red dog", "ball"], threshold=0.0)
    found = detector(CLIP.frames[0])
    assert found and {d.label for d in found} <= {"a Red dog", "ball"}
    assert all(isinstance(d, Detection) and len(d.box) == 4 and 0 <= d.score <= 1 for d in found)
    assert "'a Red dog', 'ball' with a score of at least 0" in detector.looks_for
    assert load_detector(folders[name], ["ball"]).threshold == 0.3


def test_grounding_dino_is_asked_in_lower_case_with_a_full_stop(folders, monkeypatch):
    detector = load_detector(folders["dino"], ["A Dog", "ball."])
    asked = []
    monkeypatch.setattr(
        detector, "pipeline", lambda image, candidate_labels, threshold: asked.append(candidate_labels) or []
    )
    assert detector(CLIP.frames[0]) == [] and asked == [["a dog.", "ball."]]


def test_a_model_with_classes_finds_all_of_them_or_those_that_are_named(folders):
    detector = load_detector(folders["yolos"], threshold=0.0)
    assert {d.label for d in detector(CLIP.frames[0])} <= {"cat", "dog", "remote"}
    seen = {d.label for d in detector(CLIP.frames[0])}
    only = load_detector(folders["yolos"], [next(iter(seen)).upper()], threshold=0.0)
    assert {d.label for d in only(CLIP.frames[0])} == {next(iter(seen)).upper()}
    with pytest.raises(DetectionError, match="3 classes, and 'dgo' is none of them; did you mean dog"):
        load_detector(folders["yolos"], ["dgo"])


def test_a_text_that_is_too_long_for_the_model_is_an_error_of_one_line(folders):
    with pytest.raises(DetectionError, match="The detector .* failed on a frame of 96x64 pixels: ") as error:
        load_detector(folders["owlvit"], ["abcdefghijklmnop qrstuvwxyz abcdefghijklmn"])(CLIP.frames[0])
    assert "\n" not in str(error.value)


def test_what_is_no_detector_is_refused_by_name(folders, tmp_path):
    with pytest.raises(DetectionError, match="no config.json"):
        load_detector(str(tmp_path), ["a dog"])
    with pytest.raises(DetectionError, match="no id on the Hub"):
        load_detector("no/such/folder", ["a dog"])
    with pytest.raises(DetectionError, match="detects no objects"):
        load_detector(folders["tracker"], ["a dog"])
    with pytest.raises(DetectionError, match="no text was given"):
        load_detector(folders["owlvit"])
    with pytest.raises(DetectionError, match="from 0 to 1"):
        load_detector(folders["yolos"], threshold=float("nan"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DetectionError, match="cannot be loaded: ") as error:
        load_detector(str(tmp_path), ["a dog"])
    assert "\n" not in str(error.value)


def test_a_detector_that_cannot_be_fetched_is_taken_from_the_cache_or_refused_at_once(folders, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(transformers_detectors, "file_answers", lambda name, file: "the Hub did not answer.")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    with pytest.raises(
        DetectionError, match="'IDEA-Research/grounding-dino-tiny' is not here and cannot be fetched"
    ) as error:
        load_detector(None, ["a dog"])
    assert "hf download IDEA-Research/grounding-dino-tiny" in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: folders["dino"] + "/config.json")
    assert load_detector(None, ["a dog"]).texts == ["a dog"]


def test_one_call_finds_the_objects_of_a_frame_and_the_prompts_that_give_them(folders):
    model = EfficientTamVideoModel.from_pretrained(folders["tracker"]).eval()
    processor = EfficientTamVideoProcessor.from_pretrained(folders["tracker"])
    mask = CLIP.masks[0]
    known = [Detection((10, 10, 40, 50), "shape", 0.9, mask), Detection((60, 2, 90, 20), "box", 0.4)]
    done, prompts, found = find_on_frame(model, processor, CLIP.frames[0], lambda frame: known)
    assert [(one.object_id, one.label) for one in found][0] == (1, "shape")
    assert done.object_ids == list(prompts) == [one.object_id for one in found]
    assert done.logits.shape[1:] == mask.shape and prompts[1].mask.shape == mask.shape
    assert ((prompts[1].mask & mask).sum() / (prompts[1].mask | mask).sum()) > 0.7
    assert all(given.box == (60, 2, 90, 20) for i, given in prompts.items() if i != 1)


# ------------------------------------------------------------------------------------------------------ the command


def track(folders, *arguments, out, expect=0):
    command = ["track", folders["clip"], "--model", folders["tracker"], *map(str, arguments), "--out", str(out)]
    assert main(command) == expect
    return json.loads((out / "masks.json").read_text()) if expect == 0 else None


def test_labels_and_scores_travel_into_the_results(folders, tmp_path, capsys, monkeypatch):
    from efficienttam_hf.app import results

    drawn = []
    legend = results.draw_legend
    monkeypatch.setattr(results, "draw_legend", lambda image, entries: drawn.append(entries) or legend(image, entries))
    content = track(
        *(folders, "--detect", folders["yolos"], "--detect-threshold", 0, "--max-objects", 3, "--detect-every", 2),
        *("--timeline", "--max-side", 48),
        out=tmp_path / "out",
    )
    objects = content["objects"]
    assert 1 <= len(objects) <= 3 and content["complete"] is True
    for one in objects:
        assert one["label"] in ("cat", "dog", "remote") and 0 <= one["detection_score"] <= 1
        first = one["detections"][0]
        assert one["prompts"] == [{"frame": first["frame"], "box": pytest.approx(first["box"], abs=0.01)}]
        x0, y0, x1, y1 = first["box"]
        assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64  # pixels of the original frame
    assert [f["frame"] for f in content["frames"]] == list(range(6))
    assert {o["id"] for f in content["frames"] for o in f["objects"]} == {one["id"] for one in objects}
    assert drawn and f"1 {objects[0]['label']}" in drawn[0][1]
    printed = capsys.readouterr().out
    assert "Found on frame 0: 1 " in printed and "Objects found: 1 " in printed
    assert (tmp_path / "out" / "timeline.png").is_file()


def test_texts_are_tracked_from_another_frame_in_both_directions(folders, tmp_path):
    content = track(
        *(folders, "--text", "a dog", "ball", "--detect", folders["dino"], "--detect-threshold", 0, "--max-objects", 2),
        *("--detect-frame", 3, "--start", 1, "--detect-every", 0),
        out=tmp_path / "out",
    )
    assert [f["frame"] for f in content["frames"]] == [1, 2, 3, 4, 5]
    assert {d["frame"] for one in content["objects"] for d in one["detections"]} == {3}


def test_prompts_on_the_frame_of_the_detections_go_along(folders, tmp_path):
    content = track(
        *(folders, "--object", 5, "--point", "24,38", "--detect", folders["yolos"], "--detect-threshold", 0),
        *("--max-objects", 2, "--end", 2),
        out=tmp_path / "out",
    )
    assert len(content["objects"]) <= 2
    assert next(one for one in content["objects"] if one["id"] == 5)["prompts"][0]["points"] == [[24, 38]]


WRONG = {
    "--everything --text dog": "--everything needs no detector",
    "--everything --detect x": "--everything needs no detector",
    "--max-objects 3 --point 4,4": "--max-objects says how objects are found",
    "--no-return --point 4,4": "--no-return says how objects are found",
    "--everything --detect-frame 6": "--detect-frame 6 is not one of the frames 0 to 5",
    "--everything --detect-every -1": "--detect-every is a number of frames",
    "--everything --detect-threshold nan": "--detect-threshold is from 0 to 1, got nan",
    "--everything --max-objects 256": "--max-objects is from 1 to 255",
    "--everything --frame 3 --point 4,4": "Object 1 is prompted on frame 3, and objects are looked for on frame 0",
    "--detect NOWHERE": "no id on the Hub",
}


@pytest.mark.parametrize("line", WRONG)
def test_options_that_do_not_go_together_are_refused_in_one_line(folders, tmp_path, capsys, line):
    arguments = line.replace("NOWHERE", str(tmp_path / "nowhere")).split()
    track(folders, *arguments, out=tmp_path / "out", expect=2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("efficienttam: error: ") and WRONG[line] in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_an_empty_text_and_a_video_taken_for_a_text_are_refused(folders, tmp_path, capsys):
    assert main(["track", folders["clip"], "--text", "a dog", ""]) == 2
    assert "says what an object is" in capsys.readouterr().err
    assert main(["track", "--text", "a dog", folders["clip"]]) == 2
    assert "put VIDEO before --text" in capsys.readouterr().err


def test_nothing_found_leaves_earlier_results_as_they_are(folders, tmp_path, capsys):
    out = tmp_path / "out"
    track(folders, "--point", "24,38", "--end", 2, out=out)
    before = (out / "masks.json").read_bytes()
    options = ("--detect", folders["yolos"], "--detect-threshold", 1, "--detect-frame", 2, "--overwrite")
    track(folders, *options, out=out, expect=2)
    error = capsys.readouterr().err
    assert "No object was found on frame 2; looked for any of its classes with a score of at least 1." in error
    assert "--detect-threshold" in error and "--detect-frame" in error
    assert (out / "masks.json").read_bytes() == before


def test_options_of_the_finder_are_checked():
    for wrong in ({"every": -1}, {"threshold": 2.0}, {"forget_after": 0}, {"rules": MatchRules(max_objects=0)}):
        with pytest.raises(ValueError, match=next(iter(wrong)) if "rules" not in wrong else "max_objects"):
            FinderOptions(**wrong)


def test_a_legend_and_plates_write_labels_of_any_script():
    from efficienttam_hf.visualization import draw_legend, overlay_masks, plain_text

    frame = np.full((120, 160, 3), 250, np.uint8)
    assert plain_text("ein Hündchen") == "ein Hundchen" and plain_text("狗") == "" and len(plain_text("x" * 90)) == 40
    drawn = draw_legend(frame, {1: "1 a dog 0.82", 2: "2 狗", **{i: f"{i} cup" for i in range(3, 40)}})
    assert drawn.shape == frame.shape and (drawn != frame).any() and (frame == 250).all()
    assert (drawn[-1] == frame[-1]).mean() >= 0
    mask = np.zeros((120, 160), bool)
    mask[40:90, 40:120] = True
    assert (overlay_masks(frame, {1: mask}, labels={1: "狗"}) == overlay_masks(frame, {1: mask}, labels=True)).all()

"""Formats of other tools on the command line: `--format`, `export-masks`, `--init` and `--reference`."""

import json

import numpy as np
import pytest
from PIL import Image
from reference import save_tiny_model, write_frames

from efficienttam_hf.cli import main
from efficienttam_hf.formats.detections import to_supervision
from efficienttam_hf.formats.registry import FORMATS, read_annotations
from efficienttam_hf.mask_io import decode_rle, write_indexed_png
from efficienttam_hf.synthetic_clip import make_clip


CLIP = make_clip(5, 96, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model `model`, a video `clip.mp4`, its mask on frame 2 `mask.png`, and results of tracking it, `done`."""
    root = tmp_path_factory.mktemp("formats")
    save_tiny_model(root / "model")
    write_frames(root / "clip.mp4", 10, CLIP.frames)
    write_indexed_png(root / "mask.png", CLIP.masks[2].astype(np.uint8))
    Image.fromarray(CLIP.frames[2]).save(root / "picture.png")
    arguments = ["--frame", "2", "--mask", root / "mask.png", "--format", *FORMATS]
    assert track(root, root / "done", *arguments) == 0
    return root


def track(root, out, *arguments):
    start = ["track", root / "clip.mp4", "--model", root / "model", "--device", "cpu", "--output", out]
    return main([str(argument) for argument in [*start, *arguments]])


def masks_of(out):
    """The masks by frame and object, and the content of `masks.json`."""
    content = json.loads((out / "masks.json").read_text())
    masks = {(f["frame"], o["id"]): decode_rle(o["segmentation"]) for f in content["frames"] for o in f["objects"]}
    return masks, content


def test_track_writes_every_format_beside_the_results(folder):
    masks, content = masks_of(folder / "done")
    assert len(masks) == len(CLIP.frames)
    for name in FORMATS:
        back = read_annotations(folder / "done" / name, "clip", (64, 96))
        assert [one.object_id for frame in back.frames() for one in frame.visible].count(1) >= 1, name
    coco = json.loads((folder / "done" / "coco" / "annotations.json").read_text())
    for annotation in coco["annotations"]:
        mask = masks[annotation["image_id"] - 1, annotation["track_id"]]
        np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), mask)
    listed = (folder / "done" / ".efficienttam-files").read_text().splitlines()
    assert "cvat/annotations.xml" in listed and "numpy/masks.npz" in listed


def test_results_are_converted_afterwards_and_only_own_files_replaced(folder, tmp_path, capsys):
    line = ["export-masks", str(folder / "done"), "--format", "coco", "labelme", "--output", str(tmp_path / "out")]
    assert main(line) == 0
    assert (tmp_path / "out/coco/annotations.json").is_file() and (tmp_path / "out/labelme/clip/00002.json").is_file()
    assert main(line) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    (tmp_path / "out/coco/notes.txt").write_text("mine")
    assert main([*line, "--overwrite"]) == 2
    assert "was not written by efficienttam" in capsys.readouterr().err
    assert (tmp_path / "out/coco/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["coco", "mots", "labelme"])
def test_masks_of_a_tool_begin_a_track_as_they_are(name, folder, tmp_path, capsys):
    assert track(folder, tmp_path / "out", "--init", folder / "done" / name, "--init-frames", "all") == 0
    before, _ = masks_of(folder / "done")
    after, content = masks_of(tmp_path / "out")
    on = [frame for (frame, _), mask in before.items() if mask.any()]
    assert [prompt["frame"] for prompt in content["objects"][0]["prompts"]] == on
    assert f"on {len(on)} frames" in capsys.readouterr().out


def test_boxes_of_a_tool_and_clicks_begin_a_track_together(folder, tmp_path):
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("2,7,11,21,20,20,1,-1,-1,-1\n")
    assert track(folder, tmp_path / "out", "--init", boxes, "--object", 2, "--point", "40,30") == 0
    objects = {entry["id"]: entry["prompts"] for entry in masks_of(tmp_path / "out")[1]["objects"]}
    assert objects[7] == [{"frame": 1, "box": [10.0, 20.0, 30.0, 40.0]}]
    assert objects[2][0]["points"] == [[40.0, 30.0]]


def test_names_of_objects_travel_from_file_to_file(folder, tmp_path):
    content = json.loads((folder / "done" / "coco" / "annotations.json").read_text())
    content["categories"][0]["name"] = "a red ball"
    (tmp_path / "named.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    assert track(folder, out, "--init", tmp_path / "named.json", "--end", 3, "--format", "cvat-boxes") == 0
    assert masks_of(out)[1]["objects"][0]["label"] == "a red ball"
    assert 'label="a red ball"' in (out / "cvat-boxes" / "annotations.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "nowhere.json"], "no file or folder of annotations"),
        (["--init", "mask.png"], "is not a file of annotations that can be read"),
        (
            ["--init", "done/coco", "--object", "1", "--frame", "2", "--point", "40,30"],
            "has a prompt and an annotation",
        ),
        (["--init-frames", "3", "--point", "40,30"], "--init is not given|which is not given"),
        (["--init", "done/coco", "--init-frames", "0"], "neither a number of frames"),
        (["--point", "40,30", "--format", "voc"], "invalid choice"),
        (["--reference", "picture.png", "done/masks.json"], "masks.json"),
        (["--reference", "gone.png", "mask.png"], "gone.png"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_nothing_is_written(
    arguments, message, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(folder)
    assert track(folder, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error
    assert any(part in error for part in message.split("|")), error
    assert not (tmp_path / "out").exists()


def test_an_object_of_another_picture_is_tracked_from_the_first_frame(folder, tmp_path):
    out = tmp_path / "out"
    reference = ["--object", 5, "--reference", folder / "picture.png", folder / "mask.png"]
    assert track(folder, out, *reference, "--object", 2, "--frame", 3, "--point", "40,30") == 0
    masks, content = masks_of(out)
    assert [frame for frame, object_id in masks if object_id == 5] == [0, 1, 2, 3, 4]
    assert content["objects"][1] == {"id": 5, "prompts": [], "references": ["picture.png"]}


def test_an_image_is_written_in_formats(folder, tmp_path):
    line = ["segment", folder / "picture.png", "--model", folder / "model", "--device", "cpu", "--point", "40,30"]
    line += ["--output", tmp_path / "out", "--format", "coco", "label-studio"]
    assert main([str(part) for part in line]) == 0
    (mask,) = [decode_rle(o["segmentation"]) for o in json.loads((tmp_path / "out/masks.json").read_text())["objects"]]
    for name in ("coco", "label-studio"):
        (frame,) = read_annotations(tmp_path / "out" / name, "picture", (64, 96)).frames()
        np.testing.assert_array_equal(frame.objects[0].pixels(), mask)
    assert main([str(part) for part in [*line, "mot", "--overwrite"]]) == 2


def test_supervision_gets_masks_boxes_ids_and_scores(model, processor):
    pytest.importorskip("supervision", reason="the reader of the format, supervision, is not installed")
    session = processor.init_video_session(CLIP.frames)
    for object_id in (3, 8):
        processor.add_inputs_to_inference_session(session, 0, object_id, input_masks=CLIP.masks[0])
    output = model.segment_prompts(session, 0)
    output.pred_masks[1] = -5.0  # object 8 is not there
    detections = to_supervision(output, (64, 96), {3: "a ball"})
    (mask,) = processor.post_process_masks([output.pred_masks[:1]], [(64, 96)])[0].numpy()[:, 0]
    assert (detections.mask[0] != mask).mean() < 1e-3
    assert detections.tracker_id.tolist() == [3]
    assert detections.data["class_name"].tolist() == ["a ball"]
    np.testing.assert_allclose(detections.confidence, output.object_score_logits[:1, 0].sigmoid().numpy(), rtol=1e-5)
    rows, columns = np.nonzero(detections.mask[0])
    assert detections.xyxy[0].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    output.pred_masks[:] = -5.0
    assert len(to_supervision(output, (64, 96))) == 0

"""The command line, run as a user would, on a tiny random model and small videos made here.

What a random model segments means nothing, but a mask given as a prompt comes back as that frame's result. So with a
mask on every frame the whole way is checked: order of frames, scale, files, colours.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reference import save_tiny_model, tiny_config, write_frames

from efficienttam_hf import EfficientTamModel, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.checkpoints import published_layout
from efficienttam_hf.cli import main
from efficienttam_hf.synthetic_clip import make_clip


av = pytest.importorskip("av", reason="the command line reads and writes video files with PyAV")
pytest.importorskip("cv2", reason="the command line draws with OpenCV")
pytest.importorskip("pycocotools", reason="the command line writes run-length masks with pycocotools")

from efficienttam_hf.app import plan, precision  # noqa: E402
from efficienttam_hf.app.events import LossWatch  # noqa: E402
from efficienttam_hf.app.loading import find_model  # noqa: E402
from efficienttam_hf.app.plan import plan_tracking  # noqa: E402
from efficienttam_hf.app.results import TrackFolder  # noqa: E402
from efficienttam_hf.mask_io import decode_rle, read_indexed_png  # noqa: E402
from efficienttam_hf.mask_io import write_indexed_png as write_png  # noqa: E402
from efficienttam_hf.output_folders import LIST_NAME  # noqa: E402
from efficienttam_hf.video_io import open_video  # noqa: E402


WIDTH, HEIGHT, NUM_FRAMES = 160, 96, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny random model."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip as a video file, as a folder of frames that begins with number 7, and its masks as indexed PNGs."""
    root = tmp_path_factory.mktemp("clip")
    made = make_clip(NUM_FRAMES, WIDTH, HEIGHT)
    write_frames(root / "video.mp4", 12, made.frames, crf=1)
    (root / "frames").mkdir()
    for i, (frame, mask) in enumerate(zip(made.frames, made.masks, strict=True)):
        Image.fromarray(frame).save(root / "frames" / f"{i + 7:05d}.png")
        write_png(root / "masks" / f"{i}.png", mask)
    return SimpleNamespace(
        video=str(root / "video.mp4"),
        folder=str(root / "frames"),
        mask=lambda i: str(root / "masks" / f"{i}.png"),
        frames=made.frames,
        masks=made.masks,
    )


def track(*arguments, out, expect=0):
    """Run `track` and read what it wrote."""
    assert main(["track", *map(str, arguments), "--out", str(out)]) == expect
    return results(out)


def results(out):
    content = json.loads((out / "masks.json").read_text())
    pngs = {p.stem: read_indexed_png(p) for p in sorted((out / "Annotations" / content["video"]["name"]).iterdir())}
    with open_video(out / "overlay.mp4") as source:
        overlay = list(source)
    return SimpleNamespace(json=content, pngs=pngs, overlay=overlay, frames=[f["frame"] for f in content["frames"]])


def ids_by_frame(result):
    return {f["frame"]: [o["id"] for o in f["objects"]] for f in result.json["frames"]}


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def masks_on_all_frames(clip, object_id=1, order=range(NUM_FRAMES)):
    return [a for i in order for a in ("--object", object_id, "--frame", i, "--mask", clip.mask(i))]


# ---------------------------------------------------------------------------------------------------------------- track


def test_track_writes_overlay_pngs_and_json(model, clip, tmp_path, capsys):
    result = track(clip.video, "--model", model, "--point", "40,60", out=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        LIST_NAME,
        "Annotations",
        "masks.json",
        "overlay.mp4",
    ]
    assert list(result.pngs) == [f"{i:05d}" for i in range(NUM_FRAMES)]
    assert result.json["video"] == {"name": "video", "width": WIDTH, "height": HEIGHT, "fps": 12.0}
    assert result.json["prompt_size"] == {"width": WIDTH, "height": HEIGHT}
    assert result.json["complete"] is True
    assert result.json["objects"] == [{"id": 1, "prompts": [{"frame": 0, "points": [[40.0, 60.0]], "labels": [1]}]}]
    for entry, png in zip(result.json["frames"], result.pngs.values(), strict=True):
        (found,) = entry["objects"]
        mask = decode_rle(found["segmentation"])
        assert (mask == (png == 1)).all()
        assert found["area"] == mask.sum()
        assert 0 <= found["score"] <= 1
        if found["area"]:
            x, y, width, height = found["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        (stream,) = container.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (WIDTH, HEIGHT, NUM_FRAMES)
    captured = capsys.readouterr()
    assert "frames/s" in captured.out
    assert f"Model: the one in the folder '{model}'; cpu, float32." in captured.out.splitlines()
    assert str(tmp_path / "out" / "overlay.mp4") in captured.out
    assert "frame/s" in captured.err or "s/frame" in captured.err  # the progress bar


def test_masks_given_on_every_frame_come_back_in_their_frames(model, clip, tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    result = track(clip.video, "--model", model, *masks_on_all_frames(clip, 2, order), out=tmp_path)
    assert result.frames == list(range(NUM_FRAMES))
    for i, png in enumerate(result.pngs.values()):
        assert set(np.unique(png)) == {0, 2}
        assert iou(png == 2, clip.masks[i]) > 0.8
        # Drawn in the object's green, where the object is.
        changed = np.abs(result.overlay[i].astype(int) - clip.frames[i]).max(axis=2) > 40
        assert iou(changed, clip.masks[i]) > 0.6
        assert result.overlay[i][clip.masks[i]].mean(axis=0).argmax() == 1


def test_both_directions_give_the_frames_in_order(model, clip, tmp_path):
    prompts = ["--frame", 4, "--mask", clip.mask(4)]
    result = track(clip.video, "--model", model, *prompts, out=tmp_path)
    assert result.frames == list(range(NUM_FRAMES))
    assert iou(result.pngs["00004"] == 1, clip.masks[4]) > 0.8
    for i, overlay in enumerate(result.overlay):
        untouched = ~np.pad(result.pngs[f"{i:05d}"] > 0, 4, mode="edge")[4:-4, 4:-4] & clip.masks[i]
        assert overlay.shape == clip.frames[i].shape
        if untouched.sum() > 100:
            assert np.abs(overlay[untouched].astype(int) - clip.frames[i][untouched]).mean() < 20


@pytest.mark.parametrize(
    ("direction", "expected"), [("forward", [3, 4, 5]), ("backward", [0, 1, 2, 3]), ("both", [0, 1, 2, 3, 4, 5])]
)
def test_direction_says_which_frames_are_tracked(direction, expected, model, clip, tmp_path):
    prompts = ["--frame", 3, "--point", "60,40"]
    result = track(clip.video, "--model", model, *prompts, "--direction", direction, out=tmp_path)
    assert result.frames == expected
    assert len(result.overlay) == len(expected)
    assert list(result.pngs) == [f"{i:05d}" for i in expected]


def test_objects_begin_where_they_are_prompted(model, clip, tmp_path):
    prompts = ["--object", 9, "--frame", 3, "--point", "60,40", "--object", 4, "--frame", 1, "--point", "9,9"]
    forward = track(clip.video, "--model", model, *prompts, "--direction", "forward", out=tmp_path / "f")
    assert ids_by_frame(forward) == {1: [4], 2: [4], 3: [4, 9], 4: [4, 9], 5: [4, 9]}
    backward = track(clip.video, "--model", model, *prompts, "--direction", "backward", out=tmp_path / "b")
    assert ids_by_frame(backward) == {0: [4, 9], 1: [4, 9], 2: [9], 3: [9]}
    both = track(clip.video, "--model", model, *prompts, out=tmp_path / "both")
    assert ids_by_frame(both) == dict.fromkeys(range(NUM_FRAMES), [4, 9])


def test_backward_to_a_prompt_on_the_first_frame(model, clip, tmp_path):
    prompts = ["--object", 1, "--frame", 2, "--point", "60,40", "--object", 2, "--frame", 0, "--mask", clip.mask(0)]
    result = track(clip.video, "--model", model, *prompts, "--direction", "backward", out=tmp_path)
    assert ids_by_frame(result) == {0: [1, 2], 1: [1], 2: [1]}
    assert iou(decode_rle(result.json["frames"][0]["objects"][1]["segmentation"]), clip.masks[0]) > 0.8


def test_an_object_tracked_with_others_is_as_if_alone(model, clip, tmp_path):
    one, other = ["--object", 1, "--point", "40,60"], ["--object", 2, "--frame", 3, "--box", "50,20,120,80"]
    together = track(clip.video, "--model", model, *one, *other, "--direction", "forward", out=tmp_path / "together")
    alone = track(clip.video, "--model", model, *other, "--direction", "forward", out=tmp_path / "alone")
    for entry in alone.json["frames"]:
        mine = decode_rle(entry["objects"][0]["segmentation"])
        theirs = decode_rle(together.json["frames"][entry["frame"]]["objects"][1]["segmentation"])
        assert (mine != theirs).mean() < 1e-3


def test_order_sets_object_and_frame_of_prompts(model, clip, tmp_path):
    prompts = ["--object", 2, "--point", "40,60", "--negative", "5,6", "--object", 1, "--box", "10,20,60,80"]
    prompts += ["--frame", 2, "--point", "30,30", "--object", 2, "--point", "50,50"]
    result = track(clip.video, "--model", model, *prompts, out=tmp_path)
    assert result.json["objects"] == [
        {
            "id": 1,
            "prompts": [{"frame": 0, "box": [10, 20, 60, 80]}, {"frame": 2, "points": [[30, 30]], "labels": [1]}],
        },
        {
            "id": 2,
            "prompts": [
                {"frame": 0, "points": [[40, 60], [5, 6]], "labels": [1, 0]},
                {"frame": 2, "points": [[50, 50]], "labels": [1]},
            ],
        },
    ]


def test_a_mask_of_several_indices_is_several_objects_unless_one_is_named(model, clip, tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:40, 10:60], labels[50:90, 80:150] = 3, 8
    write_png(tmp_path / "two.png", labels)
    several = track(clip.video, "--model", model, "--mask", tmp_path / "two.png", "--end", 2, out=tmp_path / "several")
    assert [o["id"] for o in several.json["objects"]] == [3, 8]
    assert (several.pngs["00000"] != labels).mean() < 0.05
    one = track(
        clip.video, "--model", model, "--object", 5, "--mask", tmp_path / "two.png", "--end", 2, out=tmp_path / "one"
    )
    assert [o["id"] for o in one.json["objects"]] == [5]
    assert ((one.pngs["00000"] == 5) != (labels > 0)).mean() < 0.05


def test_start_and_end_keep_the_numbers_of_the_video(model, clip, tmp_path):
    prompts = ["--mask", clip.mask(2), "--frame", 3, "--mask", clip.mask(3)]
    result = track(clip.video, "--model", model, *prompts, "--start", 2, "--end", 4, out=tmp_path)
    assert result.frames == [2, 3]
    assert list(result.pngs) == ["00002", "00003"]
    for i in (2, 3):
        assert iou(result.pngs[f"{i:05d}"] == 1, clip.masks[i]) > 0.8


def test_a_folder_of_frames_keeps_their_names(model, clip, tmp_path):
    result = track(clip.folder, "--model", model, "--point", "40,60", "--start", 1, "--end", 3, out=tmp_path)
    assert list(result.pngs) == ["00008", "00009"]
    assert [f["name"] for f in result.json["frames"]] == ["00008", "00009"]
    assert result.frames == [1, 2]


def test_max_side_scales_frames_prompts_and_results(model, clip, tmp_path):
    result = track(clip.video, "--model", model, *masks_on_all_frames(clip), "--max-side", 80, out=tmp_path)
    assert result.overlay[0].shape == (48, 80, 3)
    for i, png in enumerate(result.pngs.values()):
        assert png.shape == (48, 80)
        assert iou(png == 1, clip.masks[i][::2, ::2]) > 0.7
    assert result.json["video"]["width"] == 80
    assert result.json["prompt_size"] == {"width": WIDTH, "height": HEIGHT}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_run(dtype, model, clip, tmp_path):
    arguments = ["--point", "40,60", "--mask", clip.mask(1), "--dtype", dtype, "--end", 3]
    arguments[2:2] = ["--object", "2", "--frame", "1"]
    assert track(clip.video, "--model", model, *arguments, out=tmp_path).frames == [0, 1, 2]


@pytest.mark.parametrize(("fast", "line"), [(True, "bfloat16 (faster here; "), (False, "float32 (bfloat16 is not f")])
def test_auto_says_which_dtype_it_took_and_tracks_with_it(fast, line, model, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: fast)
    monkeypatch.setattr(precision, "LEAST_AGREEMENT", 0.0)  # that of random weights says nothing
    arguments = ["--model", model, "--mask", clip.mask(0), "--dtype", "auto", "--end", 4]
    assert track(clip.video, *arguments, out=tmp_path / "out").frames == [0, 1, 2, 3]
    assert f"cpu, {line}" in capsys.readouterr().out
    image = f"{clip.folder}/00007.png"
    assert main(["segment", image, "--model", model, "--dtype", "auto", "--point", "9,9", "--out", str(tmp_path)]) == 0
    assert f"cpu, {line}" in capsys.readouterr().out


def test_without_a_video_a_synthetic_clip_is_tracked(model, tmp_path, capsys):
    result = track("--model", model, "--end", 2, out=tmp_path)
    assert (tmp_path / "synthetic-clip.mp4").is_file()
    assert "synthetic video" in capsys.readouterr().out
    assert result.frames == [0, 1]
    [[x, y]] = result.json["objects"][0]["prompts"][0]["points"]
    assert 0 <= x < 640 and 0 <= y < 360


def test_a_truncated_video_is_tracked_as_far_as_it_goes(model, tmp_path, capsys):
    frames = make_clip(30, WIDTH, HEIGHT).frames
    # In fragments, so that the beginning stands alone.
    container = av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"})
    stream = container.add_stream("libx264", rate=10, options={"g": "5", "crf": "1"})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for frame in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
    container.close()
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    result = track(tmp_path / "cut.mp4", "--model", model, "--point", "40,60", out=tmp_path / "out")
    assert 2 < len(result.frames) < 20
    assert "Traceback" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ stopping early


@pytest.mark.parametrize(("number", "code", "name"), [("SIGINT", 130, "Ctrl-C"), ("SIGTERM", 143, "SIGTERM")])
def test_ctrl_c_and_sigterm_keep_what_is_done_and_say_where(number, code, name, model, tmp_path):
    write_frames(tmp_path / "long.mp4", 24, make_clip(600, 64, 48).frames)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "efficienttam_hf.cli", "track", str(tmp_path / "long.mp4"), "--point", "16,28"]
    process = subprocess.Popen(
        [*command, "--model", model, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Tests that a shell runs in the background inherit that Ctrl-C is ignored; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "Annotations" / "long" / "00004.png").exists():
                break
            time.sleep(0.05)
        process.send_signal(getattr(signal, number))
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    result = results(out)
    assert result.json["complete"] is False
    assert 4 <= len(result.frames) < 600
    assert len(result.overlay) == len(result.frames)
    assert f"Stopped by {name} after frame {result.frames[-1]}." in err
    assert str(out / "masks.json") in err
    assert "Traceback" not in err


@pytest.fixture
def hidden_for_two_frames(monkeypatch):
    """Tracking in which object 1 is seen on all frames but 2 and 3."""
    read = plan.read_output

    def read_output(*arguments):
        done = read(*arguments)
        for row, object_id in enumerate(done.object_ids):
            hidden = object_id == 1 and done.index in (2, 3)
            done.logits[row, :10, :10] = 8.0
            done.scores[row] = 0.02 if hidden else 0.97
            if hidden:
                done.logits[row] = -8.0
        return done

    monkeypatch.setattr(plan, "read_output", read_output)


TWO_OBJECTS = ("--object", 1, "--point", "60,40", "--object", 2, "--point", "90,40")


def test_lost_and_found_objects_are_events_and_drawn(model, clip, tmp_path, hidden_for_two_frames, capsys):
    result = track(clip.video, "--model", model, *TWO_OBJECTS, "--timeline", out=tmp_path)
    lost = {"frame": 2, "object": 1, "kind": "lost", "score": 0.02}
    assert result.json["events"] == [lost, {"frame": 4, "object": 1, "kind": "found", "score": 0.97}]
    assert str(tmp_path / "timeline.png") in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "timeline.png"))
    grey = (picture == 215).all(axis=2)
    columns = np.flatnonzero(grey.sum(axis=0) > 20)  # more than there is in letters
    # Two of six frames are grey, of object 1 alone, whose row is above.
    assert columns[-1] - columns[0] == pytest.approx(2 / 6 * 900, abs=2)
    assert np.flatnonzero(grey.sum(axis=1) > 200).max() < picture.shape[0] / 2


def test_tracking_stops_where_an_object_is_lost(model, clip, tmp_path, hidden_for_two_frames, capsys):
    result = track(clip.video, "--model", model, *TWO_OBJECTS, "--on-lost", "stop", out=tmp_path, expect=3)
    assert result.frames == [0, 1, 2] and result.json["complete"] is False and len(result.overlay) == 3
    assert [event["kind"] for event in result.json["events"]] == ["lost"]
    assert "Object 1 was lost on frame 2" in (err := capsys.readouterr().err) and "--frame 3 --object 1 --point" in err


def test_what_is_lost_is_seen_in_the_order_of_tracking():
    watch = LossWatch()
    assert [watch.lost(t, {1: t < 3}) for t in range(5)] == [[], [], [], [1], []]
    assert watch.lost(3, {1: False, 2: True}) == []  # it was not seen before
    assert watch.lost(2, {1: True, 2: False}) == [2]
    assert watch.lost(9, {1: False}) == []  # another run


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("out of memory"), 1)])
def test_stopping_on_the_way_back_keeps_what_is_done(error, code, model, clip, tmp_path, monkeypatch, capsys):
    add = TrackFolder.add

    def stop_at_frame_1(self, frame, *arguments):
        if frame == 1:
            raise error
        add(self, frame, *arguments)

    monkeypatch.setattr(TrackFolder, "add", stop_at_frame_1)
    result = track(clip.video, "--model", model, "--frame", 3, "--point", "60,40", out=tmp_path, expect=code)
    assert result.frames == [2, 3, 4, 5]
    assert len(result.overlay) == 4
    assert result.json["complete"] is False
    err = capsys.readouterr().err
    assert ("Stopped by Ctrl-C after frame 2." if code == 130 else "error: RuntimeError: out of memory") in err


def test_stopping_before_the_first_frame_leaves_nothing(model, clip, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrackFolder, "add", stop)
    out = tmp_path / "out"
    assert main(["track", clip.video, "--model", model, "--point", "4,4", "--out", str(out)]) == 130
    assert not out.exists()
    assert "before the first frame" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--point", "400,5"], "Point (400, 5) for object 1 on frame 0 is outside the frame, which is 160 wide and 96"),
        (["--point", "-4,5"], "Point (-4, 5) for object 1 on frame 0 is outside the frame"),
        (["--point", "nan,5"], "must be finite"),
        (["--point", "4;5"], "'4;5' is not X,Y"),
        (["--point", "4,5,6"], "'4,5,6' is not X,Y"),
        (["--box", "50,5,20,60"], "x0 < x1 and y0 < y1"),
        (["--box", "1,2,300,60"], "is outside the frame"),
        (["--box", "1,2,30,60", "--box", "3,4,50,60"], "two boxes for object 1 on frame 0"),
        (["--frame", "6", "--point", "4,5"], "--frame 6 is not one of the frames 0 to 5"),
        (["--start", "2", "--frame", "1", "--point", "4,5"], "--frame 1 is not one of the frames 2 to 5"),
        (["--frame", "-1", "--point", "4,5"], "'-1' is not a whole number from 0 on"),
        (["--object", "0", "--point", "4,5"], "'0' is not a whole number from 1 to 255"),
        (["--object", "256", "--point", "4,5"], "from 1 to 255"),
        (["--point", "4,5", "--frame", "3"], "No prompt follows --frame 3"),
        (["--mask", "{mask}", "--object", "1", "--point", "4,5"], "cannot go with other prompts"),
        (["--point", "4,5", "--mask", "{mask}"], "cannot go with other prompts"),
        (["--mask", "{small}"], "is 8x8 pixels, but the frame is 160x96"),
        (["--mask", "{empty}"], "is empty"),
        (["--mask", "nothing.png"], "no image at 'nothing.png'"),
        ([], "What is to be tracked?"),
        (["--point", "4,5", "--start", "9"], "start=9 is outside the video"),
        (["--point", "4,5", "--end", "9"], "end=9 must be"),
        (["--point", "4,5", "--max-side", "3"], "--max-side must be at least 16"),
        (["--point", "4,5", "--device", "abacus"], "--device abacus cannot be used here"),
        (["--point", "4,5", "--dtype", "int4"], "invalid choice: 'int4'"),
        (["--point", "4,5", "--model", "nowhere"], "no folder 'nowhere'"),
        (["--point", "4,5", "--model", "{empty}"], "convert it first"),
        (["--point", "4,5", "--model", "{folder}"], "no config.json"),
        (["--point", "4,5", "--model", "{other}"], "is of a model of type 'sam2'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, model, clip, tmp_path, capsys):
    write_png(tmp_path / "small.png", np.ones((8, 8), np.uint8))
    write_png(tmp_path / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "sam2"}')
    names = {"mask": clip.mask(0), "folder": tmp_path, "other": tmp_path / "other"}
    names |= {name: tmp_path / f"{name}.png" for name in ("small", "empty")}
    out = tmp_path / "out"
    given = [a.format(**names) if a.startswith("{") else a for a in arguments]
    assert main(["track", clip.video, "--model", model, "--out", str(out), *given]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("efficienttam")
    assert message in line
    assert captured.out == ""
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_a_video_that_is_none_is_one_line(content, model, tmp_path, capsys):
    if content is not None:
        (tmp_path / "x.mp4").write_bytes(content)
    assert main(["track", str(tmp_path / "x.mp4"), "--model", model, "--point", "4,5"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "x.mp4" in line


def test_incomplete_weights_are_refused(model, clip, tmp_path, capsys):
    weights_only = EfficientTamModel.from_pretrained(model)
    weights_only.save_pretrained(tmp_path / "image-only")
    assert main(["track", clip.video, "--model", str(tmp_path / "image-only"), "--point", "4,5"]) == 2
    assert "not complete" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["weights", "config"])
def test_a_damaged_model_is_one_line(damage, model, clip, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    file = tmp_path / "model" / {"weights": "model.safetensors", "config": "config.json"}[damage]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    arguments = ["--model", str(tmp_path / "model"), "--point", "4,5", "--output", str(tmp_path / "out")]
    assert main(["track", clip.video, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert ("model.safetensors' is damaged" if damage == "weights" else "config.json is not JSON") in line
    assert not (tmp_path / "out").exists()


def test_earlier_results_are_kept_unless_they_may_be_replaced(model, clip, tmp_path, capsys):
    track(clip.video, "--model", model, "--point", "40,60", out=tmp_path)
    again = ["--model", model, "--point", "40,60", "--end", 2]
    track(clip.video, *again, out=tmp_path, expect=2)
    assert "--overwrite" in capsys.readouterr().err
    result = track(clip.video, *again, "--overwrite", out=tmp_path)
    assert list(result.pngs) == ["00000", "00001"]


def test_overwriting_spares_files_that_are_not_ours(model, clip, tmp_path, capsys):
    track(clip.video, "--model", model, "--point", "40,60", "--end", 2, out=tmp_path)
    thesis = tmp_path / "Annotations" / "video" / "thesis.tex"
    thesis.write_text("mine")
    again = ["track", clip.video, "--model", "nowhere", "--point", "40,60", "--output", str(tmp_path), "--overwrite"]
    assert main(again) == 2  # before it is found out that there is no such model
    assert "thesis.tex' was not written by efficienttam" in capsys.readouterr().err
    assert thesis.read_text() == "mine" and (tmp_path / "masks.json").exists()


def test_a_name_of_dots_is_no_other_folder(model, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "...mp4").write_bytes(Path(clip.video).read_bytes())
    for _ in range(2):
        assert main(["track", "...mp4", "--model", model, "--point", "40,60", "--end", "2", "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["...mp4", "efficienttam-out", "thesis.tex"]
    (results_of_it,) = (tmp_path / "efficienttam-out").iterdir()
    assert (results_of_it / "overlay.mp4").is_file()
    (frames,) = (results_of_it / "Annotations").iterdir()
    assert len(list(frames.iterdir())) == 2


def test_names_with_colons_are_names(model, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30:05.mp4").write_bytes(Path(clip.video).read_bytes())
    arguments = ["12:30:05.mp4", "--model", model, "--point", "40,60", "--end", "2", "--output", "b:c"]
    assert main(["track", *arguments]) == 0
    assert (tmp_path / "b:c" / "overlay.mp4").is_file()


def test_the_overlay_has_the_sound_of_the_frames_that_were_tracked(model, tmp_path):
    video = tmp_path / "sound.mp4"
    with av.open(str(video), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=16000)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in make_clip(20, WIDTH, HEIGHT).frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode(None))
        samples = np.sin(np.arange(32000) / 8).astype(np.float32)[None]
        piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        piece.sample_rate = 16000
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    for name, direction in (("in order", "forward"), ("back", "both")):
        prompts = ["--frame", "5", "--point", "40,60"]
        out = tmp_path / name
        track(video, "--model", model, *prompts, "--direction", direction, "--start", 5, "--end", 15, out=out)
        with av.open(str(out / "overlay.mp4")) as container:
            (heard,) = container.streams.audio
            assert sum(frame.samples for frame in container.decode(heard)) / 16000 == pytest.approx(1.0, abs=0.15)


def test_a_failure_of_ours_says_so_and_debug_shows_where(model, clip, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(EfficientTamVideoModel, "from_pretrained", fail)
    command = ["track", clip.video, "--model", model, "--point", "4,5", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    message = "efficienttam: error: ZeroDivisionError: oh (--debug prints the traceback)\n"
    assert capsys.readouterr().err == message
    assert main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the included model


def test_with_nothing_at_all_the_included_model_tracks_the_synthetic_clip(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["track", "--end", "8"]) == 0
    assert "synthetic video" in capsys.readouterr().out
    out = tmp_path / "efficienttam-out" / "synthetic-clip"
    masks = [read_indexed_png(path) for path in sorted((out / "Annotations" / "synthetic-clip").glob("*.png"))]
    assert len(masks) == 8 and all(mask.any() for mask in masks)
    assert json.loads((out / "masks.json").read_text())["model"] == "efficienttam-nano"
    assert main(["track", "--end", "2"]) == 0  # its own folder may be written again


def test_the_included_model_is_what_runs_where_none_is_named(clip, tmp_path):
    result = track(clip.video, "--point", "40,60", "--end", 2, out=tmp_path)
    assert result.json["model"] == "efficienttam-nano"


# -------------------------------------------------------------------------------------------------------------- segment


@pytest.fixture
def image(clip, tmp_path):
    Image.fromarray(clip.frames[0]).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def read_segment(out):
    content = json.loads((out / "masks.json").read_text())
    overlay = np.asarray(Image.open(out / "overlay.png"))
    return content, read_indexed_png(out / "masks.png"), overlay


def test_segment_writes_overlay_png_and_json(model, image, tmp_path):
    out = tmp_path / "out"
    arguments = ["--point", "40,60", "--negative", "9,9", "--object", "3", "--box", "20,30,90,80"]
    assert main(["segment", image, "--model", model, *arguments, "--out", str(out)]) == 0
    content, labels, overlay = read_segment(out)
    assert content["image"] == {"name": "image.png", "width": WIDTH, "height": HEIGHT}
    assert content["prompt_size"] == {"width": WIDTH, "height": HEIGHT}
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    assert [o["id"] for o in content["objects"]] == [1, 3]
    assert content["objects"][1]["prompts"] == {"box": [20, 30, 90, 80]}
    last = decode_rle(content["objects"][1]["segmentation"])
    assert ((labels == 3) == last).all()
    assert main(["segment", image, "--model", model, "--point", "4,5", "--out", str(out)]) == 2
    assert main(["segment", image, "--model", model, "--point", "4,5", "--out", str(out), "--overwrite"]) == 0


def test_segment_gives_what_the_model_gives(model, image, clip, tmp_path):
    assert main(["segment", image, "--model", model, "--point", "40,60", "--out", str(tmp_path)]) == 0
    network = EfficientTamModel.from_pretrained(model).eval()
    processor = EfficientTamVideoProcessor.from_pretrained(model)
    inputs = processor(images=clip.frames[0], input_points=[[[[40, 60]]]], input_labels=[[[1]]], return_tensors="pt")
    with torch.no_grad():
        output = network(**{k: v for k, v in inputs.items() if k != "original_sizes"})
    masks = processor.post_process_masks(output.pred_masks, inputs["original_sizes"])[0][0]
    best = int(output.iou_scores[0, 0].argmax())
    (found,) = read_segment(tmp_path)[0]["objects"]
    assert (decode_rle(found["segmentation"]) == masks[best].numpy()).mean() > 0.999
    assert found["score"] == pytest.approx(float(output.iou_scores[0, 0, best]), abs=1e-3)


def test_segment_everything(model, image, tmp_path):
    arguments = ["--everything", "--grid", "4", "--min-score", "0", "--min-stability", "0", "--max-side", "80"]
    assert main(["segment", image, "--model", model, *arguments, "--out", str(tmp_path / "out")]) == 0
    content, labels, _ = read_segment(tmp_path / "out")
    assert labels.shape == (48, 80)
    assert len(content["objects"]) >= 1
    areas = [o["area"] for o in content["objects"]]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "What is to be segmented?"),
        (["--everything", "--point", "4,5"], "not both"),
        (["--everything", "--grid", "0"], "--grid must be at least 1"),
        (["--point", "400,5"], "Point (400, 5) for object 1 is outside the frame"),
        (["--point", "4,5", "--object", "2"], "No prompt follows --object 2"),
    ],
)
def test_segment_bad_input_is_one_line(arguments, message, model, image, tmp_path, capsys):
    assert main(["segment", image, "--model", model, "--out", str(tmp_path / "out"), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- convert


def test_convert_there_and_back(tmp_path, capsys):
    config = tiny_config("pooled_logit_bias")
    config.save_pretrained(tmp_path / "config")
    tensors = {name: torch.randn(shape) for name, (_, shape) in published_layout(config).items()}
    torch.save({"model": tensors}, tmp_path / "in.pt")
    variant = str(tmp_path / "config" / "config.json")
    folder, back = str(tmp_path / "folder"), str(tmp_path / "back.pt")
    assert main(["convert", str(tmp_path / "in.pt"), folder, "--variant", variant]) == 0
    assert "'pooled_logit_bias'" in capsys.readouterr().out
    assert main(["convert", folder, back, "--to-published"]) == 0
    returned = torch.load(back, weights_only=True)["model"]
    assert all(torch.equal(returned[name], tensor) for name, tensor in tensors.items())

    assert main(["convert", str(tmp_path / "in.pt"), folder, "--variant", variant]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "in.pt"), folder, "--variant", variant, "--overwrite"]) == 0
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    assert main(["convert", str(tmp_path / "in.pt"), folder, "--variant", variant, "--overwrite"]) == 2
    assert "thesis.tex' was not written by efficienttam" in capsys.readouterr().err
    assert main(["convert", folder, str(tmp_path / "folder" / "thesis.tex"), "--to-published", "--overwrite"]) == 2
    assert "is not a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert main(["convert", str(tmp_path / "in.pt"), folder + "2"]) == 2
    assert "Which model is it?" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "in.pt"), folder + "2", "--variant", "efficienttam_s"]) == 2
    assert "does not belong to the configuration" in capsys.readouterr().err
    assert not (tmp_path / "folder2").exists()


# ---------------------------------------------------------------------------------------------------------------- parts


def test_commands_are_listed(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("track", "segment", "convert"))
    assert main(["nonsense"]) == 2


def test_a_model_is_found_by_name_folder_or_id(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model(model).location == model
    assert Path(find_model("efficienttam-nano").location, "config.json").is_file()
    assert "comes with this package" in find_model("efficienttam-nano").description
    assert find_model("user/model").description == "user/model from the Hub"
    shutil.copytree(model, "efficienttam-nano")  # one's own folder comes first
    assert find_model("efficienttam-nano").description == "the one in the folder 'efficienttam-nano'"
    for name in ("nowhere", "./no/where", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            find_model(name)


def test_default_direction_turns_back_only_where_something_is_missing():
    assert plan_tracking({0: [1, 2], 5: [1]}).direction == "forward"
    assert plan_tracking({0: [1], 5: [2]}).direction == "both"
    assert plan_tracking({3: [1]}).direction == "both"
    assert plan_tracking({3: [1]}).num_steps(10) == 7 + 4
    assert plan_tracking({3: [1], 8: [1]}, "backward").num_steps(10) == 9
    assert plan_tracking({0: [1]}, "both").num_steps(10) == 10


def test_where_masks_overlap_the_png_has_the_higher_score(tmp_path):
    folder = TrackFolder(tmp_path / "out", "v")
    folder.prepare(overwrite=False)
    logits = np.full((2, 4, 6), -1.0)
    logits[0, :, :4], logits[1, :, 2:] = 1.0, 2.0
    folder.add(0, "00000", [3, 7], logits, [0.5, 0.9])
    labels = read_indexed_png(folder.annotations / "00000.png")
    assert labels[0].tolist() == [3, 3, 7, 7, 7, 7]
    masks = folder.masks(0)
    assert masks[3].sum() == 16  # whole in the JSON file
    assert masks[7].sum() == 16


def test_masks_of_a_frame_from_two_directions_are_joined(tmp_path):
    folder = TrackFolder(tmp_path / "out", "v")
    folder.prepare(overwrite=False)
    first, second = np.full((1, 4, 6), -1.0), np.full((1, 4, 6), -1.0)
    first[0, :, :3], second[0, :, 2:] = 1.0, 5.0
    folder.add(1, "00001", [2], first, [0.5])
    folder.add(0, "00000", [2], first, [0.5])
    folder.add(1, "00001", [1], second, [0.5])
    assert read_indexed_png(folder.annotations / "00001.png")[0].tolist() == [2, 2, 2, 1, 1, 1]
    assert [o["id"] for o in folder.record(1)["objects"]] == [1, 2]
    assert folder.frames == [0, 1]

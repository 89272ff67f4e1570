"""Datasets through a tracker: what is read, tracked, scored and written, and what is kept of a run that was stopped."""

import json
import zipfile

import numpy as np
import pytest
import torch
from oracle import HEIGHT, WIDTH, Oracle, disk
from PIL import Image
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.evaluation import runner
from efficienttam_hf.evaluation.results import EvaluationResult, ObjectResult, VideoResult
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_video, evaluate_videos, summarize
from efficienttam_hf.evaluation.semi_supervised import frames_of
from efficienttam_hf.evaluation.sharing import balanced_shares
from efficienttam_hf.evaluation.submission import write_zip
from efficienttam_hf.mask_io import read_indexed_png, write_indexed_png
from efficienttam_hf.output_folders import OutputFolder


NOTHING = np.zeros((HEIGHT, WIDTH), bool)


@pytest.fixture(scope="module")
def processor():
    return EfficientTamVideoProcessor.from_config(tiny_config())


class Perfect(Oracle):
    """Tracks as it is told, whatever the video."""

    def __init__(self, masks):
        super().__init__(masks)
        self.config = tiny_config()


def write_frames(folder, names):
    folder.mkdir(parents=True)
    for t, name in enumerate(names):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * t, np.uint8)).save(folder / f"{name}.jpg")


def labels_of(masks):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for object_id, mask in masks.items():
        labels[mask] = object_id
    return labels


def moving(num_frames, late=None):
    """Object 1 moves; object 2 stays, and comes at frame `late`."""
    return [
        {1: disk(12 + 3 * t, 24, 7), 2: disk(50, 10, 6) if late is not None and t >= late else NOTHING}
        for t in range(num_frames)
    ]


@pytest.fixture
def davis(tmp_path):
    """Three sequences in DAVIS's layout, of two objects and four or six frames."""
    root = tmp_path / "DAVIS"
    for name, count in (("a", 4), ("b", 6), ("c", 4)):
        write_frames(root / "JPEGImages" / "480p" / name, [f"{t:05d}" for t in range(count)])
        for t, masks in enumerate(moving(count, late=0)):
            write_indexed_png(root / "Annotations" / "480p" / name / f"{t:05d}.png", labels_of(masks))
    return root


# ------------------------------------------------------------------------------------------------ datasets


def test_davis_2016_takes_all_objects_as_one_and_writes_0_and_255(davis, processor, tmp_path):
    (record,) = load_records("davis2016", davis, videos=["a"])
    merged = [{1: masks[1] | masks[2]} for masks in moving(4, late=0)]
    options = RunOptions(convention="davis2016", output=tmp_path / "out", save_masks=True)
    result = evaluate_video(Perfect(merged), processor, record, options)
    assert [(o.object_id, o.frames, o.j, o.f) for o in result.objects] == [(1, [1, 2], [1, 1], [1, 1])]
    with Image.open(tmp_path / "out" / "predictions" / "a" / "00002.png") as image:
        written = np.array(image)
        assert image.mode == "L"
    np.testing.assert_array_equal(written, 255 * merged[2][1])


def test_davis_2017_keeps_objects_apart(davis, processor, tmp_path):
    (record,) = load_records("davis2017", davis, videos=["b"])
    options = RunOptions(convention="davis2017", output=tmp_path / "out", save_masks=True, pictures=True)
    result = evaluate_video(Perfect(moving(6, late=0)), processor, record, options)
    assert [(o.object_id, o.frames) for o in result.objects] == [(1, [1, 2, 3, 4]), (2, [1, 2, 3, 4])]
    assert result.tracked_frames == result.num_frames == 6
    for t, masks in enumerate(moving(6, late=0)):
        np.testing.assert_array_equal(
            read_indexed_png(tmp_path / "out" / "predictions" / "b" / f"{t:05d}.png"), labels_of(masks)
        )
    with Image.open(tmp_path / "out" / result.picture) as picture:
        assert picture.width > 4 * 320


def youtube(root, split, names, masks):
    write_frames(root / split / "JPEGImages" / "v", names)
    objects = {i: {"category": "dog"} for i in ("1", "2")}
    (root / split / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    for name, labels in masks.items():
        write_indexed_png(root / split / "Annotations" / "v" / f"{name}.png", labels)


def test_hidden_truth_is_tracked_written_and_not_scored(processor, tmp_path):
    """YouTube-VOS' validation set: each object where it appears first, and nowhere else."""
    masks = moving(4, late=2)
    names = ["00000", "00005", "00010", "00015"]
    youtube(tmp_path, "valid", names, {"00000": labels_of(masks[0]), "00010": labels_of({2: masks[2][2]})})
    options = RunOptions(output=tmp_path / "out", save_masks=True)
    oracle = Perfect(masks)
    result = evaluate_videos(oracle, processor, load_records("youtube_vos2019", tmp_path, "valid"), options)
    assert {object_id: list(prompts) for object_id, prompts in oracle.prompts.items()} == {1: [0], 2: [2]}
    assert result.summary == {}
    assert not result.scored
    assert not result.failures
    written = sorted((tmp_path / "out" / "predictions" / "v").iterdir())
    assert [path.stem for path in written] == names
    np.testing.assert_array_equal(read_indexed_png(written[3]), labels_of(masks[3]))

    write_zip(tmp_path / "out.zip", tmp_path / "out" / "predictions", ["v"], "youtube_vos2019")
    assert zipfile.ZipFile(tmp_path / "out.zip").namelist() == [f"Annotations/v/{name}.png" for name in names]
    # The same folder as the root is no less hidden.
    (record,) = load_records("youtube_vos2019", tmp_path / "valid")
    assert not evaluate_video(oracle, processor, record).objects


def test_all_frames_of_youtube_vos_are_tracked_and_every_fifth_is_written(processor, tmp_path):
    masks = moving(11)
    youtube(tmp_path, "valid", ["00000", "00005", "00010"], {"00000": labels_of(masks[0])})
    write_frames(tmp_path / "valid_all_frames" / "JPEGImages" / "v", [f"{t:05d}" for t in range(11)])
    (record,) = load_records("youtube_vos2019", tmp_path, "valid_all_frames")
    result = evaluate_video(Perfect(masks), processor, record, RunOptions(output=tmp_path / "out", save_masks=True))
    assert (result.tracked_frames, result.objects) == (11, [])
    written = sorted(path.stem for path in (tmp_path / "out" / "predictions" / "v").iterdir())
    assert written == ["00000", "00005", "00010"]


def test_sav_is_tracked_on_all_frames_judged_on_every_fourth_and_written_by_object(processor, tmp_path):
    masks = [{1: disk(20 + t, 24, 10), 2: disk(32 + t, 24, 8)} for t in range(10)]  # they overlap
    write_frames(tmp_path / "JPEGImages_24fps" / "v", [f"{t:05d}" for t in range(10)])
    for object_id in (1, 2):
        for t in (0, 4, 8):
            path = tmp_path / "Annotations_6fps" / "v" / f"{object_id - 1:03d}" / f"{t:05d}.png"
            write_indexed_png(path, masks[t][object_id])
    (record,) = load_records("sav_val", tmp_path)
    options = RunOptions(convention="sav", output=tmp_path / "out", save_masks=True)
    result = evaluate_video(Perfect(masks), processor, record, options)
    assert result.tracked_frames == 9  # nothing after the last that is judged
    assert [(o.object_id, o.frames, o.j) for o in result.objects] == [(1, [4], [1]), (2, [4], [1])]
    predictions = tmp_path / "out" / "predictions" / "v"
    files = sorted(path.relative_to(predictions).as_posix() for path in predictions.rglob("*.png"))
    assert files == [f"{i}/{t}.png" for i in ("000", "001") for t in ("00000", "00004", "00008")]
    np.testing.assert_array_equal(read_indexed_png(predictions / "001" / "00004.png"), masks[4][2])


def test_zips_of_mose_hold_the_videos_themselves(tmp_path):
    write_indexed_png(tmp_path / "predictions" / "v" / "00000.png", NOTHING)
    write_zip(tmp_path / "m.zip", tmp_path / "predictions", ["v"], "mose")
    assert zipfile.ZipFile(tmp_path / "m.zip").namelist() == ["v/00000.png"]
    with pytest.raises(FileNotFoundError, match="no predictions of 'w'"):
        write_zip(tmp_path / "n.zip", tmp_path / "predictions", ["v", "w"], "mose")
    assert not (tmp_path / "n.zip").exists()


def test_frames_are_read_ahead_and_few_at_a_time(davis, monkeypatch):
    (record,) = load_records("davis2017", davis, videos=["b"])
    read, plain = [], type(record).frame
    monkeypatch.setattr(type(record), "frame", lambda self, index: read.append(index) or plain(self, index))
    frames = frames_of(record)
    first = next(frames)
    assert first.frame.shape == (HEIGHT, WIDTH, 3)
    assert sorted(first.truth) == [1, 2]
    assert max(read) < 5
    assert len(list(frames)) == 5
    assert sorted(read) == list(range(6))
    assert len(list(frames_of(record, 2))) == 2


class Confident(Perfect):
    """Reports object scores that rise from frame to frame, and an IoU by object."""

    def forward(self, session, frame_idx):
        output = super().forward(session, frame_idx)
        output.object_score_logits = torch.full((len(output.object_ids), 1), -800.0 if frame_idx < 3 else 2.0)
        output.iou_scores = torch.tensor([[i / 4] for i in output.object_ids], dtype=torch.bfloat16)
        return output


def test_what_the_tracker_says_of_its_masks_is_kept_beside_the_truth(davis, processor):
    (record,) = load_records("davis2017", davis, videos=["b"])
    masks = moving(6, late=0)
    write_indexed_png(davis / "Annotations" / "480p" / "b" / "00002.png", labels_of({1: masks[2][1], 2: NOTHING}))
    result = evaluate_video(Confident(masks), processor, record, RunOptions(convention="davis2017"))
    assert [o.frames for o in result.objects] == [[1, 2, 3, 4]] * 2
    for found, expected in zip(result.objects, (0.25, 0.5), strict=True):
        assert found.presence == pytest.approx([0, 0, 0.8808, 0.8808], abs=1e-4)
        assert found.predicted_iou == [expected] * 4
    assert [o.present for o in result.objects] == [[True] * 4, [True, False, True, True]]


# ------------------------------------------------------------------------------------------------ bad data


def test_a_bad_video_is_named_and_the_others_are_scored(davis, processor, caplog):
    Image.new("L", (WIDTH - 1, HEIGHT)).save(davis / "Annotations" / "480p" / "b" / "00003.png")
    (davis / "JPEGImages" / "480p" / "c" / "00002.jpg").write_bytes(b"\xff\xd8 not much of an image")
    result = evaluate_videos(Perfect(moving(6, late=0)), processor, load_records("davis2017", davis))
    assert [(video.name, video.error is None) for video in result.videos] == [("a", True), ("b", False), ("c", False)]
    assert "00003.png' is 63x48 pixels, but its frame is 64x48" in result.failures[0].error
    assert "00002.jpg" in result.failures[1].error
    assert result.summary["J&F"] == 1
    assert "'b' is left out" in caplog.text


def test_a_frame_that_davis_does_not_annotate_is_not_passed_over(davis, processor):
    (davis / "Annotations" / "480p" / "a" / "00002.png").unlink()
    result = evaluate_videos(Perfect(moving(4, late=0)), processor, load_records("davis2017", davis, videos=["a"]))
    assert "00002.jpg', has no mask" in result.failures[0].error


def test_what_cannot_be_run_is_refused_before_anything_is_tracked():
    with pytest.raises(ValueError, match="prompt must be one of mask, box"):
        RunOptions(prompt="scribble")
    with pytest.raises(ValueError, match="There is no scoring convention 'best'"):
        RunOptions(convention="best")
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        RunOptions(max_frames=0)
    with pytest.raises(ValueError, match="need a folder"):
        RunOptions(save_masks=True)


# ------------------------------------------------------------------------------------------------ resuming


@pytest.fixture
def tracked(monkeypatch):
    """Names of the videos that are tracked, as they are."""
    names, plain = [], runner.evaluate_video
    monkeypatch.setattr(
        runner, "evaluate_video", lambda m, p, record, o: names.append(record.video_id) or plain(m, p, record, o)
    )
    return names


def test_what_is_done_is_not_done_again(davis, model, processor, tmp_path, tracked):
    options = RunOptions(output=tmp_path / "out", save_masks=True)
    records = load_records("davis2017", davis)
    whole = evaluate_videos(model, processor, records, RunOptions())
    tracked.clear()
    assert len(evaluate_videos(model, processor, records[:2], options).videos) == 2
    # As if killed while at `c`.
    half = OutputFolder(tmp_path / "out").add("predictions/c/00000.png")
    half.write_bytes(b"half")
    resumed = evaluate_videos(model, processor, records, options)
    assert tracked == ["a", "b", "c"]
    assert [video.objects for video in resumed.videos] == [video.objects for video in whole.videos]
    assert resumed.summary == whole.summary
    assert read_indexed_png(half).shape == (HEIGHT, WIDTH)


def test_other_settings_are_refused_in_the_same_folder(davis, model, processor, tmp_path, tracked):
    records = load_records("davis2017", davis, videos=["a"])
    evaluate_videos(model, processor, records, RunOptions(output=tmp_path))
    with pytest.raises(ValueError, match=r"other settings \(prompt 'mask', now 'box'\).*--overwrite"):
        evaluate_videos(model, processor, records, RunOptions(output=tmp_path, prompt="box"))
    other = EfficientTamVideoModel(tiny_config())
    with pytest.raises(ValueError, match="other settings.*weights"):
        evaluate_videos(other, processor, records, RunOptions(output=tmp_path))
    result = evaluate_videos(model, processor, records, RunOptions(output=tmp_path, prompt="box", overwrite=True))
    assert result.prompt == "box"
    assert tracked == ["a", "a"]


def test_videos_that_changed_failed_or_lack_masks_are_done_again(davis, model, processor, tmp_path, tracked):
    records, options = load_records("davis2017", davis, videos=["a"]), RunOptions(output=tmp_path)
    mask = davis / "Annotations" / "480p" / "a" / "00001.png"
    intact = mask.read_bytes()
    mask.write_bytes(b"damaged")
    assert evaluate_videos(model, processor, records, options).failures
    mask.write_bytes(intact)
    assert not evaluate_videos(model, processor, records, options).failures
    evaluate_videos(model, processor, records, options)
    assert len(tracked) == 2
    write_indexed_png(mask, labels_of({1: disk(20, 20, 9), 2: disk(50, 10, 6)}))
    evaluate_videos(model, processor, records, options)
    assert len(tracked) == 3
    evaluate_videos(model, processor, records, RunOptions(output=tmp_path, save_masks=True))
    assert len(tracked) == 4


def test_work_is_shared_out_evenly():
    lengths = [50, 10, 40, 30, 20, 60]
    shares = balanced_shares(lengths, 3)
    assert sorted(index for share in shares for index in share) == list(range(6))
    assert [sum(lengths[index] for index in share) for share in shares] == [70, 70, 70]
    assert balanced_shares([3], 2) == [[0], []]


# ------------------------------------------------------------------------------------------------ results


def test_a_result_comes_back_from_its_file_unchanged(tmp_path):
    scores = ObjectResult(2, [1, 2], [0.5, 0.25], [1.0, 0.5], category="dog")
    videos = [VideoResult("v", 4, HEIGHT, WIDTH, 4, 0.5, [scores]), VideoResult("w", error="cut short")]
    result = EvaluationResult("vos", "mose", "train", "m", "mask", "mose", {"max_frames": None}, videos)
    result.summary = summarize(videos, "mose")
    result.write(tmp_path / "r.json")
    assert EvaluationResult.read(tmp_path / "r.json") == result
    assert result.summary["J"] == pytest.approx(0.375)
    assert videos[0].j_and_f == pytest.approx((0.375 + 0.75) / 2)
    assert (result.frames_per_second, [v.name for v in result.failures]) == (8, ["w"])
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result"):
        EvaluationResult.read(tmp_path / "r.json")

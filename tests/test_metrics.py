"""Scoring conventions on cases worked out by hand and on the reference evaluators' numbers, folders of predictions
(good and bad), and the modules for `evaluate`."""

import json
import multiprocessing
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import REFERENCE

from efficienttam_hf.evaluation.conventions import (
    CONVENTIONS,
    DAVIS_2016,
    DAVIS_2017,
    LVOS,
    SEMI_SUPERVISED,
    VOS_BENCHMARK,
    VOS_BENCHMARK_ALL_FRAMES,
    YOUTUBE_VOS,
    convention_named,
    seen_and_unseen_categories,
    seen_and_unseen_videos,
)
from efficienttam_hf.evaluation.prediction_folders import score_prediction_folder
from efficienttam_hf.evaluation.region_boundary import agreement, boundary_accuracy, region_similarity
from efficienttam_hf.evaluation.scores import DatasetScores, SequenceScorer, SequenceScores
from efficienttam_hf.mask_io import davis_palette, encode_rle, write_indexed_png
from efficienttam_hf.metrics import metric_path
from efficienttam_hf.video_io import VideoError


METRICS = REFERENCE / "metrics"
SIZE = (24, 32)


def box(left, top, width=8, height=8):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


HERE, THERE = box(2, 2), box(20, 12)


def scored(convention, *frames, void=None):
    """For each object the J of the frames that count; frames are (truth, prediction)."""
    scorer = SequenceScorer(convention)
    for truth, predicted in frames:
        scorer.add(truth, predicted, void)
    return {scores.object_id: scores.j.tolist() for scores in scorer.scores()}


# ----------------------------------------------------------------------------------------------------- conventions

# Object 1 is always there and lost in the fourth frame; 2 comes in the third frame, though it is predicted in the
# second, and has left in the fifth, where it still is predicted.
LATE = [
    ({1: HERE}, {1: HERE}),
    ({1: HERE}, {1: HERE, 2: THERE}),
    ({1: HERE, 2: THERE}, {1: HERE, 2: THERE}),
    ({1: HERE, 2: THERE}, {2: THERE}),
    ({1: HERE}, {1: HERE, 2: THERE}),
    ({1: HERE}, {1: HERE}),
]


@pytest.mark.parametrize(
    "convention, expected",
    [
        (SEMI_SUPERVISED, {1: [1, 1, 0, 1], 2: [1, 0]}),
        (replace(DAVIS_2017, extra_objects="ignored"), {1: [1, 1, 0, 1]}),
        (VOS_BENCHMARK, {1: [1, 1, 0, 1], 2: [0, 1, 1, 0]}),
        (VOS_BENCHMARK_ALL_FRAMES, {1: [1, 1, 1, 0, 1, 1], 2: [0, 1, 1, 0, 1]}),
        (YOUTUBE_VOS, {1: [1, 1, 0, 1, 1], 2: [1, 0, 1]}),
        (LVOS, {1: [1, 1, 0, 1]}),
        (DAVIS_2016, {1: [0.5, 1, 0.5, 0.5]}),
        (replace(YOUTUBE_VOS, empty="skipped"), {1: [1, 1, 0, 1, 1], 2: [1, 0]}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_which_frames_count(convention, expected):
    assert scored(convention, *LATE) == expected


def test_davis_scores_each_number_up_to_the_largest_of_the_first_frame():
    still = ({1: HERE, 3: THERE}, {1: HERE, 3: THERE})
    assert scored(DAVIS_2017, still, still, still) == {1: [1], 2: [1], 3: [1]}  # 2 is absent, and rightly so
    with pytest.raises(ValueError, match=r"object 4 \(first in its frame 1.*objects are 1, 2, 3\. .*'davis2017'"):
        scored(DAVIS_2017, still, (still[0], {**still[1], 4: box(2, 14)}), still)


def test_an_object_that_never_counts_is_not_scored():
    gone = [({1: HERE, 2: THERE}, {1: HERE}), *[({1: HERE}, {1: HERE})] * 3]
    assert set(scored(VOS_BENCHMARK, *gone)) == {1}  # 2 is in the first frame only
    assert scored(SEMI_SUPERVISED, *gone)[2] == [1, 1]  # but must not be found again


def test_void_pixels_are_background_or_excluded():
    frame = ({1: HERE}, {1: box(2, 2, width=16)})
    void = box(10, 2)
    for rule, expected in (("background", 0.5), ("excluded", 1)):
        assert scored(replace(DAVIS_2017, void=rule), frame, frame, frame, void=void) == {1: [expected]}


def test_both_measures_at_once_are_each_of_them():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (9, 1), (2, 3), (75, 100), (31, 64)):
        for share in (0, 0.02, 0.5, 1):
            truth, predicted = rng.random((2, height, width)) < share
            found = agreement(predicted, truth)
            assert (found.j, found.f) == (region_similarity(predicted, truth), boundary_accuracy(predicted, truth))
            assert (found.in_truth, found.in_prediction) == (truth.any(), predicted.any())


def test_g_is_the_mean_over_seen_and_unseen(tmp_path):
    def sequence(name, groups, *j):
        scorer = SequenceScorer(YOUTUBE_VOS)
        for _ in range(3):
            scorer.add(dict.fromkeys(range(len(j)), HERE), {i: HERE if j[i] else THERE for i in range(len(j))})
        return SequenceScores(name, scorer.scores(groups), 3, 0.0)

    videos = [sequence("a", {0: "seen", 1: "seen", 2: "unseen"}, 1, 0, 1), sequence("b", "seen", 0)]
    summary = DatasetScores(videos, YOUTUBE_VOS).summary()
    assert summary["J_seen"] == pytest.approx(1 / 3)
    assert summary["J_unseen"] == 1
    assert summary["J"] == pytest.approx(2 / 3)
    assert summary["G"] == summary["J&F"] == pytest.approx((1 / 3 + 1 + summary["F_seen"] + 1) / 4)
    assert DatasetScores(videos, SEMI_SUPERVISED).j == 0.5
    assert DatasetScores(videos, DAVIS_2016).j == pytest.approx((2 / 3 + 0) / 2)  # a mean over sequences
    with pytest.raises(ValueError, match="some have none"):
        DatasetScores([*videos, sequence("c", None, 1)], YOUTUBE_VOS).summary()
    with pytest.raises(ValueError, match="Object 0 has no group"):
        sequence("c", {7: "seen"}, 1)


def test_what_is_unseen_is_read_from_the_data_sets_own_files(tmp_path):
    def meta(name, videos):
        objects = {video: {"objects": {i: {"category": c} for i, c in of.items()}} for video, of in videos.items()}
        (tmp_path / name).write_text(json.dumps({"videos": objects}))
        return tmp_path / name

    valid = meta("valid.json", {"a": {"1": "dog", "3": "okapi"}})
    assert seen_and_unseen_categories(valid, meta("train.json", {"z": {"1": "dog"}})) == {"a": {1: "seen", 3: "unseen"}}
    (tmp_path / "unseen.txt").write_text("b\nc\n")
    assert seen_and_unseen_videos(["a", "b"], tmp_path / "unseen.txt") == {"a": "seen", "b": "unseen"}


def test_conventions_have_names():
    assert convention_named("lvos") is LVOS is convention_named(LVOS)
    with pytest.raises(ValueError, match="no scoring convention 'davis'; there are semi_supervised, davis2017"):
        convention_named("davis")
    assert all(name == convention.name for name, convention in CONVENTIONS.items())


# --------------------------------------------------------------------------------------------------------- folders


@pytest.mark.skipif(not METRICS.is_dir(), reason=f"no numbers of reference evaluators in {METRICS}")
@pytest.mark.parametrize(
    "convention, key",
    [
        ("davis2017", "davis_2017_semisupervised"),
        ("vos_benchmark", "vos_benchmark_skip_first_and_last"),
        ("vos_benchmark_all_frames", "vos_benchmark_all_frames"),
        ("sav", "sav_evaluator"),
    ],
)
def test_scores_are_those_of_the_reference_evaluators(convention, key):
    expected = json.loads((METRICS / "scores.json").read_text())[key]
    found = score_prediction_folder(METRICS / "pred", METRICS / "gt", convention)
    scale = 1 if convention == "davis2017" else 100
    for name, value in expected["global"].items():
        assert scale * found.summary()[name] == pytest.approx(value, abs=1e-6)
    for sequence in found.sequences:
        for scores in sequence.objects:
            if "per_object" in expected:
                j, f = expected["per_object"][sequence.name][str(scores.object_id)]
                assert (100 * scores.j.mean(), 100 * scores.f.mean()) == pytest.approx((j, f), abs=1e-6)


def labels(**objects):
    """Object numbers from masks."""
    image = np.zeros(SIZE, np.uint8)
    for number, mask in objects.items():
        image[mask] = int(number[1:])
    return image


@pytest.fixture
def folders(tmp_path):
    """Two sequences of four frames with two objects, predicted without a mistake."""
    for kind in ("annotations", "predictions"):
        for sequence in ("one", "two"):
            for frame in range(4):
                write_indexed_png(tmp_path / kind / sequence / f"{frame:05d}.png", labels(_1=HERE, _2=THERE))
    return tmp_path / "predictions", tmp_path / "annotations"


def test_frames_that_do_not_count_or_are_not_annotated_need_no_prediction(folders):
    predictions, annotations = folders
    (predictions / "one" / "00000.png").unlink()
    (annotations / "two" / "00001.png").unlink()
    assert score_prediction_folder(*folders).j_and_f == 1
    (predictions / "one" / "00002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"one' lacks 1 of 2 frames that are scored: 00002\.png"):
        score_prediction_folder(*folders)


def test_a_folder_for_each_object(tmp_path):
    for kind, numbers in (("truth", (0, 7)), ("guess", (0, 7, 8))):
        for number in numbers:
            for frame in range(4 if number else 3):  # each object has frames of its own
                path = tmp_path / kind / "video" / f"{number:03d}" / f"{frame:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(HERE.astype(np.uint8) * 255).save(path)
    scores = score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "sav")
    assert {of.object_id: of.j.tolist() for of in scores.objects} == {0: [1], 7: [1, 1]}
    with pytest.raises(VideoError, match=r"has objects 8, which .*truth/video' has not"):
        score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "davis2017")
    several = Image.fromarray(labels(_1=HERE, _2=THERE))
    several.save(tmp_path / "guess" / "video" / "007" / "00001.png")
    with pytest.raises(VideoError, match=r"007/00001\.png' has several numbers"):
        score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "sav")
    with pytest.raises(VideoError, match=r"Predictions are laid out as the annotation is"):
        (tmp_path / "flat" / "video").mkdir(parents=True)
        write_indexed_png(tmp_path / "flat" / "video" / "00000.png", labels(_1=HERE))
        score_prediction_folder(tmp_path / "flat", tmp_path / "truth", "sav")


def test_binary_masks_have_one_object(tmp_path):
    for kind in ("truth", "guess"):
        for frame in range(3):
            path = tmp_path / kind / "video" / f"{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(HERE.astype(np.uint8) * (255 if kind == "truth" else 1)).save(path)
    assert score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "davis2016").j == 1
    with pytest.raises(VideoError, match=r"holds 0 and 255 only.*convention 'davis2016'"):
        score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "davis2017")


def test_missing_sequences_are_named(folders):
    (folders[0] / "two").rename(folders[0] / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no predictions of 1 of 2 sequences: two"):
        score_prediction_folder(*folders)
    assert score_prediction_folder(*folders, sequences=["one"]).j == 1
    with pytest.raises(FileNotFoundError, match="no annotations of three"):
        score_prediction_folder(*folders, sequences=["three"])
    with pytest.raises(FileNotFoundError, match="no folder"):
        score_prediction_folder(folders[0] / "nowhere", folders[1])


def test_a_root_of_another_level_is_told_which_fits(folders):
    predictions, annotations = folders
    with pytest.raises(VideoError, match=r"<sequence>/<frame>\.png.*'.*annotations', above it, is"):
        score_prediction_folder(predictions, annotations / "one")
    with pytest.raises(VideoError, match=r"no predictions of one, two\. .*'.*predictions', above it, is"):
        score_prediction_folder(predictions / "one", annotations)
    nested = annotations.parent / "DAVIS" / "Annotations" / "480p"
    nested.parent.mkdir(parents=True)
    annotations.rename(nested)
    for root in (nested.parent, nested.parent.parent):
        with pytest.raises(VideoError, match=r"'.*DAVIS/Annotations/480p', below it, is"):
            score_prediction_folder(predictions, root)


def indexed(values):
    image = Image.fromarray(values)
    image.putpalette(davis_palette().tobytes())
    return image


@pytest.mark.parametrize(
    "image, message",
    [
        (indexed(labels(_1=HERE)[:, 1:]), r"00001\.png' is 31x24 pixels, its annotation 32x24"),
        (Image.fromarray(davis_palette()[labels(_1=HERE)]), r"00001\.png' is RGB, but object numbers are wanted"),
        (Image.fromarray(labels(_1=HERE)), r"mixes kinds of PNG: '00000\.png' is indexed, '00001\.png' greyscale"),
        (Image.fromarray(labels(_1=HERE).astype(np.uint16)), r"00001\.png' is I;16"),
    ],
    ids=["size", "colour", "kind", "16 bit"],
)
def test_files_that_are_not_object_numbers_are_named(folders, image, message):
    image.save(folders[0] / "one" / "00001.png")
    with pytest.raises(VideoError, match=message):
        score_prediction_folder(*folders)


@pytest.mark.parametrize("kind", ["predictions", "annotations"])
def test_a_file_that_cannot_be_decoded_costs_its_own_sequence_only(folders, kind, caplog):
    broken = folders[0].parent / kind / "two" / "00001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    scores = score_prediction_folder(*folders)
    assert [sequence.name for sequence in scores.sequences] == ["one"] and scores.j_and_f == 1
    assert list(scores.failures) == ["two"] and "00001.png' is damaged" in scores.failures["two"]
    assert "'two' is not scored" in caplog.text
    assert scores.to_dict()["failures"] == scores.failures
    assert "1 of 2 sequences are scored. Left out:" in scores.to_markdown()
    (folders[0].parent / kind / "one" / "00001.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"No sequence can be scored\. .*one/00001\.png'"):
        score_prediction_folder(*folders)


def test_palettes_that_change_are_named(folders):
    image = Image.fromarray(labels(_1=THERE, _2=HERE))  # sorted anew: 1 has the colour that 2 had
    image.putpalette(davis_palette()[[0, 2, 1]].tobytes())
    image.save(folders[0] / "one" / "00001.png")
    with pytest.raises(
        VideoError, match=r"mixes palettes: number 1 has .*\(128, 0, 0\) in '00000.png' and \(0, 128, 0\)"
    ):
        score_prediction_folder(*folders)


def test_255_is_not_an_object_number(folders):
    write_indexed_png(folders[0] / "two" / "00002.png", labels(_255=HERE))
    for convention in ("davis2017", "vos_benchmark"):
        with pytest.raises(VideoError, match=r"two/00002\.png' holds 0 and 255 only.*object numbers \(1, 2\)"):
            score_prediction_folder(*folders, convention)


def test_more_objects_than_annotated_are_named(folders, caplog):
    write_indexed_png(folders[0] / "two" / "00002.png", labels(_1=HERE, _2=THERE, _9=box(2, 14)))
    with pytest.raises(VideoError, match=r"predictions/two': The prediction has object 9"):
        score_prediction_folder(*folders)
    assert score_prediction_folder(*folders, "vos_benchmark").j == 1
    assert "has objects 9, which are not annotated" in caplog.text


# -------------------------------------------------------------------------------------------------------- evaluate


@pytest.fixture
def load(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate", reason="evaluate is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def load(name, config=None, **options):
        return evaluate.load(metric_path(name), config, cache_dir=str(tmp_path / "cache"), **options)

    return load


def test_the_metric_scores_like_the_scorer(load):
    metric = load("video_object_segmentation", "semi_supervised")
    for number, (truth, predicted) in reversed(list(enumerate(LATE))):  # in whatever order
        encoded = {i: encode_rle(mask) for i, mask in truth.items()}
        metric.add(prediction=predicted, reference=encoded, sequence="video", frame=number)
    found = metric.compute()
    assert found["J"] == found["sequences"]["video"]["J"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["sequences"]["video"]["objects"][2]["J_recall"] == 0.5

    frames = [labels(_1=HERE, _2=THERE)] * 3
    guess = [frames[0], labels(_1=HERE), frames[0]]
    rows = {"sequence": ["a"] * 3, "frame": [0, 1, 2]}
    found = load("video_object_segmentation").compute(predictions=guess, references=frames, **rows)
    assert found["J"] == 0.5
    grouped = load("video_object_segmentation", "youtube_vos")
    grouped.add_batch(predictions=guess, references=frames, **rows)
    assert grouped.compute(groups={"a": {1: "seen", 2: "unseen"}})["J_unseen"] == 0.5


def test_a_frame_that_is_added_twice_counts_once(load):
    row = {"reference": {1: HERE}, "sequence": "a", "frame": 1}
    metric = load("video_object_segmentation", "vos_benchmark_all_frames")
    for _ in range(2):
        metric.add(prediction={1: HERE}, **row)
    assert metric.compute()["J"] == 1
    metric.add(prediction={1: HERE}, **row)
    metric.add(prediction={1: THERE}, **row)
    with pytest.raises(ValueError, match="Frame 1 of sequence 'a' was added twice"):
        metric.compute()


def test_metrics_combine_and_keep_no_masks(load):
    import evaluate

    names = ("video_object_segmentation", "prompted_segmentation")
    videos, images = (load(name) for name in names)
    images.add(prediction=HERE, reference=encode_rle(HERE))
    images.add(prediction=HERE, reference=THERE)
    assert images.compute() == {"mIoU": 0.5, "num_masks": 2}
    both = evaluate.combine({"all": load(names[0], "vos_benchmark_all_frames"), "inner": videos}, force_prefix=True)
    for frame in range(400):
        both.add(prediction=labels(_1=HERE), reference=labels(_1=HERE), sequence="a", frame=frame)
    videos.writer.write_examples_on_file()
    kept = Path(videos.cache_file_name).stat().st_size / 400
    assert kept < 100 < HERE.size  # bytes a frame; each mask has more pixels
    assert both.compute()["all_J"] == 1


def add_share(path, cache, process):
    import evaluate

    options = {"num_process": 2, "process_id": process, "experiment_id": "shared", "cache_dir": cache}
    metric = evaluate.load(path, "davis2017", **options)
    for frame in range(process, 6, 2):  # each its part of one video
        metric.add(prediction={1: HERE if frame < 3 else THERE}, reference={1: HERE}, sequence="a", frame=frame)
    return metric.compute()


@pytest.mark.parametrize(
    "pool",
    # Threads meet at the same locks as processes do, and need not import everything again.
    [ThreadPool, pytest.param(multiprocessing.get_context("spawn").Pool, marks=pytest.mark.slow)],
    ids=["threads", "processes"],
)
def test_processes_share_a_metric(tmp_path, pool):
    pytest.importorskip("evaluate", reason="evaluate is not installed")
    share = metric_path("video_object_segmentation"), str(tmp_path)
    with pool(2) as pool:
        first, second = pool.starmap(add_share, [(*share, 0), (*share, 1)], chunksize=1)
    assert (first["J"], second) == (0.5, None)  # frames 1 to 4 count, of which 1 and 2 are right


def test_metrics_have_names_and_cards():
    with pytest.raises(
        ValueError, match="no metric 'miou'; there are prompted_segmentation, video_object_segmentation"
    ):
        metric_path("miou")
    for name in ("prompted_segmentation", "video_object_segmentation"):
        card = (Path(metric_path(name)) / "README.md").read_text()
        assert card.startswith("---\ntitle: ")

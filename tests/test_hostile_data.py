"""Data of strangers: nothing is written or read outside its folder, nothing that is not ours is removed, and one bad
item neither ends the process nor the evaluation of the others."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficienttam_hf._media import VideoError
from efficienttam_hf.data.checking import check_dataset
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.data.records import VideoRecord
from efficienttam_hf.data.run_lengths import run_lengths_of
from efficienttam_hf.data.schema import DatasetError
from efficienttam_hf.evaluation.conventions import seen_and_unseen_categories
from efficienttam_hf.evaluation.memory_comparison import write_comparison
from efficienttam_hf.evaluation.prediction_folders import score_prediction_folder
from efficienttam_hf.evaluation.report import write_report
from efficienttam_hf.evaluation.result_folder import ResultFolder
from efficienttam_hf.evaluation.results import EvaluationResult, ObjectResult, VideoResult
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_videos
from efficienttam_hf.evaluation.submission import write_zip
from efficienttam_hf.mask_io import checked_rle, decode_rle, encode_rle, write_indexed_png
from efficienttam_hf.output_folders import LIST_NAME, OutputFolder


HEIGHT, WIDTH = 24, 32
SETTINGS = {"dataset": "folder", "weights": "0"}


def box(left: int, top: int = 4) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 8, left : left + 8] = True
    return mask


def coco(root: Path, file_name: str) -> Path:
    """One image in COCO's format, under any name."""
    (root / "val").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "val" / "x.jpg")
    content = {
        "images": [{"id": 1, "file_name": file_name}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": encode_rle(box(3))}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


# --------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../../x.jpg", "", 5, None])
def test_file_names_of_coco_stay_in_the_data(tmp_path, name):
    with pytest.raises(DatasetError, match=r"instances_val\.json'.*image 0"):
        load_records("coco", coco(tmp_path, name), "val")


def test_file_names_of_coco_may_have_folders(tmp_path):
    root = coco(tmp_path, "../val/x.jpg")
    (record,) = load_records("coco", root, "val")
    assert record.frame(0).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("video_id", ["../../escaped", "/tmp/escaped", "..", "a\\..\\b", "x\ny", "v" * 400])
def test_results_of_any_video_name_stay_in_the_folder(tmp_path, video_id):
    folder = ResultFolder(tmp_path / "a" / "b" / "out", SETTINGS)
    folder.prepare(overwrite=False)
    result = VideoResult(video_id, 3, HEIGHT, WIDTH, 3, 1.0, [ObjectResult(1, [1], [0.5], [0.5])])
    folder.keep(result, "", masks=False)
    assert folder.done(video_id, "", masks=False, picture=False) == result
    evaluation = EvaluationResult("vos", "folder", "", "m", "mask", "semi_supervised", videos=[result])
    evaluation.summary = {"J&F": 0.5, "J": 0.5, "F": 0.5}
    pytest.importorskip("matplotlib", reason="reports have plots")
    write_report(evaluation, folder.path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 5 and all(path.is_relative_to(folder.path) for path in written)


def test_zips_hold_safe_names_only(tmp_path):
    import zipfile

    from efficienttam_hf.safe_names import safe_path

    for name in ("../x", "dog"):
        write_indexed_png(tmp_path / "predictions" / safe_path(name) / "00000.png", box(3))
    write_zip(tmp_path / "out.zip", tmp_path / "predictions", ["../x", "dog"], "mose")
    names = zipfile.ZipFile(tmp_path / "out.zip").namelist()
    assert "dog/00000.png" in names and not any(".." in Path(n).parts or n.startswith("/") for n in names)


# ------------------------------------------------------------------------------------------- removal


def test_only_the_results_of_an_evaluation_are_removed(tmp_path):
    folder = ResultFolder(tmp_path, SETTINGS)
    folder.prepare(overwrite=False)
    folder.keep(VideoResult("a"), "", masks=False)
    write_indexed_png(OutputFolder(tmp_path).add("predictions/a/00000.png"), box(3))
    (tmp_path / "predictions" / "a" / ".00000.01234567.part").write_text("of a process that was killed")
    folder.prepare(overwrite=False)
    folder.prepare(overwrite=True)
    assert {path.name for path in tmp_path.rglob("*")} == {"settings.json", LIST_NAME}

    for place in (
        "videos/thesis.pdf",
        "videos/b.json",
        "predictions/a/notes.txt",
        "pictures/me.jpg",
        "pictures/.me.01234567.part",
    ):
        other = tmp_path / place
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("mine")
        folder.keep(VideoResult("a"), "", masks=False)
        with pytest.raises(FileExistsError, match=rf"{other.name}' was not written by efficienttam"):
            folder.prepare(overwrite=True)
        assert other.read_text() == "mine" and (tmp_path / "videos" / "a.json").is_file()
        other.unlink()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "place", ["videos/holiday.mp4", "videos/a.json", "predictions/a.png", "report.md", "settings.json"]
)
def test_folders_of_others_are_left_alone(tmp_path, place, overwrite):
    other = tmp_path / place
    other.parent.mkdir(exist_ok=True)
    other.write_text("{}")
    with pytest.raises(FileExistsError, match=r"choose another output"):
        ResultFolder(tmp_path, SETTINGS).prepare(overwrite)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other] and other.read_text() == "{}"


def test_a_damaged_result_is_done_again(tmp_path):
    folder = ResultFolder(tmp_path, SETTINGS)
    folder.prepare(overwrite=False)
    for content in ("{", "[]", "5", "{}", '{"fingerprint": 1, "stamp": 2, "result": 3, "masks": 4}', "[" * 100_000):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / "a.json").write_text(content)
        assert folder.done("a", "", masks=False, picture=False) is None


# ------------------------------------------------------------------------------------- text that acts

HOSTILE = "a | b\n\n# c <script>alert(1)</script> ![x](http://y/z.png) ```"


def test_a_comparison_shows_names_from_data_as_text(tmp_path):
    objects = [ObjectResult(1, [1], [0.5], [0.5], category=HOSTILE)]
    result = EvaluationResult("vos", HOSTILE, "", f"models/{HOSTILE}", HOSTILE, HOSTILE)
    result.videos, result.summary = [VideoResult("v", 3, 4, 4, 3, 1.0, objects)], {"J&F": 0.5, "J": 0.5, "F": 0.5}
    text = write_comparison({HOSTILE: result, "quality": result}, tmp_path, f"track '{HOSTILE}'").read_text()
    table, command = text.split("## How to do it again")
    table = re.sub("`[^`\\n]*`", "code", table)  # in which nothing acts
    assert "<script" not in table and "![x]" not in table and "\n# c" not in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert command.strip().startswith("````bash\n") and command.strip().endswith("\n````")


def test_a_report_of_others_is_not_replaced_by_a_comparison(tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"report\.md' was not written by efficienttam"):
        write_comparison({"recent": EvaluationResult("vos", "d", "", "m", "box", "c")}, tmp_path)
    assert (tmp_path / "report.md").read_text() == "mine"


# ------------------------------------------------------------------------------------- run lengths, polygons


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 5], "counts": [2**62, 2**62, 2**62, 2**62, 20]},
        {"size": [4, 5], "counts": [2**63 - 1, 2**63 - 1, 22]},
        {"size": [4, 5], "counts": [10**40, 20]},
        {"size": [4, 5], "counts": [-5, 25]},
        {"size": [4, 5], "counts": [1.5, 18.5]},
        {"size": [4, 5], "counts": [[20]]},
        {"size": [4, 5], "counts": "oooooo0" * 3},
        {"size": [4, 5], "counts": "\u2603"},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": [10**400, 1], "counts": [1]},
        {"size": [float("inf"), 5], "counts": [20]},
        {"size": [0, 0], "counts": []},
        {"size": [4, 5], "counts": [[[0] * 100] * 100] * 100},
        {"size": [4, 5], "counts": [0] * 1000 + [20]},
        {"size": [4, 5], "counts": "0" * 1000},
        {"size": ["x" * 10_000, 5], "counts": [20]},
        [["x" * 10_000] * 6],
        {"size": "45", "counts": [20]},
        5,
        None,
    ],
    ids=lambda value: str(value)[:50],
)
def test_run_lengths_are_bounded(segmentation):
    with pytest.raises(DatasetError, match="the mask") as refusal:
        run_lengths_of(segmentation, (4, 5), "the mask")
    assert len(str(refusal.value)) < 1000
    with pytest.raises(VideoError, match="COCO") as refusal:
        decode_rle(segmentation)
    assert len(str(refusal.value)) < 1000


def test_polygons_are_clipped_and_bounded():
    """In a process of its own: drawn as they are, some of these end it."""
    pytest.importorskip("pycocotools", reason="polygons are drawn by pycocotools")
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
import numpy as np
from efficienttam_hf.data.run_lengths import run_lengths_of
from efficienttam_hf.data.schema import DatasetError
size = (480, 640)
def area(*polygons):
    return run_lengths_of([list(p) for p in polygons], size, "the mask")[1]
whole = 480 * 640
for far in (1e4, 1e6, 1e9, 2e9, 1e12, 1e300, 1.7e308):
    assert abs(area((-far, -far, far, -far, far, far, -far, far)) - whole) <= 1200, far
    assert area((far, far, far, far / 2, far / 2, far)) == 0, far
    half = area((-far, -far, far, -far, far, far))
    assert abs(half - area((-600, -600, 1200, -600, 1200, 1200))) < 0.02 * whole, (far, half)
for bad in ([[1, 2, 3]], [[0, 0, 1e999, 0, 1, 1]], [[0, 0, float("nan"), 0, 1, 1]], [[0, 0, 9e9, 9e9]], [["a"] * 6],
            [[10**400] * 6], [[[1, 2], [3, 4], [5, 6]]], [None], [5], [[0, 0, 640, 480] * 500_000]):
    try:
        area(*bad) if all(isinstance(p, list) for p in bad) else run_lengths_of(bad, size, "the mask")
    except DatasetError as error:
        assert "the mask" in str(error)
    else:
        raise AssertionError(str(bad)[:80])
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr[-2000:]


def test_polygons_within_the_frame_are_those_of_coco():
    mask = pytest.importorskip("pycocotools.mask", reason="polygons are drawn by pycocotools")
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [rng.uniform(-30, 90, 2 * int(rng.integers(3, 9))).tolist() for _ in range(2)]
        expected = mask.decode(mask.merge(mask.frPyObjects(polygons, 48, 64))).astype(bool)
        np.testing.assert_array_equal(decode_rle(run_lengths_of(polygons, (48, 64), "mask")[0]), expected)


# -------------------------------------------------------------------------------------------- one bad item


def folder_of_videos(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (root / "frames" / name).mkdir(parents=True)
        for t in range(4):
            Image.new("RGB", (WIDTH, HEIGHT), (40 * t, 0, 0)).save(root / "frames" / name / f"{t:05d}.jpg")
            write_indexed_png(root / "masks" / name / f"{t:05d}.png", box(3 + t))
    return root


def test_one_bad_mask_costs_its_video_only(model, processor, tmp_path):
    pytest.importorskip("cv2", reason="scores of outlines need OpenCV")
    root = folder_of_videos(tmp_path / "data", ("a", "b", "c"))
    Image.new("1", (20_000, 20_000)).save(root / "masks" / "b" / "00002.png")  # 400 Mpx in 50 KB
    result = evaluate_videos(model, processor, load_records("folder", root), RunOptions(output=tmp_path / "out"))
    (failed,) = result.failures
    assert failed.name == "b" and "00002.png" in failed.error
    assert [video.name for video in result.scored] == ["a", "c"] and result.summary
    assert result.coverage == {"videos": 3, "scored": 2, "failed": 1}
    result.write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["coverage"] == result.coverage
    assert EvaluationResult.read(tmp_path / "results.json") == result


SIZE = '"image": {"height": 24, "width": 32}'
BAD_JSON = [
    "{",
    "[" * 100_000,
    "5",
    '{"image": {"height": 1e999, "width": 32}, "annotations": []}',
    '{"image": {"height": 24}, "annotations": []}',
    "{" + SIZE + ', "annotations": 7}',
    "{" + SIZE + ', "annotations": [{"area": 9, "segmentation": {"size": [24, 32], "counts": 3}}]}',
    "{" + SIZE + ', "annotations": [{"area": "9", "segmentation": []}]}',
    "{" + SIZE + ', "annotations": [{"area": 1' + "0" * 400 + ', "segmentation": []}]}',
]


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_one_bad_json_costs_its_image_only(model, processor, tmp_path, text):
    pytest.importorskip("cv2", reason="clicks need OpenCV")
    from efficienttam_hf.evaluation.image_protocol import ImageOptions, evaluate_images

    good = {
        "image": {"height": HEIGHT, "width": WIDTH},
        "annotations": [{"area": 64, "segmentation": encode_rle(box(3))}],
    }
    for name in ("sa_1", "sa_2"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.json").write_text(json.dumps(good) if name == "sa_1" else text)
    records = load_records("sa1b", tmp_path)
    result = evaluate_images(model, processor, records, ImageOptions(clicks=1))
    assert [video.name for video in result.scored] == ["sa_1"]
    (failed,) = result.failures
    assert failed.name == "sa_2" and "sa_2.json" in failed.error
    (problem,) = check_dataset(records)
    assert "sa_2.json" in problem


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"videos": []}',
        '{"videos": {"a": {"objects": {"x": {}}}}}',
        '{"videos": {"a": {"objects": {"1": {}}}}}',
    ],
)
def test_tables_of_videos_name_their_file(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta\.json"):
        seen_and_unseen_categories(tmp_path / "meta.json", tmp_path / "meta.json")


def test_results_of_another_kind_are_refused_by_file(tmp_path):
    for text in ("{", "[]", "{}", '{"protocol": 5}', '{"protocol": "vos", "videos": [{"name": 5}]}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"results\.json' is not a result of `efficienttam evaluate`"):
            EvaluationResult.read(tmp_path / "results.json")


# ----------------------------------------------------------------------------------------- text, palettes


def test_names_act_neither_in_a_table_nor_in_a_report(tmp_path):
    pytest.importorskip("matplotlib", reason="reports have plots")
    names = ["=HYPERLINK(1)", "<script>alert(1)</script>|x", "two\nlines", "$\\frac$", "[a](javascript:b)"]
    videos = [
        VideoResult(name, 3, HEIGHT, WIDTH, 3, 1.0, [ObjectResult(1, [1], [0.5], [0.5], category="@SUM(A1)")])
        for name in names
    ]
    videos.append(VideoResult("gone`<b>", error="no <i>file</i> | here\n# heading"))
    result = EvaluationResult("vos", "folder", "", "<u>m", "mask", "semi_supervised", videos=videos)
    result.summary = {"J&F": 0.5, "J": 0.5, "F": 0.5}
    text = write_report(result, tmp_path, command="efficienttam evaluate ```").read_text()
    (table,) = (part for part in text.split("\n\n") if part.startswith("| video |"))
    text = re.sub("`[^`\n]*`", "", text)  # which shows what is in it
    for acting in ("<script>", "<i>", "<u>", "\n# heading", r"(?<!\\)\]\(javascript"):
        assert not re.search(acting, text)
    assert {len(row.replace("\\|", "").split("|")) for row in table.splitlines()} == {12}
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names)
    for row in rows:
        assert row["video"][0] not in "=+-@" and row["category"] == "'@SUM(A1)" and "\n" not in row["video"]


def test_a_palette_that_was_sorted_alike_in_all_predictions_is_named(tmp_path):
    own = np.array([(0, 0, 0), (236, 95, 103), (249, 145, 87)], np.uint8)  # not of DAVIS, so that one file says nothing
    for kind, order in (("truth", [0, 1, 2]), ("guess", [0, 2, 1])):
        for t in range(4):
            labels = (box(3 + t) + 2 * box(18)).astype(np.uint8)
            image = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
            image.putpalette(own[order].tobytes())
            (tmp_path / kind / "v").mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / kind / "v" / f"{t:05d}.png")
    with pytest.raises(VideoError, match=r"guess/v' has another order of colours than the annotation.*map from colour"):
        score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "davis2017")
    assert score_prediction_folder(tmp_path / "truth", tmp_path / "truth", "davis2017").j_and_f == 1


def test_predictions_with_soft_edges_are_named(tmp_path):
    for kind in ("truth", "guess"):
        for t in range(4):
            write_indexed_png(tmp_path / kind / "v" / f"{t:05d}.png", box(3 + t))
    mask = Image.fromarray(box(5).astype(np.uint8) * 255)
    for t in range(4):
        mask.resize((11, 8), Image.BILINEAR).resize((WIDTH, HEIGHT), Image.BICUBIC).save(
            tmp_path / "guess" / "v" / f"{t:05d}.png"
        )
    with pytest.raises(VideoError, match=r"guess/v/00000\.png' has soft edges.*MaskCoding"):
        score_prediction_folder(tmp_path / "guess", tmp_path / "truth", "davis2017")


def test_rows_of_a_table_with_any_name_are_evaluated_inside_the_folder(model, processor, tmp_path):
    pytest.importorskip("cv2", reason="scores of outlines need OpenCV")
    root = folder_of_videos(tmp_path / "data", ("a",))
    row = load_records("folder", root)[0].to_row() | {"video_id": "../../escaped"}
    output = tmp_path / "x" / "y" / "out"
    options = RunOptions(output=output, save_masks=True, pictures=True)
    result = evaluate_videos(model, processor, [VideoRecord.from_row(row)], options)
    assert not result.failures
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(root)]
    assert outside and all(path.is_relative_to(output) for path in outside)


def test_run_lengths_of_a_large_mask_are_checked_without_its_pixels():
    """The lists of a hostile file may state many masks of the largest size in a few bytes each."""
    size = (8000, 8000)
    rle = {"size": list(size), "counts": [5, 3, 8000 * 8000 - 8]}
    tracemalloc.start()
    checked, area = checked_rle(rle, size, "mask", ValueError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (area, checked["counts"]) == (3, encode_rle(decode_rle(rle))["counts"])
    assert peak < 2**20

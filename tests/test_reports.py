"""The paper's tables as data, ours beside them, and the report that is written about an evaluation."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from reference import SHARED

from efficienttam_hf.data.layouts import LAYOUTS
from efficienttam_hf.evaluation.paper_tables import (
    Measured,
    beside_published,
    find_set,
    load_sets,
    load_table,
    rows_for,
)
from efficienttam_hf.evaluation.reliability import reliability
from efficienttam_hf.evaluation.report import paper_comparison, write_overview, write_report
from efficienttam_hf.evaluation.results import EvaluationResult, ObjectResult, VideoResult


PAPER = SHARED / "paper" / "tables.json"
DATE = "2026-01-31"


def video(name, *levels, frames=10, **fields):
    """A video whose objects have a J of `level` and an F a tenth above on every frame but the first and the last."""
    judged = list(range(1, frames - 1))
    objects = [
        ObjectResult(i, judged, [level] * len(judged), [level + 0.1] * len(judged))
        for i, level in enumerate(levels, start=1)
    ]
    return VideoResult(name, frames, 48, 64, frames, 0.5, objects, **fields)


def evaluation(*videos, **fields):
    described = {"protocol": "vos", "dataset": "davis2016", "split": "val", "model": "models/mine", "prompt": "mask"}
    settings = {"device": "cpu", "parameters": 5_760_946}
    summary = {"J&F": 0.45, "J": 0.4, "F": 0.5, "J_recall": 0.25, "J_decay": 0.125}
    stated = {**described, "convention": "davis2016", "settings": settings, "summary": summary, **fields}
    return EvaluationResult(videos=list(videos), **stated)


def column(table, name):
    """The cells under a heading of the Markdown table of methods, by the row's first cell."""
    lines = table[table.index("| method") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[rows[0].index(name)] for row in rows[2:]}


# ------------------------------------------------------------------------------------------------------ paper's tables


def test_the_tables_have_what_the_paper_has():
    assert [len(rows_for(number)) for number in (1, 2, 3)] == [11, 5, 9]
    numbers = {row.method: row.values for row in rows_for(1)}
    assert numbers["EfficientTAM-S"]["DAVIS 2017 val J&F"] == 89.2
    assert numbers["STCN"]["LVOS val J&F"] is None
    assert load_table(2).source == "published (arXiv 2411.18933, Table 2)"
    with pytest.raises(ValueError, match="no Table 4"):
        load_table(4)


@pytest.mark.skipif(not PAPER.is_file(), reason=f"no copy of the paper's tables in {PAPER}")
def test_no_number_was_mistyped():
    stored = [table for name, table in json.loads(PAPER.read_text()).items() if name.startswith("table_")]
    for number, table in enumerate(stored, start=1):
        expected = [[row.pop("method"), *row.values()] for row in table["rows"]]
        assert [[row.method, *row.values.values()] for row in rows_for(number)] == expected


def test_sets_are_known_by_the_kinds_that_load():
    assert {known.kind for known in load_sets().values()} <= set(LAYOUTS)
    assert find_set("davis2017", "val").videos == 30
    assert find_set("sav_test", "").title == "SA-V test"
    assert find_set("davis2017", "train") is None


def measured(kind, split, videos, **values):
    return Measured("mine", "measured here: today", kind, split, videos, values)


def test_our_number_stands_in_the_column_of_its_set_and_in_no_other():
    table = beside_published(1, [measured("mose", "valid", 311, **{"J&F": 61.23})])
    assert column(table, "MOSE val J&F")["**mine**"] == "61.2"
    assert column(table, "DAVIS 2017 val J&F")["**mine**"] == "–"
    assert column(table, "source") == {
        **dict.fromkeys([row.method for row in rows_for(1)], "published (arXiv 2411.18933, Table 1)"),
        "**mine**": "measured here: today",
    }
    assert "†" not in table


def test_a_part_of_the_papers_set_is_marked():
    table = beside_published(1, [measured("davis2017", "val", 8, **{"J&F": 61.23})])
    assert column(table, "DAVIS 2017 val J&F")["**mine**"] == "61.2 †"
    assert "† Not the paper's set: it has 30 videos of DAVIS 2017 val; measured on 8 of the 30 videos." in table


def test_another_set_gets_its_own_column_and_a_warning():
    table = beside_published(1, [measured("davis2016", "val", 8, **{"J&F": 61.23, "parameters": 5.76})])
    assert column(table, "DAVIS 2017 val J&F")["**mine**"] == "–"
    assert column(table, "DAVIS 2016 val J&F") == {
        **dict.fromkeys([row.method for row in rows_for(1)], "–"),
        "**mine**": "61.2 †",
    }
    assert column(table, "parameters (M)")["**mine**"] == "5.8"
    assert "† Not one of the paper's sets: measured on DAVIS 2016 val (8 of the 20 videos)" in table


def test_one_set_is_not_the_mean_over_seventeen():
    table = beside_published(2, [measured("davis2017", "val", 30, **{"3-click": 50.0})])
    assert column(table, "3-click J&F")["**mine**"] == "50.0 †"
    assert "measured on DAVIS 2017 val (all 30 videos); the published numbers are means over 17 video data" in table


def test_prompts_of_one_model_share_a_row():
    results = [evaluation(video("a", 0.4), protocol="prompted-video", prompt=prompt) for prompt in ("1-click", "box")]
    table = paper_comparison(results, DATE)
    assert table.startswith("Table 2 of the paper.")
    assert table.count("measured here") == 1
    assert column(table, "1-click J&F")["**mine**"] == column(table, "bounding box J&F")["**mine**"] == "45.0 †"


# ---------------------------------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on three videos, of which one has a picture and one could not be read, and its folder."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "pictures").mkdir()
    Image.fromarray(np.full((40, 600, 3), 200, np.uint8)).save(folder / "pictures" / "bad.jpg")
    result = evaluation(
        video("good", 0.8), video("bad", 0.1, 0.3, picture="pictures/bad.jpg"), VideoResult("gone", error="no frame 3")
    )
    path = write_report(result, folder, command="efficienttam evaluate vos --data DAVIS", date=DATE)
    return result, folder, path.read_text()


def test_a_report_says_what_was_run_and_how_to_run_it_again(report):
    _, _, text = report
    assert text.startswith("# mine on DAVIS 2016 val\n")
    assert "shown by its mask" in text
    assert "2 videos with 3 objects were scored" in text
    assert "```bash\nefficienttam evaluate vos --data DAVIS\n```" in text
    assert "| **45.0** | 40.0 | 50.0 | 25.0 | 12.5 | 20.0 |" in text  # 10 frames in half a second each
    assert f"measured here: {DATE}, cpu, DAVIS 2016 val, 2 videos" in text


def test_videos_are_listed_from_the_worst_on_and_failures_named(report):
    _, folder, text = report
    assert re.findall(r"\[plot\]\(plots/(\w+)\.png\)", text) == ["bad", "good"]
    assert (
        "| [bad](pictures/bad.jpg) | [plot](plots/bad.png) | 2 | 10 | 25.0 | 20.0 | 30.0 | 0.0 | 0.0 | 20.0 |" in text
    )
    assert "## 1 video could not be evaluated\n\n- `gone`: no frame 3" in text
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert all((folder / path).is_file() for path in linked)
    assert "worst.jpg" in linked


def test_the_files_hold_every_object(report):
    result, folder, _ = report
    assert EvaluationResult.read(folder / "results.json") == result
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["object"]) for row in rows] == [("good", "1"), ("bad", "1"), ("bad", "2")]
    assert float(rows[2]["J"]) == pytest.approx(0.3)
    assert float(rows[2]["J&F"]) == pytest.approx(0.35)


def test_a_plot_shows_where_the_scores_are_low(tmp_path):
    from efficienttam_hf.evaluation.report_plots import plot_video

    def ink(level):
        plot_video(video("v", level), tmp_path / "plot.png")
        pixels = np.array(Image.open(tmp_path / "plot.png").convert("RGB")).astype(int)
        red = (pixels[..., 0] - pixels[..., 1] > 60) & (pixels[..., 0] - pixels[..., 2] > 60)
        return np.flatnonzero(red.any(axis=1)).min() / len(pixels)

    assert ink(0.85) < 0.2 < 0.3 < ink(0.1)


def test_an_evaluation_without_scores_is_reported_too(tmp_path):
    text = write_report(evaluation(video("a"), summary={}), tmp_path, date=DATE).read_text()
    assert "Nothing could be scored" in text
    assert "Beside the paper" not in text
    assert (tmp_path / "scores.csv").read_text().startswith("video,object")


def test_images_are_compared_with_table_3(tmp_path):
    objects = [ObjectResult(1, [0], [0.75], clicks=[0.5, 0.75], best_of_three=0.625)]
    result = evaluation(
        VideoResult("000139", 1, 48, 64, 1, 0.1, objects),
        protocol="images",
        dataset="coco",
        split="val2017",
        prompt="2-click",
        summary={"1-click mIoU": 0.5, "2-click mIoU": 0.75, "1-click best-of-three mIoU": 0.625, "mIoU": 0.75},
    )
    text = write_report(result, tmp_path, date=DATE).read_text()
    assert "| **1-click mIoU** | 2-click mIoU | 1-click best-of-three mIoU | images/s |" in text
    assert "| 000139 | 1 | 50.0 | 75.0 | 64x48 |" in text
    assert column(text, "coco val2017 1-click mIoU")["**mine**"] == "50.0 †"
    assert (tmp_path / "plots" / "clicks.png").is_file()


def test_an_overview_has_a_row_an_evaluation(tmp_path):
    results = [
        evaluation(video("a", 0.4), protocol="prompted-video", prompt="1-click"),
        evaluation(video("a", 0.4), VideoResult("b", error="gone"), protocol="prompted-video", prompt="box"),
    ]
    text = write_overview(results, tmp_path, command="again", date=DATE).read_text()
    assert "| DAVIS 2016 val | 1-click | 45.0 | 40.0 | 50.0 | 1 of 1 | 20.0 |" in text
    assert "| DAVIS 2016 val | box | 45.0 | 40.0 | 50.0 | 1 of 2 | 20.0 |" in text
    assert "† Left out, because of errors: 1 video." in text
    assert write_overview(results, tmp_path, date=DATE).read_text() != text  # its own is replaced
    with pytest.raises(ValueError, match="at least one"):
        write_overview([], tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("my thesis")
    with pytest.raises(FileExistsError, match=r"report\.md' was not written by efficienttam"):
        write_overview(results, tmp_path / "mine")
    assert (tmp_path / "mine" / "report.md").read_text() == "my thesis"


# ------------------------------------------------------------------------------------------- the model's own scores


def with_scores(presence, predicted_iou, j, present):
    frames = list(range(1, len(j) + 1))
    return ObjectResult(1, frames, j, list(j), presence=presence, predicted_iou=predicted_iou, present=present)


def test_reported_scores_are_sorted_into_bins_beside_what_was_measured():
    found = reliability(
        [
            with_scores([0.95, 0.92, 0.1], [0.85, 0.81, 0.3], [0.6, 0.8, 0.0], [True, True, False]),
            with_scores([0.3, 1.0], [0.25, 0.99], [0.25, 1.0], [True, False]),
        ]
    )
    # The predicted IoU counts only on the three frames that show an object: 0.85 and 0.81 share a bin.
    assert found.iou.counts.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 2, 0]
    assert found.iou.reported[8] == pytest.approx(0.83) and found.iou.measured[8] == pytest.approx(0.7)
    assert found.iou.error == pytest.approx((0.25 + 0.01 + 0) / 3)
    assert found.iou.calibration_error == pytest.approx((2 * 0.13 + 0) / 3)
    # A certain score of 1 is in the last bin, with 0.95 and 0.92; two of these three frames show the object.
    assert found.presence.counts[[1, 3, 9]].tolist() == [1, 1, 3]
    assert found.presence.measured[9] == pytest.approx(2 / 3)
    assert (found.absent_frames, found.found_absent, found.false_alarms) == (2, 0.5, pytest.approx(1 / 3))


def test_without_recorded_scores_there_is_no_reliability(tmp_path):
    assert reliability(video("a", 0.5).objects) is None
    write_report(evaluation(video("a", 0.5)), tmp_path)
    assert "trusted" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "reliability.png").exists()


def test_the_report_says_how_far_scores_can_be_trusted(tmp_path):
    shown = with_scores([0.9] * 4, [0.75] * 4, [0.5] * 4, [True] * 4)
    write_report(evaluation(VideoResult("a", 6, 48, 64, 6, 0.5, [shown])), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "differs from the measured one by 25.0 on average" in text
    assert "The object is in every scored frame." in text
    assert "called absent on 0.0 % of the frames that show it" in text
    with Image.open(tmp_path / "reliability.png") as plot:
        assert plot.size[0] > 500
    assert EvaluationResult.read(tmp_path / "results.json").videos[0].objects == [shown]

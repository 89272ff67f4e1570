"""`efficienttam track --batch`: many videos, on a tiny random model and small folders of frames made here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import save_tiny_model

from efficienttam_hf.cli import main
from efficienttam_hf.synthetic_clip import make_clip


datasets = pytest.importorskip("datasets", reason="tables need the extra: pip install efficienttam-hf[batch]")
pytest.importorskip("av", reason="the command line reads and writes video files with PyAV")
pytest.importorskip("cv2", reason="the command line draws with OpenCV")

from efficienttam_hf.app.batch_jobs import read_jobs  # noqa: E402
from efficienttam_hf.app.pipeline import Job  # noqa: E402
from efficienttam_hf.cli import batch_tracking  # noqa: E402
from efficienttam_hf.discovery import Detection  # noqa: E402
from efficienttam_hf.mask_io import decode_rle  # noqa: E402
from efficienttam_hf.video_writer import VideoWriter  # noqa: E402


WIDTH, HEIGHT = 96, 64
LENGTHS = {"a": 3, "b": 2, "c": 4}
BOX = [20, 10, 60, 50]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny random model."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return str(folder)


@pytest.fixture
def videos(tmp_path):
    """A folder with three videos, as folders of frames."""
    for name, length in LENGTHS.items():
        (tmp_path / "videos" / name).mkdir(parents=True)
        for i, frame in enumerate(make_clip(length, WIDTH, HEIGHT).frames):
            Image.fromarray(frame).save(tmp_path / "videos" / name / f"{i:05d}.png")
    return tmp_path / "videos"


def job(video, box=BOX, **more):
    return {"video": str(video), "objects": [{"id": 2, "prompts": [{"frame": 0, "box": box}]}], **more}


def write_jobs(path, *jobs):
    path.write_text("".join(json.dumps(one) + "\n" for one in jobs))
    return path


@pytest.fixture
def run(model, tmp_path):
    def run(jobs, *more, out="out", expect=0):
        arguments = ["track", "--batch", str(jobs), "--model", model, "--out", str(tmp_path / out), *more]
        assert main(arguments) == expect
        return tmp_path / out

    return run


@pytest.fixture
def tracked(monkeypatch):
    """The names of the videos that are tracked, in order."""
    names, plain = [], Job.run

    def counted(self, *arguments):
        names.append(self.source.name)
        return plain(self, *arguments)

    monkeypatch.setattr(Job, "run", counted)
    return names


def table(out, tmp_path):
    files = sorted(map(str, (out / "table").glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))


def test_a_bad_video_is_reported_and_the_others_are_tracked(videos, run, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    outside = job(videos / "b", [500, 10, 600, 50], name="outside")
    jobs = [job("videos/a"), job("broken.mp4"), job("videos/b"), job("gone.mp4"), outside, job("videos/c")]
    out = run(write_jobs(tmp_path / "jobs.jsonl", *jobs), expect=1)
    said = capsys.readouterr()
    assert "3 of 6 videos are done: 3 now" in said.out
    for name in ("broken", "gone", "outside"):
        assert f"left out: {name}: " in said.out
    assert "Traceback" not in said.err
    rows = table(out, tmp_path)
    assert rows.unique("video") == ["a", "b", "c"]
    assert len(rows) == sum(LENGTHS.values())
    stored = json.loads((out / "videos" / "c" / "masks.json").read_text())
    for row, record in zip(rows.filter(lambda row: row["video"] == "c"), stored["frames"], strict=True):
        (one,) = record["objects"]
        assert (row["frame"], row["obj_id"], row["label"]) == (record["frame"], 2, None)
        assert np.array_equal(decode_rle(row["rle"]), decode_rle(one["segmentation"]))
        assert row["box"] == one["bbox"]
        assert row["score"] == pytest.approx(one["score"])


def test_a_batch_gives_what_track_gives(videos, run, model, tmp_path):
    out = run(videos, "--box", "20,10,60,50")
    for name in LENGTHS:
        alone = ["track", str(videos / name), "--model", model, "--box", "20,10,60,50", "--out", str(tmp_path / name)]
        assert main(alone) == 0
        ours = json.loads((out / "videos" / name / "masks.json").read_text())
        assert ours == json.loads((tmp_path / name / "masks.json").read_text())


def test_finished_videos_are_not_tracked_again(videos, run, tracked, tmp_path, capsys):
    jobs = write_jobs(tmp_path / "jobs.jsonl", *(job(videos / name) for name in LENGTHS))
    out = run(jobs)
    assert sorted(tracked) == ["a", "b", "c"]
    before = table(out, tmp_path).to_list()
    tracked.clear()
    (out / "videos" / "b" / "done.json").unlink()  # as if the run had been killed before it was written
    (out / "videos" / "b" / "masks.json").write_text("{")
    run(jobs)
    assert tracked == ["b"]
    assert "3 of 3 videos are done: 1 now" in capsys.readouterr().out
    assert table(out, tmp_path).to_list() == before

    tracked.clear()
    run(write_jobs(jobs, job(videos / "a"), job(videos / "b", [1, 1, 30, 30]), job(videos / "c")))
    assert tracked == ["b"], "its prompt is another"


def test_ctrl_c_keeps_what_is_done(videos, run, tmp_path, monkeypatch, capsys):
    plain = Job._keep

    def interrupted(self, done, *rest):
        if self.source.name == "a" and done.index == 1:
            raise KeyboardInterrupt
        plain(self, done, *rest)

    monkeypatch.setattr(Job, "_keep", interrupted)
    jobs = write_jobs(tmp_path / "jobs.jsonl", job(videos / "c"), job(videos / "a"), job(videos / "b"))
    out = run(jobs, expect=130)
    assert "run the same command again" in capsys.readouterr().err
    assert [path.parent.name for path in out.glob("videos/*/done.json")] == ["c"]
    monkeypatch.setattr(Job, "_keep", plain)
    run(jobs)
    assert "3 of 3 videos are done: 2 now" in capsys.readouterr().out


def test_results_of_other_settings_and_files_of_the_user_stay(videos, run, tmp_path, capsys):
    out = run(videos, "--box", "20,10,60,50")
    run(videos, "--box", "20,10,60,50", "--max-side", "48", expect=2)
    assert "max_side None, now 48" in capsys.readouterr().err
    (out / "table" / "notes.txt").write_text("mine")
    run(videos, "--box", "20,10,60,50", "--overwrite", expect=2)
    assert "notes.txt' was not written by efficienttam" in capsys.readouterr().err
    (out / "table" / "notes.txt").unlink()
    run(videos, "--box", "20,10,60,50", "--max-side", "48", "--overwrite")
    assert json.loads((out / "videos" / "a" / "masks.json").read_text())["video"]["width"] == 48


def test_labels_of_found_objects_are_in_the_table(videos, run, tmp_path, monkeypatch, capsys):
    def detector(image):
        return [] if np.asarray(image)[0, 0, 0] == 7 else [Detection((20, 10, 60, 50), "a ball", 0.9)]

    empty = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    Image.fromarray(empty).save(videos / "b" / "00000.png")
    monkeypatch.setattr(batch_tracking, "detector_of", lambda args, device: detector)
    out = run(videos, "--text", "a ball")
    rows = table(out, tmp_path)
    assert set(rows["label"]) == {"a ball"}
    assert rows.unique("video") == ["a", "c"]
    assert "no masks: b: " in capsys.readouterr().out
    run(videos, "--text", "a ball")
    assert "0 now" in capsys.readouterr().out


def test_a_table_has_paths_or_bytes(videos, run, tmp_path):
    with VideoWriter(tmp_path / "d.mp4", 12, WIDTH, HEIGHT, crf=1) as writer:
        for frame in make_clip(2, WIDTH, HEIGHT).frames:
            writer.write(frame)
    objects = json.dumps(job("")["objects"])
    content = (tmp_path / "d.mp4").read_bytes()
    column = [{"path": None, "bytes": content}, {"path": str(videos / "a"), "bytes": None}]
    source = datasets.Dataset.from_dict({"video": column, "objects": [objects, objects], "name": ["d", None]})
    source.save_to_disk(tmp_path / "saved")
    out = run(tmp_path / "saved")
    assert table(out, tmp_path).unique("video") == ["d", "a"]
    source.to_parquet(str(tmp_path / "jobs.parquet"))
    assert [one.name for one in read_jobs(tmp_path / "jobs.parquet")] == ["d", "a"]


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        (["{"], [], "Line 1 of"),
        (['{"objects": []}'], [], "lacks the field 'video'"),
        (['{"video": 3}'], [], "'video'"),
        (['{"video": "a", "obects": []}'], [], "unknown field 'obects'"),
        (['{"video": "a", "objects": [{"id": 1}]}'], [], "Line 1 of"),
        (['{"video": "x/a"}', '{"video": "y/a.mp4"}'], ["--box", "1,1,9,9"], "would both write the results 'a'"),
        (['{"video": "a"}'], [], "What is to be tracked in"),
        ([], [], "There is no video in"),
        (['{"video": "a"}'], ["--box", "1,1,9,9", "--on-lost", "stop"], "--on-lost stop"),
    ],
)
def test_what_is_wrong_with_jobs_is_said_in_one_line(lines, more, message, run, tmp_path, capsys):
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    out = run(tmp_path / "jobs.jsonl", *more, expect=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(videos, run, model, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    jobs = write_jobs(tmp_path / "jobs.jsonl", *(job(videos / name) for name in LENGTHS), job("broken.mp4"))
    alone = run(jobs, expect=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "efficienttam_hf.cli", "track", "--batch", str(jobs), "--model", model]
    out = tmp_path / "two"
    shutil.copytree(alone / "videos" / "b", out / "videos" / "b")  # a video that an earlier run finished
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [*launch, *command, "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0, "a video is broken"
    assert done.stdout.count("3 of 4 videos are done: 2 now") == 1, done.stderr
    assert sorted(path.name for path in (out / "table").iterdir()) == [
        f"masks-{number:05d}-of-00002.parquet" for number in range(2)
    ]
    assert table(out, tmp_path).to_list() == table(alone, tmp_path).to_list()

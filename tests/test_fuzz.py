"""That the fuzz harness sees what it is there to see: it finds each way in which reading a file can go wrong."""

import re
import sys
from pathlib import Path

import pytest


FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import harness  # noqa: E402


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the harness needs Linux")

PLANTED = """
import os, time
from harness import Kind, mutate_bytes, mutate_json

def sample(folder):
    (folder / "a.txt").write_text("[1, 2, 3]")
    return [folder / "a.txt"]

def after_the_good_file(act):
    def read(path):
        if path.parent.name != "good":
            return act(path)
    return read

def refuse(path):
    raise ValueError(f"'{path.name}' is not what is wanted.")

def refuse_namelessly(path):
    raise ValueError("no")

def chatter(path):
    raise ValueError(path.name + "\\nand more\\nand more")

def use_memory(path):
    bytearray(2**31)

KINDS = [
    Kind(name, sample, after_the_good_file(act), mutate_json)
    for name, act in {
        "fine": lambda path: None,
        "refusing": refuse,
        "nameless": refuse_namelessly,
        "chattering": chatter,
        "wrong exception": lambda path: {}["key"],
        "ending": lambda path: os._exit(7),
        "hanging": lambda path: time.sleep(60),
        "large": use_memory,
    }.items()
]
"""


@pytest.mark.parametrize(
    "kind, outcome, reason",
    [
        ("fine", "read", None),
        ("refusing", "refused", None),
        ("nameless", "failed", "without naming the file"),
        ("chattering", "failed", "refused in 3 lines"),
        ("wrong exception", "failed", "KeyError"),
        ("ending", "failed", r"ended the process \(exit code 7\)"),
        ("hanging", "failed", "hangs"),
        ("large", "failed", "MemoryError"),
    ],
)
def test_each_way_of_failing_is_found(tmp_path, kind, outcome, reason):
    (tmp_path / "kinds_planted.py").write_text(PLANTED)
    report = harness.run_kind(kind, 0, 2, 60, tmp_path, seconds_per_case=1)
    assert report.outcomes == {outcome: 2}
    assert len(report.failures) == (2 if reason else 0)
    for number, failure in enumerate(report.failures):
        assert failure.startswith(f"{kind}, seed 0, case {number}: ")
        assert re.search(reason, failure)


def test_a_case_follows_from_its_number(tmp_path):
    (tmp_path / "kinds_planted.py").write_text(PLANTED)
    kind = harness.load_kinds(tmp_path)["fine"]
    (tmp_path / "good").mkdir()
    samples = kind.samples(tmp_path / "good")
    contents = []
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        contents.append(
            [harness.make_case(kind, samples, 3, number, tmp_path / place)[1].read_bytes() for number in range(20)]
        )
    assert contents[0] == contents[1] and len(set(contents[0])) > 10

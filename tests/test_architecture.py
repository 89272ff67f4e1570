"""The house as docs/architecture.md describes it: every file is named there, and imports point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from efficienttam_hf.remote_code import REMOTE_CODE_FILES


ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "efficienttam_hf"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
FILES = sorted(SOURCE.rglob("*.py"))

# From the top of the house to its ground floor. A room may import from its own floor and from those below.
FLOORS = (
    {"cli"},
    {"app", "training", "evaluation", "benchmark", "export", "hub", "discovery", "serving", "integrations"},
    {"data"},
)
# Within the second floor: who may be imported by whom.
NEIGHBOURS = {
    "app": {"evaluation", "export", "discovery"},
    "training": {"app", "evaluation"},
    "benchmark": {"app", "evaluation"},
    "evaluation": set(),
    "export": set(),
    "discovery": set(),
    "hub": {"app", "evaluation"},
    "serving": {"app"},
    "integrations": {"app", "serving"},
}


def imported(path: Path) -> set[str]:
    """The files and folders of the package that a file imports, in functions too, but not for type checkers only."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    package = path.relative_to(SOURCE).parts[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = package[: len(package) - (node.level - 1)]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                found.add([*base, *name.split(".")][0])
    return found


def floor(room: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    room = path.relative_to(SOURCE).parts[0]
    for other in imported(path) - {room}:
        assert floor(other) >= floor(room), f"{room} imports {other}, which is above it"
        if floor(other) == floor(room) == 1:
            assert other in NEIGHBOURS[room], f"{room} imports {other}"


def test_what_checkpoint_folders_carry_imports_only_that():
    carried = {Path(name).stem for name in REMOTE_CODE_FILES}
    # The processor looks up how to open a video when it is given a path, and does without where that is not there.
    for name in REMOTE_CODE_FILES:
        assert imported(SOURCE / name) - carried <= {"video_io"}, name


def test_the_demo_and_scripts_import_no_command():
    for path in [*(ROOT / "demo").glob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        names = re.findall(r"from efficienttam_hf\.cli(?:\.\w+)* import (.+)", path.read_text("utf-8"))
        assert set(names) <= {"main"}, path.name


def test_every_file_and_folder_is_on_the_page():
    named = set(re.findall(r"`([\w./-]+)`", PAGE))
    folders = {f"{path.name}/" for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.name for path in SOURCE.glob("*.py")}
    for folder in ("data", "training", "evaluation"):
        files |= {path.name for path in (SOURCE / folder).glob("*.py") if path.name != "__init__.py"}
    assert sorted((folders | files) - named) == []
    gone = {name for name in named if name.endswith(".py") and "/" not in name and not name.startswith("test_")}
    gone -= {path.name for path in [*SOURCE.rglob("*.py"), *(ROOT / "demo").glob("*.py")]}
    assert sorted(gone) == []


def test_no_file_is_too_long():
    long = {str(path.relative_to(SOURCE)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 600} == {}


def test_each_lower_bound_is_what_the_workflow_installs_as_the_oldest():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    section = project[project.index("\ndependencies = [") : project.index("\ncoreml = [")]
    bounds = set(re.findall(r'"([\w-]+)>=([\d.]+)"', section))
    lines = (ROOT / "tests/oldest.txt").read_text("utf-8").splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {"torch", "transformers", "av", "gradio", "onnxruntime"} <= {name for name, _ in bounds}
    for name, bound in bounds:
        assert f"{oldest[name]}.".startswith(f"{bound}."), f"{name}>={bound}, but the oldest is {oldest[name]}"
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in ("torch", "transformers"):
        assert f"`{name}` {dict(bounds)[name]} or later" in guide
    assert "-c tests/oldest.txt" in (ROOT / ".github/workflows/tests.yml").read_text("utf-8")

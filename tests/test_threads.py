"""Threads that wait are told to sleep before torch loads, unless the user decided otherwise."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from efficienttam_hf._threads import WAITING_VARIABLES


ROOT = Path(__file__).resolve().parents[1]


def in_another_process(code: str, **environment: str) -> str:
    """Standard error of a process, in which OpenMP tells its settings as it loads."""
    clean = {name: value for name, value in os.environ.items() if name not in WAITING_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "OMP_DISPLAY_ENV": "TRUE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch has no OpenMP")
    return next(line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line)


def test_the_command_line_has_threads_that_sleep():
    assert "PASSIVE" in in_another_process("import efficienttam_hf.cli, torch; torch.ones(2) + 1")


@pytest.mark.slow
def test_what_the_user_has_set_holds():
    assert "ACTIVE" in in_another_process("import efficienttam_hf, torch", OMP_WAIT_POLICY="active")
    code = "import os, efficienttam_hf; assert 'OMP_WAIT_POLICY' not in os.environ; import torch"
    in_another_process(code, GOMP_SPINCOUNT="5000")


@pytest.mark.slow
def test_after_torch_it_is_known_to_be_too_late():
    code = "import torch; from efficienttam_hf._threads import let_threads_sleep as f; import os; "
    in_another_process(code + "os.environ.pop('OMP_WAIT_POLICY'); assert not f()")


def modules_in_order(path: Path) -> list[str]:
    """Top-level modules that a file imports, in the order in which it does."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "scripts").glob("*.py")), ROOT / "demo" / "app.py"], ids=lambda path: path.name
)
def test_what_is_started_by_hand_imports_this_package_before_torch(path):
    modules = modules_in_order(path)
    heavy = {"torch", "safetensors", "transformers", "engine"} & set(modules)
    assert all(modules.index("efficienttam_hf") < modules.index(name) for name in heavy)

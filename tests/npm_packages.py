"""Packages of npm that browser tests need, fetched once and then kept in pytest's cache."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock


PATIENCE = 240  # seconds that npm may take


def npm_package(request, name: str, version: str) -> Path:
    """The archive of a package; the test is skipped where it cannot be fetched."""
    if shutil.which("npm") is None:
        pytest.skip(f"npm, which fetches {name}, is not installed")
    folder = Path(request.config.cache.mkdir(name))
    archive = folder / f"{name}-{version}.tgz"
    with FileLock(folder / "lock"):  # several processes may run the tests
        if not archive.is_file():
            command = ["npm", "pack", f"{name}@{version}", "--fetch-retries=0"]
            fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
            if fetched.returncode != 0:
                pytest.skip(f"{name} cannot be fetched from npm: {fetched.stderr.strip()[-200:]}")
    return archive

"""What is taken where nothing is said, and limits that options name: all in one module that loads nothing."""

from __future__ import annotations

from pathlib import Path


DEFAULT_MODEL = "efficienttam-nano"
DEFAULT_OUTPUT = Path("efficienttam-out")  # folders of results are made in it
MAX_OBJECT_ID = 255  # what an indexed PNG can hold

"""Defaults and limits of options, in a module that imports nothing large."""

from __future__ import annotations

from pathlib import Path


INCLUDED_MODEL = "efficienttam-nano"  # what comes with the package, and always works
DEFAULT_ON_GPU, DEFAULT_ON_CPU = "efficienttam_s_512x512", "efficienttam_ti_512x512"  # where they can be had
MODEL_VARIABLE = "EFFICIENTTAM_MODEL"  # of the environment: the model where no --model is given
PRESET_PREFIX = "preset:"  # before a preset's name: a model of that shape with fresh weights
DEFAULT_OUTPUT = Path("efficienttam-out")  # folders of results are made in it
MAX_OBJECT_ID = 255  # what an indexed PNG can hold

"""Defaults and limits of options, in a module that imports nothing large."""

from __future__ import annotations

from pathlib import Path


INCLUDED_MODEL = "efficienttam-nano"  # comes with the package and needs no download
DEFAULT_ON_GPU, DEFAULT_ON_CPU = "efficienttam_s_512x512", "efficienttam_ti_512x512"  # used if they can be fetched
MODEL_VARIABLE = "EFFICIENTTAM_MODEL"  # environment variable that names the model if there is no --model
DTYPE_VARIABLE = "EFFICIENTTAM_DTYPE"  # environment variable that names the data type if there is no --dtype
DTYPES = ("float32", "bfloat16", "float16")
PRESET_PREFIX = "preset:"  # stands before a preset's name for a model of that shape with random weights
DEFAULT_OUTPUT = Path("efficienttam-out")  # the folders of results are created in it
MAX_OBJECT_ID = 255  # largest value of a pixel in an indexed PNG


def default_on(device_type: str) -> str:
    """The published variant that is the default on a device, by its type (`"cpu"`, `"cuda"`, ...)."""
    return DEFAULT_ON_CPU if device_type == "cpu" else DEFAULT_ON_GPU

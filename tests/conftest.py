"""What pytest must know before it collects: Transformers' markers, and which module not to import needlessly.

And the tiny model with fresh weights that several modules use, with its processor.
"""

from __future__ import annotations

import os

import pytest


# Without measuring, so that each run of the tests takes the same and writes nothing to the user's cache directory.
os.environ.setdefault("EFFICIENTTAM_KERNELS", "capability")


TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_kernels_test",
    "flash_attn_kernels_mps_test",
    "is_agent_test",
    "is_expert_parallel_test",
    "is_fsdp_test",
    "is_pipeline_test",
    "is_staging_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config):
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of Transformers' common tests")


def pytest_ignore_collect(collection_path, config):
    # All of it is slow, and importing it fetches Transformers' tests.
    if collection_path.name == "test_transformers_common.py" and "not slow" in (config.option.markexpr or ""):
        return True
    return None


@pytest.fixture(scope="module")
def model():
    import torch
    from reference import tiny_config

    from efficienttam_hf import EfficientTamVideoModel

    torch.manual_seed(0)
    return EfficientTamVideoModel(tiny_config()).eval()


@pytest.fixture(scope="module")
def processor(model):
    from efficienttam_hf import EfficientTamVideoProcessor

    return EfficientTamVideoProcessor.from_config(model.config)


@pytest.fixture
def small_thresholds(monkeypatch):
    """Sizes from which on a CPU takes other kernels, such that the tiny model's tensors are large."""
    from efficienttam_hf import cpu_kernels

    for name, value in {
        "SMALLEST_PRODUCT": 0,
        "SMALLEST_ATTENTION": 1,
        "LARGE_ATTENTION": 2**12,
        "LARGEST_SCORES": 2**12,
        "MANY_KEYS": 256,
        "KEYS_AT_A_TIME": 200,
        "TOKENS_AT_A_TIME": 24,
        "MEMORY_TOKENS_AT_A_TIME": 64,
    }.items():
        monkeypatch.setattr(cpu_kernels, name, value)

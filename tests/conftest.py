"""What pytest must know before it collects: Transformers' markers, and which module not to import needlessly.

And the tiny model with fresh weights that several modules use, with its processor.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest


# Beside other processes of this run a thread each: two teams of threads on the same cores wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Without measuring, so that each run of the tests takes the same and writes nothing to the user's cache directory.
os.environ.setdefault("EFFICIENTTAM_KERNELS", "capability")
# The data type that does not depend on the machine; tests of the choice take this away.
os.environ["EFFICIENTTAM_DTYPE"] = "float32"
# Where a test names no model, the one that comes with the package: the default would be fetched.
os.environ["EFFICIENTTAM_MODEL"] = "efficienttam-nano"
# The demo fetches no example.
os.environ["EFFICIENTTAM_EXAMPLE_VIDEO"] = "off"


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


# Something that will go away fails the gate's run, but for what these libraries do among themselves.
DEPRECATIONS = (
    "error::DeprecationWarning",
    "error::PendingDeprecationWarning",
    "error::FutureWarning",
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:pycocotools",
    "ignore:Use 'content=:DeprecationWarning",  # httpx, as huggingface_hub uploads
    "ignore::DeprecationWarning:gradio",
    "ignore::DeprecationWarning:pandas",
)


def pytest_configure(config):
    if os.environ.get("EFFICIENTTAM_STRICT_WARNINGS"):
        for line in DEPRECATIONS:
            config.addinivalue_line("filterwarnings", line)
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of Transformers' common tests")


def pytest_ignore_collect(collection_path, config):
    # All of it is slow, and importing it fetches Transformers' tests.
    if collection_path.name == "test_transformers_common.py" and "not slow" in (config.option.markexpr or ""):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "exported" in getattr(item, "fixturenames", ()):  # PyTorch takes half a minute to export the smallest model
            item.add_marker(pytest.mark.slow)


def skip_reasons(terminalreporter) -> Counter[str]:
    """How many tests were skipped for what reason, but those of Transformers' own suites."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple) and "test_transformers_common" not in report.nodeid:
            reasons[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    return reasons


def unknown_reasons(reasons) -> list[str]:
    """The reasons that `known_skips.txt` does not have."""
    lines = Path(__file__).with_name("known_skips.txt").read_text("utf-8").splitlines()
    known = [line for line in lines if line and not line.startswith("#")]
    return [reason for reason in reasons if not any(re.search(pattern, reason) for pattern in known)]


def pytest_terminal_summary(terminalreporter):
    reasons = skip_reasons(terminalreporter)
    if reasons:
        terminalreporter.section("skipped, by reason")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")
    for reason in unknown_reasons(reasons):
        terminalreporter.line(f"new reason: {reason} (if it is a good one, tests/known_skips.txt is where it goes)")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """In CI, where everything is installed, a skip for a new reason fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and unknown_reasons(skip_reasons(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of the graphs of `reference.lively_model`, made once for all processes of a run."""
    pytest.importorskip("onnxscript", reason="exporting needs the extra: pip install efficienttam-hf[export]")
    from filelock import FileLock
    from reference import lively_model

    from efficienttam_hf.export.exporting import export_onnx

    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "exported"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            export_onnx(lively_model(), folder, "lively")
    return folder

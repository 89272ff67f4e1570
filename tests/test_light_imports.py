"""What loads torch and Transformers and what does not, each in a process of its own; and that the Auto classes know us.

A command's `--help`, an error in its options and the parts of the package that need no network must not wait for them.
"""

import json
import subprocess
import sys

import pytest
from reference import save_tiny_model

import efficienttam_hf
from efficienttam_hf import _public


COMMANDS = ("track", "segment", "finetune", "train", "benchmark", "convert", "verify", "export", "demo", "evaluate vos")
HEAVY = ("torch", "transformers", "cv2", "av", "PIL")


def run(code, *arguments):
    """The standard output of Python code in a new process, which must succeed."""
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by(code):
    """Which of the heavy libraries running this code loads."""
    report = f"\nimport sys, json; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    return set(json.loads(run(code + report).splitlines()[-1]))


LIGHT = ("prompts", "tracking_session", "object_memory", "app.plan", "app.loading", "cli", "video_io", "mask_io")


def test_importing_a_light_part_loads_neither_torch_nor_transformers():
    code = "import efficienttam_hf, " + ", ".join(f"efficienttam_hf.{module}" for module in LIGHT)
    assert not loaded_by(code) & {"torch", "transformers"}


def test_help_and_errors_in_options_load_nothing_heavy(tmp_path):
    (tmp_path / "file").write_text("")
    lines = [
        "--help",
        *(f"{command} --help" for command in COMMANDS),
        "nonsense",
        "track --point 4;5",
        "track video.mp4 --object 300 --point 4,5",
        "track video.mp4 --frame 3",
        "track video.mp4",
        "evaluate vos --data DAVIS --prompt 9-click",
        f"convert model.pt {tmp_path / 'file'} --variant efficienttam_s",
        f"export efficienttam-nano {tmp_path / 'file'}",
    ]
    code = f"from efficienttam_hf.cli import main\nfor line in {lines!r}: main(line.split())"
    assert not loaded_by(code) & {"torch", "transformers", "cv2"}


def test_help_takes_little_processor_time():
    code = (
        "import time; from efficienttam_hf.cli import main; main(['--help']); print(); "
        "print(time.process_time())"  # since the process began
    )
    # Shared cores count against a process, so the quickest of some runs is what it takes; most often it is the first.
    assert any(float(run(code).splitlines()[-1]) < 0.3 for _ in range(10))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny_model(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import efficienttam_hf; from transformers import AutoModel, AutoProcessor",
        "from transformers import AutoModel, AutoProcessor; import efficienttam_hf",
        "import efficienttam_hf; from transformers import Sam2Model, AutoModel, AutoProcessor",
        "from efficienttam_hf.modeling_efficienttam_video import EfficientTamVideoModel; "
        "from transformers import AutoModel, AutoProcessor",
        "import efficienttam_hf.configuration_efficienttam; import efficienttam_hf.processing_efficienttam; "
        "from transformers.models.auto.modeling_auto import AutoModel; from transformers import AutoProcessor",
        "import efficienttam_hf.prompts; from transformers import pipeline, AutoModel, AutoProcessor",
    ],
)
def test_auto_classes_know_the_package_however_it_is_imported(imports, checkpoint):
    load = "; ".join(
        ["import sys", "names = [type(c.from_pretrained(sys.argv[1])).__name__ for c in (AutoProcessor, AutoModel)]"]
    )
    assert run(f"{imports}; {load}; print(*names)", checkpoint).split() == [
        "EfficientTamVideoProcessor",
        "EfficientTamVideoModel",
    ]


def test_every_public_name_can_be_imported_and_is_listed():
    assert {name for name in vars(_public) if name.startswith("EfficientTam")} <= set(efficienttam_hf.__all__)
    code = (
        "import efficienttam_hf as package; print('EfficientTamModel' in dir(package), hasattr(package, 'nonsense')); "
    )
    code += "print(all(hasattr(package, n) for n in package.__all__))\n"
    code += "from efficienttam_hf import *\nprint(EfficientTamModel.__name__)"
    assert run(code).splitlines() == ["True False", "True", "EfficientTamModel"]

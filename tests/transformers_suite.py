"""Fetches Transformers' own common test suites, which its source distribution carries, and makes them importable.

The wheel of Transformers has no tests; the source distribution of the same version has the common ones
(`test_modeling_common.py` and its like). They are downloaded with pip into a cache folder once a version, and never
committed. What they import from the rest of Transformers' repository (suites for text generation and export, a table of
configuration fields, fixtures on the Hub) is not in the distribution and cannot apply here: it is stood in for by
near-empty modules. Set `EFFICIENTTAM_TRANSFORMERS_TESTS` to use a folder that holds `tests/` already.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import transformers


FOLDER_VARIABLE = "EFFICIENTTAM_TRANSFORMERS_TESTS"
# Some of the suites' tests are marked slow on top. Transformers reads this when its testing utilities are imported.
os.environ.setdefault("RUN_SLOW", "1")

STAND_INS = {
    "tests/__init__.py": "",
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/pipelines/__init__.py": "",
    "tests/utils/__init__.py": "",
    "tests/utils/tiny_model_summary.json": "{}\n",
    # Fields every configuration takes, with values that are not their defaults.
    "tests/utils/test_configuration_utils.py": (
        "config_common_kwargs = {\n"
        '    "return_dict": False,\n'
        '    "output_hidden_states": True,\n'
        '    "output_attentions": True,\n'
        '    "dtype": "float16",\n'
        '    "chunk_size_feed_forward": 5,\n'
        '    "architectures": ["AModel"],\n'
        '    "id2label": {0: "label"},\n'
        '    "label2id": {"label": "0"},\n'
        '    "problem_type": "regression",\n'
        "}\n"
    ),
    # Fixtures lie on the Hub; a synthetic image serves as well, and offline.
    "utils/fetch_hub_objects_for_ci.py": (
        "from pathlib import Path\n"
        "\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "\n"
        "\n"
        "def url_to_local_path(url, *args, **kwargs):\n"
        "    name = url.rsplit('/', 1)[-1]\n"
        "    if Path(name).suffix not in ('.jpg', '.png'):\n"
        "        return url\n"
        "    path = Path(__file__).parent / name\n"
        "    if not path.exists():\n"
        "        y, x = np.mgrid[:480, :640]\n"
        "        waves = [127.5 + 127.5 * np.sin(x / (20 + 9 * c) + y / (31 - 7 * c)) for c in range(3)]\n"
        "        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path)\n"
        "    return str(path)\n"
    ),
}


def suite_folder() -> Path:
    """Where the suites of the installed version of Transformers lie, or will."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "efficienttam-hf" / f"transformers-tests-{transformers.__version__}"


def fetch(folder: Path) -> None:
    """Download the source distribution of the installed version and unpack its tests into `folder`.

    Raises:
        OSError, subprocess.SubprocessError: where it cannot be had.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        requirement = f"transformers=={transformers.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run(
            [*command, "--dest", temporary, requirement], check=True, capture_output=True, text=True, timeout=600
        )
        (archive,) = Path(temporary).glob("transformers-*.tar.gz")
        root = archive.name.removesuffix(".tar.gz")
        unpacked = Path(temporary) / "unpacked"
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile() and m.name.startswith(f"{root}/tests/")]
            tar.extractall(unpacked, members=members, filter="data")
        # In one move, so that a download cut short leaves nothing that looks complete.
        shutil.copytree(unpacked / root, folder, dirs_exist_ok=True)


def prepare() -> Path:
    """The folder of the suites, fetched if need be, stand-ins written, on `sys.path`."""
    folder = suite_folder()
    if not (folder / "tests" / "test_modeling_common.py").is_file():
        fetch(folder)
    for name, text in STAND_INS.items():
        path = folder / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    # Older versions import every pipeline's tests; newer ones when a test needs one.
    mixin = (folder / "tests" / "test_pipeline_mixin.py").read_text()
    for module, name in re.findall(r"^from \.pipelines\.(\w+) import (\w+)", mixin, re.MULTILINE):
        path = folder / "tests" / "pipelines" / f"{module}.py"
        if not path.is_file():
            path.write_text(f"class {name}:\n    pass\n")
    # The pipeline suite imports Transformers by its place in the repository.
    package = folder / "src" / "transformers"
    if not package.exists():
        package.parent.mkdir(parents=True, exist_ok=True)
        package.symlink_to(Path(transformers.__file__).parent, target_is_directory=True)
    for path in (str(folder), str(folder / "utils")):
        if path not in sys.path:
            sys.path.insert(0, path)
    # `tests` may be known already, as the folder this file lies in.
    known = sys.modules.get("tests")
    if known is not None and getattr(known, "__file__", None) != str(folder / "tests" / "__init__.py"):
        del sys.modules["tests"]
    return folder


def load(name: str) -> ModuleType:
    """A module of the suites, e.g. `load("test_modeling_common")`. Skips the calling module if it cannot be had."""
    try:
        prepare()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = getattr(error, "stderr", None) or error
        pytest.skip(
            f"Transformers' common tests could not be fetched ({str(detail).strip().splitlines()[-1]}); "
            f"set {FOLDER_VARIABLE} to a folder that holds them.",
            allow_module_level=True,
        )
    return importlib.import_module(f"tests.{name}")

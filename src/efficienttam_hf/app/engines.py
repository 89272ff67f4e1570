"""The engines of `efficienttam track`: PyTorch, or exported graphs on ONNX Runtime or OpenVINO.

A model is exported once, into this package's folder in the user's cache directory. Several processes that need the
same graphs wait for the first of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..export.manifest import ExportError, Manifest
from ..export.onnx_graphs import GRAPH_NAMES
from ..export.onnx_tracker import OnnxVideoTracker


TORCH = "torch"
RUNTIME_OF = {"onnx": "onnxruntime", "openvino": "openvino"}  # by engine
ENGINES = (TORCH, *RUNTIME_OF)


def load_tracker(engine: str, graphs: Path) -> OnnxVideoTracker:
    """Load exported graphs for an engine, with as many threads as torch has.

    Args:
        engine: an engine other than `torch`.
        graphs: the folder that `efficienttam export` or `exported_graphs` made.

    Raises:
        FileNotFoundError, ExportError: if the folder is not complete. ImportError: if the runtime is not installed.
    """
    import torch

    return OnnxVideoTracker(graphs, num_threads=torch.get_num_threads(), runtime=RUNTIME_OF[engine])


def exported_graphs(name: str, tell: Callable[[str], None] = print) -> Path:
    """The folder with the graphs of a named model, in float32. They are exported if they do not exist yet.

    Args:
        name: see `loading.find_model`.
        tell: shows the user a line before an export, which takes a minute or more.

    Raises:
        ValueError, OSError: if there is no such model, it cannot be exported, or the cache cannot be written.
        ImportError: if the packages of the `export` extra are not installed.
    """
    from filelock import FileLock

    from .. import __version__
    from ..checkpoints import weights_sha256
    from ..export.exporting import export_onnx
    from ..kernel_choice import cache_folder
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from .loading import load_weights

    model = load_weights(EfficientTamVideoModel, name)
    # The same weights give other graphs with another configuration or version.
    key = weights_sha256(model, model.config.to_json_string() + __version__)[:16]
    root = cache_folder() / "graphs"
    folder = root / key
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{key}.lock")
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"The graphs of {name} cannot be kept in '{root}' ({error}): export them to a folder with `efficienttam "
            f"export {name} FOLDER`, and give that with --graphs FOLDER."
        ) from error
    try:
        if not _is_complete(folder):
            tell(f"Exporting {name} once, to '{folder}'. This takes a minute or more.")
            shutil.rmtree(folder, ignore_errors=True)  # damaged
            export_onnx(model, folder, name)
    finally:
        lock.release()
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        manifest = Manifest.read(folder)
        for graph in GRAPH_NAMES:
            manifest.graph_file(folder, graph)
    except (FileNotFoundError, ExportError):
        return False
    return True

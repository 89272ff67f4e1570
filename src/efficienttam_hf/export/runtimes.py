"""The runtimes that run exported graphs on a CPU: ONNX Runtime and OpenVINO, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


RUNTIMES = ("onnxruntime", "openvino")

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def load_graph(runtime: str, path: Path, providers: list[str] | None = None, num_threads: int | None = None) -> Run:
    """Load an ONNX file; return a function from its inputs by name to its outputs in order.

    The function is for one thread at a time.

    Args:
        runtime: one of `RUNTIMES`.
        path: the file.
        providers: of ONNX Runtime; by default the CPU's. OpenVINO always runs on the CPU.
        num_threads: for each operator; by default as many as the runtime takes.

    Raises:
        ValueError: if there is no such runtime. ImportError: if its package is not installed.
    """
    if runtime == "onnxruntime":
        return _onnxruntime(path, providers, num_threads)
    if runtime == "openvino":
        return _openvino(path, num_threads)
    raise ValueError(f"There is no runtime {runtime!r} for exported graphs: choose one of {', '.join(RUNTIMES)}.")


def _onnxruntime(path: Path, providers: list[str] | None, num_threads: int | None) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("Running exported graphs needs ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=providers or ["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def _openvino(path: Path, num_threads: int | None) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "Running exported graphs with OpenVINO needs it: pip install efficienttam-hf[openvino]"
        ) from error
    # By itself OpenVINO computes in bfloat16 on processors that have it; masks are to be those of the other runtimes.
    options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads or 0}
    # OpenVINO gives the thread that compiles a signal stack of its own, and releases it wherever the model is deleted.
    # If that is another thread, the next signal, such as Ctrl-C, would crash the process. This thread gets no signals.
    with ThreadPoolExecutor(1) as executor:
        compiled = executor.submit(openvino.Core().compile_model, str(path), "CPU", options).result()
    return lambda inputs: list(compiled(inputs).to_tuple())

"""Tracks objects with exported graphs: the calls of the model and its processor, without torch.

It needs only ONNX Runtime, NumPy and Pillow. Sessions are run by the same code as with the torch model
(`session_walk.py`), and the graphs compute the results (`onnx_backend.py`).

    tracker = OnnxVideoTracker("exported")
    session = tracker.init_video_session("frames/")
    tracker.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[480, 300]]]], input_labels=[[[1]]])
    for output in tracker.propagate_in_video_iterator(session):
        masks = tracker.post_process_masks([output.pred_masks], [(session.video_height, session.video_width)])[0]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..session_walk import SessionWalk
from ..tracker_calls import TrackerCalls
from ..tracking_rules import Direction
from .onnx_backend import OnnxBackend, OnnxInferenceSession, OnnxVideoSegmentationOutput
from .onnx_graphs import OnnxGraphs
from .onnx_processor import OnnxVideoProcessor


class OnnxVideoTracker(OnnxVideoProcessor, TrackerCalls):
    """Tracks any number of objects with the graphs of an exported folder; it is model and processor in one.

    Args:
        folder: a folder that `efficienttam export` made.
        providers: the providers of ONNX Runtime; the default is the CPU's.
        num_threads: the number of threads of each operator; None is the runtime's default.
        runtime: `"onnxruntime"`, or `"openvino"`, which always runs on the CPU.

    Raises:
        FileNotFoundError: if a file is missing.
        ExportError: if the manifest is damaged, or a graph is not the one that the manifest describes.
        ValueError: if there is no such runtime.
        ImportError: if the runtime is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        providers: list[str] | None = None,
        num_threads: int | None = None,
        runtime: str = "onnxruntime",
    ):
        self.graphs = OnnxGraphs(folder, providers=providers, num_threads=num_threads, runtime=runtime)
        super().__init__(self.graphs.rules)

    @property
    def walk(self) -> SessionWalk:
        """The `SessionWalk` that runs sessions with the graphs."""
        return SessionWalk(OnnxBackend(self.graphs))

    def __call__(
        self,
        inference_session: OnnxInferenceSession,
        frame_idx: int | None = None,
        frame: Any = None,
        reverse: bool = False,
        run_mem_encoder: bool = True,
    ) -> OnnxVideoSegmentationOutput:
        """Run one frame of a session, as `EfficientTamVideoModel.forward` does; `TrackerCalls` has the other calls.

        Args:
            inference_session: the session.
            frame_idx: the frame of a video; None for the next frame of a stream.
            frame: the next frame of a stream.
            reverse: whether the frame is tracked backward in time.
            run_mem_encoder: whether spatial memories are computed for the results.

        Returns:
            The results of all objects on the frame.

        Raises:
            ValueError: if the session has no objects, or the frame does not exist.
        """
        return self.walk.run(inference_session, frame_idx, frame, Direction.of(reverse), run_mem_encoder)

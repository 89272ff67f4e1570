"""Encodes the next frame on a thread while the current one is tracked.

A frame can only be tracked after the previous one, but it can be encoded before. Encoding and tracking then have half
of torch's threads each. This is faster if an operation is too small to use all threads: for small models and few
objects.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from typing import Self

    from ..export.onnx_tracker import OnnxVideoTracker
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..tracking_session import TrackingSession

# Limits below which encoding ahead was measured to be faster on two cores (docs/performance.md): multiplications of
# the image encoder for a frame, and number of objects that are tracked.
LARGEST_ENCODER, MOST_OBJECTS = 4e9, 3


def encoding_ahead_pays(model: EfficientTamVideoModel | OnnxVideoTracker, num_objects: int) -> bool:
    """Whether encoding ahead is faster: on a CPU with several threads, for a small torch model and few objects."""
    if not isinstance(model, torch.nn.Module):
        return False
    height, width = model.config.vision_config.feature_size
    multiplications = height * width * sum(weight.numel() for weight in model.vision_encoder.parameters())
    small = multiplications <= LARGEST_ENCODER and num_objects <= MOST_OBJECTS
    return small and model.device.type == "cpu" and torch.get_num_threads() > 1


class EncodedAhead:
    """A feature provider that encodes the next frame of a session while the current frame is tracked.

    In its `with` block the session uses it, and the calling thread has half of its torch threads. Frames are read on
    the calling thread; an error in reading a frame is raised when the session needs that frame.
    """

    def __init__(self, session: TrackingSession):
        self._session = session
        self._coming: dict[int, Future[Any]] = {}
        self._last = -1

    def __enter__(self) -> Self:
        self._num_threads = torch.get_num_threads()
        half = self._num_threads // 2
        # torch stores the number of each thread, and uses the last number that was set for new threads.
        self._encoder = ThreadPoolExecutor(1, "efficienttam-encoder", torch.set_num_threads, (half,))
        torch.set_num_threads(self._num_threads - half)
        self._session.feature_provider = self
        return self

    def __exit__(self, *error: object) -> None:
        self._session.feature_provider = None
        self._encoder.shutdown(cancel_futures=True)
        torch.set_num_threads(self._num_threads)

    def features(self, session: TrackingSession, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """Return a frame's features; first start encoding the next one, in the direction of the last two requests."""
        step = -1 if frame_idx == self._last - 1 else 1
        self._last = frame_idx
        wanted = (frame_idx, frame_idx + step)
        self._coming = {i: coming for i, coming in self._coming.items() if i in wanted}
        for i in wanted:
            if i not in self._coming and i not in session.cache and session.has_frame(i):
                self._coming[i] = self._start(session, i, encode)
        return self._coming.pop(frame_idx).result()

    def _start(self, session: TrackingSession, frame_idx: int, encode: Callable[[Any], Any]) -> Future[Any]:
        try:
            pixels = session.get_frame(frame_idx)
        except Exception as error:  # noqa: BLE001 -- belongs to whoever asks for that frame
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed
        return self._encoder.submit(encode, pixels)

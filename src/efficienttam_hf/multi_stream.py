"""Tracks in several streams at once: frames of different streams go through the image encoder as one batch.

The image encoder does not depend on the objects, so frames of several cameras can share a call, which on a GPU takes
little longer than a call for one. Each stream has its own session, and `SessionWalk` runs it as it runs a stream alone:
the tracker is the session's feature provider (see `tracking_session.FeatureProvider`) and only computes the features.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


if TYPE_CHECKING:
    from typing import Self

    from .modeling_efficienttam_video import EfficientTamVideoModel
    from .tracking_session import TrackingSession
    from .video_outputs import EfficientTamVideoSegmentationOutput
    from .video_session import EfficientTamVideoInferenceSession


__all__ = ["MultiStreamTracker", "StreamOutput"]

_NOTHING: Any = object()  # no frame is waiting


@dataclass
class StreamOutput:
    """The result of a frame of a stream.

    Attributes:
        name: the name of the stream.
        frame: the frame as the stream gave it.
        output: the output of the model; `output.frame_idx` is the number of the frame in the session.
    """

    name: str
    frame: Any
    output: EfficientTamVideoSegmentationOutput


class MultiStreamTracker:
    """Tracks in several streams at once. Iterate over it for the results, as they are computed.

    Each stream is read on a thread, so that a slow camera does not hold up the others: a step takes the frames that are
    there. Streams may have different sizes, lengths and rates. A stream that ends, or whose frames cannot be read or
    tracked, is removed; the others go on. One frame of each stream is kept in memory beside those that its session
    keeps.

    The results are those of each stream alone, up to the rounding of a batched image encoder (see docs/streaming.md).

    Args:
        model: the model, in evaluation mode.
        max_batch_size: the largest number of frames that are encoded in one call.

    Attributes:
        failed: the errors of streams that ended with one, by name.

    Raises:
        ValueError: if `max_batch_size` is below 1.
    """

    def __init__(self, model: EfficientTamVideoModel, max_batch_size: int = 8) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}.")
        self.model = model
        self.max_batch_size = max_batch_size
        self.failed: dict[str, Exception] = {}
        self._streams: dict[str, _Stream] = {}
        self._changed = threading.Condition()

    @property
    def names(self) -> list[str]:
        """The names of the streams that have not ended."""
        return list(self._streams)

    def add(
        self, name: str, session: EfficientTamVideoInferenceSession, frames: Iterable[Any], live: bool = False
    ) -> None:
        """Add a stream; this is also possible while others are tracked.

        Args:
            name: the name of the stream.
            session: a session made without a video. Prompts may be added to it before and between the results.
            frames: the frames in order, such as an `open_camera` or `open_video`: what `session.add_new_frame` takes.
                They are read on another thread, and closing them is left to the caller.
            live: whether a frame that waits is replaced by a newer one, as a camera needs it. Otherwise every frame is
                tracked.

        Raises:
            ValueError: if a stream has this name or this session, or the session has a video.
        """
        if name in self._streams:
            raise ValueError(f"There is a stream {name!r} already; the streams are {', '.join(self._streams)}.")
        if not session.is_streaming:
            raise ValueError(
                "The session has a video. Make one without (processor.init_video_session()), and give the frames here."
            )
        if any(stream.session is session for stream in self._streams.values()):
            raise ValueError("Another stream has this session already: each stream needs its own.")
        session.feature_provider = provider = _Encoded()
        self._streams[name] = stream = _Stream(name, session, frames, live, provider, self._changed)
        self.failed.pop(name, None)
        stream.start()

    def remove(self, name: str) -> None:
        """Remove a stream. Its session can be used alone afterwards.

        Raises:
            ValueError: if there is no such stream.
        """
        if name not in self._streams:
            raise ValueError(f"There is no stream {name!r}; the streams are {', '.join(self._streams) or 'none'}.")
        stream = self._streams.pop(name)
        stream.session.feature_provider = None
        with self._changed:
            stream.is_stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Remove all streams."""
        for name in self.names:
            self.remove(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamOutput]:
        """Track until all streams have ended. The results of a stream are in its order."""
        while self._streams:
            taken = []
            for stream, frame in self._take():
                if self._succeeds(stream, stream.accept, self.model, frame):
                    taken.append((stream, frame))
            encoded = [stream for stream, _ in taken if stream.session.objects]
            for begin in range(0, len(encoded), self.max_batch_size):
                self._encode(encoded[begin : begin + self.max_batch_size])
            for stream, frame in taken:
                if self._streams.get(stream.name) is not stream:  # the caller has removed it in the meantime
                    continue
                found = self._succeeds(stream, self._track, stream)
                if found:
                    yield StreamOutput(stream.name, frame, found[0])

    def _take(self) -> list[tuple[_Stream, Any]]:
        """Wait until any stream has a frame or has ended, and take one frame of each that has some."""
        with self._changed:
            while not any(stream.waiting is not _NOTHING or stream.has_ended for stream in self._streams.values()):
                self._changed.wait()
            taken = []
            for stream in self._streams.values():
                if stream.waiting is not _NOTHING:
                    taken.append((stream, stream.waiting))
                    stream.waiting = _NOTHING
            ended = [s for s in self._streams.values() if s.has_ended and all(s is not own for own, _ in taken)]
            self._changed.notify_all()
        for stream in ended:
            self.remove(stream.name)
            if stream.error is not None:
                self._report(stream, stream.error)
        return taken

    @torch.no_grad()
    def _encode(self, streams: list[_Stream]) -> None:
        """Encode the current frames of some streams in one call, for their providers."""
        pixels = torch.stack([stream.session.get_frame(stream.frame_idx) for stream in streams])
        features: Tensor = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
        for stream, own in zip(streams, features.split(1), strict=True):
            stream.provider.frame_idx, stream.provider.encoded = stream.frame_idx, own

    def _track(self, stream: _Stream) -> EfficientTamVideoSegmentationOutput:
        return self.model.track_frame(stream.session, stream.frame_idx)

    def _succeeds(self, stream: _Stream, work: Callable[..., Any], *arguments: Any) -> tuple[Any] | None:
        """Do work for a stream and return its result; if that fails, remove the stream and return `None`."""
        try:
            return (work(*arguments),)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one stream, the others go on
            self.remove(stream.name)
            self._report(stream, error)
            return None

    def _report(self, stream: _Stream, error: Exception) -> None:
        self.failed[stream.name] = error
        warnings.warn(f"Stream {stream.name!r} has ended with an error: {error}", stacklevel=4)


class _Encoded:
    """The feature provider of a stream: the features that were computed with those of other streams."""

    def __init__(self) -> None:
        self.frame_idx = -1
        self.encoded: Tensor | None = None

    def features(self, session: TrackingSession, frame_idx: int, encode: Callable[[Any], Any]) -> Any:
        """Return the features of a frame; an earlier frame that is needed again is encoded alone."""
        if frame_idx != self.frame_idx or self.encoded is None:
            return encode(session.get_frame(frame_idx))
        features, self.encoded = self.encoded, None
        return features.clone()  # the cache of the session keeps it, and a view would keep the batch in memory


class _Stream:
    """A stream, with the thread that reads it.

    Attributes:
        waiting: the frame that was read last and not taken yet.
        frame_idx: the number of the current frame in the session.
        has_ended: whether no further frame will be read.
        error: why reading ended early.
        is_stopped: whether the thread has to end.
    """

    def __init__(
        self,
        name: str,
        session: EfficientTamVideoInferenceSession,
        frames: Iterable[Any],
        live: bool,
        provider: _Encoded,
        changed: threading.Condition,
    ) -> None:
        self.name, self.session, self.provider = name, session, provider
        self.waiting, self.frame_idx = _NOTHING, -1
        self.has_ended, self.is_stopped = False, False
        self.error: Exception | None = None
        self._frames, self._live, self._changed = frames, live, changed

    def start(self) -> None:
        """Start to read."""
        threading.Thread(target=self._read, name=f"efficienttam-stream-{self.name}", daemon=True).start()

    def accept(self, model: EfficientTamVideoModel, frame: Any) -> None:
        """Make a frame the current one of the session, as the model does with a new frame of a stream."""
        for frame_idx in self.session.waiting_frames():  # the session is about to drop the previous frame
            model.segment_prompts(self.session, frame_idx)
        self.frame_idx = self.session.add_new_frame(frame)

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for frame in self._frames:
                with self._changed:
                    while not (self._live or self.is_stopped or self.waiting is _NOTHING):
                        self._changed.wait()
                    if self.is_stopped:
                        return
                    self.waiting = frame
                    self._changed.notify_all()
        except Exception as problem:  # noqa: BLE001 -- reported by the tracker
            error = problem
        finally:
            with self._changed:
                self.error, self.has_ended = error, True
                self._changed.notify_all()

"""Writes the sound of a video file into another video: the part that belongs to the frames, copied if possible.

What the new file may hold goes into it as it is: AAC, MP3 and Opus into MP4, AAC and MP3 into MOV, Opus into WebM.
Anything else is decoded and encoded, as Opus for WebM and as AAC for the others, which every browser plays.
:class:`efficienttam_hf.video_writer.VideoWriter` feeds the sound along with the frames, so that a player finds both
together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ._media import AUDIO_DECODERS, MediaLimits, import_av, open_container


@dataclass(frozen=True)
class _Target:
    """What sound a container holds.

    Attributes:
        copied: the decoders of what is copied.
        encoder: the encoder of everything else.
        sample_format: the format of its samples.
        rates: the rates that players accept, in Hz, the preferred one first.
    """

    copied: tuple[str, ...]
    encoder: str
    sample_format: str
    rates: tuple[int, ...]


AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000)
MP4 = _Target(("aac", "mp3", "mp3float", "opus", "libopus"), "aac", "fltp", AAC_RATES)
MOV = _Target(("aac", "mp3", "mp3float"), "aac", "fltp", AAC_RATES)
WEBM = _Target(("opus", "libopus"), "libopus", "s16", (48000, 24000, 16000))
TARGETS = {"mp4": MP4, "mov": MOV, "webm": WEBM}


class NoSound(Exception):
    """The file has no sound that can be kept; the message says why, and is '' where there is none at all."""


class SoundTrack:
    """The sound of a file from ``start`` on, as a stream of another file.

    Args:
        path: The file with the sound.
        output: The open ``av.container.OutputContainer``, before its first packet.
        start: Where the sound begins, in seconds on the clock of ``path``.

    Raises:
        NoSound: there is none, or none that can be decoded.
        VideoError: the file cannot be opened.
    """

    def __init__(self, path: Path, output: Any, start: float) -> None:
        self._av = import_av()
        self._output, self._start = output, start
        self._kind = TARGETS[output.format.name]
        self._input = open_container(path, MediaLimits.from_environment())
        try:
            self._stream = self._choose()
            if start > 1:
                self._input.seek(int((start - 1) * self._av.time_base))
            self._packets = self._timed_packets()
            self._waiting = next(self._packets, None)
            if self._waiting is None:
                raise NoSound("")
            self._copied = self._stream.codec_context.name in self._kind.copied and self._has_header()
            self._target = self._add_copy() if self._copied else self._add_encoder()
        except BaseException:
            self.close()
            raise

    def _choose(self) -> Any:
        streams = self._input.streams.audio
        if not streams:
            raise NoSound("")
        for stream in streams:
            if stream.codec_context is not None and stream.codec_context.name in AUDIO_DECODERS:
                return stream
        name = getattr(streams[0].codec_context, "name", "unknown")
        raise NoSound(f"it is coded as {name}, which cannot be decoded here")

    def _has_header(self) -> bool:
        # AAC from broadcasts carries it in every packet instead, which an MP4 cannot hold.
        context = self._stream.codec_context
        return context.name != "aac" or bool(context.extradata)

    def _add_copy(self) -> Any:
        if hasattr(self._output, "add_stream_from_template"):
            return self._output.add_stream_from_template(self._stream)
        return self._output.add_stream(template=self._stream)  # PyAV before 14

    def _add_encoder(self) -> Any:
        source = self._stream.codec_context
        rate = source.sample_rate if source.sample_rate in self._kind.rates else self._kind.rates[0]
        layout = "mono" if source.channels == 1 else "stereo"
        target = self._output.add_stream(self._kind.encoder, rate=rate)
        target.codec_context.layout = layout
        target.codec_context.bit_rate = 128_000
        self._resampler = self._av.AudioResampler(format=self._kind.sample_format, layout=layout, rate=rate)
        self._samples: int | None = None  # written so far
        return target

    def _timed_packets(self) -> Iterator[Any]:
        """Packets from the start on; a file that is cut short or damaged ends there."""
        try:
            for packet in self._input.demux(self._stream):
                if packet.size and packet.pts is not None and self._time(packet) >= -1e-6:
                    yield packet
        except self._av.error.FFmpegError:
            return

    def _time(self, packet: Any) -> float:
        return float(packet.pts * packet.time_base) - self._start

    def write_until(self, end: float) -> None:
        """Write the sound that is over by ``end``, in seconds after the start."""
        while self._waiting is not None:
            length = float((self._waiting.duration or 0) * self._waiting.time_base)
            if self._time(self._waiting) + length > end + 1e-3:
                return
            packet, self._waiting = self._waiting, next(self._packets, None)
            if self._copied:
                shift = round(self._start / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                packet.stream = self._target
                self._output.mux(packet)
            else:
                self._encode(packet)

    def _encode(self, packet: Any) -> None:
        begin = self._time(packet)
        try:
            frames = self._stream.decode(packet)
        except self._av.error.FFmpegError:
            return  # a damaged packet
        for frame in frames:
            frame.pts = None
            for piece in self._resampler.resample(frame):
                if self._samples is None:
                    self._samples = max(0, round(begin * piece.sample_rate))
                piece.pts, piece.time_base = self._samples, Fraction(1, piece.sample_rate)
                self._samples += piece.samples
                self._output.mux(self._target.encode(piece))

    def finish(self, end: float) -> None:
        """Write the rest up to ``end``, in seconds after the start."""
        self.write_until(end)
        if not self._copied and self._samples is not None:
            self._output.mux(self._target.encode(None))

    def close(self) -> None:
        """Let go of the file with the sound."""
        self._packets = iter(())
        self._input.close()

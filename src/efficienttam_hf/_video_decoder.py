"""Video files by frame number: the PyAV decoder, and the index that makes its random access exact.

Seeking in a compressed video only reaches keyframes, approximately, so the presentation time stamps of all packets are
listed on opening (no decoding, the file is read once) and every decoded picture is identified by its stamp. Files whose
stamps cannot be trusted for this are decoded once on opening instead. Most of what is here answers for files that are
not as they should be: cut short, damaged in the middle, joined, or stamped wrongly. Users reach it through
:func:`efficienttam_hf.video_io.open_video`, which says what is kept in memory and what happens to damaged files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ._media import VIDEO_DECODERS, MediaLimits, VideoError, cut_short, decoder_pixels, import_av, open_container


REVERSE_BYTES = 128 * 2**20  # what frames held for reading backward may take, as decoded (about 1.5 bytes a pixel)
HELD_BYTES = 512 * 2**20  # of very large frames, at most as many are held as fit into this
HIGHEST_RATE = 1000  # frames per second; what a file states beyond this is the unit of its clock
MAX_REORDER = 32  # pictures; twice what any common codec can delay a picture for reordering
BT601 = 5  # colour matrix, as FFmpeg numbers them
SKIP_RATHER_THAN_SEEK = 16  # frames; below this, decoding on costs less than refilling the decoder after a seek
_END = object()


class Cancelled(Exception):
    """The source was closed while its decoder was at work."""


class _RestartInSliceMode(Exception):
    """Pictures are missing while decoding several at once, where damage to one loses others around it."""


@dataclass
class _Keyframe:
    """A place where decoding can start.

    ``frame`` is the number of the first frame that is then shown correctly; ``pts`` and ``dts`` are the packet's
    presentation and decoding time in the stream's time base.
    """

    frame: int
    pts: int
    dts: int | None


@dataclass
class _FrameIndex:
    """Which frames a video file has.

    ``pts``: presentation times in order of showing; frame ``i`` is the picture stamped ``pts[i]``. Empty if the stamps
    are not usable, then frames are identified by counting from the beginning, and ``keyframes`` holds nothing but that.
    ``count``: number of frames. ``declared``: number of frames the file's header promises. ``stamps``: presentation
    times in the stream's time base, for the rate; as ``pts``, but also where frames cannot be found by them. Empty
    where the clock stands still or jumps. ``last``: how long the last frame is shown, 0 if the file does not say.
    """

    pts: list[int]
    keyframes: list[_Keyframe]
    count: int
    declared: int
    stamps: list[int]
    last: int = 0


class VideoFile:
    """Decoder over a video file: random access by frame number, exact, with a bounded number of decoded frames held.

    ``count`` is the number of frames as far as known, ``shortfall`` says why it is less than the file declares ('' if
    it is not), and ``findings`` are messages about damage that the reader should be warned of. ``fps`` is the average
    rate, None if neither the stamps nor the header give one.
    """

    def __init__(
        self, path: Path, keep: int, window: int | None, threads: int, limits: MediaLimits, animation: bool = False
    ) -> None:
        self._av = import_av()
        self._path = path
        self._limits, self._animation = limits, animation
        self._threads = threads
        self._thread_type = "AUTO"
        self._container: Any = None
        self._held: dict[int, Any] = {}  # decoded pictures by frame number, ascending, the most recent ones
        self.stopping = False
        self.shortfall = ""
        self.findings: deque[str] = deque()
        self._damage_met = False
        self._damaged: set[int] = set()
        try:
            self._build(keep, window)
        except BaseException:
            self.close()
            raise

    # --- opening

    def _build(self, keep: int, window: int | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # one for all frames: setting up a conversion costs as much as doing it
        self._open()
        context = self._stream.codec_context
        self._limits.check_picture(f"'{self._path}' has frames of", context.width, context.height)
        self._check_length(self._stream.frames)
        index = self._index_from_packets()
        opening = self._surely(self._decode_opening)
        if index is not None and not self._agrees(index, opening):
            self._thread_type = "SLICE"  # is it damage, or are the stamps not those of pictures?
            opening = self._decode_opening()
        if not opening:
            raise VideoError(
                f"No frame of '{self._path}' can be decoded (codec {self._stream.codec_context.name}); "
                "the file is damaged, or its codec is not supported."
            )
        if index is None or not self._agrees(index, opening):
            index = self._surely(self._index_by_decoding)
            self._thread_type = "SLICE" if self._damage_met else "AUTO"
            self._open()
        else:
            self._decoded.extendleft(reversed(opening))
        self._next = 0  # the number of the frame that is decoded next
        self._index = index
        self._number_of = {pts: number for number, pts in enumerate(index.pts)}
        self._starts = [key.frame for key in index.keyframes]
        self._start_of = {key.pts: key.frame for key in index.keyframes}
        self.count = index.count
        if index.declared > index.count:
            self._fall_short()
        elif "mp4" not in self._container.format.name and cut_short(self._path):
            self.shortfall = f"Only {index.count} frames can be decoded: the file is cut short."
            self.findings.append(f"'{self._path}': {self.shortfall[0].lower()}{self.shortfall[1:]}")
        self._find_rate(index)

        self._stored_size = (opening[0].height, opening[0].width)
        self._turn = _display_transform(opening[0])
        self.height, self.width = self._stored_size[::-1] if self._turn[0] else self._stored_size
        # Decoded as here; an animated image has four bytes a pixel, most videos one and a half.
        size = sum(plane.buffer_size for plane in opening[0].planes) or 1
        fits = max(1, HELD_BYTES // size)
        self._window = min(max(REVERSE_BYTES // size, 8), 128, fits) if window is None else window
        self._keep = min(keep, fits)

    def _check_length(self, frames: int) -> None:
        context = self._stream.codec_context
        self._limits.check_length(self._path, context.width, context.height, frames, self._animation)

    def _find_rate(self, index: _FrameIndex) -> None:
        """Set the average rate, and the times of the frames where the file has usable stamps.

        The rate that the file states is taken where it agrees with its time stamps to half a frame: it is exact, while
        stamps may be rounded. Some formats state the unit of their clock, or the rate of the encoder's settings.
        """
        self._stamps, self._unit, self._constant, self._end = index.stamps, 0.0, False, 0.0
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        stated = [float(rate) for rate in rates if rate is not None and 0 < rate <= HIGHEST_RATE]
        self.fps: float | None = stated[-1] if stated else None
        if not index.stamps or not self._stream.time_base:
            return
        self._unit = float(self._stream.time_base)
        steps = sorted(after - before for before, after in pairwise(index.stamps))
        # The last frame is not followed by another. It lasts as long as its packet says, but not less than most others:
        # encoders write the nominal length there.
        usual = steps[(len(steps) - 1) // 2] if steps else 0
        last = max(index.last, usual) * self._unit or (1 / stated[0] if stated else 0.0)
        total = (index.stamps[-1] - index.stamps[0]) * self._unit + last
        if total <= 0:
            self._unit = 0.0
            return
        count = len(index.stamps)
        agreeing = (rate for rate in stated if abs(count / rate - total) <= 0.5 / rate + 2 * self._unit)
        self.fps = next(agreeing, count / total)
        first = index.stamps[0]
        deviations = (abs((stamp - first) * self._unit - i / self.fps) for i, stamp in enumerate(index.stamps))
        self._constant = all(deviation <= 2 * self._unit + 1e-6 for deviation in deviations)
        self._end = first * self._unit + total

    def time_of(self, index: int) -> float | None:
        """When frame ``index`` is shown, in seconds of the file's clock; of ``count``, when the last one ends.

        None if the file does not say. Where the rate is constant, the rounding of the stamps is left out.
        """
        if not self._unit:
            return None
        if self._constant and self.fps is not None:
            return self._stamps[0] * self._unit + index / self.fps
        return self._stamps[index] * self._unit if index < len(self._stamps) else self._end

    def _open(self) -> None:
        self.close()
        self._container = open_container(self._path, self._limits)
        attached = getattr(self._av.stream, "Disposition", None)
        streams = [s for s in self._container.streams.video if not (attached and s.disposition & attached.attached_pic)]
        if not streams:
            kinds = sorted({s.type for s in self._container.streams}) or ["nothing"]
            raise VideoError(f"'{self._path}' has no video stream; it holds {', '.join(kinds)}.")
        # An animated AVIF has the still that viewers show at first as a video stream of its own.
        self._stream = max(streams, key=lambda stream: stream.frames) if self._animation else streams[0]
        if self._stream.codec_context is None:
            raise VideoError(f"The video in '{self._path}' is in a codec that this installation of PyAV cannot decode.")
        if self._stream.codec_context.name not in VIDEO_DECODERS:
            raise VideoError(
                f"The video in '{self._path}' is coded as {self._stream.codec_context.name}, which is not among the "
                "codecs that are accepted; convert it to H.264, HEVC, VP9 or AV1 first."
            )
        self._stream.thread_type = self._thread_type
        options = {"max_pixels": str(decoder_pixels(self._limits))}
        if self._thread_type != "SLICE":
            # While several pictures are decoded at once, damage is not repaired but left as noise; better to be told.
            options["err_detect"] = "explode"
        self._stream.codec_context.options = options
        self._stream.codec_context.thread_count = self._threads
        self._packets = self._demux()
        self._decoded: deque[Any] = deque()

    def _demux(self) -> Iterator[Any]:
        """Packets of the video stream, then one None that makes the decoder give out what it still holds."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except self._av.error.FFmpegError:
            pass  # the file is cut short here
        yield None

    def _index_from_packets(self) -> _FrameIndex | None:
        """The frames by the time stamps of their packets; None if those cannot be relied on."""
        codec = self._stream.codec_context.name
        pts: list[int | None] = []  # of packets that show a picture, in decoding order
        keys: list[tuple[int | None, int | None]] = []
        packets = 0
        cut_inside = False
        latest, last = None, 0
        for packet in self._packets:
            if packet is None:
                break
            packets += 1
            if packets > self._limits.max_frames:
                self._check_length(packets)
            if packet.pts is not None and (latest is None or packet.pts > latest):
                latest, last = packet.pts, packet.duration or 0
            if packet.is_keyframe:
                keys.append((packet.pts, packet.dts))
            # VP8 stores reference pictures that are never shown as packets of their own; bit 4 says so.
            hidden = codec == "vp8" and not memoryview(packet)[0] & 0x10
            cut_inside = packet.is_corrupt
            if not hidden and not packet.is_discard:
                pts.append(packet.pts)
        if cut_inside and pts:
            pts.pop()  # the file ends within this packet
            packets -= 1

        self._packet_count = len(pts)
        # What an MP4 promises is its index after editing; the number of frames in its header also counts what an edit
        # list cuts away. Older PyAV does not show the index; then only files that end within a packet are told.
        entries = getattr(self._stream, "index_entries", None)
        promised = len(entries) if entries is not None else self._stream.frames * cut_inside
        declared = promised if "mp4" in self._container.format.name else 0
        if not declared and cut_short(self._path):
            declared = self._declared_elsewhere()
        lacking = max(0, declared - packets)

        times = [p for p in pts if p is not None]
        shown = sorted(times)
        stamped = [(p, dts) for p, dts in keys if p is not None]
        if len(times) < len(pts) or len(set(times)) < len(times) or not keys or len(stamped) < len(keys):
            return None
        if not shown or min(p for p, _ in stamped) > shown[0]:
            return (
                None  # begins with pictures whose references were cut away: decoders differ in which of them they show
            )
        if "avi" in self._container.format.name and len(keys) < packets:
            return None  # AVI may put two pictures into one packet
        place = {p: i for i, p in enumerate(shown)}
        if max(abs(place[p] - i) for i, p in enumerate(times)) > MAX_REORDER:
            return None  # the clock jumps, as in recordings that were joined
        keyframes = [_Keyframe(bisect_left(shown, p), p, dts) for p, dts in sorted(stamped, key=lambda key: key[0])]
        if times != shown:
            last = 0  # where frames are reordered, MP4 states until when the next one is decoded, not shown
        return _FrameIndex(shown, keyframes, len(shown), len(shown) + lacking, shown, last)

    def _declared_elsewhere(self) -> int:
        """How many frames the header of a Matroska or AVI file states, about; 0 if it does not."""
        if self._stream.frames:
            return self._stream.frames
        rate = self._stream.average_rate
        sound = [stream for stream in self._container.streams if stream.type == "audio"]
        if self._container.duration and rate and 0 < rate <= HIGHEST_RATE and not sound:
            return round(self._container.duration * rate / self._av.time_base)
        return 0

    def _decode_opening(self, frames: int = 8) -> list[Any]:
        """The first few pictures: a check of the index, and the only way to know the true size and rotation."""
        self._open()
        opening: list[Any] = []
        while len(opening) < frames and (picture := self._next_picture()) is not None:
            opening.append(picture)
        return opening

    def _agrees(self, index: _FrameIndex, opening: list[Any]) -> bool:
        stamps = [picture.pts for picture in opening]
        if self._damage_met:
            return set(stamps) <= set(index.pts)
        return stamps == index.pts[: len(stamps)]

    def _index_by_decoding(self) -> _FrameIndex:
        self._open()
        count = 0
        stamps: list[int | None] = []
        while (picture := self._next_picture()) is not None:
            count += 1
            stamps.append(picture.pts)
            if count > self._limits.max_frames:
                self._check_length(count)
        if count < self._packet_count and self._thread_type != "SLICE":
            raise _RestartInSliceMode  # tells damage from files that have two packets for one picture
        # No time stamps to find frames by: whatever made them doubtful would also make seeking by them doubtful.
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < count or any(after <= before for before, after in pairwise(known)):
            known = []
        declared = self._packet_count if self._damage_met else count
        if not self._damage_met and cut_short(self._path):
            declared = max(declared, self._declared_elsewhere())
        return _FrameIndex([], [_Keyframe(0, 0, None)], count, declared, known)

    # --- reading

    def read(self, index: int, backward: bool) -> np.ndarray:
        """Frame ``index`` as uint8 ``(height, width, 3)`` RGB; ``backward`` if the reader moves that way."""
        if index >= self.count:
            raise IndexError(f"Frame {index} of '{self._path}' cannot be read. {self.shortfall}")
        if index not in self._held:
            self._surely(self._decode_up_to, index, backward)
        return self._to_rgb(self._held[index], index)

    def _surely(self, decode: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``decode``; where damage is met, once more with a decoder that works on one frame at a time."""
        try:
            return decode(*arguments)
        except _RestartInSliceMode:
            self._thread_type = "SLICE"
            self._open()
            self._next = 0
            self._held.clear()
            return decode(*arguments)

    def _decode_up_to(self, index: int, backward: bool) -> None:
        """Put frame ``index`` among the held ones; when moving backward, also the frames before it."""
        starts = self._starts
        latest = bisect_right(starts, index) - 1
        if backward:
            # As many whole groups of pictures as can be held: seeking costs, most where every frame is a keyframe.
            latest = min(latest, bisect_left(starts, index - self._window + 1))
        if index < self._next or starts[latest] > self._next + SKIP_RATHER_THAN_SEEK:
            self._restart(latest)
        while self._next <= index and self._advance(index, self._window if backward else self._keep):
            pass
        if index not in self._held:
            self.count = self._next
            self._fall_short()
            raise IndexError(f"Frame {index} of '{self._path}' cannot be read. {self.shortfall}")

    def _restart(self, number: int) -> None:
        """Make keyframe ``number``, or an earlier one if that turns out to be unusable, the next frame to decode."""
        self._held.clear()
        while True:
            start = self._go_to(number)
            self._next = start
            picture = self._next_known_picture()
            if picture is not None:
                self._decoded.appendleft(picture)
            if start == 0:
                return
            # Not shown are damaged keyframes, and those that only begin a gradual refresh: what follows them is not the
            # same as when decoded from the beginning.
            if picture is not None and self._number(picture) == start:
                return
            number = bisect_left(self._starts, start)
            del self._start_of[self._index.keyframes[number].pts], self._starts[number], self._index.keyframes[number]
            number -= 1

    def _go_to(self, number: int) -> int:
        """Seek to keyframe ``number``, or an earlier one if seeking does not reach it; its frame number."""
        for key in self._index.keyframes[number : max(number - 3, 0) : -1]:
            # Containers search by presentation time or by decoding time; which, only trying tells.
            for time in {key.pts: None, key.dts: None}:
                if time is not None and (start := self._seek(time)) is not None and start <= key.frame:
                    return start
        self._open()
        return 0

    def _seek(self, time: int) -> int | None:
        """Seek to the keyframe at or before ``time`` and return its frame number, None if it did not work."""
        try:
            self._container.seek(time, stream=self._stream)
        except self._av.error.FFmpegError:
            return None
        self._decoded.clear()
        packets = self._demux()
        for packet in packets:
            if packet is None:
                return None
            # Some containers land between keyframes; pictures from there would miss their references.
            if packet.is_keyframe:
                break
        else:
            return None

        def from_keyframe() -> Iterator[Any]:
            yield packet
            yield from packets

        self._packets = from_keyframe()
        return self._start_of.get(packet.pts)

    def _advance(self, wanted: int, limit: int) -> bool:
        """Decode the next frame and hold it; False at the end.

        Beyond ``limit`` frames, those before ``wanted`` are let go of, the oldest first.
        """
        picture = self._next_known_picture()
        number = self.count if picture is None else self._number(picture)
        if number > self._next and self._thread_type != "SLICE":
            raise _RestartInSliceMode
        if picture is None:
            return False
        missing = range(self._next, number)
        self._held.update(dict.fromkeys(missing, self._held.get(self._next - 1, picture)))
        if not self._damaged.issuperset(missing):
            self._damaged.update(missing)
            frames = f"Frames {missing[0]} to {missing[-1]}" if len(missing) > 1 else f"Frame {missing[0]}"
            shown = self._next - 1 if self._next else number
            self.findings.append(
                f"{frames} of '{self._path}' cannot be decoded, the file is damaged there; "
                f"frame {shown} is shown instead."
            )
        self._held[number] = picture
        self._next = number + 1
        while len(self._held) > limit and (oldest := next(iter(self._held))) < wanted:
            del self._held[oldest]
        return True

    def _number(self, picture: Any) -> int:
        """The frame number of a picture that was just decoded, -1 if the file does not show it."""
        return self._number_of.get(picture.pts, -1) if self._index.pts else self._next

    def _next_known_picture(self) -> Any | None:
        # Skipped are pictures before the keyframe where decoding began, which lack their references.
        while (picture := self._next_picture()) is not None and self._number(picture) < self._next:
            pass
        return picture

    def _next_picture(self) -> Any | None:
        """The next picture in order of showing, whatever its number; None at the end."""
        if self.stopping:
            raise Cancelled
        while not self._decoded:
            packet = next(self._packets, _END)
            if packet is _END:
                return None
            try:
                self._decoded.extend(self._stream.decode(packet))
            except self._av.error.FFmpegError as error:
                if self._thread_type != "SLICE":
                    raise _RestartInSliceMode from error
                self._damage_met = True
        return self._decoded.popleft()

    def _to_rgb(self, picture: Any, index: int) -> np.ndarray:
        if (picture.height, picture.width) != self._stored_size:
            height, width = self._stored_size
            raise VideoError(
                f"'{self._path}' changes size: frame {index} is {picture.width}x{picture.height} pixels, while frame 0 "
                f"is {width}x{height}. All frames of a video must have one size: read only the frames before, with "
                f"end={index}, or re-encode the video."
            )
        # Older PyAV takes the range from nowhere else, and the matrix of the picture only if another is named for RGB,
        # which has none.
        converted = self._reformatter.reformat(
            picture, format="rgb24", src_color_range=picture.color_range or None, dst_colorspace=BT601
        )
        rgb: np.ndarray = converted.to_ndarray()
        transpose, flip_rows, flip_columns = self._turn
        if transpose or flip_rows or flip_columns:
            turned = rgb.transpose(1, 0, 2) if transpose else rgb
            rgb = np.ascontiguousarray(turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])
        return rgb

    def _fall_short(self) -> None:
        self.shortfall = (
            f"Only {self.count} of its {self._index.declared} frames can be decoded: the file is cut short or damaged."
        )
        self.findings.append(f"'{self._path}': {self.shortfall[0].lower()}{self.shortfall[1:]}")

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def close(self) -> None:
        self._held.clear()
        self._decoded = deque()
        self._packets = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None


def _display_transform(picture: Any) -> tuple[bool, bool, bool]:
    """How to turn decoded pictures for display: (swap rows and columns, then flip rows, then flip columns).

    From the 3x3 display matrix of FFmpeg (16.16 fixed point, row vectors: ``x' = a x + c y``, ``y' = b x + d y``).
    Turns by other than quarter circles, which no camera writes, are ignored.
    """
    matrix = next((data for data in _side_data(picture) if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5]
    if a and d and not b and not c:
        return False, bool(d < 0), bool(a < 0)
    if b and c and not a and not d:
        return True, bool(b < 0), bool(c < 0)
    return False, False, False


def _side_data(picture: Any) -> Any:
    """What comes with a picture. FFmpeg knows more kinds of it than each version of PyAV, which fails at the others."""
    try:
        return picture.side_data
    except ValueError:
        from av.sidedata.sidedata import Type

        Type._missing_ = classmethod(_unknown_kind)  # type: ignore[method-assign, assignment]  # PyAV has no other way
        return picture.side_data


def _unknown_kind(kinds: Any, number: int) -> Any:
    """A member of PyAV's enumeration of side data for a number that it lacks."""
    member = object.__new__(kinds)
    member._name_, member._value_ = f"UNKNOWN_{number}", number
    return kinds._value2member_map_.setdefault(number, member)

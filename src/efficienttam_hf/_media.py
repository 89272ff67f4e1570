"""Shared by readers and writers of frames: their error class, their limits, and how libav opens a file.

Files come from strangers. A container format may name other files (playlists do), a header may promise a picture of a
terabyte, a name may look like an address. So every video is opened through :func:`open_container`, which gives libav
one local file and a list of the formats it may see in it, and every size is compared with :class:`MediaLimits` before
anything is decoded. Users import :class:`VideoError` and :class:`MediaLimits` from :mod:`efficienttam_hf.video_io`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


class VideoError(ValueError):
    """Something cannot be read or written as frames; the message says what, why, and what would be accepted."""


@dataclass(frozen=True)
class MediaLimits:
    """The largest images and videos that are read. What exceeds them is refused before it is decoded.

    Attributes:
        max_pixels: Pixels of one image or frame. An image of the default size takes about 0.6 GB while it is read.
        max_frames: Frames of one video.
        max_video_pixels: Pixels of one frame times frames, of a video file or folder.
        max_animation_pixels: The same, of an animated image (GIF, APNG, WebP, AVIF, TIFF pages), where a frame may take
            no more than twenty bytes in the file.
    """

    max_pixels: int = 89_478_485
    max_frames: int = 3_000_000
    max_video_pixels: int = 25 * 10**12
    max_animation_pixels: int = 10**11

    VARIABLES = {
        "max_pixels": "EFFICIENTTAM_MAX_PIXELS",
        "max_frames": "EFFICIENTTAM_MAX_VIDEO_FRAMES",
        "max_video_pixels": "EFFICIENTTAM_MAX_VIDEO_PIXELS",
        "max_animation_pixels": "EFFICIENTTAM_MAX_ANIMATION_PIXELS",
    }

    @classmethod
    def from_environment(cls) -> MediaLimits:
        """The defaults, each replaced by its environment variable where that is set.

        Raises:
            VideoError: a variable is not a positive whole number.
        """
        given: dict[str, int] = {}
        for field, variable in cls.VARIABLES.items():
            if value := os.environ.get(variable, "").strip():
                if not value.isascii() or not value.isdigit() or not 0 < len(value) < 19 or int(value) < 1:
                    raise VideoError(
                        f"The environment variable {variable} must be a positive whole number, not {value!r}."
                    )
                given[field] = int(value)
        return cls(**given)

    def check_picture(self, what: str, width: int, height: int) -> None:
        """Refuse a picture of more than ``max_pixels``; ``what`` begins the message, such as "'a.png' is".

        Raises:
            VideoError: it is larger.
        """
        if width * height > self.max_pixels:
            raise VideoError(
                f"{what} {width}x{height} pixels, {width * height / 1e6:.0f} million; at most "
                f"{self.max_pixels / 1e6:.0f} million are read. {self._way_out('max_pixels', width * height)}"
            )

    def check_length(self, path: Path, width: int, height: int, frames: int, animation: bool = False) -> None:
        """Refuse a video of too many frames, or of too many pixels in all.

        Raises:
            VideoError: it is longer.
        """
        if frames > self.max_frames:
            raise VideoError(
                f"'{path}' has {frames} frames; at most {self.max_frames} are read. "
                f"{self._way_out('max_frames', frames)}"
            )
        field = "max_animation_pixels" if animation else "max_video_pixels"
        total, limit = width * height * frames, getattr(self, field)
        if total > limit:
            raise VideoError(
                f"'{path}' has {frames} frames of {width}x{height} pixels, {total:.2g} pixels in all; at most "
                f"{limit:.2g} are read. {self._way_out(field, total)}"
            )

    def _way_out(self, field: str, value: int) -> str:
        return (
            f"If you trust the file, set the environment variable {self.VARIABLES[field]}={value} "
            f"or pass limits=MediaLimits({field}={value})."
        )


def import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading and writing video files needs PyAV: pip install efficienttam-hf[video]. "
            "Without it, a folder of JPEG or PNG frames can be read."
        ) from error
    return av


def check_regular_file(path: Path, kind: str) -> None:
    """See that a path is a file with something in it, not a device or a pipe, whose reading might never end.

    Args:
        path: Of the file.
        kind: What it is wanted as, such as "an image".

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        VideoError: it is a folder, not a regular file, or empty.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a null character
        raise VideoError(f"{os.fspath(path)!r} is not the name of a file ({error}).") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"'{path}' is a folder, not {kind} file.")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"'{path}' is a device or a pipe; {kind} is read from a regular file.")
    if status.st_size == 0:
        raise VideoError(f"'{path}' is empty (0 bytes), so it is not {kind}.")


# What libav may see in a file, by the names of its demuxers. None of them opens another file; playlists (hls, dash,
# concat), scene descriptions (lavfi), network descriptions (sdp, rtsp) and numbered images (image2) do.
CONTAINERS = (
    "3g2", "3gp", "apng", "asf", "av1", "avi", "dv", "flv", "gif", "h261", "h263", "h264", "hevc", "ivf", "m4a",
    "m4v", "matroska", "mj2", "mjpeg", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "vc1",
    "vvc", "webm", "yuv4mpegpipe",
)  # fmt: skip

# Decoders by name: what cameras, phones, editors and the web write, and have written since about 1995.
VIDEO_DECODERS = (
    "apng", "av1", "bmp", "cfhd", "cinepak", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flashsv", "flashsv2", "flv",
    "gif", "h261", "h263", "h263i", "h263p", "h264", "hap", "hevc", "huffyuv", "indeo3", "indeo4", "indeo5",
    "jpeg2000", "jpegls", "libaom-av1", "libdav1d", "libopenjpeg", "libvpx", "libvpx-vp9", "magicyuv", "mjpeg",
    "mjpegb", "mpeg1video", "mpeg2video", "mpeg4", "mpegvideo", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "msrle",
    "msvideo1", "png", "prores", "qtrle", "r10k", "r210", "rawvideo", "rpza", "rv10", "rv20", "rv30", "rv40", "smc",
    "snow", "svq1", "svq3", "theora", "tscc", "utvideo", "v210", "v308", "v408", "v410", "vc1", "vp3", "vp4", "vp6",
    "vp6a", "vp6f", "vp7", "vp8", "vp9", "vvc", "wmv1", "wmv2", "wmv3", "yuv4", "zlib", "zmbv",
)  # fmt: skip
AUDIO_DECODERS = (
    "aac", "aac_fixed", "aac_latm", "ac3", "ac3_fixed", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb",
    "amrwb", "eac3", "flac", "gsm", "gsm_ms", "libopus", "libvorbis", "mp1", "mp1float", "mp2", "mp2float", "mp3",
    "mp3float", "opus", "pcm_alaw", "pcm_bluray", "pcm_dvd", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le",
    "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_s8", "pcm_u8",
    "vorbis", "wmav1", "wmav2", "wmapro",
)  # fmt: skip


def local_address(path: str | os.PathLike) -> str:
    """A local file in libav's words. Given a bare name, libav takes what is before a colon for a protocol."""
    return f"file:{os.path.abspath(path)}"


def decoder_pixels(limits: MediaLimits) -> int:
    """The limit that libav's decoders get: they compare a picture with rows of whole blocks with it."""
    return min(limits.max_pixels + 2**22, 2**31 - 1)


def open_container(path: Path, limits: MediaLimits) -> Any:
    """Open a video or sound file with PyAV: this one local file, and nothing that it may name.

    Args:
        path: Of the file.
        limits: Larger pictures are not even decoded where libav looks for the properties of a stream.

    Returns:
        An ``av.container.InputContainer``, for the caller to close.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        VideoError: it is not a regular file, not in one of :data:`CONTAINERS`, or damaged.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    check_regular_file(path, "a video")
    options = {
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join((*VIDEO_DECODERS, *AUDIO_DECODERS)),
        "protocol_whitelist": "file",
        "enable_drefs": "0",  # MP4: samples in other files
        "max_pixels": str(decoder_pixels(limits)),
    }
    try:
        # Titles may be in any encoding, and nothing here reads them.
        return av.open(local_address(path), options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = getattr(error, "strerror", None) or error
        if cut_short(path):
            reason = "the file is cut short, and what would say where its frames are is missing"
        elif getattr(error, "errno", None) == 22:  # EINVAL: what the whitelist of formats gives
            reason = "its format is not one of those accepted; playlists and files that name other files are not"
        raise VideoError(
            f"'{path}' is not a video that can be read ({reason}). "
            "Accepted are video files such as MP4, WebM, MOV, AVI and GIF, and folders of JPEG or PNG frames."
        ) from error


def cut_short(path: Path) -> bool:
    """Whether the end of an MP4, Matroska or AVI file is missing, by the sizes that its outermost parts state."""
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > length
        if head[:4] == b"\x1aE\xdf\xa3":
            return _matroska_end(head, length) > length
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        position = 0
        for _ in range(100_000):  # boxes: their size, their name; fragmented files have two per fragment
            file.seek(position)
            box = file.read(16)
            if len(box) < 8:
                return 0 < len(box)
            size = int.from_bytes(box[:4], "big")
            if size == 1 and len(box) == 16:
                size = int.from_bytes(box[8:], "big")
            if size < 8:  # 0: up to the end, however far that is
                return False
            position += size
            if position > length:
                return True
    return False


def _matroska_end(head: bytes, unknown: int) -> int:
    """Where the segment of a Matroska file ends, as it states; ``unknown`` if it does not (live recordings)."""

    def number(at: int) -> tuple[int, int]:
        """A variable-length integer and where it ends."""
        first = head[at]
        size = 9 - first.bit_length()
        value = int.from_bytes(head[at : at + size], "big") & ((1 << 7 * size) - 1)
        return (-1 if value == (1 << 7 * size) - 1 else value), at + size

    try:
        header, start = number(4)
        segment = start + header
        if head[segment : segment + 4] != b"\x18\x53\x80\x67":
            return unknown
        size, start = number(segment + 4)
        return unknown if size < 0 else start + size
    except IndexError:
        return unknown

"""How a video is encoded: container, codec and pixel format, for opaque videos and for those with an alpha channel.

Only two encodings with alpha are both in PyAV's wheels and read by common programs. ProRes 4444 in MOV is what editors
import; it is large and nearly lossless. VP9 in WebM is what browsers play (Chrome, Firefox, Edge; not Safari), in which
the alpha channel is a second video beside the first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from ._media import VideoError, import_av


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        container: libav's name of the container format.
        codec: libav's name of the encoder.
        pixel_format: the pixel format of encoded frames.
        frame_format: the pixel format of the frames that are given: rgb24 or rgba.
        even: whether height and width must be even, because chroma has half the resolution.
        options: options of the encoder.
        muxing: options of the container.
        metadata: metadata of the stream.
        reorders: whether the encoder reorders frames, unless it is told not to.
    """

    container: str
    codec: str
    pixel_format: str
    frame_format: str = "rgb24"
    even: bool = True
    options: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    reorders: bool = False

    @property
    def channels(self) -> int:
        """The channels of a frame: 3, or 4 with alpha."""
        return 4 if self.frame_format == "rgba" else 3


OPAQUE_SUFFIXES = (".mp4", ".m4v", ".mov")
ALPHA_SUFFIXES = (".mov", ".webm")


def choose_encoding(path: Path, alpha: bool, crf: int = 20) -> Encoding:
    """Choose how a video is encoded.

    Args:
        path: the path of the video, whose suffix decides.
        alpha: whether it has an alpha channel.
        crf: the quality; see :class:`~efficienttam_hf.video_writer.VideoWriter`.

    Raises:
        ImportError: if PyAV is not installed.
        VideoError: if the suffix is not accepted, or PyAV has no encoder for a video with alpha.
    """
    av = import_av()
    suffix = path.suffix.lower()
    if not alpha:
        if suffix not in OPAQUE_SUFFIXES:
            raise VideoError(f"Videos are written as MP4: '{path}' must end in .mp4, .m4v or .mov.")
        codec = _h264_encoder(av)
        options = {"crf": str(crf), "preset": "veryfast"} if codec == "libx264" else {}
        muxing = {"movflags": "+faststart"}
        return Encoding("mp4", codec, "yuv420p", options=options, muxing=muxing, reorders=True)
    if suffix == ".mov":
        options = {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
        encoding = Encoding("mov", "prores_ks", "yuva444p10le", "rgba", False, options, {"movflags": "+faststart"})
    elif suffix == ".webm":
        # Without these, libvpx looks ahead and makes hidden frames, which a video with alpha cannot have.
        options = {"auto-alt-ref": "0", "lag-in-frames": "0"}
        options |= {"crf": str(min(63, crf + 4)), "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
        metadata = {"alpha_mode": "1"}
        encoding = Encoding("webm", "libvpx-vp9", "yuva420p", "rgba", True, options, metadata=metadata)
    else:
        raise VideoError(
            f"Videos with an alpha channel are written as ProRes 4444 or VP9: '{path}' must end in .mov or .webm."
        )
    if not _has_encoder(av, encoding.codec):
        raise VideoError(
            f"This PyAV has no encoder {encoding.codec}, which a {suffix} file with an alpha channel needs. Choose "
            "another format, or install a wheel of PyAV from PyPI, which has one: pip install --force-reinstall av."
        )
    return encoding


def _h264_encoder(av: ModuleType) -> str:
    """Return the name of an available H.264 encoder; if there is none, warn and return that of MPEG-4 Part 2."""
    for codec in ("libx264", "libopenh264"):
        if _has_encoder(av, codec):
            return codec
    warnings.warn(
        "This PyAV has no H.264 encoder, so the video is written as MPEG-4 Part 2, which browsers do not play. "
        "The wheels of PyAV on PyPI have one: pip install --force-reinstall av.",
        RuntimeWarning,
        stacklevel=4,
    )
    return "mpeg4"


def _has_encoder(av: ModuleType, codec: str) -> bool:
    """Whether PyAV was built with an encoder."""
    try:
        av.codec.Codec(codec, "w")
    except (av.error.FFmpegError, ValueError):  # ValueError: av.codec.codec.UnknownCodecError
        return False
    return True

"""What readers and writers of frames share: the error they raise, and PyAV, which may not be installed.

It stands apart so that files, images, videos and masks can each be a module of their own and still refuse bad input in
the same way. Users import :class:`VideoError` from :mod:`efficienttam_hf.video_io`.
"""

from __future__ import annotations

from types import ModuleType


class VideoError(ValueError):
    """Something cannot be read or written as frames; the message says what, why, and what would be accepted."""


def import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading and writing video files needs PyAV: pip install efficienttam-hf[video]. "
            "Without it, a folder of JPEG or PNG frames can be read."
        ) from error
    return av

"""Every limit of the HTTP service."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..app.clips import ClipLimits


MEGABYTE = 2**20


@dataclass(frozen=True)
class ServiceSettings:
    """The limits of the service. Each is a positive whole number.

    Attributes:
        max_upload_mb: megabytes of one upload: a video, all images of a session, or an image.
        max_body_mb: megabytes of any other request, such as prompts with masks.
        max_frames: frames of a video that are used; later ones are left out. More images are refused.
        max_pixels: pixels of a frame or an image before it is scaled down.
        max_side: longer side in pixels to which frames and results are scaled down.
        max_sessions: sessions that exist at the same time.
        max_objects: objects of a session or an image.
        max_points: points for one object on one frame.
        max_prompts: prompts of a session; a prompt is what is given for one object on one frame.
        tracking_at_once: videos that are tracked in turn, frame by frame; others wait. Each holds the memories of its
            objects.
        max_waiting: requests that run on the model or wait for it.
        requests_per_minute: requests from one network address.
        session_minutes: a session is deleted after so many minutes without a request.
        max_connections: connections at the same time.
    """

    max_upload_mb: int = 200
    max_body_mb: int = 8
    max_frames: int = 1000
    max_pixels: int = 4096 * 2304
    max_side: int = 1024
    max_sessions: int = 32
    max_objects: int = 12
    max_points: int = 50
    max_prompts: int = 200
    tracking_at_once: int = 2
    max_waiting: int = 64
    requests_per_minute: int = 1200
    session_minutes: int = 30
    max_connections: int = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be a whole number above 0, got {value!r}.")
        if self.max_side < 16:
            raise ValueError(f"max_side must be at least 16 pixels, got {self.max_side}.")

    @property
    def clip(self) -> ClipLimits:
        """The limits of a video."""
        return ClipLimits(self.max_frames, self.max_pixels, self.max_side)

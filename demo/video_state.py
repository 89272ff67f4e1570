"""A visitor's loaded video with its masks, and the pictures of its frames: the lowest part of `video_work`."""

from __future__ import annotations

import secrets
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import engine
import numpy as np
from clicks import Point
from clip_masks import ClipMasks
from found_objects import FoundObjects
from settings import Settings
from timeline import Row
from uploads import Upload, UserError
from video_clip import Clip, ClipFrames, clip_of_file

from efficienttam_hf.app.frames import limited_size
from efficienttam_hf.prompts import ObjectPrompts, Prompts
from efficienttam_hf.visualization import overlay_masks


class VideoState:
    """A clip, the masks and prompts on it, and what is shown of them. Attributes: see `video_work.VideoWork`."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.model = engine.store.first
        self.model_is_new = False
        self.clip: Clip | None = None
        self.from_link: list[Any] = []
        self._open_frames: ClipFrames | None = None
        self._open_masks: ClipMasks | None = None
        self._upload: Upload | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._stop = threading.Event()
        self._tracking = False
        self._open = ExitStack()
        self._reset()

    def _reset(self) -> None:
        """Remove all prompts."""
        self.prompts: Prompts = {}
        self.current = 1
        self.corner: Point | None = None
        self.found = FoundObjects()
        self._complete = False
        self.cancelled = False

    # ------------------------------------------------------------------------------------------------------- the clip

    def load(self, path: Path, max_side: int, stride: int) -> Clip:
        """Load an uploaded file in place of the current video.

        Args:
            path: the path of the uploaded file.
            max_side: the longer side of the results in pixels; 0 is that of the video, within the settings' limit.
            stride: take every n-th frame; 1 takes all.

        Raises:
            UserError: if the file is not a video, or larger than allowed. It is deleted, and the current video is kept.
        """
        self.check_not_tracking()
        upload = Upload(path, self.folder / f"upload-{secrets.token_hex(4)}", self.settings)
        try:
            clip = clip_of_file(upload.path, self.settings, max_side, stride)
        except UserError:
            upload.delete()
            raise
        with self._lock:
            if self._closed:  # the visitor left meanwhile
                upload.delete()
                raise UserError("This page was closed. Load it again.")
            self._let_go()
            self._upload, self.clip = upload, clip
            self._open_frames = self._open.enter_context(clip.open(read_ahead=0))
            self._open_masks = self.new_masks(clip)
            self._reset()
        return clip

    def new_masks(self, clip: Clip) -> ClipMasks:
        """Make an empty folder of masks for a clip. It is deleted with the visitor's other files."""
        return ClipMasks(self.folder / f"results-{secrets.token_hex(4)}", clip)

    def _let_go(self) -> None:
        """Close the video and delete all results."""
        self.release()
        for path in self.folder.glob("results-*"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder / "files", ignore_errors=True)

    def release(self) -> None:
        """Close the video and delete the upload. Written results are kept."""
        with self._lock:
            self._open.close()
            self.clip = self._open_frames = None
            if self._open_masks is not None:
                self._open_masks.close()
            if self._upload is not None:
                self._upload.delete()
                self._upload = None

    def close(self) -> None:
        """Stop what is running and delete all files."""
        self._stop.set()
        with self._lock:
            self._closed = True
            self._let_go()
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_not_tracking(self) -> None:
        """Raise `UserError` while tracking is under way."""
        if self.tracking:
            raise UserError("Tracking is under way: wait until it ends, or press Cancel first.")

    @property
    def tracking(self) -> bool:
        """Whether tracking is under way."""
        return self._tracking

    def _check_loaded(self) -> Clip:
        """Return the clip, or raise `UserError` if there is none."""
        if self.clip is None:
            raise UserError("Choose a video first.")
        return self.clip

    @property
    def _frames(self) -> ClipFrames:
        """The open frames; raises `UserError` if there is no video."""
        if self._open_frames is None:
            raise UserError("Choose a video first.")
        return self._open_frames

    @property
    def _masks(self) -> ClipMasks:
        """The masks; raises `UserError` if there is no video."""
        if self._open_masks is None:
            raise UserError("Choose a video first.")
        return self._open_masks

    # ----------------------------------------------------------------------------------------------------- the picture

    def picture(self, frame: int, opacity: float = 0.5) -> np.ndarray:
        """Draw a frame with its masks and prompts.

        Args:
            frame: the frame of the clip.
            opacity: the opacity of masks, from 0 to 1.

        Returns:
            uint8 (height, width, 3) RGB.

        Raises:
            UserError: if there is no video, or it ends before this frame.
        """
        with self._lock:
            clip = self._check_loaded()
            image = self._frame(frame)
            number = clip.number(frame)
            masks = self.masks_on(number)
            corner = [ObjectPrompts([self.corner], [1])] if self.corner else []
            here = [*self.prompts.get(frame, {}).values(), *corner]
            several = len(self.objects) > 1 or bool(self.found.labels)
            labels: bool | dict[int, str] = self.found.drawn(masks) if several else False
        return overlay_masks(image, masks, opacity, labels=labels, prompts=here)

    def _frame(self, frame: int) -> np.ndarray:
        """Return a frame, or raise `UserError` if the video ends before it."""
        try:
            return self._frames[frame]
        except IndexError as error:
            raise UserError(f"The video is damaged: it ends before frame {frame}.") from error

    @property
    def objects(self) -> list[int]:
        """The ids of all prompted objects and of the selected one, which may be new."""
        return sorted({*self._prompted, self.current})

    @property
    def _prompted(self) -> list[int]:
        """The ids of all prompted objects."""
        return sorted({i for on_frame in self.prompts.values() for i in on_frame})

    def scores(self) -> list[tuple[int, int, float]]:
        """Return (frame number in the video, object id, probability of presence) of each mask."""
        with self._lock:
            return [] if self.clip is None else self._masks.scores()

    def frame_with_masks(self, frame: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return a frame of the clip, uint8 (height, width, 3) RGB, and its masks by object id.

        Raises:
            UserError: if there is no video, or it ends before this frame.
        """
        with self._lock:
            clip = self._check_loaded()
            return self._frame(frame), self.masks_on(clip.number(frame))

    def masks_on(self, number: int) -> dict[int, np.ndarray]:
        """Return the masks, bool (height, width), by object id on a frame, by its number in the video."""
        with self._lock:
            return self._masks.on(number)

    @property
    def full_size(self) -> tuple[int, int]:
        """(height, width) of results that are as large as the video, within the settings' limit."""
        return limited_size(self._check_loaded().original, self.settings.max_result_side)

    @property
    def tracked_frames(self) -> list[int]:
        """The numbers in the video of the frames that have masks, ascending."""
        with self._lock:
            return [] if self.clip is None else self._masks.numbers

    def timeline(self) -> dict[int, Row]:
        """Return the rows of the timeline, by object id and in frames of the clip."""
        with self._lock:
            return {} if self.clip is None else self._masks.timeline(self.prompts)

"""The calls of a tracker on a session, the same for the torch model and for exported graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .session_walk import SessionWalk
from .tracking_rules import Direction


class TrackerCalls:
    """Mixin that gives a tracker the methods of `Sam2VideoModel` that take a session; its `walk` does the work."""

    @property
    def walk(self) -> SessionWalk:
        """The walk that runs sessions with this tracker."""
        raise NotImplementedError

    def segment_prompts(self, inference_session: Any, frame_idx: int) -> Any:
        """Run the pending prompts of a frame. Objects without one are not run, as in the published predictor.

        Args:
            inference_session: a session from `init_video_session`.
            frame_idx: the frame.

        Returns:
            A row for each object; objects without a result on the frame count as absent (see `get_frame_output`).

        Raises:
            ValueError: if the frame is not available.
        """
        return self.walk.segment_prompts(inference_session, frame_idx)

    def track_frame(
        self, inference_session: Any, frame_idx: int, reverse: bool = False, run_mem_encoder: bool = True
    ) -> Any:
        """Give every object a result on one frame, as `propagate_in_video_iterator` does on each of its frames.

        Args:
            inference_session: a session from `init_video_session`.
            frame_idx: the frame.
            reverse: whether tracking runs backward.
            run_mem_encoder: whether the memory encoder runs, so that later frames can attend to this one.

        Raises:
            ValueError: if an object has no prompts, or the frame is not available.
        """
        return self.walk.track_frame(inference_session, frame_idx, Direction.of(reverse), run_mem_encoder)

    def propagate_in_video_iterator(
        self,
        inference_session: Any,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
    ) -> Iterator[Any]:
        """Track every object through the frames of a video, yielding each frame when it is finished.

        Pending prompts are run first. Objects and prompts may be added, corrected and removed between two frames:
        prompts on the current frame or an earlier one are run before the next frame, and prompts on a later frame when
        it is reached.

        Args:
            inference_session: a session from `init_video_session`, with a video.
            start_frame_idx: the first frame; by default the earliest prompted frame.
            max_frame_num_to_track: number of frames after the first; by default all of them.
            reverse: whether tracking runs backward.
            show_progress_bar: whether to show a progress bar; this needs tqdm.

        Raises:
            ValueError: if nothing was prompted, an object has lost all its prompts, or the start is not in the video.
        """
        progress: Callable[[range], Iterable[int]] = iter
        if show_progress_bar:
            from tqdm import tqdm

            progress = partial(tqdm, desc="propagate in video")
        direction = Direction.of(reverse)
        yield from self.walk.propagate(inference_session, start_frame_idx, max_frame_num_to_track, direction, progress)

    def get_frame_output(self, inference_session: Any, frame_idx: int) -> Any:
        """The newest result of every object on a frame, without running anything.

        An object has no result on a frame that tracking never reached, or whose result was dropped (see
        `keep_history`). Its mask logits and scores are then `no_object_score`.
        """
        return self.walk.output(inference_session, frame_idx)

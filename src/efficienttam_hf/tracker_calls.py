"""The calls of a tracker on a session, the same for the torch model and for exported graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .session_walk import SessionWalk
from .tracking_rules import Direction


class TrackerCalls:
    """Mixin of a tracker: what `Sam2VideoModel` calls on a session, done by the tracker's `walk`."""

    @property
    def walk(self) -> SessionWalk:
        """What drives sessions with this tracker."""
        raise NotImplementedError

    def segment_prompts(self, inference_session: Any, frame_idx: int) -> Any:
        """Run the prompts that wait on a frame, and no object that has none there, as the published predictor does.

        Args:
            inference_session: of `init_video_session`.
            frame_idx: the frame.

        Returns:
            A row for each object; those without a result on the frame are absent (see `get_frame_output`).

        Raises:
            ValueError: for a frame that is not there.
        """
        return self.walk.segment_prompts(inference_session, frame_idx)

    def track_frame(
        self, inference_session: Any, frame_idx: int, reverse: bool = False, run_mem_encoder: bool = True
    ) -> Any:
        """Give every object a result on a frame and pass it, as `propagate_in_video_iterator` does with each of its.

        Args:
            inference_session: of `init_video_session`.
            frame_idx: the frame.
            reverse: whether tracking runs backward.
            run_mem_encoder: whether tracked frames are remembered.

        Raises:
            ValueError: for an object without prompts, or a frame that is not there.
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
        """Track every object through the frames of a video, yielding each frame as it is done.

        Prompts that were added but not run yet are run first. Objects and prompts may be added, corrected and removed
        between two frames: prompts on the current frame or on one behind are run before the next frame, and prompts on
        a coming frame when it is reached.

        Args:
            inference_session: of `init_video_session`, with a video.
            start_frame_idx: where to start; by default the earliest prompted frame.
            max_frame_num_to_track: how many frames after the first; by default to the end.
            reverse: whether to go backward.
            show_progress_bar: whether to show one; it needs tqdm.

        Raises:
            ValueError: if nothing was prompted, an object lost all its prompts, or the start is not in the video.
        """
        progress: Callable[[range], Iterable[int]] = iter
        if show_progress_bar:
            from tqdm import tqdm

            progress = partial(tqdm, desc="propagate in video")
        direction = Direction.of(reverse)
        yield from self.walk.propagate(inference_session, start_frame_idx, max_frame_num_to_track, direction, progress)

    def get_frame_output(self, inference_session: Any, frame_idx: int) -> Any:
        """The newest result of every object on a frame, without running anything.

        Objects without a result there (never reached, or let go: see `keep_history`) have masks and scores at
        `no_object_score`.
        """
        return self.walk.output(inference_session, frame_idx)

"""The video tab: its layout, and what happens on each click. The work itself is in `video_work`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from click_image import click_image
from common_ui import PAGE_EVENT, camera, example_gallery, friendly, object_choice, object_controls, refuse
from settings import Settings
from uploads import UserError
from video_work import VideoWork
from visitors import Visitors

from efficienttam_hf.visualization import object_color


DIRECTIONS = ("forward", "backward", "both")
# The last ones are videos that not every system calls so.
FILE_TYPES = ["video", ".gif", ".mkv", ".3gp", ".ts", ".mts", ".m2ts"]
LOADED = 9  # components that a new video changes
SECONDS_BETWEEN_PICTURES = 0.2

HOW_TO = (
    "**1** choose a video · **2** click on what you want to track · **3** press *Track*. "
    "Where it goes wrong, move the slider there, click to correct, and re-track from there."
)


class VideoTab:
    """Call within a `gr.Tab`.

    Args:
        examples: video files to try.
        example_pictures: a picture of each.
    """

    def __init__(self, visitors: Visitors, settings: Settings, examples: list[Path], example_pictures: list[Path]):
        self.visitors = visitors
        self.settings = settings
        self.examples = examples
        self._layout(example_pictures)
        self._wire()

    # ---------------------------------------------------------------------------------------------------------- layout

    def _layout(self, example_pictures: list[Path]) -> None:
        settings = self.settings
        gr.Markdown(HOW_TO)
        with gr.Accordion("Choose a video", open=True, elem_id="video-source") as self.source, gr.Row():
            with gr.Column(), gr.Tabs():
                with gr.Tab("Upload"):
                    self.upload = gr.File(
                        label=f"Up to {settings.max_upload_mb} MB; {settings.max_frames} frames are used",
                        file_types=FILE_TYPES,
                        height=160,
                        elem_id="video-upload",
                    )
                with gr.Tab("Record"):
                    # Not turned, not muted, no other format: Gradio would run FFmpeg for each of these.
                    self.recorder = gr.Video(
                        sources=["webcam"],
                        webcam_options=camera(1280),
                        include_audio=True,
                        show_label=False,
                        height=260,
                        elem_id="video-recorder",
                    )
            with gr.Column():
                self.gallery = example_gallery(example_pictures, elem_id="video-examples")
                with (
                    gr.Accordion(f"Settings · model: {settings.model}", open=False, elem_id="video-settings"),
                    gr.Row(),
                ):
                    self.side = gr.Dropdown(
                        list(settings.result_sides),
                        value=settings.result_sides[0],
                        label="Size of the results",
                        info="Longer side in pixels; smaller is faster",
                        elem_id="video-side",
                    )
                    self.stride = gr.Dropdown(
                        list(settings.strides),
                        value=settings.strides[0],
                        label="Use every n-th frame",
                        info="Covers a longer video in the same time",
                        elem_id="video-stride",
                    )
        with gr.Row(visible=False) as self.workspace:
            with gr.Column(scale=3, min_width=320):
                self.canvas = click_image(label="Click to mark objects", elem_id="video-canvas", elem_classes="canvas")
                self.frame = gr.Slider(
                    0, 1, 0, step=1, label="Frame", interactive=True, buttons=[], elem_id="video-frame"
                )
                self.status = gr.HTML(elem_id="video-status")
            with gr.Column(scale=2, min_width=300):
                self.controls = object_controls("video")
                self.direction = gr.Radio(
                    DIRECTIONS, value="forward", label="Track which way from the clicks", elem_id="video-direction"
                )
                with gr.Row(elem_classes="buttons"):
                    self.track = gr.Button("Track", variant="primary", elem_id="video-track")
                    self.retrack = gr.Button("Re-track from here", elem_id="video-retrack")
                    self.cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="video-cancel")
                self.opacity = gr.Slider(0.1, 0.9, 0.5, step=0.1, label="Opacity of masks", buttons=[])
        with gr.Column(visible=False, elem_id="video-results") as self.results:
            with gr.Row(elem_classes="buttons"):
                self.overlay_file = gr.DownloadButton("Overlay video (MP4)", elem_id="download-overlay")
                self.masks_file = gr.DownloadButton("Masks (PNGs in a ZIP)", elem_id="download-masks")
                self.json_file = gr.DownloadButton("Masks (COCO JSON)", elem_id="download-json")
            with gr.Row():
                self.player = gr.Video(
                    label="Result", interactive=False, min_width=320, elem_id="video-player", buttons=[]
                )
                self.plot = gr.LinePlot(
                    x="frame",
                    y="score",
                    color="object",
                    color_map={str(i): _css_colour(i) for i in range(1, settings.max_objects + 1)},
                    y_lim=[0, 1.05],
                    y_title="probability that the object is in the frame",
                    height=360,
                    min_width=320,
                    show_label=False,  # Gradio leaves no room for it
                    elem_id="video-plot",
                )

    def _wire(self) -> None:
        controls = self.controls
        edited = [self.canvas, controls.objects, self.status, self.results]
        loaded = [self.source, self.upload, self.recorder, self.workspace, self.frame, *edited]
        tracked = [self.canvas, self.frame, self.status, self.results]
        files = [self.overlay_file, self.masks_file, self.json_file, self.player, self.plot]
        chosen = [self.side, self.stride]
        quiet = {**PAGE_EVENT, "show_progress": "hidden"}
        model = {**quiet, "concurrency_id": "click", "concurrency_limit": self.settings.clicks_at_once}
        tracking = {**PAGE_EVENT, "concurrency_id": "track", "concurrency_limit": self.settings.tracking_at_once}

        self.upload.upload(self.on_upload, [self.upload, *chosen], loaded, show_progress_on=self.upload, **PAGE_EVENT)
        recorded = self.recorder.stop_recording
        recorded(self.on_upload, [self.recorder, *chosen], loaded, show_progress_on=self.recorder, **PAGE_EVENT)
        self.gallery.select(self.on_example, chosen, loaded, **quiet)
        self.frame.input(self.on_frame, [self.frame, self.opacity], self.canvas, trigger_mode="always_last", **quiet)
        self.opacity.input(self.on_frame, [self.frame, self.opacity], self.canvas, trigger_mode="always_last", **quiet)
        self.canvas.select(
            self.on_click,
            [self.frame, controls.kind, controls.objects, self.opacity],
            edited,
            trigger_mode="multiple",
            **model,
        )
        controls.objects.input(self.on_object, controls.objects, None, **quiet)
        controls.next_object.click(self.on_next, None, controls.objects, **quiet)
        controls.undo.click(self.on_undo, [self.frame, self.opacity], [self.frame, *edited], **quiet)
        controls.remove.click(self.on_remove, [self.frame, self.opacity], edited, **quiet)

        # Tracking waits in the queue; what comes before and after does not, nor does Cancel.
        buttons = [self.track, self.retrack, self.cancel]
        at_once = {**quiet, "queue": False}
        waiting = {"show_progress_on": self.status, "show_progress": "minimal"}
        for button, again in ((self.track, False), (self.retrack, True)):
            inputs = [gr.State(again), self.frame, self.direction, self.opacity]
            begun = button.click(self.on_begin, inputs[:3], [self.status, *buttons], **at_once)
            ended = begun.success(self.on_track, inputs, [*tracked, *files], **waiting, **tracking)
            ended.then(self.on_end, None, buttons, **at_once)
        self.cancel.click(self.on_cancel, None, None, **at_once)

    # ------------------------------------------------------------------------------------------------------- callbacks

    def _work(self, request: gr.Request) -> VideoWork:
        return self.visitors.of(request.session_hash).video

    def on_upload(self, path: str | None, side: int, stride: int, request: gr.Request):
        """A video was uploaded or recorded."""
        if path is None:
            return [gr.skip()] * LOADED
        return self._load(Path(path), side, stride, request)

    def on_example(self, event: gr.SelectData, side: int, stride: int, request: gr.Request):
        """A picture of the examples was clicked."""
        example = self.examples[event.index]
        copy = self.visitors.of(request.session_hash).folder / example.name
        shutil.copyfile(example, copy)
        return self._load(copy, side, stride, request)

    def _load(self, path: Path, side: int, stride: int, request: gr.Request) -> list[Any]:
        work = self._work(request)
        try:
            clip = work.load(path, int(side), int(stride))
            picture = work.picture(0)
        except UserError as error:
            refuse(error)
            return [gr.skip(), None, None, *[gr.skip()] * (LOADED - 3)]  # ready for another file
        used = clip.count * clip.stride
        text = f"{clip.original[1]}×{clip.original[0]} pixels, {clip.count} frames. Now click on an object."
        if used < clip.in_video:
            gr.Warning(
                f"The video has {clip.in_video} frames; the first {used} are used. "
                "To cover more of it, set 'Use every n-th frame' in the settings and choose the video again.",
                duration=8,
            )
        return [
            gr.update(open=False, label=f"Choose another video · now: {clip.name}"),
            None,
            None,
            gr.update(visible=True),
            gr.update(maximum=max(1, clip.count - 1), value=0),
            picture,
            object_choice(work.objects, work.current),
            _status(text),
            gr.update(visible=False),
        ]

    def on_frame(self, frame: int, opacity: float, request: gr.Request):
        """The slider moved."""
        work = self._work(request)
        with friendly():
            return work.picture(_within(work, frame), opacity) if work.clip else gr.skip()

    def on_click(
        self, event: gr.SelectData, frame: int, kind: str, object_id: str, opacity: float, request: gr.Request
    ):
        """The picture was clicked."""
        work = self._work(request)
        x, y = event.index
        with friendly():
            work.current = int(object_id)
            work.click(_within(work, frame), kind, (float(x), float(y)))
        if work.corner:
            text = "Now click the opposite corner of the box."
        else:
            text = f"Object {work.current} is marked. Click again to improve it, or press Track."
        return self._edited(work, frame, opacity, text)

    def on_object(self, object_id: str, request: gr.Request) -> None:
        """Another object was chosen."""
        work = self._work(request)
        work.current, work.corner = int(object_id), None

    def on_next(self, request: gr.Request):
        """Next object."""
        work = self._work(request)
        with friendly():
            work.next_object()
        return object_choice(work.objects, work.current)

    def on_undo(self, frame: int, opacity: float, request: gr.Request):
        """Undo; shows the frame where it was."""
        work = self._work(request)
        with friendly():
            at = work.undo()
        if work.clip is None:
            return [gr.skip()] * 5
        at = frame if at is None else at
        return [at, *self._edited(work, at, opacity, "Taken back.")]

    def on_remove(self, frame: int, opacity: float, request: gr.Request):
        """Remove object."""
        work = self._work(request)
        with friendly():
            work.remove_object()
        return self._edited(work, frame, opacity, "Removed.")

    def _edited(self, work: VideoWork, frame: int, opacity: float, text: str) -> list[Any]:
        """After a change of prompts: the files of before no longer fit."""
        return [
            work.picture(_within(work, frame), opacity),
            object_choice(work.objects, work.current),
            _status(text),
            gr.update(visible=False),
        ]

    def on_begin(self, again: bool, frame: int, direction: str, request: gr.Request) -> list[Any]:
        """Track or, `again`, re-track was pressed. If others are tracking, it waits now."""
        with friendly():
            self._work(request).prepare_tracking(direction, int(frame) if again else None)
        return [_status("Waiting for a turn …"), *_tracking_buttons(True)]

    def on_end(self, request: gr.Request) -> list[Any]:
        """Tracking ended in whatever way."""
        return _tracking_buttons(False)

    def on_track(
        self, again: bool, frame: int, direction: str, opacity: float, request: gr.Request
    ) -> Iterator[list[Any]]:
        """Track everything from its prompts or, `again`, from the frame shown."""
        visitor = self.visitors.of(request.session_hash)
        work = visitor.video
        unchanged = [gr.skip()] * 6  # the results and their files
        begun = last = time.monotonic()
        start = _within(work, frame)
        shown, rate = start, 0.0
        with friendly():
            for shown, done, total in work.track(direction, start if again else None):
                visitor.seen()
                now = time.monotonic()
                rate = done / (now - begun)
                if now - last >= SECONDS_BETWEEN_PICTURES or done == 1:
                    last = now
                    text = f"Frame {shown} · {done} of {total} · {rate:.1f} frames/s"
                    yield [work.picture(shown, opacity), shown, _status(text, done / total), *unchanged]
        if work.clip is None:  # the visitor has left
            return
        yield [work.picture(shown, opacity), shown, _status("Writing the files …", 1.0), *unchanged]
        results = work.write_results()
        text = "Cancelled; what was done is kept." if work.cancelled else f"Done, at {rate:.1f} frames/s."
        if results is None:
            yield [gr.skip(), gr.skip(), _status(text), *unchanged]
            return
        yield [
            gr.skip(),
            gr.skip(),
            _status(f"{text} Move the slider to check; click to correct."),
            gr.update(visible=True),
            str(results.overlay),
            str(results.masks_zip),
            str(results.masks_json),
            str(results.overlay),
            _score_table(work),
        ]

    def on_cancel(self, request: gr.Request) -> None:
        """Cancel."""
        self._work(request).cancel()


def _within(work: VideoWork, frame: float) -> int:
    """A slider's value as a frame that there is."""
    return max(0, min(int(frame), work.clip.count - 1)) if work.clip else 0


def _tracking_buttons(tracking: bool) -> list[Any]:
    """Track, re-track, cancel."""
    return [gr.update(interactive=on) for on in (not tracking, not tracking, tracking)]


def _score_table(work: VideoWork):
    import pandas as pd

    rows = [(frame, str(object_id), score) for frame, object_id, score in work.scores()]
    return pd.DataFrame(rows, columns=["frame", "object", "score"])


def _css_colour(object_id: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*object_color(object_id))


def _status(text: str, progress: float | None = None) -> str:
    bar = "" if progress is None else f'<progress max="1" value="{progress:.3f}"></progress>'
    return f'<div class="status">{bar}<span>{text}</span></div>'

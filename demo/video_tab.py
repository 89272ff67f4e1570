"""The video tab: its layout and its callbacks. `video_work` has the state of the work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from click_image import click_image
from common_ui import (
    PAGE_EVENT,
    REFUSALS,
    Answer,
    Place,
    answered,
    as_source,
    camera,
    canvas_classes,
    click_place,
    example_gallery,
    object_choice,
    object_controls,
    object_title,
    place_in,
    refused,
    said,
    search_controls,
    status_line,
    with_place,
)
from continue_panel import ContinuePanel, use_link
from export_panel import ExportPanel
from model_store import shown_name
from settings import Settings
from text_detector import split_texts
from timeline import MOST_MOMENTS, lost_moments, moments_html, timeline_html
from video_clip import readable
from video_work import VideoWork
from visitors import Visitors

from efficienttam_hf.app.frames import limited_size, resize_image
from efficienttam_hf.visualization import object_color


DIRECTIONS = ("forward", "backward", "both")
# The suffixes are of videos that not every system recognizes as such.
FILE_TYPES = ["video", ".gif", ".mkv", ".3gp", ".ts", ".mts", ".m2ts"]
LOADED = 11  # the number of components that a new video changes
SECONDS_BETWEEN_PICTURES = 0.2
SHOWN_SIDE = 1280  # the longer side of pictures on the page, in pixels
TO_DO = "Click on an object, find one, or press Track."

HOW_TO = (
    "**1** choose a video · **2** click on what you want to track · **3** press *Track*. "
    "Where it goes wrong, move the slider there, click to correct, and re-track from there."
)


class VideoTab:
    """The layout of the video tab and its callbacks. It is constructed within a `gr.Tab`.

    Args:
        visitors: all visitors of the demo.
        settings: the settings of the demo.
        examples: the paths of example videos.
        example_pictures: the path of a picture of each example.
    """

    def __init__(self, visitors: Visitors, settings: Settings, examples: list[Path], example_pictures: list[Path]):
        self.visitors = visitors
        self.settings = settings
        self.examples = examples
        self._layout(example_pictures)
        self._wire()

    # ---------------------------------------------------------------------------------------------------------- layout

    def _layout(self, example_pictures: list[Path]) -> None:
        """Make the components of the tab."""
        settings = self.settings
        gr.Markdown(HOW_TO)
        with gr.Accordion("Choose a video", open=True, elem_id="video-source") as self.source, gr.Row():
            with gr.Column(), gr.Tabs():
                with gr.Tab("Upload"):
                    self.upload = gr.File(
                        label=f"Up to {settings.max_upload_mb} MB; {settings.max_frames} frames are used",
                        file_types=FILE_TYPES,
                        height=190,
                        elem_id="video-upload",
                    )
                with gr.Tab("Record"):
                    # Recordings are not mirrored, muted or converted, because Gradio would run FFmpeg for each of
                    # these.
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
                    gr.Accordion("Settings", open=False, elem_id="video-settings"),
                    gr.Row(),
                ):
                    self.side = gr.Dropdown(
                        [*((str(side), side) for side in settings.result_sides), as_source("video", settings)],
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
        self.status = status_line("video-status")
        with gr.Row(visible=False) as self.workspace:
            with gr.Column(scale=3, min_width=320):
                self.canvas = click_image(label="Click to mark objects", elem_id="video-canvas", elem_classes="canvas")
                self.place = click_place()
                with gr.Row(elem_classes="buttons"):
                    self.track = gr.Button("Track", variant="primary", elem_id="video-track")
                    self.retrack = gr.Button("Re-track from here", elem_id="video-retrack")
                    self.cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="video-cancel")
                self.frame = gr.Slider(
                    0, 1, 0, step=1, label="Frame", interactive=True, buttons=[], elem_id="video-frame"
                )
                self.timeline = gr.HTML(elem_id="video-timeline", visible=False)
                self.moments = gr.HTML(elem_id="video-moments", visible=False)
                self.moment = gr.JSON(visible=False)
            with gr.Column(scale=2, min_width=300):
                self.controls = object_controls("video")
                self.search = search_controls("video", settings)
                self.direction = gr.Radio(
                    DIRECTIONS, value="forward", label="Track which way from the clicks", elem_id="video-direction"
                )
                self.opacity = gr.Slider(0.1, 0.9, 0.5, step=0.1, label="Opacity of masks", buttons=[])
                self.continuing = ContinuePanel(self)
        with gr.Column(visible=False, elem_id="video-results") as self.results:
            with gr.Row(elem_classes="buttons"):
                self.overlay_file = gr.DownloadButton("Overlay video (MP4)", elem_id="download-overlay")
                self.masks_file = gr.DownloadButton("Masks (PNGs in a ZIP)", elem_id="download-masks")
                self.json_file = gr.DownloadButton("Masks (COCO JSON)", elem_id="download-json")
            self.markers = gr.Checkbox(
                False, label="Draw clicks and boxes in the overlay video, too", elem_id="video-markers"
            )
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
                    show_label=False,  # Gradio leaves no space for the label
                    elem_id="video-plot",
                )
            self.exports = ExportPanel(settings, self.work)

    def _wire(self) -> None:
        """Connect the components to the callbacks."""
        controls, status = self.controls, self.status
        edited = [self.canvas, controls.objects, status, self.results, self.timeline]
        loaded = [self.source, self.upload, self.recorder, self.workspace, self.frame, *edited, self.moments]
        files = [self.overlay_file, self.masks_file, self.json_file, self.player]
        shown = [self.frame, self.opacity]
        chosen = [self.side, self.stride]
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        model: dict[str, Any] = {**quiet, "concurrency_id": "click", "concurrency_limit": self.settings.clicks_at_once}
        tracking: dict[str, Any] = {
            **PAGE_EVENT,
            "concurrency_id": "track",
            "concurrency_limit": self.settings.tracking_at_once,
        }

        self.upload.upload(self.on_upload, [self.upload, *chosen], loaded, show_progress_on=self.upload, **PAGE_EVENT)
        recorded = self.recorder.stop_recording
        recorded(self.on_upload, [self.recorder, *chosen], loaded, show_progress_on=self.recorder, **PAGE_EVENT)
        self.gallery.select(self.on_example, chosen, loaded, **quiet)
        for slider in shown:
            slider.input(self.on_frame, shown, [self.canvas, status], trigger_mode="always_last", **quiet)
        self.canvas.select(
            self.on_click,
            [self.frame, controls.kind, controls.objects, self.opacity, self.place],
            edited,
            trigger_mode="multiple",
            js=with_place("frame", "kind", "objects", "opacity"),
            **model,
        )
        # A search takes longer than a click, so it waits in a queue of its own.
        search: dict[str, Any] = {**quiet, "concurrency_id": "find", "concurrency_limit": 1}
        for begins, callback, given in (
            (self.search.find.click, self.on_find, [self.search.texts, *shown]),
            (self.search.texts.submit, self.on_find, [self.search.texts, *shown]),
            (self.search.everything.click, self.on_everything, shown),
        ):
            looking = said("Looking for objects on this frame …")
            begins(None, None, status, js=f"() => {json.dumps(looking)}", **PAGE_EVENT)
            begins(callback, given, edited, **search)
        controls.kind.input(self.on_kind, shown, [self.canvas, status], **quiet)
        controls.objects.input(self.on_object, [controls.objects, *shown], [self.canvas, status], **quiet)
        controls.next_object.click(self.on_next, shown, [self.canvas, controls.objects, status], **quiet)
        controls.undo.click(self.on_undo, shown, [self.frame, *edited], **quiet)
        controls.remove.click(self.on_remove, shown, edited, **quiet)

        # Tracking waits in the queue. The events before and after it do not wait, and neither does Cancel.
        self.while_tracking = [
            *(self.track, self.retrack, self.cancel, controls.next_object, controls.undo, controls.remove),
            *(self.search.find, self.search.everything),
            self.canvas,
        ]
        at_once: dict[str, Any] = {**quiet, "queue": False}
        waiting: dict[str, Any] = {"show_progress_on": status, "show_progress": "hidden"}
        tracked = [self.canvas, self.frame, status, self.results, *files, self.plot, self.timeline, self.moments]
        for strip in (self.timeline, self.moments):
            strip.click(
                self.on_moment,
                [self.moment, self.opacity],
                [self.frame, self.canvas, status],
                js="(_, opacity) => [window.efficienttam?.takeMoment() ?? null, opacity]",
                **quiet,
            )
        for button, again in ((self.track, False), (self.retrack, True)):
            inputs = [gr.State(again), self.frame, self.direction]
            begun = button.click(self.on_begin, inputs, [status, *self.while_tracking], **at_once)
            ended = begun.then(self.on_track, [self.opacity, self.markers], tracked, **waiting, **tracking)
            ended.then(
                self.exports.on_preview,
                self.exports.preview_inputs(self.frame, controls.objects),
                self.exports.preview_outputs,
                **quiet,
            )
            ended.then(self.on_end, None, [status, *self.while_tracking], **at_once)
        # The browser writes this text at the click, because an answer of the server could arrive after the message that
        # says how tracking ended. A click after that message is overwritten by `on_end`.
        stopping = said("Stopping after the frame that is under way …")
        self.cancel.click(None, None, status, js=f"() => {json.dumps(stopping)}", **PAGE_EVENT)
        self.cancel.click(self.on_cancel, None, None, **at_once)
        self.exports.wire(self.frame, controls.objects)
        self.continuing.wire(tracked)
        self.markers.input(self.on_markers, self.markers, [status, *files], **waiting, **tracking)
        self.model_inputs, self.model_outputs = shown, edited

    # ------------------------------------------------------------------------------------------------------- callbacks
    # Each callback is decorated with `answered`: if it refuses, the status line gives the reason and nothing else
    # changes.

    def work(self, request: gr.Request) -> VideoWork:
        """Return the state of the visitor's video tab."""
        return self.visitors.of(request.session_hash).video

    @answered
    def on_upload(self, path: str | None, side: int, stride: int, request: gr.Request) -> Answer:
        """Load an uploaded or recorded video."""
        if path is None:
            return [gr.skip()] * LOADED
        return self._load(Path(path), side, stride, request)

    @answered
    def on_example(self, event: gr.SelectData, side: int, stride: int, request: gr.Request) -> Answer:
        """Load the example whose picture was clicked."""
        return self._load(self.examples[event.index], side, stride, request)

    def _load(self, path: Path, side: int, stride: int, request: gr.Request) -> Answer:
        """Load a video and show its first frame."""
        work = self.work(request)
        try:
            clip = work.load(path, int(side), int(stride))
            linked = use_link(work)
            frame = min(work.prompts, default=0)
            picture = self._picture(work, frame)
        except REFUSALS as error:  # the upload field is emptied for another file
            if work.tracking:  # the status line shows the progress of tracking, which would replace the message at once
                gr.Warning(readable(error), duration=8)
            return {self.status: refused(error), self.upload: None, self.recorder: None}
        used = clip.count * clip.stride
        text = f"{clip.original[1]}×{clip.original[0]} pixels, {clip.count} frames."
        if clip.shortfall:
            text += f" The file is damaged: {clip.shortfall}"
            gr.Warning(clip.shortfall, duration=8, title="The file is damaged")
        if used < clip.in_video:
            text += f" The video has {clip.in_video}; the first {used} are used."
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
            gr.update(maximum=max(1, clip.count - 1), value=frame),
            gr.update(value=picture, elem_classes=canvas_classes(clip.size)),
            _choice(work),
            said(f"{text}{linked or ' Now click on an object, or press Everything.'}"),
            gr.update(visible=False),
            _timeline(work),
            gr.update(visible=False),
        ]

    def _picture(self, work: VideoWork, frame: int, opacity: float = 0.5) -> np.ndarray:
        """Return a frame as it is shown on the page, where large pictures are scaled down."""
        picture = work.picture(frame, opacity)
        return resize_image(picture, limited_size(picture.shape[:2], SHOWN_SIDE))

    @answered
    def on_frame(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Show the frame that the slider was moved to."""
        work = self.work(request)
        return {self.canvas: self._picture(work, _within(work, frame), opacity) if work.clip else gr.skip()}

    @answered
    def on_moment(self, moment: Any, opacity: float, request: gr.Request) -> Answer:
        """Show the frame that was clicked on the timeline."""
        work = self.work(request)
        if work.clip is None or work.tracking or not isinstance(moment, int):
            return {self.status: gr.skip()}
        frame = _within(work, moment)
        return self.picture_of(work, frame, opacity)

    @answered
    def on_click(
        self,
        event: gr.SelectData,
        frame: int,
        kind: str,
        object_id: str,
        opacity: float,
        place: Place,
        request: gr.Request,
    ) -> Answer:
        """Add a click on the picture to the prompts of the selected object."""
        work = self.work(request)
        size = work.clip.size if work.clip else (1, 1)
        if work.current != int(object_id):
            work.choose(int(object_id))
        work.click(_within(work, frame), kind, place_in(size, place, event))
        if work.corner:
            text = "Now click the opposite corner of the box."
        else:
            text = f"Object {work.current} is marked. Click again to improve it, or press Track."
        return self._edited(work, frame, opacity, text)

    @answered
    def on_find(self, texts: str, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Find on the shown frame what the texts say."""
        return self._search(split_texts(texts), frame, opacity, request)

    @answered
    def on_everything(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Find the objects of the shown frame."""
        return self._search(None, frame, opacity, request)

    def _search(self, texts: list[str] | None, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Search a frame and show what was found."""
        work = self.work(request)
        found = work.find(_within(work, frame), texts)
        if not found:  # another video was chosen meanwhile
            return {self.status: gr.skip()}
        names = ", ".join(object_title(i, work.found.labels) for i in found)
        full = len(work.objects) >= self.settings.max_objects
        text = f"Found: {names}." + (" There can be no more objects." if full else "")
        return self._edited(work, frame, opacity, f"{text} Remove what you do not want, or press Track.")

    @answered
    def on_kind(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Note that another kind of click was chosen; a box that was begun is discarded."""
        work = self.work(request)
        if work.corner is None:
            return {self.status: gr.skip()}
        work.corner = None
        return {self.canvas: self._picture(work, _within(work, frame), opacity), self.status: said(TO_DO)}

    @answered
    def on_object(self, object_id: str, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Select another object."""
        work = self.work(request)
        work.choose(int(object_id))
        return self._chosen(work, frame, opacity)

    @answered
    def on_next(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Select a new object."""
        work = self.work(request)
        work.next_object()
        choice = _choice(work)
        return {**self._chosen(work, frame, opacity), self.controls.objects: choice}

    def _chosen(self, work: VideoWork, frame: int, opacity: float) -> dict[Any, Any]:
        """Return the answer to a change of the selected object."""
        answer: dict[Any, Any] = {self.status: said(f"Clicks are for object {work.current}.")}
        if work.clip is not None:
            answer[self.canvas] = self._picture(work, _within(work, frame), opacity)
        return answer

    @answered
    def on_undo(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Undo the last click and show its frame."""
        work = self.work(request)
        at = work.undo()
        text = "The corner is undone." if at is None else f"The last click or search on frame {at} is undone."
        at = frame if at is None else at
        return [at, *self._edited(work, at, opacity, text)]

    @answered
    def on_remove(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Remove the selected object."""
        work = self.work(request)
        return self._edited(work, frame, opacity, f"Object {work.remove_object()} is removed.")

    def _edited(self, work: VideoWork, frame: int, opacity: float, text: str) -> list[Any]:
        """Return the answer to a change of prompts. The result files are hidden, because they are out of date."""
        return [
            self._picture(work, _within(work, frame), opacity),
            _choice(work),
            said(text),
            gr.update(visible=False),
            _timeline(work),
        ]

    @answered
    def on_model(self, frame: int, opacity: float, request: gr.Request) -> Answer:
        """Tell the visitor that another model is used, if it was changed."""
        work = self.work(request)
        if not work.model_is_new:
            return {self.status: gr.skip()}
        work.model_is_new = False
        text = f"You work with {shown_name(work.model)} now."
        if work.prompts:
            text += " Your clicks are kept, and the masks are removed. Press Track, or click again to see a mask."
        return self._edited(work, frame, opacity, text)

    @answered
    def on_begin(self, again: bool, frame: int, direction: str, request: gr.Request) -> Answer:
        """Prepare tracking when Track or, with `again`, Re-track was pressed. If other videos are tracked, it waits."""
        work = self.work(request)
        self.visitors.of(request.session_hash).tracking_status = ""
        work.prepare_tracking(direction, _within(work, frame) if again else None)
        return [said("Waiting for a turn …"), *_while_tracking(work, True)]

    @answered
    def on_end(self, request: gr.Request) -> Answer:
        """Restore the buttons after tracking ended in any way, or did not begin."""
        visitor = self.visitors.of(request.session_hash)
        status = gr.skip() if visitor.video.tracking else visitor.tracking_status or gr.skip()
        return [status, *_while_tracking(visitor.video, visitor.video.tracking)]

    def on_track(self, opacity: float, markers: bool, request: gr.Request) -> Iterator[dict[Any, Any]]:
        """Track what `on_begin` prepared; if it refused, do nothing."""
        for answer in self._track(opacity, markers, request):
            visitor = self.visitors.known(request.session_hash)
            if visitor is not None and isinstance(answer.get(self.status), str):
                visitor.tracking_status = answer[self.status]
            yield answer

    @answered
    def _track(self, opacity: float, markers: bool, request: gr.Request) -> Iterator[dict[Any, Any]]:
        """Track and yield the answers with progress, pictures and, at the end, the result files."""
        visitor = self.visitors.of(request.session_hash)
        work = visitor.video
        prepared = work.take_prepared()
        if prepared is None:
            yield {self.status: gr.skip()}
            return
        direction, start = prepared
        begun = last = time.monotonic()
        shown, rate = start or 0, 0.0
        for shown, done, total in work.track(direction, start):
            visitor.seen()
            now = time.monotonic()
            rate = done / (now - begun)
            if now - last >= SECONDS_BETWEEN_PICTURES or done == 1:
                last = now
                text = f"Frame {shown} · {done} of {total} · {rate:.1f} frames/s"
                picture = self._picture(work, shown, opacity)
                yield {self.canvas: picture, self.frame: shown, self.status: said(text, done / total)}
        if work.clip is None:  # the visitor has left
            return
        picture = self._picture(work, shown, opacity)
        yield {self.canvas: picture, self.frame: shown, self.status: said("Writing the files …", 1.0)}
        results = self.results_of(work, markers, opacity)
        text = "Cancelled; what was done is kept." if work.cancelled else f"Done, at {rate:.1f} frames/s."
        if not results:
            yield {self.status: said(text)}
            return
        yield {**results, self.status: said(f"{text} Move the slider to check; click to correct.")}

    def results_of(self, work: VideoWork, markers: bool, opacity: float) -> dict[Any, Any]:
        """Write the result files; return the updates of all components that show results, or none without masks."""
        files = self._files(work, markers)
        if not files:
            return {}
        return {
            **files,
            self.results: gr.update(visible=True),
            self.plot: _score_table(work),
            self.timeline: _timeline(work),
            self.moments: _moments(work, opacity),
        }

    def picture_of(self, work: VideoWork, frame: int, opacity: float) -> dict[Any, Any]:
        """Return the updates that show a frame."""
        return {self.frame: frame, self.canvas: self._picture(work, frame, opacity)}

    def _files(self, work: VideoWork, markers: bool) -> dict[Any, str]:
        """Write the result files and return the updates of the components that offer them."""
        results = work.write_results(markers)
        if results is None:
            return {}
        return {
            self.overlay_file: str(results.overlay),
            self.masks_file: str(results.masks_zip),
            self.json_file: str(results.masks_json),
            self.player: str(results.overlay),
        }

    @answered
    def on_markers(self, markers: bool, request: gr.Request) -> Answer:
        """Draw clicks in the overlay, or leave them out."""
        files = self._files(self.work(request), markers)
        shown = "shows" if markers else "does not show"
        return {**files, self.status: said(f"The overlay video {shown} clicks and boxes.") if files else gr.skip()}

    def on_cancel(self, request: gr.Request) -> None:
        """Stop tracking."""
        self.work(request).cancel()


def _choice(work: VideoWork) -> dict[str, Any]:
    """Return the update of the choice of objects."""
    return object_choice(work.objects, work.current, work.found.labels)


def _within(work: VideoWork, frame: float) -> int:
    """Convert a slider's value to a frame of the clip."""
    return max(0, min(int(frame), work.clip.count - 1)) if work.clip else 0


def _while_tracking(work: VideoWork, tracking: bool) -> list[Any]:
    """Return the updates of the buttons and of the picture, which ignores clicks during tracking."""
    buttons = [gr.update(interactive=on) for on in (not tracking, not tracking, tracking, *[not tracking] * 5)]
    size = work.clip.size if work.clip else None
    return [*buttons, gr.update(elem_classes=canvas_classes(size, busy=tracking))]


def _timeline(work: VideoWork) -> dict[str, Any]:
    """Return the update of the timeline, which is hidden while there is nothing on it."""
    count = work.clip.count if work.clip else 1
    value = timeline_html(work.timeline(), count, work.found.labels)
    return gr.update(value=value, visible=bool(value))


def _moments(work: VideoWork, opacity: float) -> dict[str, Any]:
    """Return the update of the pictures of lost moments."""
    moments = lost_moments(work.timeline())
    shown = [(frame, object_id, work.picture(frame, opacity)) for frame, object_id in moments[:MOST_MOMENTS]]
    value = moments_html(shown, len(moments) - len(shown), work.found.labels)
    return gr.update(value=value, visible=bool(value))


def _score_table(work: VideoWork) -> Any:
    """Return the object scores of all frames as a table for the plot."""
    import pandas as pd

    rows = [(frame, str(object_id), score) for frame, object_id, score in work.scores()]
    return pd.DataFrame(rows, columns=["frame", "object", "score"])


def _css_colour(object_id: int) -> str:
    """Return the colour of an object as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*object_color(object_id))

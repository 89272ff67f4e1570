"""The panel with which a visitor goes on from earlier results, and makes a link that carries clicks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from common_ui import PAGE_EVENT, REFUSALS, Answer, answered, object_choice, refused, said
from given_prompts import MOST_CHARACTERS, on_clip, parse_link, parse_prompts
from given_results import take_results
from uploads import UserError
from video_clip import readable
from video_work import VideoWork

from efficienttam_hf.prompts import prompts_as_json, scaled_prompts


if TYPE_CHECKING:
    from video_tab import VideoTab


# The part of an address after "#" is not sent to servers, so that it is in no log. A damaged one is sent on as it is.
READ_LINK = """() => {
  const text = location.hash.startsWith("#prompts=") ? location.hash.slice("#prompts=".length) : "";
  try { return decodeURIComponent(text); } catch { return text; }
}"""
MAKE_LINK = 'text => text && location.href.split("#")[0] + "#prompts=" + encodeURIComponent(text)'


class ContinuePanel:
    """The layout of the panel and its callbacks.

    Args:
        tab: the video tab, in whose layout the panel is constructed.
    """

    def __init__(self, tab: VideoTab):
        self.tab = tab
        self.status = tab.status  # where `answered` says why something was refused
        with gr.Accordion("Continue from results, or share clicks", open=False, elem_id="video-continue"):
            self.given = gr.File(
                label="Results of this video: masks.json, or the ZIP",
                file_types=[".json", ".zip"],
                height=190,
                elem_id="video-given",
            )
            self.share = gr.Button("Make a link with these clicks", elem_id="video-share")
            self.link = gr.Textbox(
                label="Link; the video is not in it",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="video-link",
            )
        self.carried = gr.Textbox(visible=False)

    def wire(self, outputs: list[Any]) -> None:
        """Connect the components to the callbacks.

        Args:
            outputs: the components that show results, as after tracking.
        """
        tab = self.tab
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        self.outputs = [*outputs, tab.controls.objects, self.given]
        reading = said("Reading the results …")
        self.given.upload(None, None, tab.status, js=f"() => {json.dumps(reading)}", **PAGE_EVENT)
        inputs = [self.given, tab.opacity, tab.markers]
        taken = self.given.upload(
            self.on_given, inputs, self.outputs, concurrency_id="given", concurrency_limit=1, **quiet
        )
        previews = tab.exports.preview_inputs(tab.frame, tab.controls.objects)
        taken.then(tab.exports.on_preview, previews, tab.exports.preview_outputs, **quiet)
        made = self.share.click(self.on_share, None, [self.carried, tab.status, self.link], **quiet)
        made.then(None, self.carried, self.link, js=MAKE_LINK, **PAGE_EVENT)

    def wire_page(self, page: gr.Blocks) -> None:
        """Read the link when the page is loaded."""
        page.load(self.on_link, self.carried, self.tab.status, js=READ_LINK, show_progress="hidden", **PAGE_EVENT)

    @answered
    def on_given(self, path: str | None, opacity: float, markers: bool, request: gr.Request) -> Answer:
        """Go on from uploaded results."""
        if path is None:
            return {self.status: gr.skip()}
        work = self.tab.work(request)
        try:
            objects, frames = take_results(work, Path(path))
        except REFUSALS as error:
            if work.tracking:  # the status line shows the progress of tracking, which would replace the message at once
                gr.Warning(readable(error), duration=8)
            return {self.status: refused(error), self.given: None}
        text = f"{objects} object{'' if objects == 1 else 's'} on {frames} frame{'' if frames == 1 else 's'}"
        return {
            **self.tab.results_of(work, markers, opacity),
            **self.tab.picture_of(work, min(work.prompts, default=0), opacity),
            self.tab.controls.objects: object_choice(work.objects, work.current, work.found.labels),
            self.status: said(
                f"The results are loaded: {text}. Move the slider to check; click to correct, or press Track."
            ),
            self.given: None,
        }

    @answered
    def on_share(self, request: gr.Request) -> Answer:
        """Write the prompts as text, from which the page makes a link."""
        work = self.tab.work(request)
        text = prompts_as_text(work)
        return {
            self.carried: text,
            self.link: gr.update(visible=True),
            self.status: said("The link is ready. Whoever opens it and chooses the same video sees your clicks on it."),
        }

    @answered
    def on_link(self, text: str, request: gr.Request) -> Answer:
        """Keep the prompts of the link until the visitor has chosen a video."""
        if not text:
            return {self.status: gr.skip()}
        work = self.tab.work(request)
        work.from_link = parse_link(text, work.settings)
        count = len(work.from_link)
        objects = f"{count} object{'' if count == 1 else 's'}"
        return {self.status: said(f"This link carries clicks on {objects}. Choose the video that they are for.")}


def prompts_as_text(work: VideoWork) -> str:
    """Return the points and boxes of a visitor's work as JSON, in frame numbers and pixels of the video.

    Raises:
        UserError: if there are none, or too many for a link.
    """
    clip = work.clip
    if clip is None:
        raise UserError("Choose a video first.")
    entries = prompts_as_json(scaled_prompts(work.prompts, clip.size, clip.original))
    for entry in entries:
        kept = []
        for prompt in entry["prompts"]:
            prompt = {key: _rounded(value) for key, value in prompt.items() if key != "mask"}
            if len(prompt) > 1:
                kept.append({**prompt, "frame": clip.number(prompt["frame"])})
        entry["prompts"] = kept
    entries = [entry for entry in entries if entry["prompts"]]
    if not entries:
        raise UserError("There is no click or box to share; masks are not in a link.")
    text = json.dumps(entries, separators=(",", ":"))
    if len(text) > MOST_CHARACTERS:
        raise UserError("There are too many clicks for a link. Track, and share the JSON file of the results instead.")
    return text


def use_link(work: VideoWork) -> str:
    """Put the prompts of a link on a video that was just loaded.

    Returns:
        A sentence for the visitor; it is empty if there is no link.
    """
    if not work.from_link or work.clip is None:
        return ""
    clip = work.clip
    try:
        prompts = parse_prompts(on_clip(work.from_link, clip), clip, work.settings)
    except UserError as error:
        return f" The clicks of the link do not fit this video: {error}"
    if not prompts:
        return " The clicks of the link are on frames that are not used of this video."
    work.from_link = []
    work.add_prompts(prompts)
    return " The clicks of the link are on it. Press Track."


def _rounded(value: Any) -> Any:
    """Round all coordinates to a tenth of a pixel, for a short link."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 1) if isinstance(value, float) else value

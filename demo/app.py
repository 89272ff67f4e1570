"""The Gradio Space: track objects in a video, segment an image, or try the model with a camera.

`python app.py` and `efficienttam demo` start it. The files and their content:

    model_store.py, model_menu.py                which models are offered and which are loaded; the menu of models
    settings.py                                  models, speed and limits, which environment variables can set
    video_tab.py, image_tab.py, live_tab.py      the layout of the page and the reactions to clicks
    video_work.py, image_work.py, live_work.py   the state of a visitor's work, without Gradio
    video_state.py, video_prompts.py             the lower parts of video_work.py: the loaded video; prompts and undo
    clip_masks.py                                the masks on the frames of a video
    found_objects.py, text_detector.py           objects that are found instead of clicked; the detector of texts
    export_panel.py, image_export_panel.py       effects, and annotations in other tools' formats, for videos and images
    exports.py                                   writes their files
    continue_panel.py                            goes on from earlier results; links with clicks
    given_results.py, given_prompts.py           results and prompts from outside, which are hostile input
    timeline.py                                  the rows of objects below the picture, and lost moments
    visitors.py                                  the visitors; deletes their files when they leave
    engine.py                                    runs the model, also on ZeroGPU
    api.py                                       the endpoint for programs
    common_ui.py, click_image.py                 code that the tabs share
    fair_queue.py                                limits of requests per visitor
    style.css, page.html                         the appearance; keyboard and mouse input
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch, because it sets the wait policy of torch's threads


# isort: split

import atexit
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import engine  # first, because on a ZeroGPU Space `spaces` must be imported before anything that uses CUDA
import gradio as gr
from api import TrackEndpoint
from common_ui import object_colours
from examples import make_examples
from fair_queue import LimitRate, share_queue
from image_tab import ImageTab
from live_tab import LiveTab
from model_menu import ModelMenu
from settings import Settings
from starlette.middleware import Middleware
from uploads import keep_for_all
from video_tab import VideoTab
from visitors import Visitors

from efficienttam_hf.app.temporary import make_folder


HERE = Path(__file__).resolve().parent
MAX_COLOURS = 255  # the largest number of objects that *Everything* finds
TITLE = "EfficientTAM: track anything in a video"


def build(settings: Settings, root: Path) -> gr.Blocks:
    """Build the app and load its model.

    Args:
        settings: the settings of the demo.
        root: the temporary folder of this app, which is deleted when the process ends.

    Returns:
        The app, which is not yet served.

    Raises:
        ValueError, OSError: if the model, the device or the memory strategy of the settings does not exist.
    """
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(root)  # for uploads; Gradio serves files from this folder only
    engine.load(settings)
    visitors = Visitors(root / "visitors", settings)
    visitors.sweep_now_and_then()
    videos, images = make_examples(root / "examples", settings.example_video)

    seconds = 60 * settings.idle_minutes
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(seconds // 6, seconds)) as demo:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        menu = ModelMenu(visitors, engine.store)
        tabs: list[VideoTab | ImageTab | LiveTab] = []
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Video", id="video"):
                video = VideoTab(visitors, settings, videos, images)
                tabs.append(video)
            with gr.Tab("Image", id="image"):
                tabs.append(ImageTab(visitors, settings, images))
            if not engine.ON_ZERO_GPU:  # a session cannot be kept after the time for which a visitor has the GPU
                with gr.Tab("Live camera", id="live"):
                    tabs.append(LiveTab(visitors, settings))
        menu.wire(demo, *tabs)
        video.continuing.wire_page(demo)
        TrackEndpoint(visitors, settings)

        def leave(request: gr.Request) -> None:
            visitors.leave(request.session_hash)

        demo.unload(leave)
    keep_for_all(path for path in root.rglob("*") if path.is_file())  # the examples, and Gradio's copies of them
    share_queue(demo, settings)
    return demo


def theme() -> gr.themes.Base:
    """Return Gradio's soft theme with readable colours: the contrast is at least 4.5, in light and in dark mode."""
    return gr.themes.Soft().set(
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
        block_label_background_fill_dark="*primary_700",
        block_title_background_fill_dark="*primary_700",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_secondary_background_fill_hover_dark="*primary_700",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_label_background_fill_selected="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
    )


def launch(settings: Settings, **options: Any) -> gr.Blocks:
    """Build the app and serve it.

    Args:
        settings: the settings of the demo.
        options: options of `gr.Blocks.launch`.

    Returns:
        The running app.

    Raises:
        ValueError, OSError: see `build`.
    """
    root = make_folder("demo")
    demo = build(settings, root)

    def end(*_: Any) -> None:
        """Delete the temporary folder and exit at once. Gradio would wait for open pages."""
        shutil.rmtree(root, ignore_errors=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    demo.launch(
        css_paths=HERE / "style.css",
        css=object_colours(MAX_COLOURS),
        head_paths=HERE / "page.html",
        theme=theme(),
        max_file_size=f"{settings.max_upload_mb}mb",
        footer_links=["api", "gradio", "settings"],
        app_kwargs={"middleware": [Middleware(LimitRate, settings=settings)]},
        **options,
    )
    return demo


if __name__ == "__main__":
    launch(Settings.from_environment())

"""The Gradio Space: track objects in a video, segment an image, or try it before the camera.

`python app.py` starts it, and so does `efficienttam demo`. What to change where:

    model_store.py, model_menu.py                which models are offered and in memory; the menu
    settings.py                                  models, speed, limits (or environment variables)
    video_tab.py, image_tab.py, live_tab.py      what is on the page, and what happens on a click
    video_work.py, image_work.py, live_work.py   what a visitor has done so far; no Gradio in there
    visitors.py                                  who is here; what is deleted when they leave
    engine.py                                    running the model; ZeroGPU
    api.py                                       the endpoint for programs
    common_ui.py, click_image.py                 what the tabs share
    fair_queue.py, temporary.py                  a share of the queue for everyone; what is removed at the end
    style.css, page.html                         looks; keyboard and mouse
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import atexit
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import engine  # first: on a ZeroGPU Space, `spaces` must come before anything that touches CUDA
import gradio as gr
from api import TrackEndpoint
from common_ui import object_colours
from examples import draw_examples
from fair_queue import LimitRate, share_queue
from image_tab import ImageTab
from live_tab import LiveTab
from model_menu import ModelMenu
from settings import Settings
from starlette.middleware import Middleware
from temporary import make_folder
from uploads import keep_for_all
from video_tab import VideoTab
from visitors import Visitors


HERE = Path(__file__).resolve().parent
MAX_COLOURS = 255  # *Everything* finds up to so many objects
TITLE = "EfficientTAM: track anything in a video"


def build(settings: Settings, root: Path) -> gr.Blocks:
    """The app, with its model loaded; `root` is its own temporary folder, which goes when the process ends."""
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(root)  # uploads; the only folder files are served from
    engine.load(settings)
    visitors = Visitors(root / "visitors", settings)
    visitors.sweep_now_and_then()
    videos, images = draw_examples(root / "examples")

    seconds = 60 * settings.idle_minutes
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(seconds // 6, seconds)) as demo:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        menu = ModelMenu(visitors, engine.store)
        tabs: list[VideoTab | ImageTab | LiveTab] = []
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Video", id="video"):
                tabs.append(VideoTab(visitors, settings, videos, images))
            with gr.Tab("Image", id="image"):
                tabs.append(ImageTab(visitors, settings, images))
            if not engine.ON_ZERO_GPU:  # a session cannot outlive the moment that a visitor has the GPU
                with gr.Tab("Live camera", id="live"):
                    tabs.append(LiveTab(visitors, settings))
        menu.wire(demo, *tabs)
        TrackEndpoint(visitors, settings)

        def leave(request: gr.Request) -> None:
            visitors.leave(request.session_hash)

        demo.unload(leave)
    keep_for_all(path for path in root.rglob("*") if path.is_file())  # the examples, and Gradio's copies of them
    share_queue(demo, settings)
    return demo


def theme() -> gr.themes.Base:
    """Gradio's soft theme with colours that can be read: a contrast of at least 4.5 in light and in dark."""
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
    """Build and serve; `options` are those of `gr.Blocks.launch`."""
    root = make_folder()
    demo = build(settings, root)

    def end(*_: Any) -> None:
        """Tidy up and go at once: Gradio would wait for pages that are open."""
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

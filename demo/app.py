"""The Gradio Space: track objects in a video, segment an image, or try it before the camera.

`python app.py` starts it, and so does `efficienttam demo`. What to change where:

    settings.py                                  the model, speed, limits (or environment variables)
    video_tab.py, image_tab.py, live_tab.py      what is on the page, and what happens on a click
    video_work.py, image_work.py, live_work.py   what a visitor has done so far; no Gradio in there
    visitors.py                                  who is here; what is deleted when they leave
    engine.py                                    running the model; ZeroGPU
    api.py                                       the endpoint for programs
    common_ui.py, click_image.py                 what the tabs share
    style.css, page.html                         looks; keyboard and mouse
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import engine  # first: on a ZeroGPU Space, `spaces` must come before anything that touches CUDA
import gradio as gr
from api import TrackEndpoint
from common_ui import object_colours
from examples import draw_examples
from image_tab import ImageTab
from live_tab import LiveTab
from settings import Settings
from video_tab import VideoTab
from visitors import Visitors


HERE = Path(__file__).resolve().parent
TITLE = "EfficientTAM: track anything in a video"


def build(settings: Settings) -> gr.Blocks:
    """The app, with its model loaded and its own temporary folder, which goes when the process ends."""
    root = Path(tempfile.mkdtemp(prefix="efficienttam-demo-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(root)  # uploads; the only folder files are served from
    engine.load(settings)
    visitors = Visitors(root / "visitors", settings)
    visitors.sweep_now_and_then()
    videos, images = draw_examples(root / "examples")

    seconds = 60 * settings.idle_minutes
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(seconds // 6, seconds)) as demo:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Video", id="video"):
                VideoTab(visitors, settings, videos, images)
            with gr.Tab("Image", id="image"):
                ImageTab(visitors, settings, images)
            if not engine.ON_ZERO_GPU:  # a session cannot outlive the moment that a visitor has the GPU
                with gr.Tab("Live camera", id="live"):
                    LiveTab(visitors, settings)
        TrackEndpoint(visitors, settings)

        def leave(request: gr.Request) -> None:
            visitors.leave(request.session_hash)

        demo.unload(leave)
    demo.folder = root
    demo.queue(default_concurrency_limit=8, max_size=64)
    return demo


def launch(settings: Settings, **options) -> gr.Blocks:
    """Build and serve; `options` are those of `gr.Blocks.launch`."""
    demo = build(settings)

    def end(*_) -> None:
        """Tidy up and go at once: Gradio would wait for pages that are open."""
        shutil.rmtree(demo.folder, ignore_errors=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    demo.launch(
        css_paths=HERE / "style.css",
        css=object_colours(settings.max_objects),
        head_paths=HERE / "page.html",
        theme=gr.themes.Soft(),
        max_file_size=f"{settings.max_upload_mb}mb",
        footer_links=["api", "gradio", "settings"],
        **options,
    )
    return demo


if __name__ == "__main__":
    launch(Settings.from_environment())

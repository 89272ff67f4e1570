"""The demo's page, driven by Playwright: load, click, look, download. For test_demo_browser.py."""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
from PIL import Image


def picture(page, tab="video"):
    """The displayed picture, uint8 (height, width, 3)."""
    shown = "s => { const i = document.querySelector(s); return i && i.src.startsWith('data:') && i.src; }"
    source = page.wait_for_function(shown, arg=f"#{tab}-canvas img").json_value()
    return np.array(Image.open(io.BytesIO(b64decode(source.split(",")[1]))).convert("RGB"))


def changes(page, tab="video"):
    """A context in which the displayed picture changes."""
    return _Changes(page, f"#{tab}-canvas img")


class _Changes:
    def __init__(self, page, selector):
        self.page, self.selector = page, selector

    def __enter__(self):
        image = self.page.query_selector(self.selector)
        self.before = image.get_attribute("src") if image else None

    def __exit__(self, kind, *_):
        if kind is None:
            self.page.wait_for_function(
                "([s, old]) => { const i = document.querySelector(s); return i && i.src && i.src !== old; }",
                arg=[self.selector, self.before],
            )


def load(page, path):
    with changes(page):
        page.set_input_files("#video-upload input[type=file]", str(path))
    return picture(page)


def click(page, at, tab="video"):
    image = page.locator(f"#{tab}-canvas img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    with changes(page, tab):
        image.click(position={"x": at[0] * box["width"], "y": at[1] * box["height"]})
    return picture(page, tab)


def wait_for_status(page, text):
    page.wait_for_function("t => document.querySelector('#video-status')?.innerText.includes(t)", arg=text)


def move_slider(page, frame):
    with changes(page):
        page.fill("#video-frame input[type=number]", str(frame))
        page.press("#video-frame input[type=number]", "Enter")
    return picture(page)


def download(page, which, folder):
    with page.expect_download() as coming:
        page.click(f"#download-{which}")
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def reddened(before, after):
    """Where a picture has become redder: bool (height, width)."""
    change = after.astype(int) - before.astype(int)
    return (change[..., 0] - change[..., 1:].mean(-1)) > 25

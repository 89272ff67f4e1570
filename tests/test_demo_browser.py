"""The demo as visitors meet it: in a real browser (Debian's Chromium, driven by Playwright), and from programs.

The server is `efficienttam demo` in a process of its own, with the model that comes with the package. Pixels of the
displayed picture are checked, and downloaded files are opened.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficienttam_hf.mask_io import decode_rle, read_indexed_png
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.video_io import open_video
from efficienttam_hf.video_writer import VideoWriter
from efficienttam_hf.visualization import overlay_masks


pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the demo is a Gradio app")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
NUM_FRAMES = 24  # that the demo uses of a video, here
PATIENCE = 240  # seconds that anything may take: the machine may be busy
RED = (235, 64, 52)  # outline of object 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The demo's address, and the folder in which all its temporary files are."""
    folder = tmp_path_factory.mktemp("demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"MAX_FRAMES": str(NUM_FRAMES), "RESULT_SIDES": "320", "GRID": "6"}
    environment = {**os.environ, "TMPDIR": str(folder), **{f"EFFICIENTTAM_{k}": v for k, v in limits.items()}}
    command = [sys.executable, "-m", "efficienttam_hf.cli", "demo", "--port", str(port)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(PATIENCE):
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            yield address, folder
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page as another visitor each time."""
    contexts = []

    def open_page(width=1280, height=900):
        context = browser.new_context(viewport={"width": width, "height": height}, permissions=["camera"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(server[0])
        page.wait_for_selector("#video-canvas")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video file, and a click on an object in its first frame, as fractions of width and height."""
    if VIDEOS.is_dir():
        return VIDEOS / "dog.mp4", (0.5, 0.5)
    path = tmp_path_factory.mktemp("video") / "drawn.mp4"
    clip = make_clip(NUM_FRAMES + 6, 320, 240)
    with VideoWriter(path, 24, 320, 240) as writer:
        for frame in clip.frames:
            writer.write(frame)
    return path, (clip.click[0] / 320, clip.click[1] / 240)


# -------------------------------------------------------------------------------------------------------------- helpers


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
    page.wait_for_function("t => document.querySelector('#video-status').innerText.includes(t)", arg=text)


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


# ---------------------------------------------------------------------------------------------------------------- video


def test_click_track_correct_and_take_home(visit, video, tmp_path):
    page = visit()
    path, at = video
    plain = load(page, path)
    height, width = plain.shape[:2]
    assert max(height, width) == 320
    marked = click(page, at)
    mask = reddened(plain, marked)
    assert 0.002 < mask.mean() < 0.9, "the object is tinted, and not the whole picture"
    x, y = int(at[0] * width), int(at[1] * height)
    assert reddened(plain, marked)[y - 20 : y + 20, x - 20 : x + 20].any()

    page.click("#video-track")
    wait_for_status(page, f"of {NUM_FRAMES}")
    growing = picture(page)
    wait_for_status(page, "Done")
    assert (growing != picture(page)).any(), "the picture moves on while it tracks"
    page.wait_for_selector("#video-plot svg, #video-plot canvas")

    tracked = move_slider(page, 12)
    page.click("#video-kind >> text=not the object")
    corrected = click(page, (0.9, 0.1))
    assert (corrected != tracked).any()
    assert not page.is_visible("#download-overlay"), "the files of before no longer fit"
    page.click("#video-retrack")
    wait_for_status(page, f"of {NUM_FRAMES - 12}")
    wait_for_status(page, "Done")

    with open_video(download(page, "overlay", tmp_path)) as overlay:
        frames = list(overlay)
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape[:2] == plain.shape[:2]
    content = json.loads(download(page, "json", tmp_path).read_text())
    assert [f["frame"] for f in content["frames"]] == list(range(NUM_FRAMES))
    assert content["complete"] is True
    assert [p["frame"] for p in content["objects"][0]["prompts"]] == [0, 12]
    first = decode_rle(content["frames"][0]["objects"][0]["segmentation"])
    drawn = overlay_masks(plain, {1: first}).astype(int)
    differs = (abs(drawn - marked) > 40).any(-1)
    differs[y - 8 : y + 9, x - 8 : x + 9] = False  # the click, drawn on top
    assert differs.mean() < 0.01 < (abs(drawn - plain) > 40).any(-1).mean(), "the file says what the picture showed"
    with zipfile.ZipFile(download(page, "masks", tmp_path)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert len(names) == NUM_FRAMES
    assert ((read_indexed_png(tmp_path / names[0]) == 1) == first).all()


def test_cancel_keeps_what_is_done(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    click(page, video[1])
    page.click("#video-track")
    wait_for_status(page, "Frame")
    page.click("#video-cancel")
    wait_for_status(page, "Cancelled")
    content = json.loads(download(page, "json", tmp_path).read_text())
    assert content["complete"] is False
    assert 1 <= len(content["frames"]) < NUM_FRAMES
    with open_video(download(page, "overlay", tmp_path)) as overlay:
        assert len(list(overlay)) == len(content["frames"])


def test_keys_begin_the_next_object_and_undo(visit, video):
    page = visit()
    plain = load(page, video[0])
    click(page, video[1])
    page.keyboard.press("n")
    page.wait_for_selector("#video-objects input[value='2']:checked")
    click(page, (0.15, 0.85))
    with changes(page):
        page.keyboard.press("u")
    with changes(page):
        page.keyboard.press("Control+z")
    assert (picture(page) == plain).all()


def test_visitors_do_not_see_each_other(visit, server, video):
    one, other = visit(), visit()
    load(one, video[0])
    assert other.query_selector("#video-canvas img") is None
    with changes(other):
        other.click("#video-examples button >> nth=1")
    theirs = picture(other)
    mine = click(one, video[1])
    assert (picture(other) == theirs).all()
    click(other, (0.2, 0.5))
    assert (picture(one) == mine).all()
    one.click("#video-track")
    other.click("#video-track")  # waits for its turn
    for page in (one, other):
        wait_for_status(page, "Done")
    assert picture(one).shape != picture(other).shape or (picture(one) != picture(other)).mean() > 0.5
    links = []
    for which in ("overlay", "masks", "json"):
        with one.expect_download() as coming:
            one.click(f"#download-{which}")
        links.append(coming.value.url)
        urllib.request.urlopen(links[-1]).close()

    folders = [path.parent for path in (server[1]).rglob("masks.json")]
    one.close()
    other.close()
    for _ in range(PATIENCE):
        if not any(folder.exists() for folder in folders):
            break
        time.sleep(1)
    assert not any(folder.exists() for folder in folders), "a visitor's files go when they leave"
    for link in links:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(link)


def test_a_broken_upload_is_answered_in_words(visit, video, tmp_path):
    page = visit()
    broken = tmp_path / "holiday.mp4"
    broken.write_text("Dear diary, this is not a video.\n" * 99)
    page.set_input_files("#video-upload input[type=file]", str(broken))
    page.wait_for_selector("text=cannot be read as a video")
    load(page, video[0])  # and the visitor may try another


# ----------------------------------------------------------------------------------------------------- image and camera


def test_an_image_has_three_proposals_and_everything(visit, tmp_path):
    page = visit()
    page.click("button[role=tab] >> text=Image")
    with changes(page, "image"):
        page.click("#image-examples button >> nth=1")
    plain = picture(page, "image")
    marked = click(page, (0.2, 0.5), "image")
    assert reddened(plain, marked).any()
    page.wait_for_selector("#image-proposal-2 img")
    assert page.locator("#image-proposals img").count() == 3
    assert re.search(r"Predicted IoU: 0\.\d\d · 0\.\d\d · 0\.\d\d", page.inner_text("#image-proposals"))
    with changes(page, "image"):
        page.click("#image-proposal-2 img")
    with page.expect_download() as coming:
        page.click("#image-download-overlay")
    coming.value.save_as(tmp_path / "overlay.png")
    assert np.abs(np.array(Image.open(tmp_path / "overlay.png")).astype(int) - picture(page, "image")).mean() < 4
    page.fill("#image-least-iou input[type=number]", "0")
    page.press("#image-least-iou input[type=number]", "Enter")
    page.click("#image-everything")
    page.wait_for_selector("text=/[0-9]+ objects? found/")


def test_an_object_is_tracked_before_the_camera(visit):
    page = visit()
    page.click("button[role=tab] >> text=Live camera")
    page.click("#live-camera button >> text=/Click to Access Webcam/i")
    page.wait_for_selector("#live-camera video")
    page.click("#live-camera button[title*='start' i], #live-camera .button-wrap button >> nth=0")
    page.wait_for_selector("#live-canvas img")
    image = page.locator("#live-canvas img")
    image.click(position={"x": 60, "y": 60})

    def outlined():
        distance = np.abs(picture(page, "live").astype(int) - RED).max(-1)
        return (distance < 45).sum()

    for _ in range(PATIENCE):
        if outlined() > 30:
            break
        time.sleep(1)
    assert outlined() > 30


# ---------------------------------------------------------------------------------------------------------------- phone


def test_it_fits_a_phone(visit, video):
    page = visit(width=390, height=844)
    load(page, video[0])
    click(page, video[1])
    for tab in ("Image", "Live camera", "Video"):
        page.click(f"button[role=tab] >> text={tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    box = page.locator("#video-canvas img").bounding_box()
    assert box["width"] > 300
    for name in ("next", "undo", "track", "cancel"):
        assert page.locator(f"#video-{name}").bounding_box()["height"] >= 36, "a thumb must hit it"


# ------------------------------------------------------------------------------------------------------------- programs


def test_the_endpoint_tracks_for_programs(server, video):
    from gradio_client import Client, handle_file

    with open_video(video[0]) as source:
        x, y = video[1][0] * source.width, video[1][1] * source.height
    client = Client(server[0], verbose=False, httpx_kwargs={"timeout": PATIENCE})
    prompts = [{"id": 7, "prompts": [{"frame": 2, "points": [[x, y]], "labels": [1]}]}]
    masks_json, masks_zip, overlay = client.predict(handle_file(video[0]), prompts, "both", api_name="/track")
    content = json.loads(Path(masks_json).read_text())
    assert [f["frame"] for f in content["frames"]] == list(range(NUM_FRAMES))
    assert decode_rle(content["frames"][2]["objects"][0]["segmentation"]).any()
    with zipfile.ZipFile(masks_zip) as archive:
        assert len(archive.namelist()) == NUM_FRAMES
    with open_video(overlay) as frames:
        assert len(list(frames)) == NUM_FRAMES
    with pytest.raises(Exception, match="neither a point nor a box"):
        client.predict(handle_file(video[0]), [{"id": 1, "prompts": [{"frame": 0}]}], "both", api_name="/track")
    with pytest.raises(ValueError, match="api_name"):
        client.predict(api_name="/on_undo")


def test_nothing_outside_is_read(server):
    from gradio_client import Client

    for path in ("/etc/passwd", Path(__file__).parents[1] / "demo" / "app.py", server[1] / "log"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server[0]}/gradio_api/file={path}")
        given = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(Exception, match=r"(?i)error|not allowed|cannot|invalid"):
            Client(server[0], verbose=False).predict(given, [], "forward", api_name="/track")

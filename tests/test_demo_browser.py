"""The demo as visitors meet it: in a real browser (Debian's Chromium, driven by Playwright), and from programs.

The server is `efficienttam demo` in a process of its own, with the model that comes with the package. Pixels of the
displayed picture are checked, and downloaded files are opened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from authors_hub import published_file
from demo_page import changes, click, download, load, move_slider, picture, reddened, wait_for_status
from hub_server import hub_server
from npm_packages import npm_package
from PIL import Image
from reference import write_frames

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel
from efficienttam_hf.mask_io import decode_rle, read_indexed_png
from efficienttam_hf.published import PUBLISHED_FILES, PUBLISHED_REPOSITORY
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
AXE = "4.14.1"  # version of axe-core
RED = (235, 64, 52)  # outline of object 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The demo's address, the folder in which all its temporary files are, and its process."""
    with serving(tmp_path_factory.mktemp("demo")) as running:
        yield running


@contextmanager
def serving(folder, **variables):
    """The demo in a process of its own, with these variables in its environment; see `server`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"MAX_FRAMES": str(NUM_FRAMES), "RESULT_SIDES": "320", "GRID": "6"}
    limits["MODELS"] = "efficienttam-nano,efficienttam_ti_512x512"  # a menu of them is on the page
    environment = {**os.environ, "TMPDIR": str(folder), **{f"EFFICIENTTAM_{k}": v for k, v in limits.items()}}
    environment.update(variables)
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
            yield address, folder, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def scene():
    """What the camera sees: an object that moves a little to and fro."""
    return make_clip(200, 640, 480)


@pytest.fixture(scope="module")
def browser(scene, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    camera = tmp_path_factory.mktemp("camera") / "scene.mjpeg"
    with camera.open("wb") as file:
        for frame in [*scene.frames[:20], *scene.frames[20:0:-1]]:
            Image.fromarray(frame).save(file, "JPEG")
    arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    arguments.append(f"--use-file-for-fake-video-capture={camera}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page as another visitor each time."""
    contexts = []

    def open_page(width=1280, height=900, theme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, permissions=["camera"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{server[0]}/?__theme={theme}")
        page.wait_for_selector("#video-examples button")
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
    write_frames(path, 24, clip.frames)
    return path, (clip.click[0] / 320, clip.click[1] / 240)


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
    page.click("#video-kind >> text=not object")
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
    assert len(names) == NUM_FRAMES + 1, "with masks.json"
    assert ((read_indexed_png(tmp_path / names[0]) == 1) == first).all()


def test_cancel_keeps_what_is_done(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    click(page, video[1])
    page.click("#video-track")
    wait_for_status(page, "Frame")

    def answer_late(route):
        answer = route.fetch()
        time.sleep(1)
        route.fulfill(response=answer)

    page.route("**/gradio_api/run/**", answer_late)
    page.click("#video-cancel")
    wait_for_status(page, "Cancelled")
    page.wait_for_timeout(2500)  # until the answer to Cancel is there too
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


def test_everything_the_timeline_and_an_effect_by_keyboard_alone(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    page.focus("#video-everything")
    with changes(page):
        page.keyboard.press("Enter")
    wait_for_status(page, "Found: Object 1")
    page.focus("#video-track")
    page.keyboard.press("Enter")
    wait_for_status(page, "Done")
    part = page.locator("#video-timeline button").first
    assert re.match(r"Object 1 is (seen|lost) (on|from) frame 0", part.get_attribute("aria-label"))
    with changes(page):
        part.focus()
        page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#video-frame input[type=number]').value === '0'")
    box = part.bounding_box()
    with changes(page):
        part.click(position={"x": 0.5 * box["width"], "y": 0.2 * box["height"]})
    went_to, last = (int(page.input_value("#video-frame input[type=number]")), int(part.get_attribute("data-last")))
    assert abs(went_to - (last + 1) / 2) <= 1, "the place of the click counts"

    page.focus("#video-exports > button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#video-preview img")
    page.focus("#video-make-effect")
    page.keyboard.press("Enter")
    page.wait_for_selector("#export-status >> text=The video is ready")
    assert download(page, "effect", tmp_path).suffix == ".webm"
    page.focus("#video-make-format")
    page.keyboard.press("Enter")
    page.wait_for_selector("#export-status >> text=The annotations are ready")
    with zipfile.ZipFile(download(page, "format", tmp_path)) as archive:
        assert archive.namelist() == ["annotations.json"]


def test_another_visitor_goes_on_from_results_and_from_a_link(visit, video, tmp_path):
    page, other = visit(), visit()
    load(page, video[0])
    marked = click(page, video[1])
    page.click("#video-continue > button")
    page.click("#video-share")
    page.wait_for_function("document.querySelector('#video-link textarea')?.value.includes('#prompts=')")
    link = page.input_value("#video-link textarea")
    page.click("#video-track")
    wait_for_status(page, "Done")
    results = download(page, "masks", tmp_path)

    other.goto("about:blank")
    other.goto(link)
    wait_for_status(other, "This link carries clicks on 1 object")
    load(other, video[0])
    wait_for_status(other, "The clicks of the link are on it")
    other.click("#video-continue > button")
    with changes(other):
        other.set_input_files("#video-given input[type=file]", str(results))
    wait_for_status(other, f"The results are loaded: 1 object on {NUM_FRAMES} frames")
    assert abs(picture(other).astype(int) - marked).mean() < 2
    other.wait_for_selector("#video-timeline button")
    assert other.is_visible("#download-overlay")


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

    folders = [path.parent for path in (server[1]).rglob("*masks.json")]
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


def test_ten_visitors_at_once(visit, server, tmp_path):
    _, folder, process = server
    (demo,) = folder.glob("efficienttam-demo-*")
    before = set(demo.rglob("*"))
    pages = []
    for i in range(10):
        clip = make_clip(8, 160 + 16 * i, 128, seed=i)
        path = tmp_path / f"visitor{i}.mp4"
        write_frames(path, 8, clip.frames)
        pages.append((visit(), clip, path))
    for page, _, path in pages:
        load(page, path)
    memory = process.memory_info().rss
    for page, clip, _ in pages:
        height, width = clip.frames[0].shape[:2]
        click(page, (clip.click[0] / width, clip.click[1] / height))
    for page, _, _ in pages:
        page.click("#video-track")
    pages[9][0].click("#video-cancel")  # while it waits for its turn
    for page, _, _ in pages[:9]:
        wait_for_status(page, "Done")
    wait_for_status(pages[9][0], "Cancelled")
    for i, (page, clip, path) in enumerate(pages):
        content = json.loads(download(page, "json", tmp_path).read_text())
        height, width = clip.frames[0].shape[:2]
        assert content["video"]["name"] == path.stem
        ((x, y),) = content["objects"][0]["prompts"][0]["points"]
        assert abs(x - clip.click[0]) < 2
        assert abs(y - clip.click[1]) < 2
        assert len(content["frames"]) == (8 if i < 9 else 1)
        first = decode_rle(content["frames"][0]["objects"][0]["segmentation"])
        assert first.shape == (height, width)
        shown = picture(page)
        own = abs(shown.astype(int) - clip.frames[7 if i < 9 else 0]).mean(-1) < 30
        assert own.mean() > 0.5, "the picture is that of the visitor's own video"
    for page, _, _ in pages:
        page.context.close()
    for _ in range(PATIENCE):
        left = [p for p in set(demo.rglob("*")) - before if p.is_file() and p.stat().st_size]
        if not left:
            break
        time.sleep(1)
    assert not left, "all files of those who left are gone"
    assert process.memory_info().rss - memory < 300 * 2**20


def test_a_box_is_drawn_with_the_mouse(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    page.check("#video-kind input[value=box]")
    box = page.locator("#video-canvas img").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    page.wait_for_selector(".drawn-box")
    page.mouse.up()
    wait_for_status(page, "marked")
    assert page.query_selector(".drawn-box") is None
    page.click("#video-track")
    wait_for_status(page, "Frame")
    page.click("#video-cancel")
    wait_for_status(page, "Cancelled")
    content = json.loads(download(page, "json", tmp_path).read_text())
    x0, y0, x1, y1 = content["objects"][0]["prompts"][0]["box"]
    with open_video(video[0]) as source:
        width, height = source.width, source.height
    assert np.allclose([x0 / width, y0 / height, x1 / width, y1 / height], [0.3, 0.4, 0.6, 0.8], atol=0.02)


def test_a_box_dragged_past_the_edge_ends_at_the_edge(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    page.check("#video-kind input[value=box]")
    box = page.locator("#video-canvas img").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 40, box["y"] + box["height"] + 30, steps=4)
    page.mouse.up()
    wait_for_status(page, "marked")
    x0, y0, x1, y1 = prompts_of(page, tmp_path)["box"]
    with open_video(video[0]) as source:
        width, height = source.width, source.height
    assert (x1, y1) == (width, height)
    assert np.allclose([x0 / width, y0 / height], [0.5, 0.4], atol=0.02)


def prompts_of(page, folder):
    """What the page has said of object 1, as the file of results gives it."""
    page.click("#video-track")
    wait_for_status(page, "Frame")
    page.click("#video-cancel")
    wait_for_status(page, "Cancelled")
    content = json.loads(download(page, "json", folder).read_text())
    return content["objects"][0]["prompts"][0]


@pytest.mark.parametrize("size", [(160, 90), (64, 1024), (1024, 64)])
def test_small_and_narrow_videos_are_large_enough_to_click_on(visit, tmp_path, size):
    width, height = size
    frame = np.zeros((height, width, 3), np.uint8)
    frame[height // 4 : height // 2, width // 4 : width // 2] = 200
    path = tmp_path / "small.mp4"
    with VideoWriter(path, 8, width, height) as writer:
        for _ in range(4):
            writer.write(frame)
    page = visit()
    page.click("#video-settings button")
    page.click("#video-side input")
    page.click("text=as the video")
    load(page, path)
    shown = page.locator("#video-canvas img").bounding_box()
    assert min(shown["width"], shown["height"]) >= 200
    assert shown["width"] / shown["height"] == pytest.approx(width / height, rel=0.05) or width < 4 * height
    click(page, (0.3, 0.3))
    ((x, y),) = prompts_of(page, tmp_path)["points"]
    assert abs(x / width - 0.3) < 0.02
    assert abs(y / height - 0.3) < 0.02


def test_a_right_click_says_not_object_and_digits_choose(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    click(page, video[1])
    image = page.locator("#video-canvas img")
    box = image.bounding_box()
    with changes(page):
        image.click(button="right", position={"x": 0.9 * box["width"], "y": 0.1 * box["height"]})
    assert page.is_checked("#video-kind input[value='+ object']"), "the tool stays what it was"
    page.keyboard.press("n")
    page.wait_for_selector("#video-objects input[value='2']:checked")
    page.keyboard.press("1")
    page.wait_for_selector("#video-objects input[value='1']:checked")
    assert prompts_of(page, tmp_path)["labels"] == [1, 0]


def test_the_keyboard_alone_marks_an_object(visit, video, tmp_path):
    page = visit()
    load(page, video[0])
    page.focus("#video-canvas button:has(img)")
    for key in ("Shift+ArrowLeft", "ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert page.is_visible(".cross-hair")
    with changes(page):
        page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowUp")
    with changes(page):
        page.keyboard.press("Shift+Enter")
    prompts = prompts_of(page, tmp_path)
    with open_video(video[0]) as source:
        places = np.array(prompts["points"]) / (source.width, source.height)
    assert np.allclose(places, [[0.44, 0.55], [0.44, 0.4]], atol=0.01)
    assert prompts["labels"] == [1, 0]


def test_refusals_are_in_the_status_line(visit, video):
    page = visit()
    load(page, video[0])
    assert page.get_attribute("#video-status", "role") == "status"
    page.click("#video-track")
    wait_for_status(page, "Click on an object first")
    click(page, video[1])
    page.click("#video-track")
    wait_for_status(page, "Done")
    move_slider(page, 5)
    page.click("#video-retrack")
    wait_for_status(page, "Correct an object on this frame first")
    page.check("#video-kind input[value=box]")
    click(page, (0.2, 0.2))
    wait_for_status(page, "opposite corner")
    page.click("#video-kind >> text=not object")
    page.wait_for_function("!document.querySelector('#video-status').innerText.includes('corner')")


def test_while_it_tracks_nothing_is_clicked_or_taken_back(visit, video):
    page = visit()
    load(page, video[0])
    click(page, video[1])
    page.click("#video-track")
    page.wait_for_selector("#video-canvas.busy")
    for name in ("undo", "remove", "next", "track"):
        assert page.is_disabled(f"#video-{name}")
    page.click("#video-source > button")
    page.click("#video-examples button >> nth=1")
    page.wait_for_selector(".toast-body >> text=Tracking is under way")  # longer than the status line can say it
    page.click("#video-cancel")
    wait_for_status(page, "Cancelled")
    page.wait_for_selector("#video-canvas:not(.busy)")
    assert page.is_enabled("#video-undo")


def test_a_reload_is_asked_about_where_there_is_something_to_lose(visit, video):
    page, asked = visit(), []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    page.wait_for_selector("#video-examples button")
    assert asked == []
    load(page, video[0])
    click(page, video[1])
    page.reload()
    assert asked == ["beforeunload"]


def test_what_gradio_itself_refuses_is_in_the_status_line(visit, tmp_path):
    page = visit()
    page.click("#model-menu > button")  # it has a status line of its own
    for name in ("first.txt", "second.csv"):
        (tmp_path / name).write_text("This is no video.")
        page.set_input_files("#video-upload input[type=file]", str(tmp_path / name))
        wait_for_status(page, f"Invalid file type: {name}")
    assert page.inner_text("#video-status").strip().startswith("Invalid file type")
    assert page.inner_text("#model-status").strip() == ""


@pytest.mark.parametrize(
    ("error", "told"), [("NotAllowedError", "does not let this page use the camera"), ("NotFoundError", "no camera")]
)
def test_no_camera_is_said_in_the_status_line(visit, error, told):
    page = visit()
    page.evaluate(
        "name => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }", error
    )
    page.click("button[role=tab] >> text=Live camera")
    page.click("#live-camera button >> text=/Click to Access Webcam/i")
    page.wait_for_selector(f"#live-status >> text={told}")


# --------------------------------------------------------------------------------------------------------------- models


def test_another_model_is_fetched_and_taken(browser, video, tmp_path, monkeypatch):
    """From a stand-in of the Hub, with fresh weights of full size; meanwhile the work goes on."""
    name = "efficienttam_ti_512x512"
    torch.manual_seed(0)
    checkpoint = published_file(EfficientTamVideoModel(EfficientTamConfig.from_preset(name)))
    with hub_server() as hub:
        hub.add(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(name), checkpoint)
        hub.pace = 0.005
        variables = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        variables |= {"NO_PROXY": "127.0.0.1,localhost", "EFFICIENTTAM_MODELS": f"efficienttam-nano,{name}"}
        (tmp_path / "demo").mkdir()
        with serving(tmp_path / "demo", **variables) as (address, _, _):
            page = browser.new_context().new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(address)
            page.wait_for_selector("#video-examples button")
            load(page, video[0])
            page.click("#model-menu > button")
            page.click(f"#model-choice label >> text={name}")
            page.click("#model-take")
            page.wait_for_selector("#model-status >> text=/Fetching [1-9]/")
            click(page, video[1])
            wait_for_status(page, "is marked")
            wait_for_status(page, f"You work with {name} now. Your clicks are kept")
            page.wait_for_selector(f"#model-menu >> text='Model: {name}'")
            page.click("#video-track")
            wait_for_status(page, "Done")
            assert json.loads(download(page, "json", tmp_path).read_text())["model"] == name
            page.context.close()


# ------------------------------------------------------------------------------------------------------- accessibility


@pytest.fixture(scope="session")
def axe(request):
    """The source of axe-core."""
    with tarfile.open(npm_package(request, "axe-core", AXE)) as package:
        return package.extractfile("package/axe.min.js").read().decode()


def violations(page, axe):
    """What axe-core finds, a line each: rule, and the elements that break it."""
    page.wait_for_timeout(700)  # until what moves has come to rest
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{rule['id']}: {node['target']} {node['html'][:120]}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(visit, video, axe, theme, width):
    page = visit(theme=theme, width=width)
    found = {"video": violations(page, axe)}
    page.click("#model-menu > button")
    found["models"] = violations(page, axe)
    page.click("#model-menu > button")
    load(page, video[0])
    click(page, video[1])
    found["video, marked"] = violations(page, axe)
    page.click("#video-track")
    wait_for_status(page, "Done")
    page.wait_for_selector("#video-plot svg, #video-plot canvas")
    found["video, tracked"] = violations(page, axe)
    page.click("#video-exports > button")
    page.wait_for_selector("#video-preview img")
    page.click("#video-make-effect")
    page.wait_for_selector("#export-status >> text=The video is ready")
    found["video, effects and formats"] = violations(page, axe)
    page.click("#video-continue > button")
    page.click("#video-share")
    page.wait_for_selector("#video-link")
    found["video, continue"] = violations(page, axe)
    page.click("#video-source > button")
    page.click("#video-settings > button")
    page.click("#video-source button[role=tab] >> text=Record")
    found["video, recorder and settings"] = violations(page, axe)
    page.click("button[role=tab] >> text=Image")
    found["image"] = violations(page, axe)
    with changes(page, "image"):
        page.click("#image-examples button >> nth=1")
    click(page, (0.2, 0.5), "image")
    page.wait_for_selector("#image-proposal-2 img")
    found["image, marked"] = violations(page, axe)
    page.click("#image-exports > button")
    page.click("#image-make-effect")
    page.wait_for_selector("#image-preview img")
    found["image, effects and formats"] = violations(page, axe)
    page.click("button[role=tab] >> text=Live camera")
    found["camera"] = violations(page, axe)
    page.click("#live-camera button >> text=/Click to Access Webcam/i")
    page.wait_for_selector("#live-camera video")
    found["camera, on"] = violations(page, axe)
    assert {view: broken for view, broken in found.items() if broken} == {}


def test_a_recording_is_tracked(visit, scene, tmp_path):
    page = visit()
    page.click("#video-source button[role=tab] >> text=Record")
    page.click("#video-recorder button >> text=/Click to Access Webcam/i")
    page.click("#video-recorder .button-wrap button >> text=Record")
    page.wait_for_timeout(2000)
    with changes(page):
        page.click("#video-recorder .button-wrap button")
    shown = np.array(Image.fromarray(picture(page)).resize((640, 480))).astype(int)
    assert abs(shown - scene.frames[10]).mean() < 25, "it is the camera's picture, not mirrored"
    click(page, (scene.click[0] / 640, scene.click[1] / 480))
    page.click("#video-track")
    wait_for_status(page, "Done")
    content = json.loads(download(page, "json", tmp_path).read_text())
    assert len(content["frames"]) > 3
    assert all(frame["objects"] for frame in content["frames"])


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
    page.wait_for_selector("#image-status >> text=Looking for everything")
    page.wait_for_selector("#image-status >> text=/[0-9]+ objects? found/")
    everything = picture(page, "image")
    with changes(page, "image"):
        page.click("#image-remove")
    page.wait_for_selector("#image-status >> text=is removed")
    for _ in range(2):
        with changes(page, "image"):
            page.click("#image-undo")
    assert (picture(page, "image") != everything).any()


def test_an_object_is_tracked_before_the_camera(visit, server, scene):
    page = visit()
    page.click("button[role=tab] >> text=Live camera")
    page.click("#live-camera button >> text=/Click to Access Webcam/i")
    page.wait_for_selector("#live-camera video")
    page.click("#live-camera button[title*='start' i], #live-camera .button-wrap button >> nth=0")
    page.wait_for_selector("#live-canvas img")
    click(page, (scene.click[0] / 640, scene.click[1] / 480), "live")

    def outlined():
        distance = np.abs(picture(page, "live").astype(int) - RED).max(-1)
        return (distance < 45).sum()

    for _ in range(PATIENCE):
        if outlined() > 30:
            break
        time.sleep(1)
    page.wait_for_timeout(5000)
    memory = server[2].memory_info().rss
    page.wait_for_timeout(15000)
    assert outlined() > 30
    assert server[2].memory_info().rss - memory < 50 * 2**20, "memory does not grow with what passes"


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
    track = page.locator("#video-track").bounding_box()
    assert track["y"] - (box["y"] + box["height"]) < 100, "it is at the picture"
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
        assert len(archive.namelist()) == NUM_FRAMES + 1
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

"""The web page in a real browser (Debian's Chromium, driven by Playwright): its masks are those of the Python package.

A local server has the page, the included model as `efficienttam export` makes it, and onnxruntime-web from npm, in the
version that the page names. Nothing is fetched from any other server.
"""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import tarfile
import threading
from base64 import b64decode
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from npm_packages import npm_package
from PIL import Image

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.synthetic_clip import make_clip


pytestmark = pytest.mark.slow
pytest.importorskip("onnxscript", reason="exporting needs the extra: pip install efficienttam-hf[export]")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by Playwright")

from efficienttam_hf.export.exporting import export_onnx  # noqa: E402
from efficienttam_hf.export.onnx_segmenter import OnnxImageSegmenter  # noqa: E402


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = Path(__file__).resolve().parents[1] / "demo" / "web"
DAVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "DAVIS" / "JPEGImages" / "480p"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of the package, what the page needs
PATIENCE = 120  # seconds that anything may take: the machine may be busy


@pytest.fixture(scope="session")
def onnxruntime_web(request, tmp_path_factory):
    """The folder of onnxruntime-web; each process of the tests has its own."""
    version = re.search(r"onnxruntime-web@([\d.]+)", (PAGE / "segmenter.js").read_text()).group(1)
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    with tarfile.open(npm_package(request, "onnxruntime-web", version)) as package:
        wanted = [package.getmember(f"package/dist/{name}") for name in RUNTIME_FILES]
        package.extractall(folder, wanted, filter="data")
    return folder / "package" / "dist"


@pytest.fixture(scope="session")
def site(onnxruntime_web, tmp_path_factory):
    """The folder that is served, and its address."""
    folder = tmp_path_factory.mktemp("web") / "page"
    shutil.copytree(PAGE, folder)
    model = EfficientTamVideoModel.from_pretrained("efficienttam-nano").eval()
    export_onnx(model, folder / "model", "efficienttam-nano")
    (folder / "vendor").symlink_to(onnxruntime_web)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(site, browser):
    """Opens the page and waits until it has done what it can."""
    contexts = []

    def open_page(query="", script="", listen=lambda page: None, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.add_init_script(script)
        listen(page)
        page.goto(f"{site[1]}/?{query}")
        wait(page)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def segmenter(site):
    return OnnxImageSegmenter(site[0] / "model", num_threads=1)


def pictures() -> dict[str, np.ndarray]:
    """Drawn ones, smaller and larger than the model's input, and a photograph where there are any."""
    found = {"small": make_clip(1, 240, 320).frames[0], "large": make_clip(1, 1280, 720).frames[0]}
    if DAVIS.is_dir():
        found["photograph"] = np.array(Image.open(DAVIS / "blackswan" / "00000.jpg"))
    return found


PICTURES = pictures()


# -------------------------------------------------------------------------------------------------------------- helpers


def wait(page):
    """Until nothing is at work."""
    page.wait_for_selector("#stage[aria-busy=false]")


def load(page, pixels, folder, name="picture"):
    """Choose an image file with these pixels."""
    Image.fromarray(pixels).save(folder / f"{name}.png")
    page.set_input_files("#file", folder / f"{name}.png")
    wait(page)


def at(page, x, y):
    """The place on the screen of a place in the picture, given as fractions."""
    box = page.locator("#picture").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def click(page, x, y, button="left"):
    page.mouse.click(*at(page, x, y), button=button)
    wait(page)


def drag(page, begin, end):
    page.mouse.move(*at(page, *begin))
    page.mouse.down()
    page.mouse.move(*at(page, *end))
    page.mouse.up()
    wait(page)


def shown_mask(page) -> np.ndarray:
    """Where the overlay is not transparent, bool (height, width)."""
    url = page.evaluate("document.querySelector('#mask').toDataURL()")
    return np.array(Image.open(io.BytesIO(b64decode(url.partition(",")[2]))))[..., 3] > 0


def saved_mask(page, path) -> np.ndarray:
    with page.expect_download() as coming:
        page.click("#save")
    coming.value.save_as(path)
    return np.array(Image.open(path).convert("L")) > 127


def expected(segmenter, pixels, points=(), box=None) -> tuple[np.ndarray, np.ndarray]:
    """The masks and their predicted IoU by the Python package; points are (x, y, label) in fractions."""
    height, width = pixels.shape[:2]
    prompts = {}
    if points:
        prompts["input_points"] = [[[[x * width, y * height] for x, y, _ in points]]]
        prompts["input_labels"] = [[[label for _, _, label in points]]]
    if box:
        prompts["input_boxes"] = [[[box[0] * width, box[1] * height, box[2] * width, box[3] * height]]]
    output = segmenter(pixels, **prompts)
    return segmenter.post_process_masks(output.pred_masks, [(height, width)])[0][0], output.iou_scores[0, 0]


def iou(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_click_gives_the_masks_of_the_python_package(visit, segmenter, name, tmp_path):
    pixels = PICTURES[name]
    page = visit()
    load(page, pixels, tmp_path, "my.picture")
    click(page, 0.45, 0.55)
    masks, scores = expected(segmenter, pixels, [(0.45, 0.55, 1)])
    assert page.locator("#candidates button").all_inner_texts() == [f"IoU {score:.2f}" for score in scores]
    assert f"Predicted IoU {scores.max():.2f}" in page.inner_text("#status")
    best = shown_mask(page)
    assert best.shape == pixels.shape[:2]
    assert iou(best, masks[scores.argmax()]) > 0.99
    for i, mask in enumerate(masks):
        page.click(f"#candidates button >> nth={i}")
        assert (shown_mask(page) == saved_mask(page, tmp_path / "saved.png")).all()
        assert iou(shown_mask(page), mask) > 0.99
    with page.expect_download() as coming:
        page.click("#save")
    assert coming.value.suggested_filename == "my.picture_mask.png"


def test_a_box_corrections_and_undo(visit, segmenter, tmp_path):
    pixels = PICTURES["large"]
    page = visit()
    load(page, pixels, tmp_path)
    assert page.is_disabled("#undo") and page.is_disabled("#save")
    drag(page, (0.6, 0.8), (0.2, 0.3))  # from any corner
    box, points = (0.2, 0.3, 0.6, 0.8), []
    history = [shown_mask(page)]
    ways = [
        (lambda: click(page, 0.3, 0.5), (0.3, 0.5, 1)),
        (lambda: click(page, 0.55, 0.75, "right"), (0.55, 0.75, 0)),
        (lambda: (page.keyboard.down("Shift"), click(page, 0.5, 0.35), page.keyboard.up("Shift")), (0.5, 0.35, 0)),
        (lambda: (page.click("text=Background"), click(page, 0.25, 0.75)), (0.25, 0.75, 0)),
    ]
    for act, point in [(lambda: None, None), *ways]:
        act()
        points += [point] if point else []
        masks, scores = expected(segmenter, pixels, points, box)
        history.append(shown_mask(page))
        assert iou(history[-1], masks[scores.argmax()]) > 0.95
    assert page.locator("#marks .negative").count() == 3
    for before in history[-2:0:-1]:
        page.keyboard.press("u")
        wait(page)
        assert (shown_mask(page) == before).all()
    page.keyboard.press("Control+z")
    wait(page)
    assert not shown_mask(page).any() and page.is_disabled("#undo")
    click(page, 0.3, 0.5)
    page.click("#clear")
    wait(page)
    assert page.locator("#marks i, #candidates button").count() == 0


def test_a_second_box_replaces_the_first_until_it_is_taken_back(visit, tmp_path):
    page = visit()
    load(page, PICTURES["small"], tmp_path)
    drag(page, (0.1, 0.1), (0.5, 0.5))
    first = shown_mask(page)
    drag(page, (0.2, 0.3), (0.9, 0.9))
    assert page.locator("#marks .box").count() == 1
    page.click("#undo")
    wait(page)
    assert (shown_mask(page) == first).all()


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_what_is_no_image_is_named_and_the_last_one_stays(visit, tmp_path):
    page = visit()
    load(page, PICTURES["small"], tmp_path)
    click(page, 0.5, 0.5)
    mask = shown_mask(page)
    (tmp_path / "diary.png").write_text("Dear diary")
    page.set_input_files("#file", tmp_path / "diary.png")
    wait(page)
    assert page.inner_text("#status.error") == "diary.png is not an image that this browser can read."
    assert (shown_mask(page) == mask).all()
    click(page, 0.3, 0.3)
    assert "Predicted IoU" in page.inner_text("#status:not(.error)")


def test_an_image_may_be_dropped(visit, tmp_path):
    page = visit()
    Image.fromarray(PICTURES["small"]).save(tmp_path / "dropped.png")
    page.evaluate(
        """bytes => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { dataTransfer }));
        }""",
        list((tmp_path / "dropped.png").read_bytes()),
    )
    wait(page)
    assert page.evaluate("document.querySelector('#picture').width") == PICTURES["small"].shape[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "There is no manifest.json in .*efficienttam export"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a manifest of format efficienttam-onnx"),
        (lambda folder: (folder / "mask_decoder.onnx").unlink(), "There is no mask_decoder.onnx in"),
        (
            lambda folder: shutil.copy(folder / "memory_encoder.onnx", folder / "mask_decoder.onnx"),
            "mask_decoder.onnx is not the graph .* of efficienttam-nano: it is damaged, or of another model",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(visit, site, spoil, message, request):
    spoilt = site[0] / "spoilt"
    request.addfinalizer(lambda: shutil.rmtree(spoilt))
    shutil.copytree(site[0] / "model", spoilt)
    spoil(spoilt)
    page = visit("model=spoilt")
    assert re.search(message, page.inner_text("#status.error"))


def test_a_runtime_that_is_not_there_is_named(visit, tmp_path):
    page = visit("runtime=nowhere.mjs")
    said = page.inner_text("#status.error")
    assert re.search("could not be loaded from http.*/nowhere.mjs.*npm pack onnxruntime-web@.*[?]runtime=", said)
    load(page, PICTURES["small"], tmp_path)
    assert "nowhere.mjs" in page.inner_text("#status.error"), "an image does not hide what is wrong"


def test_only_the_pages_own_server_is_asked(visit, site, tmp_path):
    asked = []
    page = visit(listen=lambda page: page.on("request", lambda request: asked.append(request.url)))
    load(page, PICTURES["small"], tmp_path)
    click(page, 0.5, 0.5)
    assert "Predicted IoU" in page.inner_text("#status")
    assert any(url.endswith(RUNTIME_FILES[0]) for url in asked)
    assert [url for url in asked if not url.startswith((f"{site[1]}/", "data:", f"blob:{site[1]}/"))] == []


def test_code_of_another_server_is_refused(visit):
    page = visit("runtime=http://localhost:1/ort.mjs")
    assert "is on another server" in page.inner_text("#status.error")


def test_a_browser_without_webassembly_is_told(visit):
    page = visit(script="delete window.WebAssembly")
    assert "no WebAssembly" in page.inner_text("#status.error")


# ---------------------------------------------------------------------------------------------------------- the display


def test_it_fits_a_phone_and_a_thumb(visit, tmp_path):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2)
    load(page, PICTURES["large"], tmp_path)
    page.tap("text=Background")
    page.touchscreen.tap(*at(page, 0.8, 0.2))
    wait(page)
    page.tap("text=Object")
    page.touchscreen.tap(*at(page, 0.4, 0.5))
    wait(page)
    assert page.locator("#marks .point").count() == 2 and page.locator("#marks .negative").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#picture").bounding_box()["width"] > 340
    for control in page.locator(".tools > *, #candidates button").all():
        assert control.bounding_box()["height"] >= 40


def test_the_page_says_which_model_it_runs(visit, site):
    manifest = json.loads((site[0] / "model" / "manifest.json").read_text())
    text = visit().inner_text("#model")
    assert text.startswith("efficienttam-nano, float32, ")
    assert manifest["weights_sha256"][:12] in text

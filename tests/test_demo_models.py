"""The demo's choice of a model: what is offered, what is in memory, and what becomes of a visitor's work."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import threading
import urllib.request
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from authors_hub import NAME, SMALL, authors_hub, cut_off, published_file
from reference import save_tiny_model, tiny_fields, write_frames

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel, published
from efficienttam_hf.published import PUBLISHED_FILES, PUBLISHED_REPOSITORY
from efficienttam_hf.synthetic_clip import make_clip


gradio = pytest.importorskip("gradio", reason="the demo is a Gradio app")
pytest.importorskip("av", reason="the demo reads videos")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import engine  # noqa: E402
import model_store  # noqa: E402
from clicks import NEGATIVE, POSITIVE  # noqa: E402
from image_work import ImageWork  # noqa: E402
from live_work import LiveWork  # noqa: E402
from model_menu import ModelMenu  # noqa: E402
from model_store import ModelStore, offered_models  # noqa: E402
from settings import Settings  # noqa: E402
from uploads import UserError  # noqa: E402
from video_tab import VideoTab  # noqa: E402
from video_work import VideoWork  # noqa: E402
from visitors import Visitors  # noqa: E402


WIDTH, HEIGHT, NUM_FRAMES = 128, 96, 4
ON_OBJECT = (40.0, 58.0)
CPU = torch.device("cpu")
ONE, OTHER = (SimpleNamespace(session_hash=name) for name in ("one", "other"))


# ------------------------------------------------------------------------------------------------------- in memory


class Loaded:
    """In place of a model that was loaded."""

    def __init__(self, name):
        self.name = name


@pytest.fixture
def loads():
    return []


@pytest.fixture
def store(loads):
    def load(name):
        loads.append(name)
        return Loaded(name)

    return ModelStore(["a", "b", "c"], "a", load, most=2)


def test_only_so_many_models_are_in_memory_and_the_one_unused_for_longest_goes(store, loads):
    with store.use("a") as model:
        first = weakref.ref(model)
    del model
    for name in ("b", "a", "c"):
        with store.use(name) as model:
            assert model.name == name
    assert store.in_memory == ["a", "c"]
    with store.use("b"):
        pass
    assert store.in_memory == ["c", "b"]
    assert loads == ["a", "b", "c", "b"]
    gc.collect()
    assert first() is None, "its memory is free"


def test_a_model_that_is_used_stays_and_where_there_is_no_room_that_is_said(store, monkeypatch):
    monkeypatch.setattr(model_store, "SECONDS_FOR_ROOM", 0.05)
    with store.use("a") as one, store.use("b"):
        with pytest.raises(UserError, match="no room for c at the moment"), store.use("c"):
            pass
        with store.use("a") as again:
            assert again is one
    with store.use("c"):
        assert store.in_memory == ["a", "c"]


def test_who_finds_no_room_waits_for_it(store):
    told = threading.Event()

    def use():
        with store.use("c"):
            told.set()

    with store.use("a"), store.use("b"):
        waiting = threading.Thread(target=use)
        waiting.start()
        assert not told.wait(0.05)
    assert told.wait(60)
    waiting.join()


def test_a_model_is_loaded_once_for_all_who_want_it():
    go_on, loads = threading.Event(), []

    def load(name):
        loads.append(name)
        assert name == "a" or go_on.wait(60)
        return Loaded(name)

    def use():
        with store.use("b") as model:
            seen.append(model)

    seen: list[Loaded] = []
    store = ModelStore(["a", "b"], "a", load, most=2)
    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    with store.use("a"):  # which waits for none of it
        go_on.set()
    for thread in threads:
        thread.join()
    assert loads == ["a", "b"]
    assert len(seen) == 3 and len(set(map(id, seen))) == 1


def test_a_model_that_cannot_be_loaded_leaves_the_room_free(store, monkeypatch):
    monkeypatch.setattr(store, "_load", lambda name: 1 / 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), store.use("b"):
            pass
    monkeypatch.setattr(store, "_load", Loaded)
    with store.use("b"), store.use("a"):
        pass


# ---------------------------------------------------------------------------------------------------- what is offered


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    save_tiny_model(folder, seed=5)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return published_file(EfficientTamVideoModel(EfficientTamConfig(**tiny_fields())))


@pytest.fixture
def hub(monkeypatch, tmp_path, checkpoint):
    with authors_hub(monkeypatch, tmp_path / "hub", checkpoint) as server:
        yield server


def test_an_operator_fixes_the_model_or_lists_which_are_offered(hub, own, monkeypatch):
    def offered(**settings):
        names, first = offered_models(Settings(**settings), CPU)
        return names, first.name

    assert offered(model=own) == ([own], own)
    assert offered(model=own, models=(NAME,)) == ([own, NAME], own)
    assert offered(models=(own, NAME)) == ([own, NAME], own)
    assert not hub.requests, "what is offered is not fetched before it is chosen"
    everything, first = offered()
    assert first == NAME
    assert everything == ["efficienttam-nano", *published.VARIANTS]
    assert offered(model=own, models=("all",)) == ([own, *everything], own)
    cut_off(monkeypatch)
    published.remove(NAME)
    assert offered() == (everything, "efficienttam-nano")
    with pytest.raises(FileNotFoundError, match="did you mean efficienttam_s"):
        offered(models=(own, "eficienttam_s"))


def test_the_list_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("EFFICIENTTAM_MODELS", "efficienttam-nano, efficienttam_s,")
    monkeypatch.setenv("EFFICIENTTAM_MODELS_IN_MEMORY", "3")
    settings = Settings.from_environment()
    assert settings.models == ("efficienttam-nano", "efficienttam_s")
    assert settings.models_in_memory == 3


def test_a_line_says_size_input_licence_and_what_would_be_fetched(hub, own):
    store = ModelStore([own, NAME, "efficienttam-nano"], own, Loaded, most=1)
    assert store.describe("efficienttam-nano") == "efficienttam-nano · 5.8 M parameters · 352×352 · Apache 2.0 · here"
    line = f"{NAME} · 17.9 M parameters · 512×512 · Apache 2.0 · "
    assert store.describe(NAME) == f"{line}to be fetched, about 71 MB"
    published.fetch(NAME)
    assert store.describe(NAME) == f"{line}here"
    assert store.describe(own) == "mine", "where it lies on the server is nobody's business"


# -------------------------------------------------------------------------------------------------- a visitor's work


@pytest.fixture
def settings(hub, own):
    settings = Settings(model=own, models=(NAME, SMALL), device="cpu", max_frames=NUM_FRAMES, grid=2)
    engine.load(settings)
    return settings


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_frames(path, 12, make_clip(NUM_FRAMES, WIDTH, HEIGHT).frames)
    return path.read_bytes()


@pytest.fixture
def upload(video_file, tmp_path):
    path = tmp_path / "gradio" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(video_file)
    return path


def content_of(work):
    return json.loads(work.write_results().masks_json.read_text())


def test_in_a_video_clicks_are_kept_and_masks_begin_anew(settings, upload, tmp_path):
    work = VideoWork(tmp_path / "visitor", settings)
    work.load(upload, WIDTH, 1)
    plain = work.picture(1)
    work.click(0, POSITIVE, ON_OBJECT)
    work.click(0, POSITIVE, (50.0, 60.0))
    list(work.track("forward"))
    work.click(2, NEGATIVE, (100.0, 80.0))  # a correction of a mask of this model
    before = content_of(work)
    assert before["model"] == "mine"
    work.change_model(NAME)
    assert list(work.prompts) == [0]
    assert (work.picture(1) == plain).all()
    assert work.write_results() is None
    for _ in work.track("forward"):
        with pytest.raises(UserError, match="Tracking is under way"):
            work.change_model(SMALL)
    after = content_of(work)
    assert after["model"] == NAME
    assert after["objects"][0]["prompts"] == before["objects"][0]["prompts"][:1]
    assert after["frames"] != before["frames"]
    assert work.undo() == 0, "the click on the first frame, as the correction is gone"
    assert len(work.prompts[0][1].points) == 1


def test_a_click_that_is_answered_by_the_model_of_before_does_not_count(settings, upload, tmp_path, monkeypatch):
    work = VideoWork(tmp_path / "visitor", settings)
    work.load(upload, WIDTH, 1)
    segment = engine.segment_frame

    def change_meanwhile(*arguments):
        found = segment(*arguments)
        work.change_model(NAME)
        return found

    monkeypatch.setattr(engine, "segment_frame", change_meanwhile)
    with pytest.raises(UserError, match="The model was changed while"):
        work.click(0, POSITIVE, ON_OBJECT)
    assert work.prompts == {}


def test_an_image_and_the_camera_begin_anew(settings, tmp_path):
    from PIL import Image

    clip = make_clip(2, WIDTH, HEIGHT)
    path = tmp_path / "photo.png"
    Image.fromarray(clip.frames[0]).save(path)
    image, live = ImageWork(tmp_path / "image", settings), LiveWork(settings)
    image.load(path)
    image.click(POSITIVE, ON_OBJECT)
    live.frame(clip.frames[0])
    live.click(ON_OBJECT)
    live.frame(clip.frames[1])
    for work in (image, live):
        work.change_model(NAME)
        assert work.model_is_new
    assert image.proposals == [] and image.image is not None
    assert live.objects == []
    image.click(POSITIVE, ON_OBJECT)
    assert json.loads(image.write_results()[2].read_text())["model"] == NAME


# ------------------------------------------------------------------------------------------------------------ the menu


@pytest.fixture
def page(settings, tmp_path):
    """The menu above a video tab."""
    visitors = Visitors(tmp_path / "visitors", settings)
    with gradio.Blocks() as demo:
        menu = ModelMenu(visitors, engine.store)
        tab = VideoTab(visitors, settings, [], [])
        menu.wire(demo, tab)
    return SimpleNamespace(demo=demo, menu=menu, tab=tab, visitors=visitors)


def text_of(html):
    return re.sub(r"<[^>]*>", "", html)


async def take(page, name, request=ONE, then=None):
    """Press the button, and what the status line says after that."""
    said = []
    async for answer in page.menu.on_take(str(engine.store.names.index(name)), request):
        said.append(answer[page.menu.status])
        if then is not None:
            then(said)
    return said


def test_a_model_that_is_not_here_is_fetched_while_others_work_on(page, hub, upload):
    hub.pace = 0.05
    page.tab.on_upload(str(upload), WIDTH, 1, ONE)
    frames = []

    def work_on(said):
        if "Fetching" in said[-1]:  # who waits, and everybody else
            frames.append(page.visitors.of("one").video.click(0, POSITIVE, ON_OBJECT))
            page.visitors.of("other").live.frame(make_clip(1, WIDTH, HEIGHT).frames[0])

    said = asyncio.run(take(page, NAME, then=work_on))
    assert frames
    assert re.search(r"Fetching \d+ of \d+ MB", text_of(said[1]))
    parts = [float(part) for part in re.findall(r'value="([\d.]+)"', "".join(said))]
    assert parts == sorted(parts) and parts[-1] == 1.0
    assert text_of(said[-1]) == f"You work with {NAME} now."
    assert page.visitors.of("one").model == page.visitors.of("one").video.model == NAME
    assert page.visitors.of("other").model != NAME, "everyone chooses for themselves"
    _, _, status, _, _ = page.tab.on_model(0, 0.5, ONE)
    assert f"You work with {NAME} now. Your clicks are kept, and the masks are removed." in text_of(status)
    assert page.tab.on_model(0, 0.5, ONE) == {page.tab.status: gradio.skip()}, "that is said once"
    assert asyncio.run(take(page, NAME))[-1].count("is what you work with") == 1


def test_many_who_want_a_model_fetch_it_once(page, hub):
    async def all_of_them():
        requests = [SimpleNamespace(session_hash=str(number)) for number in range(5)]
        return await asyncio.gather(*(take(page, NAME, request) for request in requests))

    answers = asyncio.run(all_of_them())
    assert {text_of(said[-1]) for said in answers} == {f"You work with {NAME} now."}
    assert hub.count("GET /storage/") == 1
    assert len(engine.store.in_memory) == 2


def test_what_cannot_be_fetched_is_said_and_the_work_goes_on(page, hub, monkeypatch):
    hub.repositories.clear()
    said = asyncio.run(take(page, NAME))
    assert 'class="status refused"' in said[-1]
    assert f"{NAME} cannot be loaded. " in text_of(said[-1]) and "401" in said[-1]
    cut_off(monkeypatch)
    assert "cannot be reached" in asyncio.run(take(page, NAME))[-1]
    assert page.visitors.of("one").model == engine.store.first
    assert "Choose a model first" in asyncio.run(anext_of(page.menu.on_take("9", ONE)))[page.menu.status]


async def anext_of(steps):
    return await anext(steps)


def test_a_later_choice_takes_the_place_of_one_that_is_on_its_way(page, hub):
    torch.manual_seed(1)
    other = published_file(EfficientTamVideoModel(EfficientTamConfig(**tiny_fields())))
    hub.add(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(SMALL), other)
    published.fetch(SMALL)
    hub.requests.clear()
    hub.pace = 0.2

    async def both():
        first = asyncio.ensure_future(take(page, NAME))
        while not hub.count("GET /storage/"):
            await asyncio.sleep(0.01)
        second = await take(page, SMALL)
        hub.pace = 0
        return await first, second

    first, second = asyncio.run(asyncio.wait_for(both(), 120))
    assert text_of(second[-1]) == f"You work with {SMALL} now."
    assert "You work with" not in first[-1]
    assert page.visitors.of("one").model == SMALL


def test_the_model_is_not_changed_while_a_video_is_tracked(page, hub, upload):
    page.tab.on_upload(str(upload), WIDTH, 1, ONE)
    work = page.visitors.of("one").video
    work.click(0, POSITIVE, ON_OBJECT)
    for _ in work.track("forward"):
        assert "Tracking is under way" in asyncio.run(take(page, NAME))[-1]
    assert hub.count("GET /storage/") == 0


def test_through_gradios_own_queue(page):
    """Press the button as a page does: join the queue, and read what is answered."""
    page.demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        index = next(i for i, fn in page.demo.fns.items() if fn.name == "on_take")
        url = f"{page.demo.local_url}gradio_api/queue"
        body = {"data": ["1"], "fn_index": index, "session_hash": "me"}
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{url}/join", json.dumps(body).encode(), headers)).close()
        with urllib.request.urlopen(f"{url}/data?session_hash=me", timeout=120) as answers:
            for line in answers:
                if b"process_completed" in line:
                    break
        assert b'"success":true' in line.replace(b" ", b"")
        assert page.visitors.of("me").model == NAME
    finally:
        page.demo.close()


def test_where_one_model_is_offered_there_is_no_menu(own, tmp_path):
    engine.load(Settings(model=own, device="cpu"))
    visitors = Visitors(tmp_path / "visitors", Settings())
    with gradio.Blocks() as demo:
        ModelMenu(visitors, engine.store).wire(demo)
    assert [type(block).__name__ for block in demo.blocks.values() if block is not demo] == ["Markdown"]
    assert not demo.fns

"""The HTTP service on a scripted model. Worker thread: test_service_worker.py; process: test_service_process.py."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import zipfile

import httpx
import numpy as np
import pytest


pytest.importorskip("fastapi", reason="the service needs the extra: pip install efficienttam-hf[serve]")

from fastapi.testclient import TestClient  # noqa: E402
from service_made import (  # noqa: E402
    BOX,
    COUNT,
    HEIGHT,
    ONE,
    TOKEN,
    WIDTH,
    ScriptedEngine,
    events_of,
    image_bytes,
    make_service,
    served,
    until,
    video_bytes,
)

from efficienttam_hf.mask_io import decode_rle, encode_rle  # noqa: E402
from efficienttam_hf.serving import sessions as sessions_module  # noqa: E402
from efficienttam_hf.serving.server import choose_token  # noqa: E402
from efficienttam_hf.serving.settings import ServiceSettings  # noqa: E402
from efficienttam_hf.video_io import open_video  # noqa: E402


HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return video_bytes(tmp_path_factory.mktemp("video"))


@pytest.fixture
def client_of(tmp_path):
    """A function that makes clients of services with some limits; all services end with the test."""
    open_clients = []

    def make(token=TOKEN, engine=None, **limits):
        root = tmp_path / f"service{len(open_clients)}"
        client = TestClient(make_service(root, engine, token, **limits), headers=HEADERS if token else {})
        client.root = root
        open_clients.append(client)
        client.__enter__()
        return client

    yield make
    for client in open_clients:
        client.__exit__(None, None, None)
        assert not client.root.exists(), "nothing is left at the end"


@pytest.fixture
def client(client_of):
    return client_of()


def upload(client, content, name="my clip.mp4"):
    return client.post("/v1/sessions", files={"file": (name, content)})


def new_session(client, video, prompts=ONE):
    session = upload(client, video).json()["id"]
    if prompts:
        assert client.post(f"/v1/sessions/{session}/prompts", json=prompts).status_code == 200
    return f"/v1/sessions/{session}"


def refused(answer, status, match):
    """The answer is a refusal of one line, without paths."""
    detail = answer.json()["detail"]
    assert answer.status_code == status, detail
    assert re.search(match, detail), detail
    assert "\n" not in detail
    assert "/tmp" not in detail
    assert len(detail) < 400


# ------------------------------------------------------------------------------------------------------------- sessions


def test_a_video_is_uploaded_prompted_tracked_and_fetched(client, video):
    answer = upload(client, video)
    assert answer.status_code == 201
    info = answer.json()
    assert (info["name"], info["frames"], info["state"], info["objects"]) == ("my_clip", COUNT, "ready", [])
    assert info["size"] == info["prompt_size"] == {"width": WIDTH, "height": HEIGHT}
    path = f"/v1/sessions/{info['id']}"

    answer = client.post(f"{path}/prompts", json={**ONE, "preview": True}).json()
    (shown,) = answer["preview"]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert shown["frame"] == 0
    assert np.array_equal(decode_rle(shown["objects"][0]["segmentation"]), expected)
    assert answer["session"]["objects"] == [
        {"id": 1, "prompts": [{"frame": 0, "points": [], "labels": [], "box": list(BOX), "mask": False}]}
    ]

    *frames, end = events_of(client.post(f"{path}/propagate").text)
    assert [event["frame"] for event in frames] == list(range(COUNT))
    assert [(event["done"], event["total"]) for event in frames] == [(n, COUNT) for n in range(1, COUNT + 1)]
    assert frames[3]["objects"][0]["bbox"] == [BOX[0] + 3, BOX[1], 16, 20]
    assert end == {"event": "end", "complete": True, "tracked_frames": COUNT}

    results = client.get(f"{path}/results").json()
    assert results["complete"] is True
    assert results["objects"] == [{"id": 1, "prompts": [{"frame": 0, "box": list(BOX)}]}]
    masks = [decode_rle(frame["objects"][0]["segmentation"]) for frame in results["frames"]]
    assert np.array_equal(masks[3], np.roll(expected, 3, axis=1))
    with zipfile.ZipFile(io.BytesIO(client.get(f"{path}/masks").content)) as file:
        assert len(file.namelist()) == COUNT
    overlay = client.get(f"{path}/overlay")
    assert overlay.headers["content-type"] == "video/mp4"
    assert "my_clip_overlay.mp4" in overlay.headers["content-disposition"]
    (client.root / "overlay.mp4").write_bytes(overlay.content)
    with open_video(client.root / "overlay.mp4") as drawn:
        assert len(drawn) == COUNT

    assert client.get("/v1/sessions").json()[0]["tracked_frames"] == COUNT
    assert client.delete(path).status_code == 204
    refused(client.get(path), 404, "no such session")
    assert list((client.root / "sessions").iterdir()) == []


def test_events_can_be_server_sent_and_without_masks(client, video):
    path = new_session(client, video)
    answer = client.post(f"{path}/propagate", json={"masks": False}, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    assert all(re.fullmatch(r"event: (waiting|frame|end)\ndata: \{.*\}", block) for block in blocks)
    first = json.loads(next(block for block in blocks if block.startswith("event: frame")).split("data: ")[1])
    assert "segmentation" not in first["objects"][0]
    assert first["objects"][0]["area"] == 16 * 20


def test_images_are_frames_in_their_order(client, tmp_path):
    images = [image_bytes(tmp_path, level) for level in (10, 60, 110)]
    answer = client.post("/v1/sessions", files=[("file", (f"b{9 - i}.png", one)) for i, one in enumerate(images)])
    assert answer.json()["frames"] == 3
    (session,) = client.app.state.service.sessions
    with session.clip.open() as frames:
        assert [int(frames[i].mean()) for i in range(3)] == [10, 60, 110]


def test_prompts_replace_those_of_the_same_object_and_frame_and_objects_can_be_removed(client, video):
    path = new_session(client, video)
    two = {"objects": [{"id": i, "prompts": [{"frame": 2, "points": [[20, 20]]}]} for i in (1, 2)]}
    client.post(f"{path}/prompts", json=two)
    other = {"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5], [6, 6]], "labels": [1, 0]}]}]}
    objects = client.post(f"{path}/prompts", json=other).json()["session"]["objects"]
    assert [(one["id"], [p["frame"] for p in one["prompts"]]) for one in objects] == [(1, [0, 2]), (2, [2])]
    assert objects[0]["prompts"][0]["labels"] == [1, 0]
    assert objects[0]["prompts"][0]["box"] is None
    *frames, end = events_of(client.post(f"{path}/propagate").text)
    assert len(frames) == COUNT + 3, "both ways, as an object begins later"
    assert end["complete"]
    assert [one["id"] for one in client.delete(f"{path}/objects/2").json()["objects"]] == [1]
    results = client.get(f"{path}/results").json()
    assert {o["id"] for frame in results["frames"] for o in frame["objects"]} == {1}
    refused(client.delete(f"{path}/objects/7"), 404, "no object 7")


def test_masks_are_prompts_and_everything_is_scaled_to_the_working_size(client_of, video):
    client = client_of(max_side=32)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 20:40] = True
    prompt = {"frame": 0, "mask": encode_rle(mask)}
    path = new_session(client, video, {"objects": [{"id": 5, "prompts": [prompt]}]})
    assert client.get(path).json()["size"] == {"width": 32, "height": 24}
    event = events_of(client.post(f"{path}/propagate").text)[0]
    assert np.array_equal(decode_rle(event["objects"][0]["segmentation"]), mask[::2, ::2])


# ------------------------------------------------------------------------------------------------------- authentication


def test_only_the_token_opens_the_service(client_of, video):
    client = client_of()
    client.headers.pop("Authorization")
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/openapi.json").status_code == 200
    for header in (
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
        "Bearer " + "x" * 9000,
        "Bearer é",
    ):
        headers = {"Authorization": header.encode()} if header else {}
        answer = client.get("/v1/info", headers=headers)
        refused(answer, 401, "Bearer TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"
    refused(client.post("/v1/sessions", files={"file": ("a.mp4", video)}), 401, "token")
    password = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {password}"):
        assert client.get("/v1/info", headers={"Authorization": right}).json()["model"] == "scripted"


def test_without_a_token_only_this_machine_is_served_and_no_web_page(client_of):
    client = client_of(token=None)
    client.base_url = "http://localhost:8080"
    assert client.get("/v1/info").status_code == 200
    assert client.get("/v1/info", headers={"Origin": "http://localhost:3000"}).status_code == 200
    refused(client.get("/v1/info", headers={"Host": "evil.example:8080"}), 403, "its own machine")
    refused(client.get("/v1/info", headers={"Origin": "https://evil.example"}), 403, "its own machine")
    refused(client.get("/v1/info", headers={"Origin": "null"}), 403, "its own machine")


def test_the_token_is_given_generated_or_refused(monkeypatch):
    monkeypatch.delenv("EFFICIENTTAM_TOKEN", raising=False)
    assert choose_token("0123456789abcdef", False, "0.0.0.0") == ("0123456789abcdef", False)
    first, is_new = choose_token(None, False, "0.0.0.0")
    assert is_new
    assert len(first) >= 32
    assert first != choose_token(None, False, "0.0.0.0")[0]
    monkeypatch.setenv("EFFICIENTTAM_TOKEN", "f" * 20)
    assert choose_token(None, False, "::1") == ("f" * 20, False)
    assert choose_token(None, True, "127.0.0.1") == (None, False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(ValueError, match="--no-auth is for this machine only"):
            choose_token(None, True, host)
    for bad in ("short", "with a space in it", "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(ValueError, match="at least 16"):
            choose_token(bad, False, "127.0.0.1")


# --------------------------------------------------------------------------------------------------------------- limits


def test_large_uploads_are_refused_with_and_without_a_length(client_of):
    client = client_of(max_upload_mb=1, max_body_mb=1)
    too_large = bytes(5 * 2**19)
    refused(upload(client, too_large), 413, "up to 2 MB")
    refused(upload(client, bytes(3 * 2**19)), 413, "up to 1 MB")
    body = httpx.Request("POST", "http://x", files={"file": ("a", too_large)})
    content = body.read()
    chunks = (content[i : i + 65536] for i in range(0, len(content), 65536))
    kind = {"Content-Type": body.headers["content-type"]}
    refused(client.post("/v1/sessions", content=chunks, headers=kind), 413, "up to")
    refused(client.post("/v1/sessions/x/prompts", content=too_large), 413, "up to 1 MB")
    assert list((client.root / "sessions").iterdir()) == [], "what had arrived is deleted"


def test_sessions_objects_points_and_prompts_are_limited(client_of, video):
    client = client_of(max_sessions=1, max_objects=2, max_points=3, max_prompts=3, max_frames=5)
    path = new_session(client, video)
    assert client.get(path).json()["frames"] == 5
    answer = upload(client, video)
    refused(answer, 503, "1 sessions, which is the limit")
    assert answer.headers["retry-after"] == "5"

    def add(*objects):
        return client.post(f"{path}/prompts", json={"objects": list(objects)})

    point = {"frame": 1, "points": [[5, 5]]}
    refused(add(*({"id": i, "prompts": [point]} for i in (2, 3))), 422, "Up to 2 objects")
    refused(add({"id": 1, "prompts": [{"frame": 1, "points": [[5, 5]] * 4}]}), 422, "Up to 3 points.*got 4")
    refused(add({"id": 1, "prompts": [{**point, "frame": t} for t in (1, 2, 3)]}), 422, "Up to 3 prompts")
    refused(add({"id": 1, "prompts": [{**point, "frame": 5}]}), 422, "not one of the frames 0 to 4")
    assert len(client.get(path).json()["objects"][0]["prompts"]) == 1, "nothing was added"
    images = [("file", ("a.png", b"x"))] * 6
    client.delete(path)
    refused(client.post("/v1/sessions", files=images), 413, "Up to 5 files")


def test_each_address_has_so_many_requests_a_minute(client_of):
    client = client_of(requests_per_minute=3)
    assert [client.get("/health").status_code for _ in range(3)] == [200] * 3
    answer = client.get("/health")
    refused(answer, 429, "More than 3 requests a minute")
    assert 1 <= int(answer.headers["retry-after"]) <= 20


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_limits_are_whole_numbers_above_zero(value):
    with pytest.raises(ValueError, match="max_frames must be a whole number above 0"):
        ServiceSettings(max_frames=value)


# ------------------------------------------------------------------------------------------------------------ bad input


BAD_PROMPTS = [
    ({}, "objects: Field required"),
    ({"objects": []}, "objects: List should have at least 1 item"),
    ({"objects": [{"id": 0, "prompts": [{"frame": 0}]}]}, r"objects\[0\].id"),
    ({"objects": [{"id": 300, "prompts": [{"frame": 0}]}]}, r"objects\[0\].id"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0}]}]}, "neither a point nor a box"),
    ({"objects": [{"id": 1, "prompts": [{"frame": -1, "box": [1, 1, 2, 2]}]}]}, r"prompts\[0\].frame"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "bx": [1, 1, 2, 2]}]}]}, r"bx: Extra inputs"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [9, 9, 2, 2]}]}]}, "is empty"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [0, 0, 999, 2]}]}]}, "outside the frame"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5]], "labels": [2]}]}]}, "labels"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5]], "labels": []}]}]}, "1 points but 0 labels"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [["a", {}]]}]}]}, "points"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "mask": {"size": [48, 64], "counts": "!!"}}]}]}, "run-length"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "mask": {"size": [99999, 99999], "counts": "0"}}]}]}, "size"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "mask": encode_rle(np.ones((5, 5), bool))}]}]}, "5x5 pixels"),
    ({"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [1, 1, 2, 2]}] * 2}]}, "two prompts for object 1"),
]


def test_invalid_prompts_are_refused_in_one_line(client, video):
    path = new_session(client, video, prompts=None)
    for given, match in BAD_PROMPTS:
        refused(client.post(f"{path}/prompts", json=given), 422, match)
    for text in ('{"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [[NaN, 1]]}]}]}', "{", "[" * 5000):
        answer = client.post(f"{path}/prompts", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert len(answer.text) < 400
    assert client.get(path).json()["objects"] == []
    refused(client.post(f"{path}/propagate"), 422, "Nothing is prompted")
    refused(client.post(f"{path}/propagate", json={"direction": "up"}), 422, "direction")
    refused(client.get(f"{path}/results"), 404, "no results yet")
    refused(client.get("/v1/sessions/..%2f..%2fetc"), 404, "")


def test_uploads_that_are_no_video_are_refused_and_deleted(client, video, tmp_path):
    for content, name in (
        (b"these are notes" * 50, "notes.mp4"),
        (b"", "empty.mp4"),
        (video[: len(video) // 3], "cut.mp4"),
        (b"http://127.0.0.1/secret.mp4", "address.mp4"),
        (b"#EXTM3U\n/etc/passwd\n", "list.m3u8"),
        (b"/etc/passwd", "../../etc/passwd"),
    ):
        refused(upload(client, content, name), 422, "cannot be read as a video|is empty|at least")
    image = image_bytes(tmp_path)
    two = [("file", ("a.png", image)), ("file", ("b.exe", image))]
    refused(client.post("/v1/sessions", files=two), 422, "must be images.*'b.exe'")
    assert list((client.root / "sessions").iterdir()) == []


def test_damaged_forms_are_refused(client, video):
    def post(content, kind="multipart/form-data; boundary=b"):
        return client.post("/v1/sessions", content=content, headers={"Content-Type": kind})

    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    refused(post(b"x"), 422, "form")
    refused(post(part + b"video"), 422, "cut short")
    refused(post(b"--b--\r\n"), 422, "form|no file")
    refused(post(b"{}", "application/json"), 422, "Send a form")
    refused(post(b"{}", "multipart/form-data"), 422, "Send a form")
    refused(post(part.replace(b'file"', b'path"', 1) + b"/etc/passwd\r\n--b--\r\n"), 422, "has the fields file")
    refused(post(b"--b\r\nX: " + b"y" * 20000 + b"\r\n\r\n"), 422, "too long|damaged")
    refused(client.post("/v1/sessions", data={"file": "/etc/passwd"}), 422, "Send a form")
    assert len(client.app.state.service.sessions) == 0


# ------------------------------------------------------------------------------------------------------------- tracking


def test_a_client_that_goes_cancels_and_finished_frames_are_kept(tmp_path, video):
    turn = threading.Semaphore(0)
    engine = ScriptedEngine(step=lambda: turn.acquire(timeout=30))
    app = make_service(tmp_path / "service", engine)
    with served(app) as address, httpx.Client(base_url=address, headers=HEADERS) as client:
        path = new_session(client, video)
        turn.release(3)
        with client.stream("POST", f"{path}/propagate") as stream:
            lines = stream.iter_lines()
            assert [json.loads(next(lines))["frame"] for _ in range(3)] == [0, 1, 2]
            assert client.get(path).json()["state"] == "tracking"
            refused(client.post(f"{path}/propagate"), 409, "being tracked")
            refused(client.post(f"{path}/prompts", json=ONE), 409, "being tracked")
            refused(client.get(f"{path}/results"), 409, "being tracked")
        (session,) = app.state.service.sessions
        until(lambda: session._job._cancelled)
        turn.release(1)
        until(lambda: client.get(path).json()["state"] == "ready")
        assert len(engine.frames) <= 4
        results = client.get(f"{path}/results").json()
        assert results["complete"] is False
        assert len(results["frames"]) >= 3
        turn.release(100)
        assert events_of(client.post(f"{path}/propagate").text)[-1]["complete"] is True
    assert not (tmp_path / "service").exists()


def test_a_session_can_be_deleted_while_it_is_tracked(tmp_path, video):
    turn = threading.Semaphore(2)
    app = make_service(tmp_path / "service", ScriptedEngine(step=lambda: turn.acquire(timeout=30)))
    with served(app) as address, httpx.Client(base_url=address, headers=HEADERS) as client:
        path = new_session(client, video)
        with client.stream("POST", f"{path}/propagate") as stream:
            lines = stream.iter_lines()
            next(lines)
            threading.Timer(0.3, turn.release).start()
            assert client.delete(path).status_code == 204
            assert json.loads(list(lines)[-1])["complete"] is False
        assert client.get(path).status_code == 404


def test_an_error_ends_the_stream_with_its_message(client_of, video):
    def fail():
        raise RuntimeError("a secret of the server")

    client = client_of(engine=ScriptedEngine(step=fail))
    path = new_session(client, video)
    assert events_of(client.post(f"{path}/propagate").text) == [
        {"event": "error", "detail": "Something went wrong on the server."}
    ]
    assert client.get(path).json()["state"] == "ready"


def test_sessions_expire(client_of, video, monkeypatch):
    client = client_of(session_minutes=10, max_sessions=1)
    path = new_session(client, video)
    assert 590 < client.get(path).json()["expires_in"] <= 600
    clock = sessions_module.time.monotonic
    monkeypatch.setattr(sessions_module.time, "monotonic", lambda: clock() + 601)
    assert upload(client, video).status_code == 201, "the old one makes room"
    assert client.get(path).status_code == 404


# --------------------------------------------------------------------------------------------------------------- images


def test_an_image_is_segmented(client, tmp_path):
    image = image_bytes(tmp_path)
    prompts = [{"id": 3, "box": list(BOX)}, {"id": 4, "points": [[30, 30]]}]
    answer = client.post("/v1/segment", files={"image": ("a.png", image)}, data={"prompts": json.dumps(prompts)}).json()
    assert [(one["id"], one["score"], len(one["proposals"])) for one in answer["objects"]] == [(3, 0.9, 2), (4, 0.9, 2)]
    assert answer["objects"][0]["bbox"] == [8, 10, 16, 20]
    everything = client.post("/v1/segment", files={"image": ("a.png", image)}).json()
    assert everything["objects"][0]["area"] == HEIGHT * WIDTH

    def post(content, prompts="[]"):
        return client.post("/v1/segment", files={"image": ("a.png", content)}, data={"prompts": prompts})

    refused(post(image), 422, "list is empty")
    refused(post(image, "nonsense"), 422, "prompts: Invalid JSON")
    refused(post(image, '[{"id": 1, "points": [[999, 1]]}]'), 422, "outside the frame")
    refused(post(image, '[{"id": 1, "points": [[9, 1]]}, {"id": 1, "points": [[9, 1]]}]'), 422, "given twice")
    refused(post(b"not an image", '[{"id": 1, "points": [[9, 1]]}]'), 422, "cannot be read as an image")
    assert [path for path in client.root.iterdir() if path.name.startswith("image")] == []


# ------------------------------------------------------------------------------------------------------ its description


def test_the_openapi_page_describes_every_route_and_field(client):
    page = client.get("/openapi.json").json()
    schemas = page["components"]["schemas"]
    for path, routes in page["paths"].items():
        for method, route in routes.items():
            name = f"{method} {path}"
            assert route["description"], name
            answers = {status: one for status, one in route["responses"].items() if status.startswith("2")}
            assert answers, name
            for status, answer in answers.items():
                assert status == "204" or answer["content"], name
            if path.startswith("/v1"):
                assert route["security"], name
                assert route["responses"]["401"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    for name in ("Waiting", "FrameDone", "End", "Failed", "PromptsRequest", "SessionInfo", "ImageResult"):
        assert schemas[name]["description"], name
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(page)))
    assert references <= set(schemas)

"""The backend for Label Studio, on a scripted model and a small server in the place of Label Studio."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest


pytest.importorskip("fastapi", reason="the service needs the extra: pip install efficienttam-hf[serve]")

from fastapi.testclient import TestClient  # noqa: E402
from service_made import (  # noqa: E402
    COUNT,
    HEIGHT,
    TOKEN,
    WIDTH,
    image_bytes,
    make_service,
    video_bytes,
)

from efficienttam_hf.integrations.label_studio import Labeling, attach, encode_brush, prompts_on_image  # noqa: E402
from efficienttam_hf.integrations.label_studio_files import LabelStudioFiles  # noqa: E402
from efficienttam_hf.serving.errors import Refusal  # noqa: E402


IMAGES = """<View>
  <Image name="image" value="$picture" zoom="true"/>
  <BrushLabels name="brush" toName="image"><Label value="dog"/></BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="dog" smart="true"/></KeyPointLabels>
  <RectangleLabels name="rectangle" toName="image" smart="true"><Label value="dog"/></RectangleLabels>
</View>"""
VIDEOS = """<View>
  <Labels name="labels" toName="film"><Label value="dog"/></Labels>
  <Video name="film" value="$clip" frameRate="25"/>
  <VideoRectangle name="box" toName="film" smart="true"/>
</View>"""
SECRET = "legacy-token-of-a-user"


class Handler(BaseHTTPRequestHandler):
    """Answers like Label Studio: files need the token, some paths lead elsewhere."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        leads = self.server.redirections.get(self.path)
        content = self.server.files.get(self.path)
        if leads:
            self.send_response(302)
            self.send_header("Location", leads)
            self.end_headers()
        elif self.headers.get("Authorization") not in (f"Token {SECRET}", "Bearer an-access-token"):
            self.send_error(401)
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, given))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"access": "an-access-token"}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def label_studio(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {"/data/upload/1/a.png": image_bytes(tmp_path), "/data/upload/1/b.mp4": video_bytes(tmp_path)}
    server.redirections, server.seen = {}, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(label_studio, tmp_path):
    app = make_service(tmp_path / "service", token=TOKEN, max_upload_mb=1)
    (line,) = attach(app, LabelStudioFiles(label_studio.address, SECRET))
    assert label_studio.address in line
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client
        assert list((tmp_path / "service").glob("label*")) == []


def request(regions, config=IMAGES, **data):
    """What Label Studio sends when an annotator has drawn `regions`."""
    data = data or {"picture": "/data/upload/1/a.png"}
    return {
        "tasks": [{"id": 7, "data": data, "annotations": [], "drafts": []}],
        "project": "3.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": regions} if regions is not None else None},
    }


def point(x, y, **more):
    value = {"x": x, "y": y, "width": 0.3, "keypointlabels": ["dog"]}
    return {"id": "k", "type": "keypointlabels", "from_name": "point", "to_name": "image", "value": value, **more}


def keyframe(frame, x, y, width, height):
    return {"frame": frame, "enabled": True, "rotation": 0, "x": x, "y": y, "width": width, "height": height}


def rectangle_track(*keyframes, count=COUNT, duration=COUNT / 25):
    value = {"framesCount": count, "duration": duration, "sequence": list(keyframes), "labels": ["dog"]}
    return {"id": "r1", "type": "videorectangle", "from_name": "box", "to_name": "film", "value": value}


def test_it_is_set_up_as_label_studio_does_it(client):
    assert client.get("/health").json()["status"] == "ok"
    given = {"project": "3.1", "schema": IMAGES, "hostname": "http://x", "access_token": "t", "extra_params": None}
    version = client.post("/setup", json=given).json()["model_version"]
    assert version.startswith("scripted")
    assert client.get("/versions").json() == {"versions": [version]}
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).json() == {"status": "ignored"}
    answer = client.post("/setup", json={**given, "schema": "<View><Text name='t' value='$t'/></View>"})
    assert answer.status_code == 422
    assert "<BrushLabels> on an <Image>" in answer.json()["detail"]
    client.headers.pop("Authorization")
    assert client.post("/setup", json=given).status_code == 401
    assert client.post("/predict", json=request(None)).status_code == 401


def test_clicks_and_a_box_give_a_brush(client):
    box = {"x": 25.0, "y": 25.0, "width": 50.0, "height": 50.0, "rectanglelabels": ["dog"]}
    drawn = [{"type": "rectanglelabels", "value": box}, point(50, 50, is_positive=True)]
    (answer,) = client.post("/predict", json=request(drawn)).json()["results"]
    (region,) = answer["result"]
    assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "brush", "image")
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (WIDTH, HEIGHT, 0)
    assert region["value"]["brushlabels"] == ["dog"]
    assert region["value"]["format"] == "rle"
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[12:36, 16:48] = True
    assert region["value"]["rle"] == encode_brush(mask)
    assert answer["score"] == region["score"] == 0.9


def test_a_brush_is_a_stream_of_runs():
    bits = np.unpackbits(np.array(encode_brush(np.array([[True, False, False]])), np.uint8))
    text = "".join(map(str, bits))
    runs = ["1" + "00" + f"{4 - 1:016b}" + "1" * 8, "1" + "00" + f"{8 - 1:016b}" + "0" * 8]
    assert text == f"{12:032b}" + f"{7:05b}" + f"{15:04b}" * 4 + "".join(runs) + "0" * 5


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 700)])
def test_label_studios_own_converter_reads_a_brush(size):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    mask = np.random.default_rng(0).random(size) > 0.5
    for one in (mask, np.zeros(size, bool), np.ones(size, bool)):
        pixels = brush.decode_rle(encode_brush(one)).reshape(*size, 4)
        assert np.array_equal(pixels[..., 3], 255 * one)


def test_places_are_in_per_cent_and_clicks_positive_or_negative():
    drawn = [point(50, 25, is_positive=True), point(100, 120, is_positive=False), point(0, 0)]
    prompts, label = prompts_on_image([*drawn, {"type": "brushlabels", "value": {"rle": []}}], (100, 200))
    assert prompts.points == [(100.0, 25.0), (200.0, 100.0), (0.0, 0.0)]
    assert prompts.labels == [1, 0, 1]
    assert label == "dog"
    with pytest.raises(Refusal, match="no number 'x'"):
        prompts_on_image([{"type": "keypoint", "value": {"x": "5", "y": 1}}], (10, 10))


def test_without_anything_drawn_predictions_are_empty(client, label_studio):
    for regions in (None, [], [{"type": "choices", "value": {"choices": ["a"]}}]):
        (answer,) = client.post("/predict", json=request(regions)).json()["results"]
        assert answer["result"] == []
    two = {**request(None), "tasks": [{"data": {}}, {"data": {}}]}
    assert len(client.post("/predict", json=two).json()["results"]) == 2


def test_a_box_is_tracked_through_the_video(client):
    start = keyframe(2, 12.5, 25, 25, 50)
    (answer,) = client.post(
        "/predict", json=request([rectangle_track(start)], VIDEOS, clip="/data/upload/1/b.mp4")
    ).json()["results"]
    (region,) = answer["result"]
    assert (region["id"], region["type"], region["from_name"]) == ("r1", "videorectangle", "box")
    assert region["value"]["labels"] == ["dog"]
    first, *tracked = region["value"]["sequence"]
    assert first == start, "what was drawn stays"
    assert [one["frame"] for one in tracked] == list(range(3, COUNT + 1))
    # The scripted object is a pixel further to the right on each frame, counted from 0.
    assert [one["x"] for one in tracked] == [100 * (8 + frame - 1) / WIDTH for frame in range(3, COUNT + 1)]
    assert all((one["y"], one["width"], one["height"]) == (25, 25, 50) for one in tracked)
    assert tracked[0]["time"] == pytest.approx(3 / 25)
    assert answer["score"] == 0.9


def test_frames_are_counted_at_label_studios_rate_and_lost_objects_are_hidden(client):
    # 4 frames a second for Label Studio are every sixth of the 25; the object leaves the frame to the right.
    given = rectangle_track(keyframe(1, 93.75, 25, 6.25, 50), count=COUNT * 2, duration=COUNT / 25)
    (answer,) = client.post("/predict", json=request([given], VIDEOS, clip="/data/upload/1/b.mp4")).json()["results"]
    sequence = answer["result"][0]["value"]["sequence"]
    assert [one["frame"] for one in sequence][:3] == [1, 2, 3]
    assert sequence[-1]["enabled"] is False
    assert sequence[-1]["frame"] < COUNT * 2
    assert all(one["enabled"] for one in sequence[:-1])


def test_files_come_from_the_configured_label_studio_only(client, label_studio):
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = elsewhere.server_port
    label_studio.redirections = {
        "/data/away.png": f"http://127.0.0.1:{port}/data/a.png",
        "/data/inside.png": "/data/upload/1/a.png",
        "/data/up.png": "/api/users",
        "/data/loop.png": "/data/loop.png",
    }
    drawn = [point(50, 50, is_positive=True)]

    def status(address):
        answer = client.post("/predict", json=request(drawn, picture=address))
        return answer.status_code, answer.json().get("detail", "")

    assert status(f"{label_studio.address}/data/upload/1/a.png")[0] == 200
    assert status("/data/inside.png")[0] == 200
    assert {seen for _, seen in label_studio.seen} == {f"Token {SECRET}"}
    label_studio.seen.clear()
    for address in (
        f"http://127.0.0.1:{port}/data/a.png",
        f"http://localhost:{label_studio.server_port}/data/upload/1/a.png",
        f"http://user@127.0.0.1:{label_studio.server_port}/data/upload/1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "//evil.example/data/a.png",
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "ftp://127.0.0.1/data/a",
        "http://[::1",
        "/api/users",
        "/data/../api/users",
        "/data/%2e%2e/api/users",
        "/data/%252e%252e/api/users",
        "/data/..\\api",
        "",
    ):
        code, detail = status(address)
        assert code == 422, address
        assert "only files that" in detail or "not under a path" in detail, address
    assert label_studio.seen == [], "nothing was asked for"
    assert status("/data/away.png")[0] == 422
    assert status("/data/up.png")[0] == 422
    assert status("/data/loop.png")[0] == 422
    assert "answered 404" in status("/data/missing.png")[1]
    elsewhere.server_close()
    label_studio.files["/data/large.png"] = bytes(2**20 + 1)
    assert status("/data/large.png") == (413, "The file of the task has more than 1 MB.")
    label_studio.files["/data/text.png"] = b"text"
    assert "cannot be read" in status("/data/text.png")[1]


def test_personal_access_tokens_are_exchanged_once(label_studio, tmp_path):
    files = LabelStudioFiles(label_studio.address + "/", "header.payload.signature")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert files.fetch("/data/upload/1/a.png", tmp_path / name, 1).stat().st_size > 0
    assert [path for path, _ in label_studio.seen].count("/api/token/refresh") == 1
    assert label_studio.seen[0] == ("/api/token/refresh", {"refresh": "header.payload.signature"})
    assert label_studio.seen[1][1] == "Bearer an-access-token"


@pytest.mark.parametrize(
    "address", ["localhost:8080", "ftp://x", "http://", "http://a:b@c", "http://x:port", "http://x?y"]
)
def test_the_address_is_checked(address):
    with pytest.raises(ValueError, match="is one like http://localhost:8080"):
        LabelStudioFiles(address)


def test_labeling_configurations_are_read_without_entities():
    assert Labeling.parse(IMAGES) == Labeling(False, "picture", "brush", "image")
    assert Labeling.parse(VIDEOS) == Labeling(True, "clip", "box", "film", 25.0)
    bomb = '<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>'
    for text, match in ((bomb, "document type"), ("<View>", "not XML"), ("", "not XML"), ("<View/>", "needs <Brush")):
        with pytest.raises(Refusal, match=match):
            Labeling.parse(text)


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ([rectangle_track(keyframe(500, 1, 1, 5, 5))], "Frame 500 is beyond"),
        ([rectangle_track(keyframe(0, 1, 1, 5, 5))], "Frame 0 is beyond"),
        ([rectangle_track(keyframe(1, 1, 1, 0, 5))], "is empty"),
        ([rectangle_track({"frame": 1, "x": 5})], "no number 'y'"),
    ],
)
def test_impossible_tracks_are_refused(client, regions, match):
    answer = client.post("/predict", json=request(regions, VIDEOS, clip="/data/upload/1/b.mp4"))
    assert answer.status_code == 422
    assert match in answer.json()["detail"]

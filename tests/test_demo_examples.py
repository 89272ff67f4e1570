"""The demo's examples: a real video that is fetched once, and drawn clips if it cannot be had."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from reference import write_frames


pytest.importorskip("gradio", reason="the demo needs the extra: pip install efficienttam-hf[demo]")
pytest.importorskip("av", reason="the demo reads videos with PyAV")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import examples  # noqa: E402


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """With a cache of its own, and without drawn clips, which take seconds."""
    monkeypatch.setattr(examples, "CLIPS", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "real.mp4"
    write_frames(path, 12, [np.full((48, 64, 3), 40 * t, dtype=np.uint8) for t in range(4)])
    return path


@pytest.fixture
def site(video):
    """A web server with the video, a slow one, and one that is none; it counts requests."""

    class Site(BaseHTTPRequestHandler):
        requests: list[str] = []

        def do_GET(self):  # noqa: N802
            self.requests.append(self.path)
            self.send_response(404 if self.path == "/nothing.mp4" else 200)
            self.end_headers()
            content = b"<html>" if self.path == "/page.mp4" else video.read_bytes()
            for byte in range(0, len(content), len(content) // 10 or 1):
                self.wfile.write(content[byte : byte + (len(content) // 10 or 1)])
                if self.path == "/slow.mp4":
                    self.wfile.flush()
                    time.sleep(0.08)

        def handle(self):
            with contextlib.suppress(ConnectionError):  # of a client that has enough
                super().handle()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Site.requests
    server.shutdown()


def test_a_real_video_is_fetched_once_and_comes_first(site, video, tmp_path, monkeypatch):
    address, requests = site
    monkeypatch.setitem(examples.HASHES, f"{address}/a.mp4", hashlib.sha256(video.read_bytes()).hexdigest())
    for folder in ("first", "second"):
        videos, images = examples.make_examples(tmp_path / folder, f"{address}/a.mp4")
        assert [path.read_bytes() for path in videos] == [video.read_bytes()]
        assert [path.is_file() for path in images] == [True]
    assert requests.count("/a.mp4") == 1


def test_a_path_is_taken_and_off_means_none(video, tmp_path):
    videos, _ = examples.make_examples(tmp_path / "examples", str(video))
    assert videos[0].parent == tmp_path / "examples" and videos[0].read_bytes() == video.read_bytes()
    assert examples.make_examples(tmp_path / "none", "off") == ([], [])


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/other.mp4", "SHA-256 is"),
        ("/large.mp4", "more than 0 MiB"),
        ("/slow.mp4", "did not arrive within|timed out"),
        ("/nothing.mp4", "404"),
        ("/page.mp4", "cannot be had"),
    ],
)
def test_what_cannot_be_had_is_left_out_and_logged(place, reason, site, tmp_path, monkeypatch, caplog):
    address = site[0] + place
    if place == "/other.mp4":
        monkeypatch.setitem(examples.HASHES, address, "0" * 64)
    if place == "/large.mp4":
        monkeypatch.setattr(examples, "MOST_BYTES", 100)
    if place == "/slow.mp4":
        monkeypatch.setattr(examples, "SECONDS", 0.5)
    assert examples.make_examples(tmp_path / "examples", address) == ([], [])
    assert re.search(reason, caplog.text) and address in caplog.text
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_offline_nothing_is_asked(site, tmp_path, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert examples.make_examples(tmp_path / "examples", f"{site[0]}/offline.mp4") == ([], [])
    assert "HF_HUB_OFFLINE is set" in caplog.text
    assert "/offline.mp4" not in site[1]

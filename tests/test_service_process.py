"""The HTTP service as a process of its own, with the included model, from the first line it prints to its end."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import pytest


pytest.importorskip("fastapi", reason="the service needs the extra: pip install efficienttam-hf[serve]")

from reference import write_frames  # noqa: E402
from service_made import events_of  # noqa: E402

from efficienttam_hf.mask_io import decode_rle  # noqa: E402
from efficienttam_hf.synthetic_clip import make_clip  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_process_serves_tracks_and_leaves_nothing(tmp_path, monkeypatch, ending):
    clip = make_clip(6, 160, 120)
    write_frames(tmp_path / "clip.mp4", 12, clip.frames)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.delenv("EFFICIENTTAM_TOKEN", raising=False)
    command = [sys.executable, "-m", "efficienttam_hf.cli", "serve", "--model", "efficienttam-nano", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = []
            while not lines or not lines[-1].startswith("Service: "):
                lines.append(server.stdout.readline())
                assert lines[-1], server.stderr.read()
            token = next(line.split()[1] for line in lines if line.startswith("Token: "))
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=lines[-1].split()[1], headers=headers, timeout=120) as client:
                content = (tmp_path / "clip.mp4").read_bytes()
                session = client.post("/v1/sessions", files={"file": ("clip.mp4", content)}).json()
                path = f"/v1/sessions/{session['id']}"
                prompt = {"frame": 0, "points": [clip.click]}
                given = {"objects": [{"id": 1, "prompts": [prompt]}], "preview": True}
                (shown,) = client.post(f"{path}/prompts", json=given).json()["preview"]
                first = decode_rle(shown["objects"][0]["segmentation"])
                assert (first & clip.masks[0]).sum() > 0.8 * (first | clip.masks[0]).sum()
                *frames, end = events_of(client.post(f"{path}/propagate").text)
                assert len(frames) == 6
                assert end["complete"]
                last = decode_rle(frames[-1]["objects"][0]["segmentation"])
                assert (last & clip.masks[-1]).sum() > 0.8 * (last | clip.masks[-1]).sum()
                with client.stream("POST", f"{path}/propagate") as stream:
                    next(stream.iter_lines())
                    server.send_signal(ending)
                    server.wait(60)
        finally:
            server.kill()
        assert server.returncode == 128 + ending
        assert "Traceback" not in server.stderr.read()
    assert list(scratch.glob("efficienttam-*")) == []


@pytest.mark.slow
def test_errors_of_the_command_are_one_line(tmp_path):
    def error_of(*options):
        command = [sys.executable, "-m", "efficienttam_hf.cli", "serve", "--model", "efficienttam-nano", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "other machines can reach 0.0.0.0" in error_of("--no-auth", "--host", "0.0.0.0")
    assert "max_sessions must be a whole number above 0" in error_of("--max-sessions", "0")
    assert "cannot listen on 127.0.0.1, port 99999" in error_of("--port", "99999")

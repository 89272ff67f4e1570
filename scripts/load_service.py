"""Measure the HTTP service with many clients at once, on this machine only.

    python scripts/load_service.py --clients 20

A service is started as a process of its own, with a token and its default limits. Each client uploads a short
generated video, prompts an object, tracks it while it reads the events, fetches the results, compares their masks with
those of the events, and deletes its session. Meanwhile another client asks for the state of the service and segments an
image again and again: these requests show how long a short one waits while videos are tracked. At the end, the service
is stopped, and its temporary folder must be gone.

The number of clients and frames and the time are bounded, and no other machine is contacted. The script needs httpx.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from efficienttam_hf.app.defaults import INCLUDED_MODEL
from efficienttam_hf.synthetic_clip import SyntheticClip, make_clip
from efficienttam_hf.video_writer import VideoWriter


MOST_CLIENTS, MOST_FRAMES, MOST_SECONDS = 64, 64, 1800
TOKEN = "a-token-for-the-load-test"
WIDTH, HEIGHT = 320, 240


def main(argv: list[str] | None = None) -> int:
    """Run the clients and print a table; 0 if every client got all its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20, help=f"up to {MOST_CLIENTS} (default: 20)")
    parser.add_argument("--frames", type=int, default=12, help=f"frames of each video, up to {MOST_FRAMES}")
    parser.add_argument("--model", default=INCLUDED_MODEL)
    parser.add_argument("--seconds", type=int, default=600, help="for all together (default: 600)")
    args = parser.parse_args(argv)
    for name, most in (("clients", MOST_CLIENTS), ("frames", MOST_FRAMES), ("seconds", MOST_SECONDS)):
        if not 1 <= getattr(args, name) <= most:
            parser.error(f"--{name} is from 1 to {most}, got {getattr(args, name)}")

    clip = make_clip(args.frames, WIDTH, HEIGHT)
    command = [sys.executable, "-m", "efficienttam_hf.cli", "serve", "--model", args.model, "--port", "0"]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "clip.mp4"
        with VideoWriter(path, 24, WIDTH, HEIGHT) as writer:
            for frame in clip.frames:
                writer.write(frame)
        environment = {**os.environ, "TMPDIR": scratch, "EFFICIENTTAM_TOKEN": TOKEN}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            return measure(server, clip, path.read_bytes(), args, Path(scratch))
        finally:
            server.kill()
            server.wait()


def measure(
    server: subprocess.Popen[str], clip: SyntheticClip, video: bytes, args: argparse.Namespace, scratch: Path
) -> int:
    """Run the clients against a server that has just been started, stop it, and print the table."""
    address = address_of(server)
    before = memory_of(server.pid)
    image = io.BytesIO()
    Image.fromarray(clip.frames[0]).save(image, "PNG")
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=args.seconds) as client:
        run_client(client, video, clip.click)  # warms up
        stop = threading.Event()
        short: dict[str, list[float]] = {"state of the service": [], "an image": []}
        asking = threading.Thread(target=ask, args=(client, image.getvalue(), clip.click, stop, short))
        asking.start()
        begin = time.perf_counter()
        with ThreadPoolExecutor(args.clients) as pool:
            clients = [pool.submit(run_client, client, video, clip.click) for _ in range(args.clients)]
            results = [one.result(timeout=args.seconds) for one in clients]
        seconds = time.perf_counter() - begin
        stop.set()
        asking.join()
        left = client.get("/v1/info").json()["sessions"]
    peak = memory_of(server.pid)
    server.send_signal(signal.SIGINT)
    code = server.wait(30)
    remains = [path.name for path in scratch.glob("efficienttam-*")]

    frames = args.clients * args.frames
    rows = [
        ("clients", f"{args.clients}, with {args.frames} frames each"),
        ("all results right", f"{sum(one['right'] for one in results)} of {args.clients}"),
        ("time for all", f"{seconds:.1f} s, {frames / seconds:.1f} frames/s together"),
        ("until the first frame", spread([one["first"] for one in results])),
        ("until the results", spread([one["whole"] for one in results])),
        *((f"meanwhile: {name}", f"{spread(times)}, {len(times)} requests") for name, times in short.items()),
        ("memory of the server", f"{before:.0f} MB before, {peak:.0f} MB at its highest"),
        ("sessions left; exit code; folders left", f"{left}; {code}; {remains or 'none'}"),
    ]
    print("\n".join(f"| {name} | {value} |" for name, value in rows))
    return 0 if all(one["right"] for one in results) and not left and not remains else 1


def address_of(server: subprocess.Popen[str]) -> str:
    """Wait until the server has printed its address; it listens on the loopback interface."""
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("Service: "):
            return line.split()[1].rstrip("/")
    raise SystemExit("The service did not start.")


def run_client(client: httpx.Client, video: bytes, click: tuple[float, float]) -> dict[str, Any]:
    """One client, from the upload to the deletion: seconds to the first frame and to the results, and if they agree."""
    begin = time.perf_counter()
    session = checked(client.post("/v1/sessions", files={"file": ("clip.mp4", video)}))
    path = f"/v1/sessions/{session['id']}"
    checked(client.post(f"{path}/prompts", json={"objects": [{"id": 1, "prompts": [{"frame": 0, "points": [click]}]}]}))
    first, events = 0.0, []
    with client.stream("POST", f"{path}/propagate") as stream:
        for line in stream.iter_lines():
            event = json.loads(line)
            if event["event"] == "frame":
                first = first or time.perf_counter() - begin
                events.append(event["objects"][0]["segmentation"])
    frames = checked(client.get(f"{path}/results"))["frames"]
    whole = time.perf_counter() - begin
    client.delete(path).raise_for_status()
    right = len(events) == session["frames"] and events == [frame["objects"][0]["segmentation"] for frame in frames]
    return {"first": first, "whole": whole, "right": right}


def ask(
    client: httpx.Client, image: bytes, click: tuple[float, float], stop: threading.Event, times: dict[str, list[float]]
) -> None:
    """Make short requests until `stop`, and note how long each took."""
    prompts = json.dumps([{"id": 1, "points": [click]}])
    while not stop.is_set():
        begin = time.perf_counter()
        checked(client.get("/v1/info"))
        times["state of the service"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        checked(client.post("/v1/segment", files={"image": ("a.png", image)}, data={"prompts": prompts}))
        times["an image"].append(time.perf_counter() - begin)
        stop.wait(0.5)


def checked(answer: httpx.Response) -> Any:
    """The JSON of an answer that must be a success."""
    if answer.is_error:
        raise SystemExit(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    return answer.json()


def spread(seconds: list[float]) -> str:
    """Median and largest."""
    return f"median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s"


def memory_of(pid: int) -> float:
    """The largest resident memory of a process so far, in MB; not a number where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())

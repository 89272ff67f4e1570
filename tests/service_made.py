"""A service with a scripted model for tests: an object is the box of its first prompt, which moves to the right."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager

import numpy as np
import uvicorn
from media_made import grey, write_video
from PIL import Image

from efficienttam_hf.app.plan import TrackedFrame
from efficienttam_hf.prompts import Box
from efficienttam_hf.serving.app import create_app
from efficienttam_hf.serving.settings import ServiceSettings


TOKEN = "a token for the tests"
HEIGHT, WIDTH, COUNT = 48, 64, 8
BOX = (8, 10, 24, 30)
ONE = {"objects": [{"id": 1, "prompts": [{"frame": 0, "box": list(BOX)}]}]}


class ScriptedEngine:
    """Stands in for `serving.engine.Engine`. `step` is called before each frame."""

    name, device = "scripted", "cpu"

    def __init__(self, step=lambda: None):
        self.step = step
        self.frames = []

    def track(self, clip, prompts, plan):
        order = list(range(min(plan.first.values()), clip.count))
        if plan.direction != "forward":
            order += range(max(plan.first.values()), -1, -1)
        given = {i: one for on_frame in prompts.values() for i, one in on_frame.items()}
        with clip.open() as frames:
            for index in order:
                self.step()
                assert frames[index].shape[:2] == clip.size
                self.frames.append(index)
                yield self._found(clip.size, index, given)

    def segment_frame(self, clip, index, prompts):
        return self._found(clip.size, index, prompts, shift=0)

    def propose_masks(self, image, prompts, multimask=None):
        size = image.shape[:2]
        masks = {i: mask_of(size, one, 0) for i, one in prompts.items()}
        return {i: [{"score": s, "mask": mask} for s in (0.9, 0.5, 0.1)] for i, mask in masks.items()}

    def segment_everything(self, image, grid):
        return [{"id": 1, "score": 0.8, "mask": np.ones(image.shape[:2], bool)}]

    def _found(self, size, index, prompts, shift=None):
        masks = [mask_of(size, one, index if shift is None else shift) for one in prompts.values()]
        logits = np.where(np.stack(masks), 5.0, -5.0).astype(np.float32)
        return TrackedFrame(index, list(prompts), logits, [0.9] * len(masks))


def mask_of(size, prompts, shift):
    """The mask of an object, `shift` pixels to the right of where it was prompted."""
    if prompts.mask is not None:
        return prompts.mask
    x, y = prompts.points[0] if prompts.points else (0, 0)
    x0, y0, x1, y1 = prompts.box or Box(x - 4, y - 4, x + 4, y + 4)
    mask = np.zeros(size, bool)
    mask[max(0, round(y0)) : round(y1), max(0, round(x0)) + shift : round(x1) + shift] = True
    return mask


def make_service(root, engine=None, token=TOKEN, **limits):
    """The application, with a scripted model."""
    return create_app(engine or ScriptedEngine(), ServiceSettings(**limits), root, token)


@contextmanager
def served(app):
    """Serve an application on a port of this machine; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def until(condition, seconds=30):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def video_bytes(folder, count=COUNT):
    return write_video(folder / "my clip.mp4", count).read_bytes()


def image_bytes(folder, level=100, suffix=".png"):
    path = folder / f"image{level}{suffix}"
    Image.fromarray(grey(level)).save(path)
    return path.read_bytes()


def events_of(text):
    """The events of a stream, without those that only say that it lives."""
    events = map(json.loads, text.splitlines())
    return [event for event in events if event["event"] != "waiting"]

"""Videos and animated images that tests of media make: frames of one grey each, so that frame `i` is known again."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


HEIGHT, WIDTH = 48, 64


def grey(level, height=HEIGHT, width=WIDTH):
    return np.full((height, width, 3), level, np.uint8)


def levels(frames):
    """The brightness of frames made by `grey`, to the nearest ten."""
    return [int(round(float(frame.mean()), -1)) for frame in frames]


def write_video(path, count=20, codec="libx264", container=None, rate=25, stamps=None, size=(HEIGHT, WIDTH),
                pixels="yuv420p", options=None, sound=None):  # fmt: skip
    """Frame `i` is grey of brightness `10 * i`; stamps are in milliseconds; sound is the name of an encoder."""
    base = Fraction(1, 1000) if stamps else 1 / Fraction(rate)
    with av.open(f"file:{os.path.abspath(path)}", "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = base
        track = output.add_stream(sound, rate=48000) if sound else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(grey(10 * number % 256, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = (stamps[number] if stamps else number), base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound:  # silence, then from half of the time on a tone
            times = np.arange(int(48000 * count * base)) / 48000
            tone = (np.sin(2 * np.pi * 440 * times) * (times >= times[-1] / 2) * 0.5).astype(np.float32)
            for begin in range(0, len(tone), 1024):
                piece = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48000, begin, Fraction(1, 48000)
                output.mux(track.encode(piece))
            output.mux(track.encode(None))
    return Path(path)


def write_animation(path, count=6, **options):
    images = [Image.fromarray(grey(10 * number)) for number in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path

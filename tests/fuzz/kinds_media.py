"""Images, videos and the sound of videos."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from harness import Kind, mutate_bytes
from PIL import Image, features

from efficienttam_hf.image_io import read_image
from efficienttam_hf.video_io import MediaLimits, open_video
from efficienttam_hf.video_writer import VideoWriter


HEIGHT, WIDTH = 48, 64
# Of the process that reads, one gigabyte; what a user's machine has is more, and so are the limits that they have.
LIMITS = MediaLimits(max_pixels=4_000_000, max_frames=10_000, max_animation_pixels=2 * 10**8)


def picture(number: int) -> np.ndarray:
    image = np.random.default_rng(number).integers(0, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[10:30, 3 * number : 3 * number + 20] = 200
    return image


def images(folder: Path) -> list[Path]:
    """One of each format, and of the modes that are read in ways of their own."""
    rgb = Image.fromarray(picture(1))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    rgb.save(folder / "a.jpg", exif=exif)
    rgb.save(folder / "b.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.save(folder / "a.png", exif=exif)
    rgb.quantize(16).save(folder / "palette.png")
    Image.fromarray(picture(1)[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    for suffix in ("webp", "bmp", "gif", "ppm", "tif"):
        rgb.save(folder / f"a.{suffix}")
    rgb.save(folder / "lossless.webp", lossless=True, exif=exif)
    rgb.save(folder / "deflate.tif", compression="tiff_deflate")
    if features.check("avif"):
        rgb.save(folder / "a.avif")
    return sorted(folder.iterdir())


def read_as_image(path: Path) -> None:
    read_image(path, limits=LIMITS)


def animations(folder: Path) -> list[Path]:
    frames = [Image.fromarray(picture(number)) for number in range(5)]
    for suffix in ("webp", "png", "gif", "tif") + (("avif",) if features.check("avif") else ()):
        frames[0].save(folder / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=80)
    return sorted(folder.iterdir())


def videos(folder: Path) -> list[Path]:
    import av

    kinds = {
        "a.mp4": ("libx264", "yuv420p", {"g": "4"}),
        "front.mp4": ("libx264", "yuv420p", {"g": "4"}),
        "a.mkv": ("libx264", "yuv420p", {"g": "4"}),
        "a.mov": ("mjpeg", "yuvj420p", {}),
        "a.avi": ("mpeg4", "yuv420p", {"g": "4"}),
        "a.ts": ("mpeg2video", "yuv420p", {"g": "4"}),
        "a.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
        "a.flv": ("flv", "yuv420p", {}),
        "a.mjpeg": ("mjpeg", "yuvj420p", {}),
        "a.h264": ("libx264", "yuv420p", {"g": "4"}),
    }
    for name, (codec, pixels, options) in kinds.items():
        try:
            av.codec.Codec(codec, "w")
        except Exception:  # noqa: BLE001 -- another class in each version of PyAV; this one has no such encoder
            continue
        how = {"movflags": "faststart"} if name == "front.mp4" else {}
        with av.open(str(folder / name), "w", options=how) as output:
            stream = output.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return sorted(folder.iterdir())


def read_as_video(path: Path) -> None:
    """Forward, backward and with its times, as far as 60 frames go; like the command line, on a thread and on none."""
    ahead = path.stat().st_size % 2
    with open_video(path, prefetch=ahead, threads=1, limits=LIMITS) as video:
        for index, _ in zip(range(60), video, strict=False):
            video.frame_time(index)
        for index in range(min(len(video), 60) - 1, -1, -7):
            try:
                video[index]
            except IndexError:  # beyond the end of what decodes, which is documented
                continue


def sounds(folder: Path) -> list[Path]:
    import av

    for name, codec in (("a.mp4", "aac"), ("a.mkv", "ac3"), ("a.mov", "pcm_s16le"), ("a.ts", "aac")):
        with av.open(str(folder / name), "w") as output:
            stream = output.add_stream(codec, rate=48000)
            for begin in range(0, 24000, 1024):
                tone = np.sin(np.arange(begin, begin + 1024) / 20)[None].astype(np.float32)
                piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48000, begin, Fraction(1, 48000)
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    return sorted(folder.iterdir())


def keep_sound(path: Path) -> None:
    """Whatever the sound is, the video is written and can be read."""
    out = path.parent / "out.mp4"
    with VideoWriter(out, 25, WIDTH, HEIGHT, audio_from=path) as writer:
        for number in range(6):
            writer.write(picture(number))
    with open_video(out, prefetch=0, threads=1) as video:
        if len(video) != 6:
            raise AssertionError(f"the video has {len(video)} frames")


def read_bytes_as_image(path: Path) -> None:
    read_image(io.BytesIO(path.read_bytes()), limits=LIMITS)


KINDS = [
    Kind("image", images, read_as_image, mutate_bytes),
    Kind("image-bytes", images, read_bytes_as_image, mutate_bytes, names_file=False),
    Kind("animation", animations, read_as_video, mutate_bytes),
    Kind("video", videos, read_as_video, mutate_bytes),
    Kind("sound", sounds, keep_sound, mutate_bytes, refused=()),
]

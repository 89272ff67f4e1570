"""Files that would do harm: they name other files, promise more pixels than there is memory, or are cut short. Each is
refused in a sentence before it costs anything, or read as far as it goes.
"""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image

from efficienttam_hf import image_io, video_io
from efficienttam_hf.cli import main
from efficienttam_hf.image_io import read_image
from efficienttam_hf.video_io import MediaLimits, VideoError, open_video
from efficienttam_hf.video_writer import VideoWriter


av = pytest.importorskip("av", reason="reading and writing video files needs PyAV")

from media_made import HEIGHT, WIDTH, grey, write_animation, write_video  # noqa: E402


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


# ----------------------------------------------------------------------------------------------- files that name others


@pytest.fixture
def secret(tmp_path):
    return write_video(tmp_path / "secret.ts", 5, container="mpegts")


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile 'file:{path}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet>'
    '<Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>file://{path}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
    "<Id>urn:uuid:0</Id></CompositionPlaylist>",
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\n{path}\n",
    "vobsub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
    "lavfi": "testsrc=duration=1\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{path}"/></svg>',
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".ffconcat", ".mpd", ".sdp", ".jpg", ".idx", ".gif"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_file_that_names_other_files_is_not_opened(tmp_path, secret, kind, suffix):
    path = tmp_path / f"upload{suffix}"
    path.write_text(PLAYLISTS[kind].format(path=secret))
    with pytest.raises(VideoError, match="upload"):
        open_video(path)


def test_a_movie_with_its_samples_in_another_file_does_not_read_them(tmp_path):
    path = write_video(tmp_path / "a.mov", 5)
    data = path.read_bytes()
    at = data.index(b"dref")  # entry "url ", self-contained: made to name another file, Mac alias style
    secret = write_video(tmp_path / "secret.mov", 5)
    entry = b"alis" + struct.pack(">I", 0) + str(secret).encode()
    box = struct.pack(">I", 8 + len(entry)) + entry
    changed = data[: at + 12] + box + data[at + 12 + 12 :]
    path.write_bytes(changed)  # boxes no longer fit; a reader must not follow the name all the same
    try:
        with open_video(path) as video, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = list(video)
    except VideoError:
        return
    assert len(frames) <= 5


def test_names_with_a_pattern_are_no_list_of_images(tmp_path):
    for number in range(3):
        Image.fromarray(grey(0)).save(tmp_path / f"{number:03d}.jpg")
    (tmp_path / "%03d.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match="not an image"):
        open_video(tmp_path / "%03d.jpg")
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "x%03d.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps", ".mp4"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    with pytest.raises(VideoError, match="not an image"):
        read_image(path)
    with pytest.raises(VideoError, match="not (an image|a video)"):
        open_video(path)


def test_one_place_opens_images_and_one_opens_videos():
    package = Path(video_io.__file__).parent
    root = package.parents[1]
    files = [*package.rglob("*.py"), *root.glob("demo/*.py"), *root.glob("scripts/*.py")]
    for call, place in (("Image.open(", {"image_io.py"}), ("av.open(", {"_media.py", "video_writer.py"})):
        found = set()
        for file in files:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if call in line]
            if any("truck.jpg" not in line for line in lines):  # the example of a model card
                found.add(file.name)
        assert found == place, call


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in the file system")
def test_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    for read in (open_video, read_image):
        for path in (tmp_path / "pipe.mp4", tmp_path / "pipe.png", Path("/dev/zero")):
            with pytest.raises(VideoError, match="device or a pipe"):
                read(path)


# --------------------------------------------------------------------------------------------------------------- limits


def png_of(width, height):
    """A PNG of a stated size that is a few hundred bytes long."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif_of(width, height, frames):
    """A GIF whose frames are single pixels on a canvas of the stated size."""
    frame = b"!\xf9\x04\x00\n\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00\0\0\0\xff\xff\xff" + frame * frames + b";"


def webp_of(width, height):
    canvas = bytes([2, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHH6I", 40, width, height, 1, 24, *[0] * 6)


LARGE = {
    "canvas.gif": gif_of(16000, 16000, 4),
    "camera.png": png_of(13000, 13000),
    "canvas.webp": webp_of(16000, 16000),
    "a.bmp": bmp_of(20000, 20000),
    "a.ppm": b"P6 20000 20000 255\n",
    "bomb.png": png_of(60000, 60000),
}


def run_alone(code, path):
    """The number that a program prints in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(video_io.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout)


MEASURE = """
import resource, sys
from efficienttam_hf.image_io import read_image
from efficienttam_hf.video_io import open_video
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (read_image, open_video):
    try:
        read(sys.argv[1])
    except ValueError as error:
        assert "EFFICIENTTAM_MAX_PIXELS=" in str(error), error
    else:
        raise SystemExit("it was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_images_of_too_many_pixels_are_refused_before_any_is_decoded(tmp_path):
    pytest.importorskip("resource", reason="peak memory is measured by the system")
    for name, data in LARGE.items():
        (tmp_path / name).write_bytes(data)
        for read in (read_image, open_video):
            with pytest.raises(VideoError, match=rf"{name}' is \d+x\d+ pixels, \d+ million; at most 89 .*limits="):
                read(tmp_path / name)
        with pytest.raises(VideoError, match="million"):
            read_image(io.BytesIO(data))
    environment = os.environ | {"PYTHONPATH": str(Path(video_io.__file__).parents[1])}
    for name in ("canvas.gif", "camera.png"):
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / name)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert measured.returncode == 0, measured.stdout + measured.stderr
        assert int(measured.stdout) < 100  # MB


def test_a_limit_can_be_raised_and_lowered(tmp_path, monkeypatch):
    (tmp_path / "a.gif").write_bytes(gif_of(300, 200, 4))
    Image.fromarray(grey(100, 200, 300)).save(tmp_path / "a.png")
    write_video(tmp_path / "a.mp4", 5, size=(200, 300))
    for name in ("a.gif", "a.png", "a.mp4"):
        with pytest.raises(VideoError, match="300x200 pixels"):
            open_video(tmp_path / name, limits=MediaLimits(max_pixels=59_999))
        open_video(tmp_path / name, limits=MediaLimits(max_pixels=60_000)).close()
        monkeypatch.setenv("EFFICIENTTAM_MAX_PIXELS", "1000")
        with pytest.raises(VideoError, match="EFFICIENTTAM_MAX_PIXELS=60000"):
            open_video(tmp_path / name)
        monkeypatch.delenv("EFFICIENTTAM_MAX_PIXELS")
    monkeypatch.setattr(image_io, "_STRIP_BYTES", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit is no obstacle to who allows more
    assert read_image(tmp_path / "a.png", limits=MediaLimits(max_pixels=60_000)).shape == (200, 300, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    for wrong in ("many", "-1", "0", "1e9", "9" * 40):
        monkeypatch.setenv("EFFICIENTTAM_MAX_PIXELS", wrong)
        with pytest.raises(VideoError, match="EFFICIENTTAM_MAX_PIXELS must be a positive whole number"):
            MediaLimits.from_environment()


def test_frames_and_their_product_with_pixels_are_limited(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif_of(300, 200, 4))
    write_animation(tmp_path / "a.webp", duration=40)
    write_video(tmp_path / "a.mp4", 5)
    write_video(tmp_path / "a.mkv", 5)
    write_video(tmp_path / "a.h264", 5, container="h264")
    for name in ("a.gif", "a.webp", "a.mp4", "a.mkv", "a.h264"):
        with pytest.raises(VideoError, match=r"has \d frames; at most 3.*EFFICIENTTAM_MAX_VIDEO_FRAMES="):
            open_video(tmp_path / name, limits=MediaLimits(max_frames=3))
    with pytest.raises(VideoError, match="pixels in all.*EFFICIENTTAM_MAX_ANIMATION_PIXELS=240000"):
        open_video(tmp_path / "a.gif", limits=MediaLimits(max_animation_pixels=200_000))
    with pytest.raises(VideoError, match="pixels in all.*EFFICIENTTAM_MAX_VIDEO_PIXELS="):
        open_video(tmp_path / "a.mp4", limits=MediaLimits(max_video_pixels=10_000))


def test_an_image_in_the_limits_takes_little_more_memory_than_its_pixels(tmp_path):
    pytest.importorskip("resource", reason="peak memory is measured by the system")
    Image.new("RGB", (8000, 6000), (10, 20, 30)).save(tmp_path / "a.png", compress_level=1)  # 144 MB as RGB
    code = (
        "import resource, sys; from efficienttam_hf.image_io import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_image(sys.argv[1])[5999, 7999].tolist() == [10, 20, 30]\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    assert run_alone(code, tmp_path / "a.png") < 144 + 192 + 80  # as RGB, as Pillow holds it, and some strips


# ------------------------------------------------------------------------------------------------- cut short, and leaks


@pytest.mark.parametrize(
    "name, how",
    [
        ("a.mp4", {"options": {"g": "5"}}),
        ("a.mkv", {"options": {"g": "5", "bf": "0"}}),
        ("a.webm", {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_a_truncated_video_says_how_many_frames_of_how_many_there_are(tmp_path, name, how):
    whole = tmp_path / f"whole{name}"
    write_video(whole, 100, **how)
    if name.endswith("mp4"):  # the index at the front, as on the web
        with VideoWriter(whole, 25, WIDTH, HEIGHT) as writer:
            for number in range(100):
                writer.write(grey(10 * number % 256))
    with open_video(whole) as video:
        assert len(video) == 100 and video.shortfall == ""
    path = tmp_path / name
    with av.open(str(whole)) as file:
        packets = sorted(packet.pos for packet in file.demux(video=0) if packet.size)
    path.write_bytes(whole.read_bytes()[: packets[40] + 3])
    with pytest.warns(RuntimeWarning, match=r"only \d+ of its 100 frames can be decoded"), open_video(path) as video:
        assert 30 <= len(video) <= 41
        assert "of its 100 frames" in video.shortfall
        assert len(list(video)) == len(video)


def test_a_truncated_video_without_its_index_is_said_to_be_cut_short(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)  # the index at the end
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match="a.mp4.*cut short"):
        open_video(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_errors_leave_no_thread_and_no_open_file(tmp_path):
    write_video(tmp_path / "good.mp4", 30)
    data = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "zeros.mp4").write_bytes(data[:40] + bytes(3000) + data[3040:])
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (tmp_path / "canvas.gif").write_bytes(LARGE["canvas.gif"])
    (tmp_path / "camera.png").write_bytes(LARGE["camera.png"])
    (tmp_path / "cut.png").write_bytes(png_of(100, 100)[:80])
    write_animation(tmp_path / "cut.webp", duration=40)
    (tmp_path / "cut.webp").write_bytes((tmp_path / "cut.webp").read_bytes()[:-60])
    write_animation(tmp_path / "two.tif")

    def attempt_everything():
        for path in sorted(tmp_path.iterdir()):
            for read in (
                read_image,
                lambda path: list(open_video(path)),
                lambda path: open_video(path, start=10_000),
                lambda path: open_video(path, limits=MediaLimits(max_pixels=10)),
                lambda path: open_video(path)[10_000],
            ):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with contextlib.suppress(ValueError, OSError, IndexError):
                        read(path)
        for wrong in (tmp_path / "a.avi", tmp_path / "good.mp4" / "a.mp4"):
            with pytest.raises((ValueError, OSError)):
                VideoWriter(wrong, 25, 8, 8)
        with (
            pytest.warns(RuntimeWarning, match="not kept"),
            VideoWriter(tmp_path / "out.mp4", 25, WIDTH, HEIGHT, audio_from=tmp_path / "text.mp4") as writer,
        ):
            writer.write(grey(0))
        (tmp_path / "out.mp4").unlink()

    attempt_everything()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        attempt_everything()
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= files


def test_a_large_image_is_refused_by_a_command_in_one_line(tmp_path, capsys):
    """Larger than Pillow warns of, smaller than it refuses."""
    (tmp_path / "camera.png").write_bytes(png_of(13000, 13000))
    arguments = ["--point", "4,4", "--model", "efficienttam-nano", "--output", str(tmp_path / "out")]
    assert main(["segment", str(tmp_path / "camera.png"), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "13000x13000 pixels" in line and "EFFICIENTTAM_MAX_PIXELS=169000000" in line

"""What a reader and a writer of frames, images and masks can rely on: exact frame numbers whatever the file and the
direction, bounded memory, clear errors.

The videos are written here, a second or two long, with the features of real files that break naive readers. Where the
repository has real videos beside it (``../shared``), these are read too.
"""

import gc
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficienttam_hf import video_io
from efficienttam_hf.atomic_file import atomic_path
from efficienttam_hf.image_io import read_image
from efficienttam_hf.mask_io import davis_palette, decode_rle, encode_rle, read_indexed_png, write_indexed_png
from efficienttam_hf.video_io import FrameSource, VideoError, open_camera, open_video
from efficienttam_hf.video_writer import VideoWriter


av = pytest.importorskip("av", reason="reading and writing video files needs PyAV")

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL_VIDEOS = sorted((SHARED / "data" / "videos").glob("*.mp4"))
DAVIS = SHARED / "data" / "DAVIS"
HEIGHT, WIDTH = 64, 96
DECODER_THREAD = "efficienttam-video-decoder"

# An unfinished thread or a warning nobody expected is a failure, not a detail.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


NOISE = np.random.default_rng(0).integers(0, 160, (60, 80, 3), dtype=np.uint8)


def picture(number, height=HEIGHT, width=WIDTH):
    """A picture that shows its number: 8 dark or bright squares, its bits, on a pattern that moves along."""
    rows = (np.arange(height) + 2 * number) // 6 % NOISE.shape[0]
    columns = (np.arange(width) + 3 * number) // 6 % NOISE.shape[1]
    image = NOISE[rows[:, None], columns]
    for bit in range(8):
        image[:12, bit * 12 : bit * 12 + 12] = 255 if number >> bit & 1 else 0
    return image


def number_in(image):
    return sum((int(image[4:8, bit * 12 + 4 : bit * 12 + 8].mean()) > 127) << bit for bit in range(8))


def write_video(path, frames=40, codec="libx264", options=None, stamps=None, rate=25, time_base=None, pixels="yuv420p",
                size=(HEIGHT, WIDTH), rotation=None, hflip=False, container=None):  # fmt: skip
    """Encode numbered pictures with PyAV, without any of the package's own code."""
    try:
        av.codec.Codec(codec, "w")
    except Exception:  # noqa: BLE001 -- the class of the error changed between versions of PyAV
        pytest.skip(f"this PyAV has no encoder {codec}")
    time_base = time_base or Fraction(1, rate)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = time_base
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write rotated videos")
            stream.set_display_rotation(rotation, hflip=hflip)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = (stamps[number] if stamps else number), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decoded_linearly(path):
    """What a decoder that runs through the file shows: the definition of frame numbers."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "SLICE"
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]


def packets_of(path):
    with av.open(str(path)) as file:
        return [(packet.pos, packet.size) for packet in file.demux(file.streams.video[0]) if packet.size]


def overwrite_packets(path, numbers):
    data, packets = bytearray(path.read_bytes()), packets_of(path)
    for number in numbers:
        position, size = packets[number]
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


def decoder_threads():
    return [thread for thread in threading.enumerate() if thread.name == DECODER_THREAD]


@pytest.fixture(scope="module")
def bframes(tmp_path_factory):
    """H.264 with B-frames and a keyframe every 10 frames."""
    return write_video(tmp_path_factory.mktemp("videos") / "bframes.mp4", options={"g": "10", "bf": "3"})


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if decoder_threads():
        gc.collect()
    assert not decoder_threads()


# -------------------------------------------------------------------------------------------------------- frame numbers

X264_OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=4:scenecut=0"}
IRREGULAR = np.cumsum(np.random.default_rng(0).integers(1, 200, 40)).tolist()
FILES = {
    "b-frames": {"name": "a.mp4", "options": {"g": "10", "bf": "3"}},
    "one keyframe": {"name": "a.mp4", "options": {"g": "1000", "bf": "2"}},
    "only keyframes": {"name": "a.mp4", "options": {"g": "1"}},
    "open gop, mp4": {"name": "a.mp4", "options": X264_OPEN},
    "open gop, mkv": {"name": "a.mkv", "options": X264_OPEN},
    "open gop, transport stream": {"name": "a.ts", "options": X264_OPEN},
    "open gop, hevc": {
        "name": "a.mp4",
        "codec": "libx265",
        "options": {"x265-params": "open-gop=1:keyint=12:min-keyint=12:bframes=4:log-level=none:pools=none"},
    },
    "no true keyframes": {"name": "a.mp4", "options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
    "variable rate, mp4": {
        "name": "a.mp4",
        "stamps": IRREGULAR,
        "time_base": Fraction(1, 1000),
        "options": {"g": "12"},
    },
    "variable rate, mkv": {
        "name": "a.mkv",
        "stamps": IRREGULAR,
        "time_base": Fraction(1, 1000),
        "options": {"g": "12"},
    },
    "late first stamp": {"name": "a.mkv", "stamps": list(range(1000, 1040)), "options": {"g": "12", "bf": "2"}},
    "negative first stamps": {"name": "a.mp4", "stamps": list(range(-7, 33)), "options": {"g": "12", "bf": "2"}},
    "no stamps at all": {"name": "a.h264", "options": {"g": "12", "bf": "2"}, "container": "h264"},
    "avi": {"name": "a.avi", "codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg-2 program stream": {"name": "a.mpg", "codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "hidden pictures, vp8": {
        "name": "a.webm",
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "4", "g": "20"},
    },
    "hidden pictures, vp9": {
        "name": "a.webm",
        "codec": "libvpx-vp9",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8", "g": "20"},
    },
    "gif": {"name": "a.gif", "codec": "gif", "pixels": "rgb8", "rate": 10},
    "apng": {"name": "a.apng", "codec": "apng", "pixels": "rgb24"},
    "odd size": {"name": "a.mp4", "size": (67, 99), "pixels": "yuv444p", "options": {"g": "12"}},
    "one frame": {"name": "a.mp4", "frames": 1},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_frame_is_the_same_read_forward_backward_and_at_random(kind, tmp_path):
    how = dict(FILES[kind])
    path = write_video(tmp_path / how.pop("name"), **how)
    expected = decoded_linearly(path)
    with open_video(path, window=8) as video:
        assert isinstance(video, FrameSource)
        assert len(video) == len(expected)
        assert (video.height, video.width) == expected[0].shape[:2]
        forward = list(video)
        assert len(forward) == len(expected) and all(map(same, forward, expected))
        backward = list(reversed(video))
        assert len(backward) == len(expected) and all(map(same, backward, expected[::-1]))
        for index in np.random.default_rng(1).integers(0, len(expected), 30):
            assert same(video[int(index)], expected[index]), index


def test_pictures_that_are_never_shown_are_no_frames(tmp_path):
    shown = write_video(
        tmp_path / "shown.webm", codec="libvpx", options={"deadline": "realtime", "cpu-used": "8", "g": "20"}
    )
    path = tmp_path / "hidden.webm"
    if not hasattr(av.container.OutputContainer, "add_stream_from_template"):
        pytest.skip("this PyAV cannot copy packets into another file")
    with av.open(str(shown)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                if number == 25:
                    data[0] &= ~0x10  # "show this frame" in the VP8 header; encoders clear it for reference pictures
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copy)
    with open_video(path, window=5) as video:
        order = [number for number in range(40) if number != 25]
        assert [number_in(frame) for frame in video] == order
        assert [number_in(frame) for frame in reversed(video)] == order[::-1]


def test_the_numbers_written_into_the_pictures_are_the_numbers_read(bframes):
    with open_video(bframes) as video:
        assert [number_in(frame) for frame in video] == list(range(40))
        assert [number_in(video[index]) for index in (39, 0, 11, 10, 9, 25, 25, -1)] == [39, 0, 11, 10, 9, 25, 25, 39]


@pytest.mark.parametrize("prefetch", [0, 1, 7])
@pytest.mark.parametrize("window", [1, 3, None])
def test_prefetch_and_window_change_nothing_but_speed(bframes, prefetch, window):
    with open_video(bframes, prefetch=prefetch, window=window, threads=1) as video:
        order = [0, 1, 2, 9, 8, 7, 6, 30, 29, 28, 0, 39, 38, 5, 5, 4, 20, 21]
        assert [number_in(video[index]) for index in order] == order


def test_start_and_end_choose_a_range_that_is_numbered_from_zero(bframes):
    with open_video(bframes, start=13, end=22) as video:
        assert len(video) == 9
        assert [number_in(frame) for frame in video] == list(range(13, 22))
        assert [number_in(frame) for frame in reversed(video)] == list(range(21, 12, -1))
        assert number_in(video[-1]) == 21
        assert video.frame_name(0) == "00013"
        with pytest.raises(IndexError, match="9 frames"):
            video[9]


def test_a_video_says_its_size_rate_and_name(bframes):
    with open_video(bframes) as video:
        assert (video.height, video.width, video.fps, video.name) == (HEIGHT, WIDTH, 25.0, "bframes")
    with open_video(bframes, fps=12) as video:
        assert video.fps == 12.0


def test_frames_belong_to_the_reader(bframes):
    with open_video(bframes) as video:
        first = video[3]
        kept = first.copy()
        first[:] = 0
        assert same(video[3], kept)
        assert first.flags.writeable and first.flags.c_contiguous


@pytest.mark.parametrize(
    "rotation, hflip, turn",
    [
        (90, False, lambda image: np.rot90(image, 1)),
        (180, False, lambda image: np.rot90(image, 2)),
        (-90, False, lambda image: np.rot90(image, -1)),
        (0, True, lambda image: image[:, ::-1]),
        (90, True, lambda image: np.rot90(image, 1)[:, ::-1]),
    ],
)
def test_the_rotation_of_phone_videos_is_applied(tmp_path, rotation, hflip, turn):
    upright = write_video(tmp_path / "upright.mp4", 5, options={"g": "3"})
    rotated = write_video(tmp_path / "rotated.mp4", 5, options={"g": "3"}, rotation=rotation, hflip=hflip)
    expected = [turn(image) for image in decoded_linearly(upright)]
    with open_video(rotated) as video:
        assert (video.height, video.width) == expected[0].shape[:2]
        assert all(map(same, video, expected))
        assert video[0].flags.c_contiguous


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL_VIDEOS or [None], ids=lambda path: path.stem if path else "none")
def test_real_videos_read_the_same_in_all_directions(path):
    if path is None:
        pytest.skip(f"no real videos in {SHARED / 'data' / 'videos'}")

    def small(frame):  # copied: a view would keep all the pixels of 300 frames
        return frame[::16, ::16].copy()

    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "AUTO"
        expected = {
            number: small(frame.to_ndarray(format="rgb24"))
            for number, frame in enumerate(file.decode(video=0))
            if number % 20 == 0
        }
        count = file.streams.video[0].frames
    with open_video(path) as video:
        assert len(video) == count
        forward = list(map(small, video))
        assert len(forward) == count and all(same(forward[number], image) for number, image in expected.items())
        # Backward only through the last frames, which is where keyframes are far away.
        for index in [count - 1, 3, 120, *range(count - 1, count - 110, -1)]:
            assert same(small(video[index]), forward[index]), index


# ------------------------------------------------------------------------------------------------------ memory, threads


def test_decoded_frames_held_are_bounded_in_both_directions(tmp_path):
    path = write_video(tmp_path / "long.mp4", 120, options={"g": "60"})
    prefetch, window = 3, 10
    with open_video(path, prefetch=prefetch, window=window) as video:
        decoder, prefetcher = video._decoder, video._prefetcher

        def most_held(indices, pause=0.0):
            held = ready = 0
            for index in indices:
                video[index]
                time.sleep(pause)  # for frames to be prefetched that are not read
                held, ready = max(held, len(decoder._held)), max(ready, len(prefetcher._ready))
            return held, ready

        # One more may show while the oldest is being let go of.
        held, ready = most_held(range(120))
        assert held <= prefetch + 2 + 1 and ready <= prefetch + 1
        held, ready = most_held(range(119, -1, -1))
        assert 2 < held <= window + 1 and ready <= prefetch + 1
        held, ready = most_held(np.random.default_rng(0).integers(0, 120, 20).tolist(), pause=0.02)
        assert held <= window + 1 and ready <= prefetch + 1


def test_reading_backward_decodes_each_frame_a_bounded_number_of_times(tmp_path, monkeypatch):
    count, window = 120, 30
    path = write_video(tmp_path / "long.mp4", count, options={"g": "1000"})  # a single keyframe: the worst case
    with open_video(path, window=window) as video:
        decoded = []
        next_picture = video._decoder._next_picture
        monkeypatch.setattr(video._decoder, "_next_picture", lambda: decoded.append(1) or next_picture())
        assert [number_in(frame) for frame in reversed(video)] == list(range(count - 1, -1, -1))
    # Frame by frame it would be 120 * 121 / 2 = 7260.
    assert len(decoded) <= count + count * count // (2 * window) + count


def test_reading_backward_seeks_once_a_window_even_where_every_frame_is_a_keyframe(tmp_path, monkeypatch):
    path = write_video(tmp_path / "intra.mp4", 120, options={"g": "1"})
    with open_video(path, window=30) as video:
        sought = []
        seek = video._decoder._seek
        monkeypatch.setattr(video._decoder, "_seek", lambda time: sought.append(1) or seek(time))
        assert [number_in(frame) for frame in reversed(video)] == list(range(119, -1, -1))
    assert len(sought) < 120 / 5


RUN_ALONE = """
import resource, sys, types
package = sys.modules["efficienttam_hf"] = types.ModuleType("efficienttam_hf")
package.__path__ = [{folder!r}]
from efficienttam_hf import video_io
path = {path!r}
"""


def run_alone(path, code):
    """Run code in a fresh process that has the module and what it imports, not all of the package."""
    program = RUN_ALONE.format(folder=str(Path(video_io.__file__).parent), path=str(path)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    size, count = (360, 640), 300  # 207 MB as RGB
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "50", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture(0, *size), format="rgb24").reformat(format="yuv420p")
        for number in range(count):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    result = run_alone(
        path,
        """
video = video_io.open_video(path, window=32)
video[0]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(1 for _ in video) == sum(1 for _ in reversed(video)) == 300
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
""",
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 60  # MB; 32 decoded frames are 11


def test_a_process_may_end_without_closing_its_videos(bframes):
    result = run_alone(
        bframes, "video = video_io.open_video(path); other = video_io.open_video(path)\nvideo[5], other[39]\nprint(1)"
    )
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "1", "")


def test_importing_the_modules_imports_no_video_library(bframes):
    result = run_alone(
        bframes,
        """
from efficienttam_hf import atomic_file, image_io, mask_io, video_writer
print([m for m in ('av', 'cv2', 'pycocotools', 'torch') if m in sys.modules])
""",
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_closing_ends_the_thread_and_reading_afterwards_says_so(bframes):
    video = open_video(bframes)
    video[0]
    assert len(decoder_threads()) == 1
    video.close()
    assert not decoder_threads()
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video[0]


def test_a_forgotten_video_ends_its_thread(bframes):
    video = open_video(bframes)
    video[20]
    del video
    gc.collect()
    assert not decoder_threads()


def test_closing_does_not_wait_for_a_long_decoding_run(bframes, monkeypatch):
    video = open_video(bframes)
    next_picture, decoding = video._decoder._next_picture, threading.Event()

    def slowly():
        decoding.set()
        time.sleep(0.1)
        return next_picture()

    monkeypatch.setattr(video._decoder, "_next_picture", slowly)
    outcome = []

    def read():
        try:
            video[39]
        except VideoError as error:
            outcome.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert decoding.wait(5)
    begin = time.perf_counter()
    video.close()
    assert time.perf_counter() - begin < 0.6  # the ten pictures since the last keyframe would take a second
    reader.join(5)
    assert not reader.is_alive() and "closed while being read" in outcome[0]


def test_several_threads_may_read_one_video(bframes):
    with open_video(bframes) as video:
        seen = {}

        def read(indices):
            seen.update({index: number_in(video[index]) for index in indices})

        readers = [threading.Thread(target=read, args=(range(k, 40, 4),)) for k in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert seen == {index: index for index in range(40)}


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_video_cut_short_gives_what_decodes_and_warns(tmp_path):
    path = tmp_path / "cut.mp4"
    with VideoWriter(path, 25, WIDTH, HEIGHT) as writer:  # index at the front: otherwise nothing could be read at all
        for number in range(60):
            writer.write(picture(number))
    position, size = packets_of(path)[40]
    path.write_bytes(path.read_bytes()[: position + size // 2])

    with pytest.warns(RuntimeWarning, match="only 40 of its 60 frames") as caught:
        video = open_video(path)
    assert caught[0].filename == __file__
    with video:
        # B-frames whose packets were cut away leave gaps before the last frame.
        numbers = [number_in(frame) for frame in video]
        assert len(numbers) == len(video) == 40
        assert numbers[:36] == list(range(36)) and numbers == sorted(numbers)
        assert [number_in(frame) for frame in reversed(video)] == numbers[::-1]
        with pytest.raises(IndexError, match="Only 40 of its 60 frames can be decoded"):
            video[40]


def test_an_undecodable_end_is_found_when_it_is_read(tmp_path, bframes):
    path = tmp_path / "bad end.mp4"
    path.write_bytes(bframes.read_bytes())
    overwrite_packets(path, range(30, 40))
    with open_video(path) as video:
        assert len(video) == 40
        with pytest.warns(RuntimeWarning, match="only 30 of its 40 frames"):
            assert [number_in(frame) for frame in video] == list(range(30))
        assert len(video) == 30
    with open_video(path) as video, pytest.warns(RuntimeWarning, match="only 30 of its 40 frames"):
        assert [number_in(frame) for frame in reversed(video)] == list(range(29, -1, -1))
    with open_video(path) as video, pytest.warns(RuntimeWarning), pytest.raises(IndexError, match="30 of its 40"):
        video[35]


@pytest.mark.parametrize("damaged", [10, 11, 15, 3])
def test_a_damaged_frame_does_not_shift_the_numbers_of_later_ones(tmp_path, bframes, damaged):
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bframes.read_bytes())
    overwrite_packets(path, [damaged])
    with open_video(path) as video:
        with pytest.warns(RuntimeWarning, match=r"Frames? \d+.* cannot be decoded, the file is damaged there"):
            forward = list(video)
        assert len(forward) == 40
        assert [number_in(frame) for frame in forward[20:]] == list(range(20, 40))
        assert all(map(same, reversed(video), forward[::-1]))
        assert all(same(video[index], forward[index]) for index in (12, 38, 11, 10, 3, 15))


def test_a_video_that_changes_size_names_the_frame_and_both_sizes(tmp_path):
    parts = [
        write_video(tmp_path / f"{k}.h264", 6, options={"bf": "0"}, size=size, container="h264").read_bytes()
        for k, size in enumerate([(64, 96), (48, 128)])
    ]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(parts))
    with open_video(path) as video:
        assert [number_in(video[index]) for index in range(6)] == list(range(6))
        with pytest.raises(VideoError, match="frame 6 is 128x48 pixels, while frame 0 is 96x64"):
            video[6]
        assert number_in(video[5]) == 5


# -------------------------------------------------------------------------------------------------------- wrong sources


def test_a_missing_path_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4"):
        open_video(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="open_camera"):
        open_video("rtsp://host/stream")
    with pytest.raises(TypeError, match="list"):
        open_video([1])


@pytest.mark.parametrize(
    "content, message",
    [(b"", "empty"), (b"This is a text, not a video. " * 99, "not a video"), (bytes(5000), "not a video")],
)
def test_a_file_that_is_no_video_is_refused(tmp_path, content, message):
    path = tmp_path / "file.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as caught:
        open_video(path)
    assert "file.mp4" in str(caught.value)


def test_a_file_without_video_stream_says_what_it_holds(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"no video stream.*audio"):
        open_video(path)


def test_a_video_without_any_decodable_frame_is_refused(tmp_path):
    path = write_video(tmp_path / "broken.mp4", 5)
    overwrite_packets(path, range(5))
    with pytest.raises(VideoError, match=r"No frame of .* can be decoded"):
        open_video(path)


@pytest.mark.parametrize("bounds", [{"start": 40}, {"start": -1}, {"end": 41}, {"end": 0}, {"start": 7, "end": 7}])
def test_a_range_outside_the_video_is_refused_with_the_number_of_frames(bframes, bounds):
    with pytest.raises(VideoError, match="has 40 frames, numbered 0 to 39"):
        open_video(bframes, **bounds)


@pytest.mark.parametrize("wrong", [{"prefetch": -1}, {"window": 0}, {"threads": -2}, {"fps": 0}, {"fps": float("nan")}])
def test_settings_out_of_range_are_named(bframes, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        open_video(bframes, **wrong)


def test_an_index_out_of_range_says_how_many_frames_there_are(bframes):
    with open_video(bframes) as video:
        for index in (40, -41):
            with pytest.raises(IndexError, match=f"Frame {index} .* 40 frames"):
                video[index]
        with pytest.raises(TypeError, match="float"):
            video[1.0]


def test_a_missing_pyav_names_the_extra(bframes, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install efficienttam-hf\[video\]"):
        open_video(bframes)


# ------------------------------------------------------------------------------------------------------ folders, images


def make_folder(folder, names, size=(HEIGHT, WIDTH)):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(picture(number, *size)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:05d}.png" for n in range(12)],
        [f"{n}.png" for n in range(12)],  # 10 comes after 9, not after 1
        [f"{5 * n:05d}.png" for n in range(12)],
        [f"clip7_frame_{n + 1:03d}.png" for n in range(12)],
        ["only.png"],
    ],
)
def test_a_folder_of_images_is_read_in_the_order_of_numbers(tmp_path, names):
    folder = make_folder(tmp_path / "clip", names)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._00000.png").write_bytes(b"what some systems leave beside files")
    with open_video(folder) as video:
        assert (video.height, video.width, video.fps, video.name) == (HEIGHT, WIDTH, 24.0, "clip")
        assert [number_in(frame) for frame in video] == list(range(len(names)))
        assert [number_in(frame) for frame in reversed(video)] == list(range(len(names)))[::-1]
        assert [video.frame_name(index) for index in range(len(names))] == [Path(name).stem for name in names]


def test_a_folder_with_gaps_names_the_missing_frames(tmp_path):
    folder = make_folder(tmp_path / "clip", [f"{n:05d}.jpg" for n in (0, 1, 2, 5, 6, 8)])
    with pytest.raises(VideoError, match=r"00002.jpg.*00005.jpg.*Missing: 00003.jpg, 00004.jpg, 00007.jpg"):
        open_video(folder)


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "has no images"),
        (["00000.jpg", "00000.png", "00001.png"], "both have the frame number 0"),
        (["00000.jpg", "cat.jpg"], "cat.jpg.*no frame number"),
    ],
)
def test_a_folder_that_is_no_video_is_refused(tmp_path, names, message):
    with pytest.raises(VideoError, match=message):
        open_video(make_folder(tmp_path / "clip", names))


def test_a_folder_whose_images_change_size_names_the_file_and_both_sizes(tmp_path):
    folder = make_folder(tmp_path / "clip", ["0.png", "1.png"])
    Image.fromarray(picture(2, 32, 128)).save(folder / "2.png")
    with pytest.raises(VideoError, match="'2.png' is 128x32 pixels, while '0.png' is 96x64"):
        open_video(folder)


def test_a_damaged_image_is_named_where_it_is_read(tmp_path):
    folder = make_folder(tmp_path / "clip", ["0.jpg", "1.jpg", "2.jpg"])
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) - 300])
    with open_video(folder) as video:
        with pytest.raises(VideoError, match="1.jpg.*damaged or cut short"):
            video[1]
        assert video[2].shape == (HEIGHT, WIDTH, 3)
    (folder / "1.jpg").write_bytes(data[:100])  # within the header, which is read on opening
    with pytest.raises(VideoError, match="1.jpg.*damaged or cut short"):
        open_video(folder)


@pytest.mark.skipif(not DAVIS.exists(), reason=f"no DAVIS sequences in {DAVIS}")
def test_a_davis_sequence_reads_like_its_images():
    folder = DAVIS / "JPEGImages" / "480p" / "dog"
    with open_video(folder) as video:
        assert (len(video), video.width, video.height) == (60, 854, 480)
        assert same(video[17], np.array(Image.open(folder / "00017.jpg").convert("RGB")))
    labels = read_indexed_png(DAVIS / "Annotations" / "480p" / "dog" / "00017.png")
    assert set(np.unique(labels)) == {0, 1}


def test_images_of_all_kinds_become_rgb(tmp_path):
    rgb = picture(5)
    grey = rgb[..., 0]
    cases = {
        "grey": (Image.fromarray(grey), np.stack([grey] * 3, axis=2)),
        "alpha": (Image.fromarray(np.dstack([rgb, np.zeros_like(grey)])), rgb),
        "grey alpha": (Image.fromarray(np.dstack([grey, grey])), np.stack([grey] * 3, axis=2)),
        "bits": (Image.fromarray(grey > 99), np.stack([(grey > 99) * 255] * 3, axis=2)),
        "sixteen": (Image.fromarray(grey.astype(np.uint16) * 257), np.stack([grey] * 3, axis=2)),
    }
    palette = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    palette.putpalette(davis_palette().tobytes())
    cases["palette"] = (palette, davis_palette().reshape(16, 16, 3))
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        assert same(read_image(tmp_path / f"{name}.png"), expected.astype(np.uint8)), name
    # 16 bits are scaled, not cut: 65535 is white and so is what rounds to it.
    Image.fromarray(np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16)).save(tmp_path / "scaled.png")
    assert read_image(tmp_path / "scaled.png")[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_the_orientation_of_a_photo_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display
    Image.fromarray(picture(1)).save(tmp_path / "0.jpg", exif=exif, quality=95)
    Image.fromarray(np.ascontiguousarray(np.rot90(picture(1), -1))).save(tmp_path / "1.jpg", quality=95)
    with open_video(tmp_path) as video:  # one size, although the stored sizes differ
        assert (video.height, video.width) == (WIDTH, HEIGHT)
        assert np.abs(video[0].astype(int) - video[1]).mean() < 3


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    with pytest.raises(VideoError, match=r"text.png.*not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(VideoError, match="empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(VideoError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_image(tmp_path / "nowhere.png")


# -------------------------------------------------------------------------------------------------------------- cameras


def test_a_live_source_is_read_until_it_ends(bframes):
    pytest.importorskip("cv2", reason="cameras are read with OpenCV")
    with open_camera(str(bframes)) as camera:  # OpenCV takes a file for a stream
        assert (camera.height, camera.width, camera.fps) == (HEIGHT, WIDTH, 25.0)
        assert [number_in(frame) for frame in camera] == list(range(40))
        assert next(camera, None) is None
    with open_camera(str(bframes)) as camera:
        frame = next(camera)
        assert np.abs(frame.astype(int) - picture(0)).mean() < 12  # RGB, not BGR
        camera.close()
        assert next(camera, None) is None


def test_a_camera_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("cv2", reason="cameras are read with OpenCV")
    with pytest.raises(VideoError, match="nowhere"):
        open_camera(str(tmp_path / "nowhere.mp4"))


# -------------------------------------------------------------------------------------------------------------- writing


def colours(height=HEIGHT, width=WIDTH):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for k, colour in enumerate(
        [(230, 40, 40), (40, 200, 60), (40, 60, 220), (250, 250, 250), (10, 10, 10), (240, 220, 40)]
    ):
        image[:, k * width // 6 : (k + 1) * width // 6] = colour
    return image


def test_a_written_video_plays_in_a_browser_and_keeps_its_colours(tmp_path):
    path = tmp_path / "new folder" / "out.mp4"
    with VideoWriter(path, 30000 / 1001, WIDTH, HEIGHT) as writer:
        for _ in range(30):
            writer.write(colours())
        assert not path.exists()
        assert writer.frames_written == 30
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == Fraction(30000, 1001)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before it has the whole file
    with open_video(path) as video:
        assert len(video) == 30
        centres = slice(8, None, 16)
        difference = video[7][32, centres].astype(int) - colours()[32, centres]
        assert np.abs(difference).max() <= 6


@pytest.mark.parametrize("height, width", [(65, 97), (64, 97), (65, 96), (1, 1)])
def test_odd_sizes_grow_by_a_repeated_edge(tmp_path, height, width):
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    with VideoWriter(tmp_path / "odd.mp4", 25, width, height) as writer:
        for _ in range(3):
            writer.write(image)
    with open_video(tmp_path / "odd.mp4") as video:
        assert (video.height, video.width) == (height + height % 2, width + width % 2)
        assert np.abs(video[2].astype(int) - 200).max() <= 3


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5], ids=["BT.709", "BT.601"])
def test_colours_are_read_as_the_video_says_they_are_coded(tmp_path, full_range, matrix):
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1 + full_range
        # Converted here by the definition of the matrix, so that no library's reading of it is taken for granted.
        red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
        r, g, b = (colours()[..., channel] / 255 for channel in range(3))
        luma = red * r + (1 - red - blue) * g + blue * b
        planes = [luma, (b - luma) / (2 - 2 * blue) + 0.5, (r - luma) / (2 - 2 * red) + 0.5]
        scales = [(255, 0), (255, 0.5), (255, 0.5)] if full_range else [(219, 16), (224, 16), (224, 16)]
        coded = [np.rint(plane * scale + offset) for plane, (scale, offset) in zip(planes, scales, strict=True)]
        frame = av.VideoFrame.from_ndarray(
            np.concatenate([coded[0].ravel(), coded[1][::2, ::2].ravel(), coded[2][::2, ::2].ravel()])
            .clip(0, 255)
            .astype(np.uint8)
            .reshape(HEIGHT * 3 // 2, WIDTH),
            format="yuv420p",
        )
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with open_video(path) as video:
        centres = slice(8, None, 16)
        assert np.abs(video[1][32, centres].astype(int) - colours()[32, centres]).max() <= 5


def write_then_raise(path, error):
    with VideoWriter(path, 25, WIDTH, HEIGHT) as writer:
        for number in range(9):
            writer.write(picture(number))
        raise error


def test_an_error_while_writing_leaves_no_half_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_then_raise(path, ZeroDivisionError)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_keeps_what_was_written(tmp_path):
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_then_raise(path, KeyboardInterrupt)
    with open_video(path) as video:
        assert [number_in(frame) for frame in video] == list(range(9))


def test_a_forgotten_writer_leaves_nothing(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 25, WIDTH, HEIGHT)
    writer.write(picture(0))
    del writer
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_video_without_frames_is_not_written(tmp_path):
    with pytest.warns(RuntimeWarning, match="No frame was written"), VideoWriter(tmp_path / "out.mp4", 25, 8, 8):
        pass
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(tmp_path):
    for wrong, message in [
        (("a.avi", 25, 8, 8), "MP4"),
        (("a.mp4", 0, 8, 8), "fps"),
        (("a.mp4", 25, 0, 8), "0x8"),
    ]:
        with pytest.raises(VideoError, match=message):
            VideoWriter(tmp_path / wrong[0], *wrong[1:])
    with VideoWriter(tmp_path / "a.mp4", 25, WIDTH, HEIGHT) as writer:
        writer.write(picture(0))
        for frame in (picture(0, 32, 32), picture(0).astype(np.float32), picture(0)[..., 0]):
            with pytest.raises(VideoError, match=r"uint8 \(64, 96, 3\)"):
                writer.write(frame)
    with pytest.raises(VideoError, match="closed"):
        writer.write(picture(0))
    writer.close()


def test_atomic_path_moves_only_what_was_finished(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()

    def fail_midway():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError

    with pytest.raises(OSError):
        fail_midway()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


# ----------------------------------------------------------------------------------------------------- labels and masks


def test_the_palette_is_that_of_davis():
    palette = davis_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert palette[:8].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128],
    ]  # fmt: skip
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_labels_survive_a_png(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_indexed_png(tmp_path / "new" / "a.png", labels)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.mode == "P"
        assert same(np.array(image.convert("RGB")), davis_palette()[labels])
    assert same(read_indexed_png(tmp_path / "new" / "a.png"), labels)
    write_indexed_png(tmp_path / "b.png", labels > 99)
    assert same(read_indexed_png(tmp_path / "b.png"), (labels > 99).astype(np.uint8))


def test_annotations_of_other_kinds_become_labels(tmp_path):
    labels = np.array([[0, 1, 2], [3, 2, 0]], dtype=np.uint8)
    binary = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    for name, image, expected in [
        ("grey", labels, labels),
        ("binary", binary, binary // 255),
        ("binary in colour", np.stack([binary] * 3, axis=2), binary // 255),
        ("colours of DAVIS", davis_palette()[labels], labels),
        ("nothing", np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)),
    ]:
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        assert same(read_indexed_png(tmp_path / f"{name}.png"), expected), name
    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    with pytest.raises(VideoError, match="photo.png.*palette"):
        read_indexed_png(tmp_path / "photo.png")


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.full((2, 2), 256), "0 to 255"),
        (np.full((2, 2), -1), "0 to 255"),
        (np.zeros((2, 2)), "integers"),
        (np.zeros(4, int), "height"),
    ],
)
def test_labels_that_a_png_cannot_hold_are_refused(tmp_path, labels, message):
    with pytest.raises(VideoError, match=message):
        write_indexed_png(tmp_path / "a.png", labels)
    assert not list(tmp_path.iterdir())


def test_masks_survive_run_length_encoding():
    pytest.importorskip("pycocotools", reason="run-length masks need pycocotools")
    mask = np.random.default_rng(0).random((37, 53)) > 0.7
    rle = encode_rle(mask)
    assert rle["size"] == [37, 53] and isinstance(rle["counts"], str)
    assert same(decode_rle(rle), mask)
    assert same(decode_rle({**rle, "counts": rle["counts"].encode()}), mask)
    assert same(decode_rle({"size": [2, 3], "counts": [1, 2, 3]}), np.array([[0, 1, 0], [1, 0, 0]], dtype=bool))
    assert not decode_rle(encode_rle(np.zeros((4, 5), bool))).any()


def test_what_is_no_mask_is_refused():
    pytest.importorskip("pycocotools", reason="run-length masks need pycocotools")
    with pytest.raises(VideoError, match="threshold"):
        encode_rle(np.zeros((4, 4), np.float32))
    for wrong in ({"size": [2, 3]}, {"size": [2, 3], "counts": 5}, "rle", None):
        with pytest.raises(VideoError, match="COCO"):
            decode_rle(wrong)


@pytest.mark.skipif(not (SHARED / "data" / "sav").exists(), reason=f"no SA-V annotations in {SHARED / 'data' / 'sav'}")
def test_masklets_of_sav_decode_to_their_video_size():
    import json

    pytest.importorskip("pycocotools", reason="run-length masks need pycocotools")
    annotation = json.loads((SHARED / "data" / "sav" / "sav_000001_manual.json").read_text())
    rle = annotation["masklet"][0][0]
    mask = decode_rle(rle)
    assert list(mask.shape) == rle["size"] and mask.any()
    assert encode_rle(mask) == {"size": rle["size"], "counts": rle["counts"]}

"""Files as strangers send them: they hold several pictures, state a wrong rate, have an odd name or sound of some kind.
Each is read as what it is, or refused in a sentence.
"""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from efficienttam_hf import image_io
from efficienttam_hf.data.frames import checked_size, header_size
from efficienttam_hf.data.ingredients import Ingredients
from efficienttam_hf.data.schema import DatasetError
from efficienttam_hf.image_io import IMAGE_SUFFIXES, open_image, read_image
from efficienttam_hf.mask_io import read_indexed_png
from efficienttam_hf.video_io import VideoError, open_video
from efficienttam_hf.video_writer import VideoWriter


av = pytest.importorskip("av", reason="reading and writing video files needs PyAV")

from media_made import HEIGHT, WIDTH, grey, levels, write_animation, write_video  # noqa: E402


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def shown(path):
    """How long a written video lasts, and when its frames begin, in seconds."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stamps = sorted(packet.pts for packet in file.demux(stream) if packet.size)
        return float(stream.duration * stream.time_base), [float(s * stream.time_base) for s in stamps]


# ---------------------------------------------------------------------------------------------- several pictures a file

ANIMATIONS = {
    "a.webp": {"duration": [100, 100, 100, 100, 100, 300], "lossless": True},
    "a.png": {"duration": 100},
    "a.gif": {"duration": 100},
    "a.tif": {},
    "a.avif": {"duration": 100, "quality": 95},
}
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def animation_names():
    return [pytest.param(name, marks=needs_avif) if name.endswith("avif") else name for name in ANIMATIONS]


@pytest.mark.parametrize("name", animation_names())
def test_an_animated_image_is_a_video_of_all_its_frames(tmp_path, name):
    path = write_animation(tmp_path / name, **ANIMATIONS[name])
    with open_video(path, window=2) as video:
        assert len(video) == 6
        assert levels(video) == [0, 10, 20, 30, 40, 50]
        assert levels(reversed(video)) == [50, 40, 30, 20, 10, 0]
        assert levels(video[i] for i in (3, 0, 5, 2)) == [30, 0, 50, 20]
        if name != "a.tif":
            length = 0.8 if name == "a.webp" else 0.6
            assert video.frame_time(5) == pytest.approx(0.5) and video.frame_time(6) == pytest.approx(length)
            assert video.fps == pytest.approx(6 / length)


@pytest.mark.parametrize("name", animation_names())
def test_an_animated_image_is_not_taken_for_one_image(tmp_path, name):
    path = write_animation(tmp_path / name, **ANIMATIONS[name])
    with pytest.raises(VideoError, match=rf"{name}' holds 6 (frames|pages).*one image is wanted"):
        read_image(path)
    with pytest.raises(VideoError, match="holds 6"):
        read_image(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("name", animation_names())
def test_an_animated_image_is_no_mask_no_photo_and_no_frame_of_a_data_set(tmp_path, name):
    path = write_animation(tmp_path / name, **ANIMATIONS[name])
    with pytest.raises(VideoError, match=rf"{name}' holds 6 (frames|pages)"):
        read_indexed_png(path)
    if path.suffix in IMAGE_SUFFIXES:
        with pytest.raises(VideoError, match=rf"{name}' holds 6 (frames|pages)"):
            Ingredients(tmp_path)
    for read in (header_size, checked_size):
        with pytest.raises(DatasetError, match="holds 6 (frames|pages)"):
            read({"path": str(path), "bytes": None}, "frame 0")


@pytest.mark.parametrize("name", [name for name in animation_names() if name != "a.gif"])
def test_an_animated_image_is_refused_in_a_folder_of_frames(tmp_path, name):
    suffix = Path(name).suffix if isinstance(name, str) else ".avif"
    for number in range(3):
        Image.fromarray(grey(10 * number)).save(tmp_path / f"{number}{suffix}")
    write_animation(tmp_path / f"2{suffix}", **ANIMATIONS[f"a{suffix}"])
    with pytest.raises(VideoError, match=rf"2\{suffix}' holds 6 frames"):
        open_video(tmp_path)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".avif", ".bmp", ".jpg", ".gif", ".ppm"])
def test_a_still_of_each_format_is_an_image_and_a_video_of_one_frame(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.fromarray(grey(100)).save(tmp_path / f"a{suffix}")
    assert levels([read_image(tmp_path / f"a{suffix}")]) == [100]
    with open_video(tmp_path / f"a{suffix}") as video:
        assert levels(video) == [100]


def test_what_a_file_is_its_content_says(tmp_path):
    Image.fromarray(grey(100)).save(tmp_path / "photo.mp4", format="JPEG")
    write_animation(tmp_path / "moving.jpg", format="WEBP", duration=40, lossless=True)
    write_video(tmp_path / "clip.mkv").rename(tmp_path / "clip.mp4")
    for name, count in (("photo.mp4", 1), ("moving.jpg", 6), ("clip.mp4", 20)):
        with open_video(tmp_path / name) as video:
            assert len(list(video)) == count


def test_previews_in_a_photo_and_smaller_copies_in_a_tiff_are_no_frames(tmp_path):
    write_animation(tmp_path / "phone.jpg", 2, format="MPO")
    assert levels([read_image(tmp_path / "phone.jpg")]) == [0]
    large, small = Image.fromarray(grey(50)), Image.fromarray(grey(50, HEIGHT // 2, WIDTH // 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "map.tif", save_all=True, append_images=[small])
    with open_image(tmp_path / "map.tif") as image:
        assert image.n_frames == 2
        image.seek(1)
        if image.tag_v2.get(254) != 1:
            pytest.skip("this Pillow does not write the kind of a page")
    assert levels([read_image(tmp_path / "map.tif")]) == [50]


# ---------------------------------------------------------------------------------------------------------- frame rates

UNEVEN = [*range(0, 400, 40), *range(400, 4400, 400)]  # ten frames at 25 a second, then ten at 2.5


@pytest.mark.parametrize(
    "name, how, fps, length",
    [
        ("a.dv", {"codec": "dvvideo", "container": "dv", "size": (576, 720)}, 25, 0.8),
        ("a.mjpeg", {"codec": "mjpeg", "pixels": "yuvj420p"}, 25, 0.8),
        ("a.mkv", {"rate": Fraction(30000, 1001)}, 30000 / 1001, 20 * 1001 / 30000),
        ("a.mp4", {"rate": Fraction(30000, 1001)}, 30000 / 1001, 20 * 1001 / 30000),
        ("a.ts", {}, 25, 0.8),
        ("a.h264", {"container": "h264"}, 25, 0.8),
        ("a.avi", {"codec": "mpeg4"}, 25, 0.8),
        ("uneven.mkv", {"stamps": UNEVEN}, 20 / 4.04, 4.04),
        ("uneven.mp4", {"stamps": UNEVEN}, 20 / 4.04, 4.04),
        ("hourly.mkv", {"stamps": [3_600_000 * i for i in range(20)]}, 1 / 3600, 72000),
        ("hourly.mp4", {"stamps": [3_600_000 * i for i in range(20)]}, 1 / 3600, 72000),
    ],
)
def test_the_rate_is_that_of_the_time_stamps_and_a_copy_lasts_as_long(tmp_path, name, how, fps, length):
    with open_video(write_video(tmp_path / name, **how)) as video:
        assert video.fps == pytest.approx(fps, rel=1e-4)
        assert video.frame_time(len(video)) - video.frame_time(0) == pytest.approx(length, rel=1e-3)
        times = [video.frame_time(i) - video.frame_time(0) for i in range(len(video))]
        with VideoWriter(tmp_path / "copy.mp4", video.fps, video.width, video.height) as writer:
            for i, frame in enumerate(video):
                writer.write(frame, video.frame_time(i), video.frame_time(i + 1))
    copied, stamps = shown(tmp_path / "copy.mp4")
    assert copied == pytest.approx(length, rel=1e-3)
    assert stamps == pytest.approx(times, abs=1e-3 + 1e-6 * length)


def test_another_rate_replaces_the_time_stamps(tmp_path):
    path = write_video(tmp_path / "a.mkv", stamps=UNEVEN)
    with open_video(path, fps=10, start=4) as video:
        assert video.fps == 10 and video.frame_time(3) == pytest.approx(0.7)
        assert video.sound is None
    with open_video(path, start=12) as video:
        assert video.frame_time(0) == pytest.approx(UNEVEN[12] / 1000)


@pytest.mark.parametrize("fps", [1 / 3600, 1 / 86400, 0.1, 23.976, 1000])
def test_slow_and_fast_rates_can_be_written(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps, WIDTH, HEIGHT) as writer:
        for number in range(3):
            writer.write(grey(10 * number))
    assert shown(tmp_path / "a.mp4")[0] == pytest.approx(3 / fps, rel=1e-3)


def test_rates_and_times_that_no_video_has_are_refused(tmp_path):
    for fps in (0, -1, 1e-9, 1e9, float("nan")):
        with pytest.raises(VideoError, match="fps"):
            VideoWriter(tmp_path / "a.mp4", fps, 8, 8)
    with VideoWriter(tmp_path / "a.mp4", 25, WIDTH, HEIGHT) as writer:
        writer.write(grey(0), 0.0)
        with pytest.raises(VideoError, match="of all frames or of none"):
            writer.write(grey(0))
        with pytest.raises(VideoError, match="finite"):
            writer.write(grey(0), float("inf"))


# ------------------------------------------------------------------------------------------------------ names of frames


@pytest.mark.parametrize(
    "names",
    [
        ["12-00-50", "12-00-55", "12-01-00", "12-01-05", "13-00-00"],
        ["2026-01-31_23-59-58", "2026-01-31_23-59-59", "2026-02-01_00-00-00"],
        ["cam2_2026-01-31 23.59.58.250", "cam2_2026-01-31 23.59.59.000", "cam2_2026-01-31 23.59.59.750"],
        ["IMG_20260131_235959", "IMG_20260201_000000", "IMG_20260201_000001"],
        ["IMG_20260131_115958", "IMG_20260131_115959", "IMG_20260131_120000"],
        ["shot1_0001", "shot1_0002", "shot2_0003"],
        ["0001_cam7", "0002_cam7", "0003_cam7"],
        ["9", "10", "11"],
    ],
)
def test_frames_are_in_the_order_in_which_a_person_reads_their_names(tmp_path, names):
    for number, name in sorted(enumerate(names), key=lambda pair: pair[1][::-1]):
        Image.fromarray(grey(10 * number)).save(tmp_path / f"{name}.png")
    with open_video(tmp_path) as video:
        assert [video.frame_name(i) for i in range(len(video))] == names
        assert levels(video) == [10 * number for number in range(len(names))]


@pytest.mark.parametrize(
    "names",
    [
        ["a1_0001", "a1_0002", "a2_0001", "a2_0002"],  # two videos
        ["01_00", "01_01", "02_00", "02_01"],  # hours and minutes, or videos and frames
        ["cam2_0001", "cam1_0002"],
        ["12", "12_1"],
    ],
)
def test_names_whose_order_is_open_to_doubt_are_refused(tmp_path, names):
    for name in names:
        Image.fromarray(grey(0)).save(tmp_path / f"{name}.png")
    with pytest.raises(VideoError, match="open to doubt.*name frames by number"):
        open_video(tmp_path)


def test_a_gap_of_thousands_of_millions_is_counted_and_not_listed(tmp_path):
    for name in ("0", "1", "9999999999"):
        Image.fromarray(grey(0)).save(tmp_path / f"{name}.jpg")
    with pytest.raises(VideoError, match=r"Missing: 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg and 9999999992 more") as caught:
        open_video(tmp_path)
    assert len(str(caught.value)) < 1000


# --------------------------------------------------------------------------------------------------- names and metadata


@pytest.mark.parametrize(
    "name", ["12:30:05.mp4", "b:c.mp4", "http:x.mp4", "-i.mp4", "%03d.mp4", "ein café.mp4", "a'b.mp4"]
)
def test_any_name_is_a_file_and_never_an_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 25, WIDTH, HEIGHT) as writer:
        for number in range(3):
            writer.write(grey(10 * number))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with open_video(name) as video:
        assert levels(video) == [0, 10, 20]


def with_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    return exif


def test_motion_jpeg_whose_frames_have_exif(tmp_path):
    """Newer FFmpeg hands out EXIF as a kind of side data that PyAV does not know, and its orientation as a matrix."""
    image = grey(0)
    image[:, : WIDTH // 2] = 200  # bright on the left
    for orientation, bright in ((1, "left"), (2, "right"), (3, "right")):
        parts = []
        for _ in range(3):
            part = io.BytesIO()
            Image.fromarray(image).save(part, format="JPEG", exif=with_exif(orientation))
            parts.append(part.getvalue())
        path = tmp_path / f"{orientation}.mjpeg"
        path.write_bytes(b"".join(parts))
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
            try:
                turned = any(data.type.name == "DISPLAYMATRIX" for data in frame.side_data)
            except ValueError:
                turned = True
        with open_video(path) as video:
            assert len(list(video)) == 3
            left, right = video[0][:, : WIDTH // 4].mean(), video[0][:, -WIDTH // 4 :].mean()
            if turned or orientation == 1:
                assert (left > right) == (bright == "left"), orientation


@pytest.mark.parametrize("suffix", [".jfif", ".tif", ".jpg", ".png"])
def test_photos_with_exif_are_read_whatever_their_suffix(tmp_path, suffix):
    Image.fromarray(grey(100)).save(
        tmp_path / f"a{suffix}", exif=with_exif(6), **({"format": "JPEG"} if suffix == ".jfif" else {})
    )
    with open_video(tmp_path / f"a{suffix}") as video:
        assert (video.height, video.width) == (WIDTH, HEIGHT)


def test_a_kind_of_side_data_that_pyav_lacks_is_passed_over():
    from av.sidedata.sidedata import Type

    from efficienttam_hf._video_decoder import _unknown_kind

    unknown = _unknown_kind(Type, 4711)
    assert unknown.name == "UNKNOWN_4711" and _unknown_kind(Type, 4711) is unknown
    assert Type(4711) is unknown


def test_a_title_in_another_encoding(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "XXXXXX"
        stream = output.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.metadata["title"] = "XXXXXX"
        for number in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(grey(10 * number), format="rgb24")))
        output.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"XXXXXX") >= 2
    path.write_bytes(data.replace(b"XXXXXX", b"K\xf6ln \xff"))
    with open_video(path) as video:
        assert levels(video) == [0, 10, 20]


# ---------------------------------------------------------------------------------------------------------------- sound


def heard(path):
    """The codec of a video's sound, when its tone begins and how long it lasts, in seconds; None without sound."""
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return None
        stream, resampler, first, pieces = file.streams.audio[0], av.AudioResampler("flt", "mono", 8000), None, []
        for frame in file.decode(stream):
            first = frame.time if first is None else first
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    samples = np.concatenate(pieces)
    return stream.codec_context.name, first + np.flatnonzero(abs(samples) > 0.2)[0] / 8000, len(samples) / 8000


@pytest.mark.parametrize(
    "name, sound, kept",
    [
        ("a.mp4", "aac", "aac"),
        ("a.mkv", "ac3", "aac"),
        ("a.ts", "aac", "aac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("mp3.mp4", "libmp3lame", "mp3"),
        ("a.mkv", "flac", "aac"),
    ],
)
def test_the_sound_of_the_frames_goes_along(tmp_path, name, sound, kept):
    with open_video(write_video(tmp_path / name, 100, sound=sound)) as video:  # 4 s; the tone begins after 2 s
        for first, last in ((0, 100), (40, 80)):
            out = tmp_path / "out.mp4"
            with VideoWriter(out, video.fps, WIDTH, HEIGHT, audio_from=video.sound) as writer:
                for i in range(first, last):
                    writer.write(video[i], video.frame_time(i), video.frame_time(i + 1))
            codec, onset, length = heard(out)
            assert codec.startswith(kept)
            assert onset == pytest.approx(2 - first / 25, abs=0.05)
            assert length == pytest.approx((last - first) / 25, abs=0.1)
            assert shown(out)[0] == pytest.approx((last - first) / 25)


def test_a_video_without_sound_stays_without(tmp_path):
    path = write_video(tmp_path / "a.mp4", 5)
    with VideoWriter(tmp_path / "out.mp4", 25, WIDTH, HEIGHT, audio_from=path) as writer, open_video(path) as video:
        for frame in video:
            writer.write(frame)
    assert heard(tmp_path / "out.mp4") is None and shown(tmp_path / "out.mp4")[0] == pytest.approx(0.2)


def test_sound_that_cannot_be_kept_is_left_out_with_a_warning(tmp_path):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    for source, reason in (("text.mp4", "not a video"), ("nowhere.mp4", "No such file|nowhere")):
        writer = VideoWriter(tmp_path / "out.mp4", 25, WIDTH, HEIGHT, audio_from=tmp_path / source)
        with writer, pytest.warns(RuntimeWarning, match=f"sound of .*{source}.* is not kept.*({reason})"):
            writer.write(grey(0))
        assert heard(tmp_path / "out.mp4") is None


def test_images_open_by_content_in_the_formats_listed_only():
    assert set(image_io.FORMATS) == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM"}
    icon = io.BytesIO()
    Image.fromarray(grey(0)).save(icon, format="ICO", sizes=[(16, 16)])
    with pytest.raises(VideoError, match="not an image"):
        read_image(icon)

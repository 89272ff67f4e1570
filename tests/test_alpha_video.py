"""Videos with an alpha channel, written and read back with PyAV."""

import numpy as np
import pytest

from efficienttam_hf.effects import Cutout
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.video_writer import VideoWriter


av = pytest.importorskip("av", reason="videos are written with PyAV")
pytest.importorskip("cv2", reason="effects are drawn with OpenCV")

WIDTH, HEIGHT, NUM_FRAMES = 160, 96, 4


@pytest.fixture(scope="module")
def clip():
    return make_clip(NUM_FRAMES, WIDTH, HEIGHT)


def read_rgba(path):
    """The frames of a video with alpha, uint8 RGBA, with their times in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context
        if decoder.name == "vp9":  # libav's own decoder ignores the second video, which is the alpha channel
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        packets = list(container.demux(stream))
        frames = [frame for packet in packets for frame in decoder.decode(packet)]
        times = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
    return [frame.to_ndarray(format="rgba") for frame in frames], times


def near(picture, mask):
    """How much of an alpha channel is on the side of the mask where it should be."""
    return ((picture[..., 3] > 127) == mask).mean()


@pytest.mark.parametrize("suffix", [".mov", ".webm"])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (HEIGHT + 1, WIDTH - 1)])
def test_a_video_with_alpha_comes_back(suffix, size, tmp_path):
    height, width = size
    clip = make_clip(NUM_FRAMES, width, height)
    times = [0.0, 0.1, 0.25, 0.3]
    with VideoWriter(tmp_path / f"v{suffix}", 10, width, height, alpha=True) as writer:
        for frame, mask, time in zip(clip.frames, clip.masks, times, strict=True):
            writer.write(Cutout(feather=1)(frame, {1: mask}), time)
    frames, shown = read_rgba(tmp_path / f"v{suffix}")
    assert shown == pytest.approx(times, abs=2e-3) and len(frames) == NUM_FRAMES
    for picture, frame, mask in zip(frames, clip.frames, clip.masks, strict=True):
        picture = picture[:height, :width]
        assert near(picture, mask) > 0.995
        assert len(np.unique(picture[..., 3])) > 10  # soft
        difference = np.abs(picture[..., :3].astype(int) - frame)[mask].mean()
        assert difference < (1 if suffix == ".mov" else 12)
    data = (tmp_path / f"v{suffix}").read_bytes()
    assert suffix == ".mov" or b"\x53\xc0\x81\x01" in data  # Matroska's AlphaMode, by which players know


@pytest.mark.parametrize(("suffix", "codec"), [(".mov", "aac"), (".webm", "opus")])
def test_a_video_with_alpha_has_the_sound_of_its_source(suffix, codec, clip, tmp_path):
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        samples = np.sin(np.arange(16000) / 8).astype(np.float32)[None]
        piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        piece.sample_rate = 16000
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    with VideoWriter(tmp_path / f"v{suffix}", 5, WIDTH, HEIGHT, alpha=True, audio_from=source) as writer:
        for frame, mask in zip(clip.frames, clip.masks, strict=True):
            writer.write(Cutout()(frame, {1: mask}))
    with av.open(str(tmp_path / f"v{suffix}")) as container:
        (heard,) = container.streams.audio
        assert heard.codec_context.name.removeprefix("lib") == codec
        pieces = list(container.decode(heard))
    assert sum(p.samples for p in pieces) / pieces[0].sample_rate == pytest.approx(0.8, abs=0.2)
    assert max(np.abs(p.to_ndarray().astype(float)).max() for p in pieces) > 0


def test_a_writer_with_alpha_takes_rgba_in_a_file_that_can_hold_it(clip, tmp_path):
    with pytest.raises(VideoError, match=r"must end in \.mov or \.webm"):
        VideoWriter(tmp_path / "v.mp4", 10, WIDTH, HEIGHT, alpha=True)
    with pytest.raises(VideoError, match=r"must end in \.mp4, \.m4v or \.mov"):
        VideoWriter(tmp_path / "v.webm", 10, WIDTH, HEIGHT)
    with (
        pytest.raises(VideoError, match=r"uint8 \(96, 160, 4\) RGBA is accepted"),
        VideoWriter(tmp_path / "v.webm", 10, WIDTH, HEIGHT, alpha=True) as writer,
    ):
        writer.write(clip.frames[0])
    assert list(tmp_path.iterdir()) == []

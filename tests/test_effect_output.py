"""`--effect` of `track` and `segment`, as a user runs it: which files are written, what is in them, what is refused."""

import numpy as np
import pytest
from PIL import Image
from reference import save_tiny_model, write_frames

from efficienttam_hf import _video_encoding
from efficienttam_hf.cli import main
from efficienttam_hf.effects import Pixelate
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.video_io import open_video


pytest.importorskip("av", reason="videos are written with PyAV")
pytest.importorskip("cv2", reason="effects are drawn with OpenCV")
pytest.importorskip("pycocotools", reason="the command line writes run-length masks with pycocotools")

from test_alpha_video import near, read_rgba  # noqa: E402

from efficienttam_hf.mask_io import read_indexed_png, write_indexed_png  # noqa: E402


WIDTH, HEIGHT, NUM_FRAMES = 160, 96, 4


@pytest.fixture(scope="module")
def clip():
    return make_clip(NUM_FRAMES, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def files(tmp_path_factory, clip):
    """A folder with a tiny random model, a video, and the masks of its two objects as PNGs."""
    root = tmp_path_factory.mktemp("files")
    save_tiny_model(root / "model")
    write_frames(root / "video.mp4", 12, clip.frames, crf=1)
    Image.fromarray(clip.frames[0]).save(root / "image.png")
    for i, mask in enumerate(clip.masks):
        write_indexed_png(root / f"{i}.png", mask)
    return root


@pytest.fixture
def prompts(files):
    """A mask prompt on every frame, which comes back as the result of the frame."""
    return [word for i in range(NUM_FRAMES) for word in ("--frame", str(i), "--mask", str(files / f"{i}.png"))]


def track(files, out, *arguments, expect=0):
    given = ["track", str(files / "video.mp4"), "--model", str(files / "model"), "--output", str(out)]
    assert main([*given, *map(str, arguments)]) == expect
    return out


@pytest.mark.parametrize("kind", ["default", "mov", "png"])
def test_track_cuts_objects_out(kind, files, prompts, clip, tmp_path, capsys):
    chosen = [] if kind == "default" else ["--effect-format", kind]
    out = track(files, tmp_path / "out", *prompts, "--effect", "cutout", *chosen)
    if kind == "png":
        names = sorted(path.name for path in (out / "effect").iterdir())
        assert names == [f"{i:05d}.png" for i in range(NUM_FRAMES)]
        pictures = [np.asarray(Image.open(out / "effect" / name)) for name in names]
        for picture, name in zip(pictures, names, strict=True):
            assert (picture[..., 3] == 255 * (read_indexed_png(out / "Annotations" / "video" / name) == 1)).all()
    else:
        pictures, _ = read_rgba(out / ("effect.webm" if kind == "default" else "effect.mov"))
    assert len(pictures) == NUM_FRAMES
    assert min(near(picture, mask) for picture, mask in zip(pictures, clip.masks, strict=True)) > 0.995
    assert not (out / "overlay.mp4").exists() and "effect  " in capsys.readouterr().out


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_track_hides_an_object_in_a_video_that_browsers_play(direction, files, prompts, clip, tmp_path):
    chain = ["--effect", "pixelate:block=32,grow=2", "--effect", "outline:color=white"]
    out = track(files, tmp_path / "out", *prompts, *chain, "--direction", direction)
    with open_video(out / "effect.mp4") as video:
        pictures = list(video)
    for picture, frame, mask in zip(pictures, clip.frames, clip.masks, strict=True):
        expected = Pixelate(block=32, grow=2)(frame, {1: mask}).astype(int)
        inside = mask & (np.abs(expected - frame).max(axis=2) > 60)
        assert np.median(np.abs(picture.astype(int) - expected)[inside]) < 12
    assert not (out / "overlay.mp4").exists()


def test_a_run_with_an_effect_removes_the_overlay_of_an_earlier_run(files, prompts, tmp_path):
    out = track(files, tmp_path / "out", *prompts)
    assert (out / "overlay.mp4").is_file()
    track(files, out, *prompts, "--overwrite", "--effect", "mask", "--effect-format", "png")
    assert not (out / "overlay.mp4").exists() and (out / "effect" / "00000.png").is_file()
    track(files, out, *prompts, "--overwrite", "--effect", "overlay")
    assert (out / "overlay.mp4").is_file() and not (out / "effect").exists()
    (out / "effect.webm").write_text("a file of the user")
    track(files, out, *prompts, "--overwrite", "--effect", "cutout", expect=2)
    assert (out / "overlay.mp4").is_file() and (out / "effect.webm").read_text() == "a file of the user"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--effect", "sparkle"], "There is no effect 'sparkle'; accepted are overlay, outline"),
        (["--effect", "blur:sigma=0"], "Effect blur: sigma must be a number from 0.5 to 500, got '0'"),
        (["--effect", "cutout", "--effect", "outline"], "so it must be the last effect, but outline follows it"),
        (["--effect", "cutout", "--effect-format", "mp4"], "not written as mp4; accepted are webm, mov, png, or the"),
        (["--effect", "blur", "--effect-format", "mov"], "not written as mov; accepted are mp4, png."),
        (["--effect-format", "png"], "--effect-format png needs an effect, such as --effect cutout"),
        (["--effect", "fill:objects=1+7"], "Effect fill is for object 7, which has no prompt; the objects are 1."),
        (["--effect", "replace-background:image=no.png"], "must be an image file that can be read (There is no image"),
    ],
)
def test_a_bad_effect_is_one_line_and_nothing_is_written(arguments, message, files, tmp_path, capsys):
    track(files, tmp_path / "out", "--point", "40,60", *arguments, expect=2)
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("efficienttam: error: ") and message in line
    assert captured.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "codec"), [("webm", "libvpx-vp9"), ("mov", "prores_ks")])
def test_a_missing_encoder_is_one_line_before_anything_is_loaded(kind, codec, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_video_encoding, "_has_encoder", lambda av, name: name != codec)
    chosen = ["--effect", "cutout", "--effect-format", kind, "--model", "nowhere"]
    track(files, tmp_path / "out", "--point", "40,60", *chosen, expect=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"has no encoder {codec}" in line and "Choose another format" in line
    assert not (tmp_path / "out").exists()


def test_segment_cuts_an_object_out_of_an_image(files, tmp_path, capsys):
    given = ["segment", str(files / "image.png"), "--model", str(files / "model"), "--output", str(tmp_path / "out")]
    assert main([*given, "--point", "40,60", "--effect", "cutout"]) == 0
    picture = np.asarray(Image.open(tmp_path / "out" / "effect.png"))
    mask = np.asarray(Image.open(tmp_path / "out" / "masks.png")) == 1
    assert (picture[..., 3] == 255 * mask).all() and not (tmp_path / "out" / "overlay.png").exists()
    assert "effect   " in capsys.readouterr().out
    assert main([*given, "--overwrite", "--point", "40,60"]) == 0
    assert (tmp_path / "out" / "overlay.png").is_file() and not (tmp_path / "out" / "effect.png").exists()
    assert main([*given, "--overwrite", "--point", "40,60", "--effect", "fill:objects=3"]) == 2
    assert "which has no prompt" in capsys.readouterr().err

"""Media are read with exact sizes, counts and times; bad files are refused."""

from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines import SAMPLES
from soraxla.core.errors import UserError
from soraxla.media import read, videos
from soraxla.media.read import probe, read_clip, read_frames
from soraxla.media.write import write_video
from tests.media.clips import encode, numbered, numbers, ramps

# --- Reading ----------------------------------------------------------------------


def test_every_sample_reads_as_probed():
    files = [f for f in SAMPLES.iterdir() if f.suffix in read.MEDIA_SUFFIXES]
    assert len(files) == 10
    for file in files:
        info, clip = probe(file), read_clip(file)
        assert clip.shape == (info.frames, info.height, info.width, 3)
        assert info.is_image == (file.suffix == ".jpg")
        assert (info.fps > 0) != info.is_image


def test_reading_streams(tmp_path):
    """Three frames of a film are had by decoding a few, not all of it."""
    write_video(tmp_path / "a.mp4", ramps(200, 32, 32), 25)
    decoded, turn = 0, videos._turn

    def counting(pixels, frame):
        nonlocal decoded
        decoded += 1
        return turn(pixels, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videos, "_turn", counting)
        assert len(list(islice(read_frames(tmp_path / "a.mp4"), 3))) == 3
    assert decoded < 10


def test_a_variable_rate_keeps_its_speed(tmp_path):
    """Frames at 0, 1, 2, 6, 7 tenths: the third is shown for four."""
    path = tmp_path / "a.mp4"
    encode(path, numbered(8), [0, 100, 200, 600, 700, 800, 900, 1000])
    fps = probe(path).fps
    frames = read_clip(path)
    times = np.array([0, 0.1, 0.2, 0.6, 0.7, 0.8, 0.9, 1.0])
    grid = np.arange(len(frames)) / fps
    nearest = np.abs(grid[:, None] - times).argmin(1)
    assert numbers(frames) == nearest.tolist()
    assert abs(len(frames) / fps - 1.0) <= 1 / fps
    assert numbers(frames).count(2) == 2


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm", "avi"])
@pytest.mark.parametrize("fps", [24, 30000 / 1001, 16])
def test_a_constant_rate_comes_out_frame_by_frame(tmp_path, fps, container):
    """Time stamps rounded to milliseconds must not double or drop a frame."""
    path = tmp_path / f"a.{container}"
    rate = Fraction(fps).limit_denominator(1001)
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(container, "libx264")
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate)
        stream.height = stream.width = 32
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for number, pixels in enumerate(numbered(29)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    assert numbers(read_frames(path)) == list(range(29))
    assert probe(path).fps == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_film_is_turned_as_its_metadata_say(tmp_path, turns):
    path = tmp_path / "a.mp4"
    original = ramps(3, 32, 64)
    encode(path, original, [0, 40, 80], rotation=90 * turns)
    clip, info = read_clip(path), probe(path)
    expected = np.rot90(original, turns, axes=(1, 2))
    assert (info.height, info.width) == expected.shape[1:3] == clip.shape[1:3]
    assert np.abs(clip.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation):
    pixels = ramps(1, 24, 40)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    mirrored = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    (frame,) = read_clip(tmp_path / "a.png")
    np.testing.assert_array_equal(frame, np.rot90(mirrored, turns))
    info = probe(tmp_path / "a.png")
    assert (info.height, info.width) == frame.shape[:2]


GREY = np.tile(np.arange(0, 256, 4, np.uint8), (32, 1))


@pytest.mark.parametrize(
    ("picture", "suffix"),
    [
        (Image.fromarray(GREY), ".png"),
        (Image.fromarray(GREY).convert("P"), ".png"),
        (Image.fromarray(GREY).convert("RGBA"), ".png"),
        (Image.fromarray(GREY).convert("LA"), ".png"),
        (Image.fromarray(GREY).convert("CMYK"), ".tif"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), ".png"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), ".tif"),
        (Image.fromarray(GREY.astype(np.int32) * 257), ".tif"),
        (Image.fromarray(GREY.astype(np.float32) / 255), ".tif"),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_pictures_of_every_mode_become_rgb(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    picture.save(path)
    (frame,) = read_clip(path)
    assert frame.dtype == np.uint8 and frame.shape == (32, 64, 3)
    assert np.abs(frame.astype(int) - GREY[:, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode == "P":
        picture = Image.new("P", (16, 16))
        picture.putpalette([10, 20, 30] * 256)
        picture.save(path, transparency=0)
    else:
        Image.new(mode, (16, 16), 0).save(path)
    assert (read_clip(path) == 255).all()


# --- Bad media --------------------------------------------------------------------


def refusal(path):
    """The one-line error of reading `path` to its end."""
    with pytest.raises(ValueError) as caught:
        for _ in read_frames(path):
            pass
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".png", ".jpg"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_media_are_refused(tmp_path, suffix, share):
    rng = np.random.default_rng(0)
    count = 1 if suffix in (".png", ".jpg") else 40
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    write_video(tmp_path / f"a{suffix}", coarse.repeat(8, 1).repeat(8, 2), 16)
    data = (tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    assert "truncated" in refusal(cut) or "corrupt" in refusal(cut)


def test_a_film_cut_inside_its_last_frame_is_refused(tmp_path):
    """All its frames are there, the last one in part."""
    write_video(tmp_path / "a.mp4", ramps(9, 64, 64), 16)
    path = tmp_path / "cut.mp4"
    path.write_bytes((tmp_path / "a.mp4").read_bytes()[:-5])
    assert "is truncated" in refusal(path)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png", ".jpg"])
def test_empty_and_corrupt_media_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "corrupt" in refusal(path)
    with pytest.raises(ValueError, match="corrupt"):
        probe(path)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert "no video stream" in refusal(path)
    with pytest.raises(ValueError, match="no video stream"):
        probe(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        probe(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="is a folder, expected a media file"):
        next(read_frames(tmp_path))


@pytest.mark.slow
def test_an_animation_cut_anywhere_is_refused_or_read(tmp_path):
    """Pillow raises what it likes; a reader gets ValueError."""
    write_video(tmp_path / "a.gif", ramps(4, 16, 24), 10)
    whole = (tmp_path / "a.gif").read_bytes()
    refused = 0
    for length in range(20, len(whole), 7):
        (tmp_path / "cut.gif").write_bytes(whole[:length])
        try:
            read_clip(tmp_path / "cut.gif")
        except ValueError as error:
            refused += "corrupt" in str(error)
    assert refused > 50


def test_a_bare_name_may_hold_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("10:30.mp4", "a:b.gif"):
        write_video(name, ramps(3, 16, 24), 10)
        assert len(read_clip(name)) == probe(name).frames == 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_tiff_is_as_large_as_is_said(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramps(1, 20, 30)[0]).save(tmp_path / "a.tiff", exif=exif)
    info = probe(tmp_path / "a.tiff")
    assert read_clip(tmp_path / "a.tiff").shape[1:3] == (info.height, info.width)


def test_a_film_may_begin_late(tmp_path):
    """Matroska tells when a stream ends, not how long it is."""
    times = [1500 + 100 * i for i in range(12)]
    encode(tmp_path / "late.mkv", ramps(12, 32, 32), times)
    assert len(read_clip(tmp_path / "late.mkv")) >= 12


def test_a_wild_time_stamp_is_refused(tmp_path):
    encode(tmp_path / "wild.mkv", ramps(4, 32, 32), [0, 100, 200, 900_000])
    with pytest.raises(ValueError, match="has a gap of"):
        read_clip(tmp_path / "wild.mkv")

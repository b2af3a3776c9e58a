"""Media are written with exact sizes, counts and colours, whole or not at all."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines import SAMPLES
from soraxla.core.errors import UserError
from soraxla.media.read import probe, read_clip
from soraxla.media.write import check_writable, write_video
from tests.media.clips import ramps


@pytest.mark.parametrize("size", [(32, 48), (33, 65), (17, 32), (1, 1)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_a_film_has_exactly_the_size_and_frames_asked_for(tmp_path, suffix, size):
    """Repeated frames too, which GIF and WebP encoders like to merge."""
    clip = ramps(6, *size)
    clip = np.concatenate([clip, clip[-1:], clip[-1:], clip[:1]])
    path = tmp_path / f"a{suffix}"
    write_video(path, clip, 16)
    read = read_clip(path)
    assert read.shape == clip.shape
    assert probe(path).fps == pytest.approx(16, rel=0.05)
    assert np.abs(read.astype(int) - clip).mean() < 6
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".png", ".jpg"])
def test_colours_survive(tmp_path, suffix):
    """A wrong matrix or range in the tags shifts pure colours by far more than 4."""
    for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)]:
        clip = np.broadcast_to(np.array(colour, np.uint8), (1, 32, 32, 3))
        write_video(tmp_path / f"a{suffix}", clip, 16)
        read = read_clip(tmp_path / f"a{suffix}").mean((0, 1, 2))
        np.testing.assert_allclose(read, colour, atol=4)


def test_even_films_use_the_form_every_player_shows(tmp_path):
    write_video(tmp_path / "a.mp4", ramps(2, 32, 32), 16)
    with av.open(str(tmp_path / "a.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (30, Fraction(30)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_television_rates_are_fractions(tmp_path, fps, rate):
    write_video(tmp_path / "a.mp4", ramps(5, 32, 32), fps)
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert film.streams.video[0].average_rate == rate


def test_an_mp4_states_its_colours(tmp_path):
    """Primaries, transfer function and matrix are BT.709, in the box `colr`."""
    write_video(tmp_path / "a.mp4", ramps(2, 32, 32), 16)
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"colrnclx\0\1\0\1\0\1\0" in data
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_name_may_have_all_the_bytes_that_the_system_allows(tmp_path):
    path = tmp_path / f"{'a' * 251}.png"
    write_video(path, ramps(1, 16, 16), 16)
    assert os.listdir(tmp_path) == [path.name]
    for name in ("a" * 252, "字" * 84):
        with pytest.raises(UserError, match="File name too long"):
            check_writable(tmp_path / f"{name}.png")
    assert os.listdir(tmp_path) == [path.name]


def test_hevc_has_the_tag_that_apple_plays(tmp_path):
    write_video(tmp_path / "a.mp4", ramps(9, 64, 64), 16, codec="libx265")
    assert b"hvc1" in (tmp_path / "a.mp4").read_bytes()


def test_another_codec_can_be_named(tmp_path):
    clip = ramps(5, 32, 48)
    write_video(tmp_path / "a.mp4", clip, 16, codec="mpeg4")
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "mpeg4"
    assert read_clip(tmp_path / "a.mp4").shape == clip.shape


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx265", "mp4"), ("mpeg4", "mp4"), ("libsvtav1", "mp4"), ("libvpx", "webm")],
)
def test_a_named_codec_keeps_the_quality_of_the_usual_one(tmp_path, codec, suffix):
    clip = read_clip(SAMPLES / "rabbit_stretches_wide.mp4", 9)[:, :96, :160]
    write_video(tmp_path / f"a.{suffix}", clip, 24, codec=codec)
    error = read_clip(tmp_path / f"a.{suffix}").astype(float) - clip
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35


def test_a_codec_that_the_container_does_not_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4: cannot be written .*prores_ks"):
        write_video(tmp_path / "a.mp4", ramps(2, 32, 32), 16, codec="prores_ks")
    assert list(tmp_path.iterdir()) == []


def test_frames_may_come_from_a_generator(tmp_path):
    write_video(tmp_path / "a.mp4", (frame for frame in ramps(5, 32, 32)), 16)
    assert probe(tmp_path / "a.mp4").frames == 5


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")

    def breaking():
        yield from ramps(100, 32, 32)  # more than an encoder holds back
        assert len(os.listdir(tmp_path)) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, breaking(), 16)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "codec", "error", "text"),
    [
        ("a.mpx", None, ValueError, "unknown suffix '.mpx'; use one of .mp4, .webm"),
        ("a", None, ValueError, "unknown suffix ''"),
        ("none/a.mp4", None, UserError, "does not exist"),
        ("folder.mp4", None, UserError, "is a folder"),
        ("a.mp4", "libx999", ValueError, "unknown video encoder 'libx999'"),
        ("a.png", "libx264", ValueError, "for .mp4 and .webm only"),
    ],
)
def test_what_cannot_be_written_is_known_before(tmp_path, name, codec, error, text):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(error, match=text) as caught:
        check_writable(tmp_path / name, codec=codec)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=text):
        write_video(tmp_path / name, ramps(1, 16, 16), 16, codec=codec)
    assert os.listdir(tmp_path) == ["folder.mp4"]


def test_a_read_only_folder_is_known_before():
    """/proc refuses even the superuser, whom mode bits do not stop."""
    with pytest.raises(UserError, match=r"cannot write in /proc"):
        check_writable("/proc/a.mp4")


@pytest.mark.parametrize(
    ("frames", "fps", "text"),
    [
        ([], 16, "no frames"),
        (ramps(2, 16, 16), 0, "fps is 0"),
        (ramps(2, 16, 16), float("nan"), "fps is nan"),
        ([ramps(1, 16, 16)[0], ramps(1, 16, 18)[0]], 16, r"frame 1 is \(16, 18, 3\)"),
        ([ramps(1, 16, 16)[0] / 255], 16, "expected uint8"),
    ],
)
def test_frames_that_make_no_film_are_refused(tmp_path, frames, fps, text):
    with pytest.raises(ValueError, match=text):
        write_video(tmp_path / "a.mp4", iter(frames), fps)
    assert not os.listdir(tmp_path)


def test_a_picture_holds_one_frame(tmp_path):
    with pytest.raises(ValueError, match="a PNG holds one frame"):
        write_video(tmp_path / "a.png", ramps(2, 16, 16), 16)
    write_video(tmp_path / "a.png", ramps(1, 16, 16), 16)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.png"), ramps(1, 16, 16))


def test_a_side_that_the_format_does_not_hold_is_refused(tmp_path):
    frame = np.zeros((1, 70_000, 3), np.uint8)  # JPEG counts to 65,535
    with pytest.raises(UserError, match=r"a\.jpg: cannot be written"):
        write_video(tmp_path / "a.jpg", [frame], 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["mp4", "webm", "png", "jpg", "gif", "webp"])
def test_tags_are_in_files_that_have_some(tmp_path, suffix):
    path = tmp_path / f"tagged.{suffix}"
    about = {"description": "ein roter Ball fällt", "comment": "prompt: ein Ball"}
    write_video(path, np.zeros((1, 16, 16, 3), np.uint8), 8, about=about)
    if suffix == "png":
        with Image.open(path) as image:
            assert image.text == {k.title(): v for k, v in about.items()}
    elif suffix == "jpg":
        with Image.open(path) as image:
            assert image.info["comment"].decode() == "; ".join(about.values())
    elif suffix in ("mp4", "webm"):
        with av.open(str(path)) as film:
            tags = {name.lower(): text for name, text in film.metadata.items()}
        assert about.items() <= tags.items()
    else:
        assert path.stat().st_size > 0


def test_a_remote_file_is_uploaded_when_it_is_whole(store):
    frame = np.zeros((16, 16, 3), np.uint8)

    def frames():
        assert not store.objects
        yield frame

    write_video("gs://bucket/out/a.png", frames(), 1)
    assert list(store.objects) == ["bucket/out/a.png"]
    Image.open(io.BytesIO(store.objects["bucket/out/a.png"])).load()


def test_a_bucket_that_cannot_be_written_is_found_before_the_work(store):
    check_writable("gs://bucket/a.mp4")
    assert not store.objects
    with pytest.raises(UserError, match="unknown suffix"):
        check_writable("gs://bucket/a.txt")
    with pytest.raises(UserError, match="there is no bucket gs://no"):
        check_writable("gs://no/a.mp4")
    store.read_only = True
    with pytest.raises(UserError, match="cannot be reached"):
        check_writable("gs://bucket/a.mp4")

"""Media as people have them are read right, or refused in one line."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from soraxla.core.errors import UserError
from soraxla.media.read import probe, read_clip, read_frames
from tests.media.cases import films, pictures
from tests.media.cases.films import bars, film, number

HDR = {"matrix": 9, "primaries": 9}


def numbers(path):
    return [number(frame) for frame in read_frames(path)]


# --- Time -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "libx264"), ("a.wmv", "wmv2")]
)
def test_a_recording_without_a_rate_has_its_average(tmp_path, name, codec):
    """A browser states times in milliseconds, and no rate: not 1000 a second."""
    path = tmp_path / name
    times = np.cumsum(np.random.default_rng(0).integers(20, 50, 90)).tolist()
    container = "asf" if name.endswith("wmv") else None
    film(path, times, codec=codec, container=container)
    if container is None:
        films.without_default_duration(path)
    assert probe(path).fps == pytest.approx(28.6, abs=0.5)
    shown = numbers(path)
    assert len(shown) == 90 and shown == sorted(shown) and len(set(shown)) > 70


def test_a_pause_lowers_the_average_rate(tmp_path):
    """Matroska's header states 25, but 50 frames take ten minutes."""
    path = tmp_path / "a.mkv"
    film(path, [*range(0, 1000, 40), *range(590_000, 591_000, 40)])
    assert probe(path).fps == pytest.approx(50 / 591, rel=1e-3)
    assert len(numbers(path)) == 50


def test_a_film_without_presentation_stamps_keeps_its_order(tmp_path):
    """AVI has the times of decoding only, which B-frames do not have in order."""
    film(tmp_path / "a.avi", range(30), base=25, options={"bf": "3"})
    assert numbers(tmp_path / "a.avi") == list(range(30))


@pytest.mark.parametrize("tag", [b"caf\xe9", "カメ".encode("shift-jis")])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_tags_need_not_be_utf8(tmp_path, suffix, tag):
    path = tmp_path / f"a.{suffix}"
    film(path, range(5), base=25, title="Q" * len(tag), codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"Q" * len(tag), tag))
    assert probe(path).fps == 25
    assert numbers(path) == list(range(5))


# --- Formats ----------------------------------------------------------------------


def moving(path, **save):
    first, *rest = (Image.fromarray(bars(i)) for i in range(6))
    first.save(path, save_all=True, append_images=rest, duration=100, **save)


@pytest.mark.parametrize("name", ["a.avif", "a.heic", "a.jfif", "a.mp4", "a"])
def test_a_picture_is_known_by_its_content(tmp_path, name):
    kind = "JPEG" if name == "a.jfif" else "AVIF"
    Image.fromarray(bars(5)).save(tmp_path / name, format=kind)
    info = probe(tmp_path / name)
    assert info.is_image and info.fps == 0
    assert numbers(tmp_path / name) == [5]


@pytest.mark.parametrize(("name", "kind"), [("a.avif", "AVIF"), ("a.apng", "PNG")])
def test_an_animated_picture_is_a_clip(tmp_path, name, kind):
    moving(tmp_path / name, format=kind)
    assert probe(tmp_path / name).fps == pytest.approx(10)
    assert numbers(tmp_path / name) == list(range(6))


@pytest.mark.parametrize(
    ("name", "container"), [("a.mts", "mpegts"), ("a.png", "mp4"), ("a", "mp4")]
)
def test_a_film_is_known_by_its_content(tmp_path, name, container):
    film(tmp_path / name, range(9), base=25, container=container)
    assert not probe(tmp_path / name).is_image
    assert numbers(tmp_path / name) == list(range(9))


def test_heic_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(UserError, match=r"a\.heic: is HEIC, .*; convert it to JPEG"):
        probe(tmp_path / "a.heic")


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_default_stream_is_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    films.two_streams(path)
    assert (probe(path).height, probe(path).width) == (96, 160)
    assert numbers(path) == list(range(5))


# --- Shape ------------------------------------------------------------------------


@pytest.mark.parametrize("name", pictures.EXIF)
def test_exif_tags_of_wrong_types_do_not_matter(tmp_path, name):
    pictures.turned_jpeg(tmp_path / "a.jpg", name)
    assert read_clip(tmp_path / "a.jpg").shape == (1, 96, 64, 3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_are_made_square(tmp_path, suffix):
    """A circle of a PAL film, stored 180x144 and shown 256x144, is round."""
    y, x = np.mgrid[:144, :180]
    disc = ((x - 90) * 64 / 45) ** 2 + (y - 72) ** 2 < 50**2
    pixels = np.repeat(disc[:, :, None], 3, 2).astype(np.uint8) * 255
    path = tmp_path / f"a.{suffix}"
    ratio = Fraction(64, 45)
    film(path, range(3), base=25, draw=lambda _: pixels, sample_aspect_ratio=ratio)
    assert (probe(path).height, probe(path).width) == (144, 256)
    shown = read_clip(path)[1, :, :, 0] > 127
    assert shown.shape == (144, 256)
    assert abs(int(shown.any(0).sum()) - int(shown.any(1).sum())) <= 2


def test_pixels_that_are_nearly_square_stay(tmp_path):
    ratio = Fraction(427, 426)
    film(tmp_path / "a.mp4", range(3), base=25, sample_aspect_ratio=ratio)
    assert probe(tmp_path / "a.mp4").width == 80


def test_fields_are_made_frames(tmp_path):
    """A block that moves by 4 pixels between the fields of a frame has no comb."""

    def draw(i):
        pixels = np.zeros((64, 96, 3), np.uint8)
        for field in (0, 1):
            left = 3 * i + 4 * field
            pixels[field::2, left : left + 40] = 255
        return pixels

    path = tmp_path / "a.mp4"
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1", "crf": "10"}
    film(path, range(9), base=25, draw=draw, options=options)
    clip = read_clip(path)[..., 0].astype(int)
    assert len(clip) == 9
    comb = np.abs(clip[2:-2, 1:-1] - (clip[2:-2, :-2] + clip[2:-2, 2:]) / 2)
    assert comb.max() < 100  # a comb has 255
    edges = (clip[2:-2, 20] > 127).argmax(-1)  # those of one of the fields
    np.testing.assert_allclose(edges - 3 * np.arange(2, 7), 2, atol=3)
    np.testing.assert_allclose(np.diff(edges), 3, atol=1)


# --- Colour -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("luma", "tags"),
    [
        (round(64 + 876 * 0.5807), {**HDR, "transfer": 16}),  # PQ at 203 cd/m²
        (round(64 + 876 * 0.75), {**HDR, "transfer": 18}),  # HLG
        (940, {"matrix": 1, "primaries": 1, "transfer": 1}),
    ],
    ids=["pq", "hlg", "bt709"],
)
def test_a_white_wall_is_white(tmp_path, luma, tags):
    films.flat(tmp_path / "a.mkv", luma, **tags)
    assert read_clip(tmp_path / "a.mkv").min() >= 250


@pytest.mark.parametrize(
    ("primaries", "shown"),
    [
        (pictures.SRGB, (201, 57, 24)),
        (pictures.P3, (219, 37, 0)),
        (pictures.SRGB[::-1], (24, 57, 201)),
    ],
    ids=["srgb", "p3", "swapped"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied(tmp_path, mode, primaries, shown):
    picture = Image.new("RGB", (16, 16), (200, 60, 30)).convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=pictures.profile(*primaries))
    np.testing.assert_allclose(read_clip(tmp_path / "a.png")[0, 0, 0], shown, atol=2)


def test_a_damaged_profile_is_ignored(tmp_path):
    Image.new("RGB", (16, 16), (200, 60, 30)).save(
        tmp_path / "a.png", icc_profile=b"nothing"
    )
    assert read_clip(tmp_path / "a.png")[0, 0, 0].tolist() == [200, 60, 30]


# --- Damage -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "25"}),
        ("a.mkv", "libx264", {"g": "25"}),
        ("a.webm", "libvpx-vp9", {"g": "25", "cpu-used": "8", "deadline": "realtime"}),
        ("a.avi", "mpeg4", {}),
        ("a.mpg", "mpeg2video", {}),
    ],
)
def test_a_hole_in_the_middle_is_refused(tmp_path, name, codec, options):
    path = tmp_path / name
    container = "mpeg" if name.endswith("mpg") else None
    drawn = {"draw": films.noisy(), "options": options, "container": container}
    film(path, range(100), base=25, codec=codec, **drawn)
    assert len(read_clip(path)) == 100
    with pytest.raises(UserError, match=r"hole_.*: is (corrupt|truncated)"):
        read_clip(films.with_hole(path))


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected a media file"):
        probe(tmp_path)

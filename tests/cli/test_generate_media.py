"""`soraxla generate` with pictures and clips: what is refused, and what comes out."""

import numpy as np
import pytest

from soraxla.cli.main import main, parser
from soraxla.cli.media import task_of
from soraxla.generation import request
from soraxla.generation.blending import fit
from soraxla.media.read import probe, read_clip
from soraxla.media.write import write_video
from tests.media.cases import films as cases


@pytest.fixture(scope="module")
def clips(media, tmp_path_factory):
    """a.mp4: 9 frames, 48x32. Also a shorter one, masks, a larger picture, no film."""
    folder = tmp_path_factory.mktemp("clips")
    video = read_clip(media / "a.mp4")
    write_video(folder / "a.mp4", video, 12)
    write_video(folder / "short.mp4", video[:6], 12)
    write_video(folder / "odd.mp4", video[:, :, :44], 12)
    mask = np.zeros((32, 48, 3), np.uint8)
    write_video(folder / "black.png", [mask], 1)
    mask[:16, :16] = 255
    write_video(folder / "mask.png", [mask], 1)
    write_video(folder / "wide.png", [mask[:16]], 1)
    (folder / "words.mp4").write_text("not a film")
    return folder


@pytest.fixture
def refuse(refusal, tmp_path, checkpoint, clips, monkeypatch):
    """A refused `generate` with these options, in the folder of clips."""
    monkeypatch.chdir(clips)

    def run(options: str) -> str:
        out = tmp_path / "out.mp4"
        line = refusal(
            *("generate", "--checkpoint", checkpoint, "--steps", 1, "--out", out),
            *options.split(),
        )
        assert not list(tmp_path.iterdir()), "something was written"
        return line

    return run


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--extend missing.mp4 --frames 20", "missing.mp4: no such file"),
        ("--extend words.mp4 --frames 20", "words.mp4: is corrupt or not a video"),
        ("--extend a.mp4", "frames is 1, expected more than the input's 9: ask for"),
        ("--extend a.mp4 --frames 9", "frames is 9, expected more than the input's 9"),
        ("--connect a.mp4 a.mp4 --frames 18", "ask for 33"),
        (
            "--extend a.mp4 --frames 20 --direction forwards",
            "unknown direction 'forwards': did you mean 'forward'?",
        ),
        (
            "--extend short.mp4 --frames 20",
            "the video clip has 6 frames, fewer than the overlap of 9",
        ),
        ("--connect a.mp4 short.mp4", "the after clip has 6 frames, fewer than"),
        (
            "--connect a.mp4 a.mp4 --frames 18",
            "frames is 18, expected more than the input's 18",
        ),
        ("--loop a.mp4 --overlap 13", "the video clip has 9 frames, fewer than"),
        ("--loop --prompt x --frames 17", "too few for a loop with an overlap of 9"),
        ("--loop", "--prompt is missing: describe the video"),
        ("--edit a.mp4 --strength 0", "strength is 0.0, expected above 0"),
        ("--edit a.mp4 --strength 1.5", "strength is 1.5, expected above 0"),
        ("--edit a.mp4 --strength nan", "strength is nan, expected above 0"),
        (
            "--loop a.mp4 --strength -0.1",
            "-0.1, expected 0 (a cross-fade) to 1 (noise)",
        ),
        ("--connect a.mp4 a.mp4 --strength 2", "strength is 2.0, expected 0 (a cross"),
        ("--edit a.mp4 --frames 12", "frames is 12, but the clip to change has 9"),
        ("--inpaint a.mp4", "--inpaint takes --mask"),
        (
            "--inpaint a.mp4 --mask wide.png",
            "wide.png: the mask is bool (16, 48), expected bool (32, 48)",
        ),
        ("--inpaint a.mp4 --mask black.png", "black.png: the mask is empty"),
        ("--inpaint a.mp4 --mask a.mp4", "a.mp4: holds a clip, expected a picture"),
        ("--inpaint a.mp4 --canvas 32x64", "the canvas of 32x64 is smaller than"),
        ("--inpaint a.mp4 --canvas 48x32", "the clip's size, so nothing"),
        ("--inpaint words.mp4 --mask mask.png", "generate: words.mp4: is corrupt"),
        (
            "--connect a.mp4 a.mp4 --window 17",
            "overlap by 9 make all new frames before they come to the 9 after them",
        ),
        ("--inpaint a.mp4 --canvas big", "--canvas is 'big', expected WIDTHxHEIGHT"),
        (
            "--inpaint a.mp4 --canvas 64x64 --size 64x64",
            "--canvas sets the size: leave --size out",
        ),
        (
            "--extend a.mp4 --frames 20 --size 64x64 --fit crop",
            "48x32 pixels cannot be cropped to 64x64",
        ),
        ("--image mask.png --last-image a.mp4 --frames 9", "holds a clip, expected"),
        (
            "--image mask.png --last-image mask.png --frames 2",
            "expected more than the input's 2",
        ),
        ("--image mask.png --edit a.mp4", "--image does not go with --edit"),
        ("--edit a.mp4 --loop a.mp4", "not allowed with argument"),
        ("--prompt x --mask mask.png", "--mask means nothing without --inpaint"),
        (
            "--prompt x --strength 0.5",
            "means nothing without --edit or --connect or --loop: add one",
        ),
        ("--prompt x --direction both", "--direction means nothing without --extend"),
        ("--edit a.mp4 --invert", "--invert means nothing without --mask"),
    ],
)
def test_bad_media(refuse, options, text):
    assert text in refuse(options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--connect a.mp4 short.mp4 --overlap 5", "short.mp4"),
        ("--loop a.mp4", "a.mp4"),
        ("--inpaint a.mp4 --mask mask.png --frames 9", "mask.png"),
        ("--image mask.png", "../{}/mask.png"),
    ],
)
def test_what_is_given_is_not_written_over(
    refusal, checkpoint, clips, monkeypatch, options, name
):
    monkeypatch.chdir(clips)
    before = {path: path.read_bytes() for path in clips.iterdir()}
    name = name.format(clips.name)
    words = ["generate", "--checkpoint", checkpoint, "--frames", 33, "--out", name]
    assert f"{name}: is an input file;" in refusal(*words, *options.split())
    assert {path: path.read_bytes() for path in clips.iterdir()} == before


@pytest.fixture
def make(checkpoint, clips, tmp_path, capsys, monkeypatch, without_network):
    """Runs `generate`; the video, and what was said on the way."""
    monkeypatch.chdir(clips)

    def run(options: str):
        out = tmp_path / "out.webp"
        common = ["--checkpoint", str(checkpoint), "--steps", "1", "--cfg-scale", "1"]
        assert main(["generate", *common, *options.split(), "--out", str(out)]) == 0
        notes = [
            line
            for line in capsys.readouterr().err.splitlines()
            if "%|" not in line and not line.startswith("next:")
        ]
        return read_clip(out), probe(out), " ".join(notes).strip()

    return run


def test_a_clip_gives_its_size_length_and_rate(make, clips):
    """44 wide is cut to 32; without the prompt and outside the mask as it was."""
    video, info, notes = make("--edit odd.mp4 --strength 0.5")
    assert video.shape == (9, 32, 32, 3) and info.fps == 12
    assert "44x32 is cut to 32x32" in notes and "brought to" not in notes
    video, info, notes = make("--inpaint a.mp4 --mask mask.png --invert")
    assert video.shape == (9, 32, 48, 3) and notes == ""
    given = read_clip(clips / "a.mp4")[:, :16, :16]
    inside, outside = video[:, :16, :16].astype(int), video[:, 16:, 24:].astype(int)
    assert np.abs(inside - given).mean() < 4
    assert np.abs(outside - read_clip(clips / "a.mp4")[:, 16:, 24:]).mean() > 10


def test_both_clips_are_cut_alike_and_played_alike(make, clips):
    large = np.tile(read_clip(clips / "a.mp4"), (1, 2, 1, 1))[:, :40, :44]
    for name, fps in (("large", 12), ("fast", 24)):
        write_video(clips / f"{name}.mp4", large, fps)
    video, info, notes = make("--connect large.mp4 fast.mp4 --frames 20 --strength 0.5")
    assert video.shape == (20, 32, 32, 3) and round(info.fps) == 12
    assert "fast.mp4: its 24 frames a second are played at 12" in notes
    assert "brought to" not in notes
    assert np.abs(video[:9].astype(int) - video[-9:]).mean() < 2.5
    assert np.abs(fit(large, 32, 32, "cover").astype(int) - video[:9]).mean() > 8


def test_more_than_is_made_at_once_is_made_by_windows(make, clips):
    video, _, notes = make("--extend a.mp4 --frames 27 --window 17 --size 32x32")
    assert video.shape == (27, 32, 32, 3)
    assert "video: 48x32 is brought to 32x32 by --fit cover" in notes
    assert (
        "18 frames and the 9 beside them are more than the 17 that are sampled" in notes
    )
    given = read_clip(clips / "a.mp4")[:, :, 8:40]
    assert np.abs(video[:9].astype(int) - given).mean() < 4
    _, _, notes = make("--loop a.mp4 --frames 27 --window 17 --strength 0 --size 32x32")
    assert notes.count("18 frames and the 9 beside them") == 1


@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ("--connect a.mp4 a.mp4", 0.25),
        ("--connect a.mp4 a.mp4 --strength 0", 0.0),
        ("--loop a.mp4", 0.25),
        ("--loop a.mp4 --strength 0", 0.0),
        ("--loop --prompt x", 0.25),
        ("--edit a.mp4", 0.6),
    ],
)
def test_bridges_have_the_models_own_strength_unless_another_is_named(
    clips, monkeypatch, options, strength
):
    monkeypatch.chdir(clips)
    args = parser().parse_args(["generate", *options.split()])
    assert task_of(args, 0.25).strength == strength


@pytest.mark.parametrize(
    "options", ["--extend V", "--edit V", "--loop V", "--connect V V", "--inpaint V"]
)
def test_a_clip_longer_than_can_be_made_is_refused_while_it_is_read(
    refuse, tmp_path_factory, monkeypatch, options
):
    """Matroska states no number of frames; no more are decoded than may be."""
    film = tmp_path_factory.mktemp("long") / "a.mkv"
    frames = [np.full((32, 48, 3), n, np.uint8) for n in range(12)]
    cases.film(film, range(12), base=25, draw=lambda n: frames[n])
    monkeypatch.setattr(request, "MAX_FRAMES", 9)
    options = options.replace("V", str(film))
    options += " --canvas 64x64" if "inpaint" in options else ""
    line = refuse(f"{options} --frames 33" if "extend" in options else options)
    assert f"{film}: has more than 9 frames, expected at most 9: cut it" in line

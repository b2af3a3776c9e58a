"""`soraxla generate` refuses what it cannot do, before it does anything."""

import json
import shutil

import pytest

from soraxla.cli import generate
from soraxla.cli.main import main
from soraxla.generation.blending import fit
from soraxla.generation.request import Request
from soraxla.media.read import probe, read_clip


@pytest.fixture
def refuse(refusal, tmp_path, checkpoint):
    """A refused `generate`; a well-formed one but for the changes. Writes nothing."""

    def run(**changes) -> str:
        options = {
            "checkpoint": checkpoint,
            "prompt": "a red ball",
            "size": "32x32",
            "steps": 1,
            "out": tmp_path / "out" / "a.mp4",
        } | changes
        (tmp_path / "out").mkdir(exist_ok=True)
        before = sorted(tmp_path.rglob("*"))
        line = refusal(
            "generate",
            *[
                word
                for name, value in options.items()
                if value is not None
                for word in (f"--{name.replace('_', '-')}", value)
            ],
        )
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return line

    return run


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": ""}, "--prompt is missing: describe the video"),
        ({"prompt": None}, "--prompt is missing: describe the video"),
        ({"prompt": " \n\t"}, "0 words"),
        ({"prompt": "word " * 10_000}, "10000 words, expected 1 to 1000"),
        ({"size": "large"}, "'large', expected WIDTHxHEIGHT"),
        ({"size": "32"}, "expected WIDTHxHEIGHT"),
        ({"size": "32x-32"}, "expected WIDTHxHEIGHT"),
        ({"size": "8x32"}, "width is 8, expected 16 to 8192"),
        ({"size": "32x0"}, "height is 0"),
        ({"size": "32x1000000"}, "height is 1000000, expected 16 to 8192"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 10**9}, "frames is 1000000000"),
        ({"seconds": -1}, "--seconds is -1.0"),
        ({"seconds": "nan"}, "--seconds is nan"),
        ({"seconds": 1, "fps": "inf"}, "--fps is inf"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": "nan"}, "fps is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"cfg_scale": "nan"}, "cfg_scale is nan"),
        ({"image_scale": -1}, "image_scale is -1.0"),
        ({"condition_noise": 2}, "condition_noise is 2.0, expected 0 to 0.5"),
        ({"overlap": 3}, "overlap is 3, expected 5 to"),
        ({"window": 12}, "window is 12, expected 13 to"),
        ({"fit": "stretch"}, "Known: cover, crop, pad"),
        ({"seed": -1}, "seed is -1"),
        ({"takes": 0}, "takes is 0, expected 1 to 100"),
        (
            {"takes": 2},
            "takes is 2, but a request has no join with input frames",
        ),
        ({"solver": "huen"}, "did you mean 'heun'?"),
    ],
)
def test_bad_requests(refuse, changes, text):
    assert text in refuse(**changes)


def test_takes_of_nothing_to_choose_by_are_refused_before_a_bar_is_shown(
    checkpoint, tmp_path, capsys
):
    options = ["--checkpoint", str(checkpoint), "--prompt", "a", "--size", "32x32"]
    options += ["--takes", "2", "--out", str(tmp_path / "a.mp4")]
    assert main(["generate", *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("out", "changes", "text"),
    [
        ("out/a.mpx", {}, "unknown suffix '.mpx'"),
        ("out", {}, "unknown suffix ''"),
        ("missing/a.mp4", {}, "does not exist"),
        ("out/a.png", {"frames": 5}, "a.png: a PNG holds one frame"),
        ("out/a.gif", {"fps": 60}, "fps is 60"),
        ("out/a.mp4", {"codec": "h266x"}, "unknown video encoder 'h266x'"),
        ("out/a.mp4", {"codec": "aac"}, "unknown video encoder 'aac'"),
        ("out/a.gif", {"codec": "libx264"}, ".mp4 and .webm only"),
        ("out/a.mp4", {"codec": "mpeg4", "size": "33x32"}, "use even sides"),
    ],
)
def test_outputs_that_cannot_be_written(refuse, tmp_path, out, changes, text):
    assert text in refuse(out=tmp_path / out, **changes)


def test_x265_is_not_refused_for_a_short_rehearsal(tmp_path):
    request = Request(prompt="x", height=64, width=64, frames=9, fps=16.0)
    for _ in range(8):
        generate._rehearse(tmp_path / "a.mp4", request, 16.0, "libx265")


def test_an_output_below_a_file(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "does not exist" in refuse(out=tmp_path / "file" / "a.mp4")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "prompts.txt: No such file"),
        (b"", "holds no prompt"),
        (b"\n \n", "holds no prompt"),
        (b"a caf\xe9", "is not UTF-8 (byte 5)"),
        (b"a ball\n" + b"word " * 2000, "prompts.txt line 2: the prompt has 2000"),
        (b"a ball\na cube", "expected a name with {} for the number"),
    ],
)
def test_bad_prompts_files(refuse, tmp_path, content, text):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    assert text in refuse(prompt=None, prompts_file=file)


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def edit(part, **model):
    def damage(folder):
        file = folder / part / "config.json"
        config = json.loads(file.read_text())
        config["model"] |= model
        file.write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (shutil.rmtree, "no such folder"),
        (
            lambda folder: shutil.rmtree(folder / "dit"),
            "weights here, the folder is missing",
        ),
        (
            lambda folder: shutil.rmtree(folder / "vae"),
            "weights here, the folder is missing",
        ),
        (lambda folder: cut(folder / "vae" / "config.json"), "damaged"),
        (
            lambda folder: cut(folder / "vae" / "decoder.safetensors"),
            "download it again",
        ),
        (
            lambda folder: cut(folder / "dit" / "block_001.safetensors"),
            "download it again",
        ),
        (lambda folder: (folder / "dit" / "block_001.safetensors").unlink(), "missing"),
        (edit("dit", width=96), "mis-shaped"),
        (edit("dit", layers=1), "unexpected, such as"),
        (edit("dit", hight=3), "unknown setting 'model.hight'"),
        (edit("vae", base_width=8), "mis-shaped"),
    ],
)
def test_bad_checkpoints(refuse, checkpoint, tmp_path, damage, text):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    damage(folder)
    assert text in refuse(checkpoint=folder)


@pytest.mark.parametrize(
    ("name", "frames", "text"),
    [
        ("missing.png", 5, "missing.png: no such file"),
        ("cut.png", 5, "cut.png: is corrupt or"),
        ("words.txt", 5, "words.txt: is corrupt or not a video"),
        ("a.mp4", 5, "a.mp4: holds a clip, expected a picture"),
        ("b.png", 1, "frames is 1, expected more than the input's 1"),
        ("b.png", None, "frames is 1, expected more than the input's 1"),
    ],
)
def test_bad_images(refuse, media, tmp_path, name, frames, text):
    (tmp_path / "words.txt").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes((media / "b.png").read_bytes()[:60])
    folder = tmp_path if (tmp_path / name).exists() or "miss" in name else media
    assert text in refuse(image=folder / name, frames=frames)


@pytest.mark.usefixtures("without_network")
def test_an_image_is_the_first_frame_of_every_prompt(checkpoint, media, tmp_path):
    """32x32 pixels cover 33x21: its middle rows, a little enlarged."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\na blue cube\n")
    options = ["--checkpoint", str(checkpoint), "--size", "33x21", "--frames", "6"]
    options += ["--steps", "1", "--fps", "12", "--prompts-file", str(prompts)]
    options += ["--image", str(media / "b.png"), "--out", str(tmp_path / "{}.webp")]
    assert main(["generate", *options]) == 0
    expected = fit(read_clip(media / "b.png"), 33, 21, "cover")[0].astype(int)
    for place in range(2):
        video = read_clip(tmp_path / f"{place:03d}.webp")
        assert video.shape == (6, 21, 33, 3)
        assert abs(video[0] - expected).mean() < 3


@pytest.mark.usefixtures("without_network")
def test_an_odd_size_and_length_come_out_exactly(checkpoint, tmp_path):
    """And another prompt beside it changes nothing, nor the file's byte order mark."""
    prompts = tmp_path / "prompts.txt"
    text = "a red ball\n\na blue\u2028cube\n"  # a line, though it looks like two
    prompts.write_text(text, encoding="utf-8-sig")
    options = ["--checkpoint", str(checkpoint), "--size", "33x21", "--frames", "6"]
    options += ["--steps", "1", "--fps", "12"]
    both = ["--prompts-file", str(prompts), "--out", str(tmp_path / "{}.mp4")]
    assert main(["generate", *options, *both]) == 0
    info = probe(tmp_path / "001.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (33, 21, 6, 12)
    alone = ["--prompt", "a red ball", "--out", str(tmp_path / "alone.mp4")]
    assert main(["generate", *options, *alone]) == 0
    first, again = read_clip(tmp_path / "000.mp4"), read_clip(tmp_path / "alone.mp4")
    assert abs(first.astype(int) - again).max() <= 2


@pytest.mark.usefixtures("without_network")
def test_one_video_of_a_prompts_file_can_be_made_again(checkpoint, tmp_path):
    """By its prompt, whatever is before it in the file; a repetition is another."""
    options = ["--checkpoint", str(checkpoint), "--size", "32x32", "--frames", "5"]
    options = ["generate", *options, "--steps", "1", "--fps", "12"]

    def made(name, *words):
        assert main([*options, *words, "--out", str(tmp_path / name)]) == 0
        return [path.read_bytes() for path in sorted(tmp_path.glob(name.format("*")))]

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\n\na blue cube\na blue cube\n")
    _, cube, other = made("all_{}.gif", "--prompts-file", str(prompts))
    assert cube != other
    assert made("cube.gif", "--prompt", "a blue cube") == [cube]
    prompts.write_text("a blue cube\na green tree\na blue cube\n")
    assert made("less_{}.gif", "--prompts-file", str(prompts))[::2] == [cube, other]

"""A captioner from captioned clips to captions: trained, resumed, exported, applied."""

import json

import jax
import numpy as np
import pytest

from data_pipelines.captioned import open_views, write_views
from data_pipelines.curate.table import read_clips
from data_pipelines.sources.files import folder
from data_pipelines.view import ViewConfig
from soraxla.checkpoints.load import load_captioner
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.generation.captioning import Writing, load_writer
from soraxla.media.write import write_video
from tests.data_pipelines.curate.pictures import table_of_pictures

GREYS = {"dark": 20, "grey": 120, "white": 240}
VIEW = ViewConfig(frames=3, side=32, patch=16)
SETTINGS = [
    f"--set=step.optim.{each}"
    for each in ("decay_steps=None", "weight_decay=0", "ema_decay=0.9")
]


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """The commands find one device of the eight."""
    devices = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices[:1])
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Clips of one grey and of several sizes, each with its name in the caption."""
    root = tmp_path_factory.mktemp("source")
    lines = []
    for i, (name, grey) in enumerate(GREYS.items()):
        for j, (t, h, w) in enumerate([(1, 32, 32), (5, 32, 16), (9, 48, 48)]):
            clip = np.full((t, h, w, 3), grey + 2 * j, np.uint8)
            file = f"{i}{j}.png" if t == 1 else f"{i}{j}.mp4"
            write_video(root / file, clip, 8.0)
            lines.append({"file": file, "caption": f"a {name} clip"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "captions.jsonl").write_text(text)
    return root


def test_views_have_all_clips_and_are_checked(source, tmp_path):
    out = tmp_path / "views"
    write_views(folder(source), out, VIEW, progress=False)
    views = open_views(out)
    assert views.captions[:4] == ["a dark clip"] * 3 + ["a grey clip"]
    assert [views[i].pixels.shape for i in range(3)] == [
        (1, 32, 32, 3),
        (3, 32, 16, 3),
        (3, 32, 32, 3),
    ]
    assert views[4].times.tolist() == [0, 0.25, 0.5]
    assert np.abs(views[8].pixels.astype(int) - 244).max() < 6
    with pytest.raises(UserError, match="exists"):
        write_views(folder(source), out, VIEW, progress=False)
    with (out / "pixels.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="expected"):
        open_views(out)
    with pytest.raises(UserError, match="holds no views"):
        open_views(tmp_path)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """A training of 200 steps, at once and in two parts; returns both folders."""
    root = tmp_path_factory.mktemp("trained")
    for name, parts in (("whole", (200,)), ("parts", (60, 200))):
        for steps in parts:
            words = ["caption", "train", "--config", "captioner:debug"]
            words += ["--source", str(source), "--workdir", str(root / name)]
            assert main([*words, f"--set=loop.steps={steps}", *SETTINGS]) == 0
    return root / "whole", root / "parts"


@pytest.mark.slow
def test_a_training_that_goes_on_ends_with_the_same_bits(trained):
    whole, parts = (load_captioner(folder) for folder in trained)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert whole.model.words == (" a", " clip", " dark", " grey", " white")


@pytest.mark.slow
def test_a_trained_captioner_tells_clips_apart_also_when_it_is_exported(
    source, trained, tmp_path
):
    views = tmp_path / "views"
    write_views(folder(source), views, VIEW, progress=False)
    opened = open_views(views)
    shown = [opened[i] for i in range(len(opened))]
    writer = load_writer(trained[0])
    texts = [written.text for written in writer.captions(shown)]
    assert texts == opened.captions
    alone = [writer.captions([each])[0].text for each in shown[::-1]]
    assert alone[::-1] == texts
    drawn = load_writer(trained[0], Writing(top_p=0.5)).captions(shown)
    assert [written.text for written in drawn] == texts
    out = tmp_path / "model"
    words = ["--checkpoint", str(trained[0]), "--out", str(out)]
    assert main(["export", *words, "--dtype", "bfloat16"]) == 0
    again = load_writer(out)
    assert [written.text for written in again.captions(shown)] == texts
    assert again.model == writer.model


@pytest.mark.slow
def test_scores_are_printed_and_written(trained, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = ["--checkpoint", str(trained[0]), "--clips", "3", "--out", str(out)]
    assert main(["caption", "score", *words]) == 0
    assert "colour, shape and direction" in capsys.readouterr().out
    made = json.loads(out.read_text())
    assert made["clips"] == 3 and made["scores"]["colour"]["value"] == 0


@pytest.mark.slow
def test_a_training_needs_clips_and_its_own_views(source, trained, tmp_path, capsys):
    words = ["caption", "train", "--config", "captioner:debug"]
    assert main([*words, "--workdir", str(tmp_path / "new")]) == 2
    assert "name the clips by --source" in capsys.readouterr().err
    words += ["--workdir", str(trained[0]), "--set=step.model.view.frames=2"]
    assert main(words) == 2
    assert "the model sees" in capsys.readouterr().err


@pytest.mark.slow
def test_a_captioner_captions_a_table(trained, tmp_path, capsys):
    clips = table_of_pictures(tmp_path)
    words = ["caption", "apply", "--clips", str(clips), "--checkpoint", str(trained[0])]
    assert main(words) == 0
    assert "3 of 4 kept clips have a caption" in capsys.readouterr().out
    rows = read_clips(clips / "clips.parquet")[0]
    assert rows[0]["caption"] == "a dark clip" and rows[2]["caption"] is None
    assert rows[0]["caption_model"].startswith("whole:")
    assert rows[1]["caption_original"] == "its own words"

"""`soraxla scale` trains two sizes, goes on where it stood, and reports each point."""

import json

import numpy as np
import pytest

import soraxla
from soraxla.cli.main import main
from soraxla.media.write import write_video
from tests.cli.processes import in_two_processes

CONFIG = """
import soraxla

def get_config(size="a"):
    config = soraxla.config("dit:debug")
    config.step.model.layers = {"a": 1, "b": 2}[size]
    return config
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, checkpoint):
    """The folder and words of a command: pictures of noise, two sizes of a file."""
    home = tmp_path_factory.mktemp("study")
    media, rng = home / "media", np.random.default_rng(0)
    media.mkdir()
    for i in range(6):
        video = rng.integers(0, 256, (1, 16, 16, 3), np.uint8)
        write_video(media / f"{i}.png", video, 0)
        (media / f"{i}.txt").write_text(f"noise {i}")
    soraxla.prepare(media, home / "data", vae=checkpoint / "vae")
    (home / "mine.py").write_text(CONFIG)
    return home, [
        *("scale", "--config", home / "mine.py", "--data", home / "data"),
        *("--sizes", "a,b", "--compute", "1,2", "--clips", "2"),
        *("--set", "eval_share=0.5", "--metrics", "frame_change"),
    ]


@pytest.mark.slow
def test_points_are_trained_measured_and_reported_and_none_twice(study, monkeypatch):
    home, words = study
    words = [*map(str, words), "--base-pflop", "1e-7", "--out", str(home / "out")]
    assert main(words) == 0
    names = [f"{size}_x{compute}" for size in "ab" for compute in (1, 2)]
    found = {
        name: json.loads((home / "out/points" / name / "point.json").read_text())
        for name in names
    }
    for size in "ab":
        one, two = (found[f"{size}_x{c}"] for c in (1, 2))
        assert two["steps"] == pytest.approx(2 * one["steps"], abs=1)
        assert two["flops"] == pytest.approx(2e8, rel=0.5)
        assert one["parameters"] == two["parameters"]
    assert found["b_x1"]["parameters"] > found["a_x1"]["parameters"]
    losses = {
        n: np.load(home / "out/points" / n / "losses.npz")["losses"] for n in names
    }
    assert len({loss.mean() for loss in losses.values()}) == 4
    assert len(losses["a_x1"]) == 2 == len(list((home / "out/reference").iterdir()))
    page = (home / "out/report.html").read_text()
    assert all(f"<td>{name}</td>" for name in names) and "There is no fit" in page
    assert page.count("data:image/webp;base64,") == 2
    assert len(list((home / "out/films").glob("*.webp"))) == 2
    assert (home / "out/loss.svg").read_text().count("<polyline") == 2

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("soraxla.tools.scaling.points.run_training", refuse)
    assert main(words) == 0
    assert (home / "out/report.html").read_text() == page
    words[words.index("frame_change")] = "flicker"
    assert main(words) == 0  # the clips are measured again, and no size is trained
    changed = (home / "out/report.html").read_text()
    assert "flicker" in changed and "frame_change" not in changed


@pytest.mark.slow
def test_a_base_below_a_step_is_refused(study, refusal):
    home, words = study
    line = refusal(*words, "--base-pflop", "1e-12", "--out", home / "none")
    assert "size 'a': a step has" in line and "raise --base-pflop" in line
    line = refusal(*words, "--base-pflop", "1", "--out", home / "none", "--compute=0,1")
    assert "--compute 0,1: expected positive numbers" in line
    assert not (home / "none").exists()


@pytest.mark.slow
def test_two_processes_train_and_measure_the_points_of_one(study):
    home, words = study
    words = [*map(str, words), "--base-pflop", "1e-7", "--set", "batch_rows=2"]
    words[words.index("a,b")] = "a"
    assert main([*words, "--out", str(home / "alone")]) == 0
    in_two_processes(" ".join([*words, "--out", str(home / "pair")]), 1)
    for name in ("a_x1", "a_x2"):
        alone, pair = (home / folder / "points" / name for folder in ("alone", "pair"))
        assert (alone / "point.json").read_text() == (pair / "point.json").read_text()
        one, two = (np.load(x / "losses.npz")["losses"] for x in (alone, pair))
        np.testing.assert_allclose(two, one, rtol=1e-3)
    assert (home / "pair/report.html").stat().st_size > 1000

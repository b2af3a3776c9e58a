"""`soraxla worldbench` measures, records what it did, and does it again."""

import copy
import json
import re

import numpy as np
import pytest

from soraxla.cli.main import main
from soraxla.cli.worldbench import Windows, request_of
from soraxla.evals.worldbench.cases import Ask
from soraxla.evals.worldbench.runner import FAMILIES
from soraxla.generation.task_inputs import Animate, Extend
from tests.generation import fake

QUICK = ("--clips", "2", "--steps", "1", "--cfg-scale", "1", "--size", "32x32")
QUICK += ("--frames", "17")


@pytest.fixture(scope="module")
def first(checkpoint, tmp_path_factory):
    import jax

    out = tmp_path_factory.mktemp("bench") / "first"
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *_: one)
        fake.replace_models(patch)
        arguments = ["--checkpoint", str(checkpoint), "--out", str(out), *QUICK]
        assert main(["worldbench", *arguments]) == 0
    return out


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.slow
def test_every_family_is_scored(first):
    found = read(first, "results.json")
    results = found["families"]
    assert results.keys() == FAMILIES.keys() == found["sets"].keys()
    assert all(each["n"] == 2 for each in found["sets"].values())
    for name, family in results.items():
        for measure, number in family["measures"].items():
            metric = found["metrics"][f"{name}/{measure}"]
            assert metric.items() >= number["value"].items()
            assert metric["n"] == number["clips"] and metric["level"] == 0.95
            higher = FAMILIES[name].measures[measure].higher
            assert metric["better"] == ("higher" if higher else "lower")
    for name, family in results.items():
        assert family["measures"].keys() == FAMILIES[name].measures.keys()
        assert len(family["clips"]) == 2
        assert all(clip["seed"] >= 3_000_000_000 for clip in family["clips"])
    assert results["text"]["chance"]["guessing each word"] == 1 / 640
    without = {name: family["asked_without"] for name, family in results.items()}
    steered = {"consistency": ["camera"], "control": ["actions"]}
    assert without == {name: [] for name in FAMILIES} | steered


@pytest.mark.slow
def test_the_report_needs_no_other_file(first):
    page = (first / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == 2 * len(FAMILIES)
    assert page.count("<path") >= 12  # truth and made, of 2 clips of 3 families
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("this model is not steered by") == 2
    for clip in read(first, "results.json")["families"]["physics"]["clips"]:
        assert clip["prompt"] in page


@pytest.fixture
def changed(first, tmp_path):
    """A manifest with some keys changed."""

    def write(**keys):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(read(first, "manifest.json") | keys))
        return path

    return write


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
def test_a_manifest_runs_again(first, changed, tmp_path):
    """Repeats two of its families."""
    out, kept = tmp_path / "again", ("text", "physics")
    families = read(first, "manifest.json")["families"]
    manifest = changed(families={name: families[name] for name in kept})
    assert main(["worldbench", "--manifest", str(manifest), "--out", str(out)]) == 0
    results = read(first, "results.json")
    again = read(out, "results.json")
    for part in ("families", "sets"):
        assert again[part] == {name: results[part][name] for name in kept}
    assert results["metrics"].items() > again["metrics"].items()
    assert read(out, "manifest.json") == json.loads(manifest.read_text())


@pytest.mark.slow
def test_a_manifest_of_other_weights_or_worlds_is_refused(
    first, changed, tmp_path, refusal
):
    families = read(first, "manifest.json")["families"]
    families = {name: families[name] for name in ("physics", "text")}

    def refuse(**keys):
        manifest = changed(**({"families": families} | keys))
        return refusal("worldbench", "--manifest", manifest, "--out", tmp_path / "o")

    assert "holds other weights or settings" in refuse(sha256={"vae": "0"})
    other = copy.deepcopy(families)
    other["physics"][1]["prompt"] = "something else"
    assert "the worlds have changed" in refuse(families=other)
    assert "unknown family, 'magic'" in refuse(families={"magic": []})
    assert "expected 3" in refuse(format=1)
    assert "is no manifest" in refuse(sampler=3)
    assert "is no manifest" in refuse(size={"width": 64})
    assert "is no manifest" in refuse(windows={"window": 9})
    assert "is no manifest" in refuse(windows={"window": 9, "overlap": "5"})
    assert "window is 9, expected 13" in refuse(windows={"window": 9, "overlap": 9})
    assert "unknown setting" in refuse(sampler={"stepps": 3})
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--families", "phisics"), "did you mean 'physics'?"),
        (("--clips", "1"), "clips is 1, expected 2 or more"),
        (("--size", "large"), "expected WIDTHxHEIGHT"),
        (("--size", "16x64"), "expected sides of at least 32"),
        (("--frames", "5"), "use more frames"),
        (("--fps", "0"), "a rate between 0 and 1000"),
        (("--steps", "0"), "steps is 0"),
        (
            ("--overlap", "3", "--families", "text", "--clips", "2"),
            "overlap is 3, expected 5",
        ),
        (
            ("--window", "8", "--families", "physics", "--clips", "2"),
            "window is 8, expected",
        ),
        (("--manifest", "missing.json"), "missing.json: No such file"),
        (("--manifest", "a.json", "--clips", "3"), "give only --checkpoint and --out"),
        (("--manifest", "a.json", "--steps", "3"), "give only --checkpoint and --out"),
    ],
)
def test_bad_input_is_one_line(refusal, checkpoint, tmp_path, options, text):
    out = tmp_path / "out"
    line = refusal("worldbench", "--checkpoint", checkpoint, "--out", out, *options)
    assert text in line and not out.exists()


def test_folders_that_cannot_be_used(refusal, tmp_path):
    (tmp_path / "there").mkdir()
    line = refusal("worldbench", "--checkpoint", "x", "--out", tmp_path / "there")
    assert "exists; remove it or choose another name" in line
    line = refusal("worldbench", "--checkpoint", "x", "--out", tmp_path / "a" / "b")
    assert "does not exist" in line
    assert "--checkpoint" in refusal("worldbench", "--out", tmp_path / "new")


@pytest.mark.parametrize(("given", "task"), [(0, Animate), (1, Animate), (9, Extend)])
def test_all_that_is_given_is_known(given, task):
    from data_pipelines.worlds.sizes import Size

    frames = np.zeros((given, 32, 32, 3), np.uint8)
    request = request_of(Ask("a ball", frames, Size(32, 32, 17, 16.0)), Windows())
    assert isinstance(request.task, task) and request.frames == 17
    assert request.overlap >= given
    assert request.actions is None and request.camera is None


def test_clips_that_go_on_are_made_in_windows():
    from data_pipelines.worlds.sizes import Size

    frames, windows = np.zeros((13, 32, 32, 3), np.uint8), Windows(17, 9)
    request = request_of(Ask("a ball", frames, Size(32, 32, 33, 16.0)), windows)
    assert (request.window, request.overlap) == (17, 9)
    request = request_of(Ask("a ball", frames[:9], Size(32, 32, 33, 16.0)), Windows())
    assert (request.window, request.overlap) == (None, 9)
    request = request_of(Ask("a ball", frames[:0], Size(32, 32, 33, 16.0)), windows)
    assert request.window is None  # of the prompt only


def test_what_steers_a_clip_is_told():
    from data_pipelines.worlds.sizes import Size

    size, given = Size(32, 32, 17, 16.0), np.zeros((9, 32, 32, 3), np.uint8)
    actions, camera = np.ones((17, 11)), np.ones((17, 4, 4))
    request = request_of(Ask("a walk", given, size, actions, camera), Windows())
    assert request.actions is actions and request.camera is camera

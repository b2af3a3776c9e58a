"""`soraxla evaluate` measures folders, compares runs and repeats them."""

import json
import re

import numpy as np
import pytest

from soraxla.cli.evaluate import _METRICS
from soraxla.cli.main import main
from soraxla.evals.evaluation import FEATURE_METRICS, METRICS
from soraxla.evals.features import load_features
from soraxla.media.write import write_video
from tests.models.text.golden import write_encoder


def write_set(folder, seed, noise=0.0, count=2, frames=4):
    """Clips of random squares; `noise` is added to the same clips."""
    folder.mkdir()
    rng, added = np.random.default_rng(seed), np.random.default_rng(9)
    for i in range(count):
        small = rng.integers(0, 256, (frames, 2, 2, 3))
        video = small.repeat(8, axis=1).repeat(8, axis=2)
        video = np.clip(video + noise * added.normal(size=video.shape), 0, 255)
        for k, frame in enumerate(video.astype(np.uint8)):
            write_video(folder / f"{i}_{k}.png", frame[None], 0)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A reference, two sets that are alike it, of which one is noisier."""
    home = tmp_path_factory.mktemp("sets")
    return {
        "home": home,
        "real": write_set(home / "real", 0),
        "good": write_set(home / "good", 0, noise=4.0),
        "bad": write_set(home / "bad", 0, noise=40.0),
    }


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soraxla.evals.metrics.metric.RESAMPLES", 50)
        yield


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("weights"), "clip")


@pytest.fixture(scope="module")
def runs(sets, clip_folder):
    found = {}
    for name in ("good", "bad"):
        found[name] = sets["home"] / f"run_{name}"
        words = ["evaluate", "run", "--generated", str(sets[name])]
        words += ["--reference", str(sets["real"]), "--out", str(found[name])]
        words += ["--metrics", "psnr,ssim,frechet"]
        assert main([*words, "--features", f"clip:{clip_folder}"]) == 0
    return found


def read(folder, name="results.json"):
    return json.loads((folder / name).read_text())


def error_of(capsys, *words):
    assert main(["evaluate", *map(str, words)]) == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    return line


def test_all_metrics_are_in_the_help():
    assert set(_METRICS) == METRICS.keys() | FEATURE_METRICS.keys()


def test_a_run_has_values_with_intervals_and_a_page(runs):
    good, bad = (read(runs[name])["metrics"] for name in ("good", "bad"))
    assert good.keys() == {"psnr", "ssim", "frechet/clip"}
    assert good["psnr"]["value"] > bad["psnr"]["value"] > 5
    assert good["ssim"]["value"] > bad["ssim"]["value"]
    for metric in good.values():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert (metric["level"], metric["n"]) == (0.95, 8)
    assert good["psnr"]["better"] == "higher"
    page = (runs["bad"] / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == 16  # 4 at each end of 2 metrics
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_rerun_gives_the_same_digits_and_refuses_other_clips(
    runs, sets, tmp_path, capsys
):
    again = tmp_path / "again"
    assert (
        main(
            ["evaluate", "rerun", f"{runs['good']}/manifest.json", "--out", str(again)]
        )
        == 0
    )
    assert read(again) == read(runs["good"])
    changed = read(runs["good"], "manifest.json")
    changed["sets"]["reference"]["sha256"] = "0"
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    line = error_of(
        capsys, "rerun", tmp_path / "manifest.json", "--out", tmp_path / "x"
    )
    assert "the reference clips have changed since the run" in line
    changed = read(runs["good"], "manifest.json")
    changed["extractors"]["clip"] = "0"
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    line = error_of(
        capsys, "rerun", tmp_path / "manifest.json", "--out", tmp_path / "x"
    )
    assert "the weights have changed since the run" in line
    (tmp_path / "manifest.json").write_text("{}")
    assert "is no manifest" in error_of(
        capsys, "rerun", tmp_path / "manifest.json", "--out", tmp_path / "x"
    )


def test_runs_are_compared_clip_by_clip(runs, capsys):
    assert main(["evaluate", "compare", str(runs["good"]), str(runs["bad"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert float(lines[1].split()[1]) < 0 and "not told apart" not in lines[1]
    assert main(["evaluate", "compare", str(runs["good"]), str(runs["good"])]) == 0
    assert capsys.readouterr().out.count("not told apart") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "psnrr"], "unknown metric 'psnrr': did you mean 'psnr'?"),
        (["--metrics", "psnr,psnr"], "metric 'psnr' is named twice"),
        (["--metrics", "psnr"], "metric 'psnr' needs --reference"),
        (["--metrics", "mmd"], "metric 'mmd' needs --features"),
        (["--metrics", "mmd", "--features", "clipp:x"], "unknown features 'clipp'"),
        (["--metrics", "mmd", "--features", "clip"], "name no weights, expected clip:"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    sets, tmp_path, capsys, words, said
):
    line = error_of(
        capsys, "run", "--generated", sets["good"], "--out", tmp_path / "x", *words
    )
    assert said in line and not (tmp_path / "x").exists()


def test_pairs_need_a_reference_of_the_same_shape(sets, tmp_path, capsys):
    words = ["run", "--reference", sets["real"], "--metrics", "psnr"]
    few = write_set(tmp_path / "few", 0, count=3)
    line = error_of(capsys, *words, "--generated", few, "--out", tmp_path / "x")
    assert "has no clip named '2_0'" in line


def test_what_is_damaged_is_skipped_with_a_reason(sets, tmp_path, capsys):
    broken = write_set(tmp_path / "broken", 1, count=1)
    (broken / "0_0.png").write_bytes(b"not a picture")
    words = ["evaluate", "run", "--generated", str(broken), "--metrics", "frame_change"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "skipped, since it is damaged" in capsys.readouterr().out
    assert read(tmp_path / "run")["sets"]["generated"]["n"] == 3


def test_features_do_not_depend_on_the_length_of_a_clip(clip_folder):
    extractor = load_features(f"clip:{clip_folder}")
    video = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    whole = extractor(video)
    assert whole.shape == (20, extractor.dimension)
    np.testing.assert_array_equal(extractor(video[17:]), whole[17:])

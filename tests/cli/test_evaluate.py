"""`soraxla evaluate` measures folders, compares runs and repeats them."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import soraxla
from soraxla.cli.evaluate import _METRICS
from soraxla.cli.main import main
from soraxla.evals.choice import NAMES
from soraxla.evals.features import load_features
from soraxla.media.write import write_video
from tests.cli.processes import in_two_processes, started
from tests.lossless import decode_stream, encode
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
def one_device_and_few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soraxla.evals.metrics.metric.RESAMPLES", 50)
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *_: one)
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
    assert set(_METRICS) == set(NAMES)


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
        (["--metrics", "clip_rank"], "'clip_rank' needs --features clip:PLACE"),
        (["--metrics", "join_ratio"], "'join_ratio' names no frames, expected"),
        (["--metrics", "join_ratio@9"], "clip '0_0': joins [9] in a clip of 1 frames"),
        (["--metrics", "psnr", "--data", "x"], "--data needs --checkpoint or --vae"),
        (["--metrics", "psnr", "--prompts", "x"], "--prompts needs --checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    sets, tmp_path, capsys, words, said
):
    line = error_of(
        capsys, "run", "--generated", sets["good"], "--out", tmp_path / "x", *words
    )
    assert said in line and not (tmp_path / "x").exists()


def test_clips_are_measured_against_their_prompts(sets, clip_folder, tmp_path, capsys):
    """The prompts are read as captions are; equal prompts do not compete."""
    words = ["--metrics", "clip_score,clip_best_frame,clip_rank,consistency,drift"]
    words += ["--features", f"clip:{clip_folder}", "--out", tmp_path / "out"]
    clips = write_set(tmp_path / "clips", 3, count=1, frames=3)
    line = error_of(capsys, "run", "--generated", clips, *words)
    assert "has no caption" in line
    for i, prompt in enumerate(("a cat", "a dog", "a cat")):
        (clips / f"0_{i}.txt").write_text(prompt)
    assert main(["evaluate", "run", "--generated", str(clips), *map(str, words)]) == 0
    found = read(tmp_path / "out")["metrics"]
    assert found["clip_score"] == found["clip_best_frame"]  # of pictures
    assert found["clip_rank"]["value"] in (
        1 / 3,
        2 / 3,
    )  # of two prompts
    assert found["consistency/clip"]["value"] == 1.0
    assert found["drift/clip"]["value"] == pytest.approx(0, abs=1e-6)
    assert read(tmp_path / "out", "manifest.json")["extractors"].keys() == {
        *("clip", "clip_text")
    }
    capsys.readouterr()
    assert main(["evaluate", "compare", *[str(tmp_path / "out")] * 2]) == 0
    assert capsys.readouterr().out.count("not told apart") == 5


def test_python_measures_a_vae_by_size_and_place(tmp_path, checkpoint, monkeypatch):
    """The VAE is lossless but for the last frame of each latent."""

    def decode(params, cfg, latents):
        frames = np.concatenate(list(decode_stream(params, cfg, latents)))
        frames[4::4] ^= 1
        return frames

    monkeypatch.setattr("soraxla.evals.reconstruction.encode_clip", encode)
    monkeypatch.setattr("soraxla.evals.reconstruction.decode_clip", decode)
    media = tmp_path / "media"
    media.mkdir()
    for size in (16, 24):
        video = np.random.default_rng(size).integers(0, 256, (6, size, 20, 3))
        write_video(media / f"{size}.mp4", video.astype(np.uint8), 8.0)
    names = ["psnr", "psnr@0", "psnr@4"]
    found = soraxla.evaluate(
        media, vae=checkpoint / "vae", metrics=names, out=tmp_path / "o"
    )
    sizes = ("", "/20x16", "/20x24")
    assert found.values.keys() == {f"{name}{size}" for name in names for size in sizes}
    assert found.values["psnr@0"].value == 100.0
    assert found.values["psnr@4/20x24"].value == pytest.approx(20 * np.log10(255))
    assert found.opened["generated"].read("24").shape == (6, 24, 20, 3)
    again = main(
        f"evaluate rerun {tmp_path}/o/manifest.json --out {tmp_path}/again".split()
    )
    assert again == 0 and read(tmp_path / "again") == read(tmp_path / "o")


@pytest.mark.slow
def test_a_checkpoint_is_measured_on_the_clips_it_makes(checkpoint, tmp_path, capsys):
    """Twice the same digits; the clips are kept, and a run goes on with them."""
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    words = ["evaluate", "run", "--checkpoint", str(checkpoint)]
    words += ["--prompts", str(tmp_path / "prompts.txt"), "--metrics", "frame_change"]
    for out in ("one", "two"):
        assert main([*words, "--out", str(tmp_path / out)]) == 0
    clips = tmp_path / "one_clips" / "generated"
    assert sorted(x.name for x in clips.iterdir())[-1] == "captions.jsonl"
    results = [read(tmp_path / out) for out in ("one", "two")]
    assert results[0] == results[1] and results[0]["sets"]["generated"]["n"] == 2
    (tmp_path / "prompts.txt").write_text("a fox\n")
    shutil.rmtree(tmp_path / "one")
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "one")]) == 2
    assert "holds clips of another checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_digits_are_the_same_on_any_devices_and_processes(sets, clip_folder, tmp_path):
    """The clips of one folder on one device, on eight, and in two processes."""
    words = f"evaluate run --generated {sets['good']} --reference {sets['real']} "
    words += "--metrics psnr,frechet,consistency,cmmd --features "
    words += f"clip:{clip_folder} --out {tmp_path}/"
    assert started(words + "one", 1).wait() == 0
    assert started(words + "eight", 8).wait() == 0
    in_two_processes(words + "two", 3)
    one, eight, two = (read(tmp_path / name) for name in ("one", "eight", "two"))
    assert one == eight == two
    rows = [np.load(tmp_path / name / "rows.npz") for name in ("one", "eight", "two")]
    for name in rows[0]:
        for other in rows[1:]:
            np.testing.assert_array_equal(rows[0][name], other[name])


@pytest.mark.slow
def test_a_checkpoint_s_digits_are_its_mesh_s_and_nearly_any_other_s(
    checkpoint, tmp_path
):
    (tmp_path / "prompts.txt").write_text("a red ball\na cube\nsome noise\n")
    words = f"evaluate run --checkpoint {checkpoint} --prompts {tmp_path}/prompts.txt "
    words += f"--metrics frame_change --out {tmp_path}/"
    for name, devices in (("one", 1), ("again", 1), ("four", 4)):
        assert started(words + name, devices).wait() == 0
    in_two_processes(words + "two", 1)
    one, again, *others = (
        read(tmp_path / name)["metrics"] for name in ("one", "again", "four", "two")
    )
    assert one == again and one["frame_change"]["n"] == 3
    for other in others:
        for name, metric in one.items():
            assert other[name]["value"] == pytest.approx(metric["value"], rel=1e-3)


def test_clips_are_copied_to_the_names_of_vbench(tmp_path, capsys):
    """The index counts the clips of a prompt; VBench-2.0 cuts prompts at 180."""
    clips, long = tmp_path / "clips", "a" * 200
    clips.mkdir()
    prompts = ("a cat, 4k.", long, "a cat, 4k.")
    lines = [
        json.dumps({"file": f"{i}.mp4", "caption": prompt})
        for i, prompt in enumerate(prompts)
    ]
    (clips / "captions.jsonl").write_text("\n".join(lines))
    for i in range(3):
        write_video(clips / f"{i}.mp4", np.full((1, 16, 16, 3), i * 90, np.uint8), 8.0)
    words = ["vbench", "--generated", clips, "--out", tmp_path / "out"]
    assert main(["evaluate", *map(str, words)]) == 0
    found = {x.name: x.read_bytes() for x in (tmp_path / "out").iterdir()}
    names = ("a cat, 4k.-0.mp4", f"{long[:180]}-0.mp4", "a cat, 4k.-1.mp4")
    assert found == {
        name: (clips / f"{i}.mp4").read_bytes() for i, name in enumerate(names)
    }
    lines[1] = json.dumps({"file": "1.mp4", "caption": "a/b"})
    (clips / "captions.jsonl").write_text("\n".join(lines))
    words[-1] = tmp_path / "other"
    assert "its prompt 'a/b' has a slash" in error_of(capsys, *words)


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

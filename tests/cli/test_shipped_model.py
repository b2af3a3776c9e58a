"""The model that is shipped: small, whole, used where no checkpoint is named."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.worlds import WORLDS
from soraxla.assets import worlds_model
from soraxla.cli.main import main
from soraxla.evals.worldbench.cases import FIRST_SEED
from soraxla.generation.defaults import model_defaults, read_usage
from soraxla.generation.pipeline import load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Extend
from soraxla.media.read import probe
from soraxla.media.write import write_video

USUAL = model_defaults(read_usage(None))
SIZE = {"width": USUAL.width, "height": USUAL.height, "fps": USUAL.fps}


def test_it_is_at_most_40_megabytes_and_has_a_card():
    files = [path for path in worlds_model().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert "WorldBench" in (worlds_model() / "README.md").read_text(encoding="utf-8")
    for part in ("dit", "vae"):
        config = json.loads((worlds_model() / part / "config.json").read_text())
        assert config["kind"] == part


@pytest.mark.slow
def test_a_prompt_alone_gives_a_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--prompt", "a red star moves up", "--steps", "2"]) == 0
    info = probe(tmp_path / "soraxla.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (64, 64, 33, 16)


@pytest.mark.slow
def test_an_expanded_prompt_is_told_and_kept_in_the_file(tmp_path, capsys):
    words = ["--prompt", "a red ball", "--frames", "1", "--steps", "1", "--expand"]
    assert main(["generate", *words, "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as image:
        tags = image.text
    assert tags["Comment"] == "prompt: a red ball"
    assert "a red ball " in tags["Description"]
    note = f"the prompt 'a red ball' becomes {tags['Description']!r}, by the grammar"
    assert note in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_is_extended_forward_a_few_frames_at_a_time(tmp_path, capsys):
    given = WORLDS["physics"](FIRST_SEED, frames=17, **SIZE).video
    write_video(tmp_path / "a.mp4", given, USUAL.fps)
    notes = {}
    for direction, takes in (("forward", []), ("backward", ["--takes", "1"])):
        out = tmp_path / f"{direction}.mp4"
        options = ["--extend", str(tmp_path / "a.mp4"), "--direction", direction]
        options += ["--frames", "41", "--steps", "1", "--out", str(out), *takes]
        assert main(["generate", *options]) == 0
        assert probe(out).frames == 41
        notes[direction] = capsys.readouterr().err
    assert "24 frames and the 9 beside them are more than the 17" in notes["forward"]
    assert "sampled at once" not in notes["backward"]


@pytest.mark.slow
def test_what_stands_still_goes_on_standing_where_a_clip_is_extended():
    """The seeds are in no dataset; every world has some."""
    pipeline, given = load(worlds_model()), 17
    clips = [
        WORLDS[world](FIRST_SEED + i, frames=33, **SIZE)
        for world in ("occlusion", "physics", "marks")
        for i in range(2)
    ]
    requests = [
        Request(
            prompt=clip.caption,
            frames=33,
            task=Extend(video=clip.video[:given]),
            **SIZE,
        )
        for clip in clips
    ]
    settings = SamplingConfig(steps=10, cfg_scale=1.0)
    made = dict(pipeline.generate_each(requests, settings))
    errors, others = [], []
    for i, clip in enumerate(clips):
        truth = clip.video[given:].astype(np.float32)
        rests = np.ptp(clip.video.astype(np.float32), axis=0).max(-1) < 6
        for place, found in ((i, errors), ((i + 2) % len(clips), others)):
            found.append(np.abs(made[place][given:] - truth)[:, rests].mean())
    assert np.mean(errors) < 15 < np.mean(others)


def test_diffusers_has_no_class_for_its_vae(refusal, tmp_path):
    out = tmp_path / "wan"
    line = refusal("export", "wan", "--checkpoint", worlds_model(), "--out", out)
    assert "its VAE is linear" in line and not out.exists()

"""The commands of docs/finetune.md on a tiny Wan, and the clip that diffusers makes.

`tests/golden/make_walk.py` made the golden clip with diffusers.
"""

import json
import re
import shlex
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.cli.main import main
from soraxla.generation import pipeline, sampling
from soraxla.media.read import probe, read_clip
from soraxla.media.write import write_video
from soraxla.packing.patchify import patchify
from tests.golden.wan import GOLDEN
from tests.models.text.golden import write_encoder
from tests.test_docs import ROOT

FRAMES, SIDE, STEPS = 81, 32, 4
PROMPT = "a ginger cat"
# The rows and the steps of a test; a whole clip of 81 frames has 84 tokens here.
SMALL = ["loop.steps=2", "pack.row_length=128", "pack.text_length=64"]
SMALL += [
    "batch_rows=8",
    "pack.max_segments=4",
    "step.model.dtype=float32",
    "step.model.remat=none",
]


def documented(start: str) -> list[str]:
    """Returns the words of the first indented command of the page that starts so."""
    page = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
    for text in re.findall(r"^    (soraxla (?:.*\\\n)*.*)$", page, re.MULTILINE):
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        if " ".join(words).startswith(start):
            return words[1:]
    raise AssertionError(f"docs/finetune.md has no command {start!r}")


def run(start: str, *more: str) -> int:
    return main([*documented(start), *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `WAN`, in diffusers' layout, and `my_clips`."""
    made = tmp_path_factory.mktemp("walk")
    shutil.copytree(GOLDEN / "walk", made / "WAN")
    shutil.copytree(GOLDEN / "wan21" / "vae", made / "WAN" / "vae")
    write_encoder(made / "WAN" / "text_encoder", "umt5")
    clips, rng = made / "my_clips", np.random.default_rng(0)
    clips.mkdir()
    for name in ("one", "two"):
        frames = rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
        write_video(clips / f"{name}.mp4", frames, 16.0)
        (clips / f"{name}.txt").write_text("a cat")
    return made


@pytest.fixture(scope="module")
def walked(folder):
    """The same folder after the commands of the page's sections 1 to 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("soraxla import wan") == 0
        config = folder / "wan" / "dit" / "config.json"
        stored = json.loads(config.read_text())
        found = stored["generation_defaults"]
        assert (found["width"], found["height"], found["frames"]) == (832, 480, FRAMES)
        assert found["fps"] == 16.0 and found["solver"] == "unipc"
        found |= {"width": SIDE, "height": SIDE, "steps": STEPS}
        stored["model"]["dtype"] = "float32"  # diffusers' clip is computed so
        config.write_text(json.dumps(stored))
        assert run("soraxla prepare") == 0
        sets = [word for key in SMALL for word in ("--set", key)]
        assert run("soraxla train --config finetune_wan:lora", *sets) == 0
    return folder


@pytest.mark.slow
def test_the_commands_give_a_clip_in_one_window_at_wan_s_rate(
    walked, monkeypatch, capsys
):
    """A fine-tuning on clips of 81 frames keeps the length and the rate of its base."""
    monkeypatch.chdir(walked)
    card = json.loads((walked / "dataset" / "dataset.json").read_text())
    assert card["samples"] == 2  # no clip was cut
    rows, pack = [], pipeline.pack_clips

    def packed(*inputs, **options):
        for row in pack(*inputs, **options):
            rows.append(row)
            yield row

    monkeypatch.setattr(pipeline, "pack_clips", packed)
    assert run("soraxla generate --checkpoint runs/lora") == 0
    clip = probe(walked / "clip.mp4")
    assert (clip.frames, clip.fps) == (FRAMES, 16.0)
    assert read_clip(walked / "clip.mp4").shape == (FRAMES, SIDE, SIDE, 3)
    (row,) = rows  # one window
    ids, places = row.batches[0].segment_ids, row.batches[0].positions
    assert np.unique(places[ids == 1][:, 0]).tolist() == list(range(21))
    assert not row.batches[0].condition_mask.any()
    for command in ("export --", "export wan --checkpoint runs/lora --out merged_wan"):
        assert run(f"soraxla {command}") == 0
    merged = json.loads((walked / "merged" / "dit" / "config.json").read_text())
    assert merged["generation_defaults"]["frames"] == FRAMES
    assert merged["max_latent_frames"] is None
    assert merged["trained_tasks"] == ["text", "edit"]


@pytest.mark.slow
def test_the_doctor_of_the_page_finds_only_that_weights_are_random(
    walked, monkeypatch, capsys
):
    monkeypatch.chdir(walked)
    sets = [word for key in SMALL for word in ("--set", key)]
    assert run("soraxla doctor --checkpoint wan", *sets) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["ok  ", "FAIL", "FAIL", "ok  ", "ok  "]


@pytest.mark.slow
def test_every_step_and_frame_of_the_imported_model_are_diffusers(walked, monkeypatch):
    """81 frames in one piece, from the noise that diffusers was given."""
    with np.load(GOLDEN / "walk.npz") as stored:
        latents, frames = stored["latents"], stored["frames"]
    steps = [patchify(np.moveaxis(each, 0, -1), (1, 2, 2)) for each in latents]
    found, made = [], sampling.programs

    def given_noise(_, batch):
        there = (batch.segment_ids == 1)[:, :, None]
        tokens = jnp.asarray(steps[0])[jnp.minimum(batch.token_index, 83)]
        return jnp.where(there, tokens, 0.0)

    def watched(*settings):
        begin, run = made.__wrapped__(*settings)

        def step(*inputs):
            state, x = run(*inputs)
            found.append(np.asarray(x)[0, : len(steps[0])])
            return state, x

        return sampling.Programs(begin, step)

    monkeypatch.setattr(sampling, "_noise", given_noise)
    monkeypatch.setattr(sampling, "programs", watched)
    video = pipeline.load(walked / "wan").generate(PROMPT)
    assert len(found) == STEPS and video.fps == 16.0
    for ours, theirs in zip(found, steps[1:], strict=True):
        limit = 1e-3 * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
    assert video.frames.shape == frames.shape
    assert np.abs(video.frames.astype(int) - frames).max() <= 1

"""Values that nobody asked for: from the model's folder, and never a wrong window."""

import dataclasses

import numpy as np
import pytest

from soraxla.checkpoints.model_folder import save_folder
from soraxla.checkpoints.usage import GenerationDefaults, Usage
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.generation.defaults import unlike_training
from soraxla.generation.pipeline import assemble
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Extend
from soraxla.media.read import probe
from tests import tiny
from tests.generation import fake

LONG = Request(prompt="a ball", width=32, height=32, frames=25, overlap=5)


@pytest.fixture(autouse=True)
def without_models(monkeypatch):
    fake.replace_models(monkeypatch)


def pipeline(**config):
    dit = tiny.loaded_dit()
    config = {**dit.config, **config}
    return assemble(dataclasses.replace(dit, config=config), tiny.loaded_vae())


STATED = {"fps": 16.0, "width": 48, "height": 32, "frames": 9, "steps": 3, "takes": 2}


def test_a_pipeline_takes_the_folder_s_defaults_and_what_is_asked_for(monkeypatch):
    """The rate reaches the clip's positions, and the shift its times."""
    pipe = pipeline(generation_defaults={**STATED, "shift": 9.0, "solver": "heun"})
    seen = []
    rows = type(pipe).rows

    def watched(self, clips, texts, settings, *rest):
        for each in rows(self, clips, texts, settings, *rest):
            seen.append((settings, each.batches[0]))
            yield each

    monkeypatch.setattr(type(pipe), "rows", watched)
    video = pipe.generate("a ball")
    assert video.frames.shape == (9, 32, 48, 3) and video.fps == 16.0
    [(settings, batch)] = seen
    assert (settings.steps, settings.solver, settings.takes) == (3, "heun", 1)
    assert np.unique(batch.positions[0, :18, 0]).tolist() == [0.0, 1.0, 2.0]
    assert batch.shift[0, 0] == 9.0
    video = pipe.generate("a ball", size=(32, 32), frames=5, fps=8.0, steps=1)
    assert video.frames.shape == (5, 32, 32, 3) and video.fps == 8.0
    assert seen[1][0].steps == 1


def test_a_request_has_no_rate_until_a_model_gives_one():
    assert LONG.fps is None
    assert pipeline().context(LONG).fps == 24.0
    assert pipeline(generation_defaults=STATED).context(LONG).fps == 16.0


def windows(pipe, request):
    """The clips that are sampled, one after the other."""
    counts = []
    sample = type(pipe).sample_clips

    def counted(self, clips, *rest, **named):
        counts.append(len(clips))
        return sample(self, clips, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe), "sample_clips", counted)
        [(_, video)] = pipe.generate_each([request], SamplingConfig(steps=1))
    assert len(video) == request.frames
    return sum(counts)


def test_windows_are_sampled_only_if_the_model_was_trained_to_continue():
    tasks = ["text", "edit", "first_frame"]
    assert windows(pipeline(max_latent_frames=None, trained_tasks=tasks), LONG) == 1
    limited = pipeline(max_latent_frames=4, trained_tasks=tasks)
    with pytest.raises(UserError, match=r"25 frames.*the 13.*not trained") as error:
        limited.context(LONG)
    assert "\n" not in str(error.value)
    assert windows(limited, dataclasses.replace(LONG, window=25)) == 1
    for known in ([*tasks, "extend_forward"], None):
        config = {} if known is None else {"trained_tasks": known}
        assert windows(pipeline(max_latent_frames=4, **config), LONG) == 3
    clip = np.zeros((5, 32, 32, 3), np.uint8)
    back = dataclasses.replace(LONG, task=Extend(video=clip, direction="backward"))
    with pytest.raises(UserError, match="extend_backward is not in"):
        pipeline(max_latent_frames=4, trained_tasks=tasks).context(back)


@pytest.mark.parametrize(
    ("config", "options", "size", "notes"),
    [
        (
            {"generation_defaults": STATED},
            ["--frames", "5"],
            (48, 32, 5, 16),
            ["width 48, height 32, fps 16.0, steps 3: from the model folder's gen"],
        ),
        (
            {"training_median": {"width": 48, "height": 32, "fps": 8.0, "frames": 5}},
            ["--size", "32x16", "--steps", "1"],
            (32, 16, 5, 8),
            ["fps 8.0, frames 5: from the median of the training data"],
        ),
        (
            {"training_median": {"width": 48, "height": 32, "frames": 5}},
            ["--fps", "8", "--steps", "1", "--out", "a.png"],
            (48, 32, 1, 0),
            ["width 48, height 32: from the median of the training data"],
        ),
        (
            {"max_latent_frames": 4},
            ["--size", "32x16", "--steps", "1", "--fps", "8", "--frames", "17"],
            (32, 16, 17, 8),
            ["17 frames are more than the 13", "config.json has no trained_tasks"],
        ),
    ],
)
def test_the_command_says_what_it_took_from_where(
    tmp_path, capsys, monkeypatch, config, options, size, notes
):
    monkeypatch.chdir(tmp_path)
    pipe = pipeline()
    dit = {**pipe.dit.config, **config}
    save_folder(tmp_path / "model" / "dit", pipe.dit.params, dit)
    save_folder(tmp_path / "model" / "vae", pipe.vae.params, pipe.vae.config)
    out = tmp_path / ("a.png" if "a.png" in options else "a.mp4")
    words = ["--checkpoint", str(tmp_path / "model"), "--prompt", "a ball"]
    assert main(["generate", *words, "--out", str(out), *options]) == 0
    info = probe(out)
    assert (info.width, info.height, info.frames) == size[:3]
    assert info.is_image or info.fps == size[3]
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if line.startswith("soraxla generate:")]
    assert len(lines) == len(notes)
    for line, note in zip(lines, notes, strict=True):
        assert note in line


TRAINED = Usage(
    training_median=GenerationDefaults(width=64, height=48, frames=9, fps=12.0),
    trained_words=("a", "ball", "rolls"),
)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, None),
        ({"width": 128, "height": 96, "fps": 24.0}, None),
        ({"width": 272}, "272x48 is far from the size"),
        ({"width": 16, "height": 16}, "about 64x48"),
        ({"fps": 30.0}, "30 frames a second are far"),
        ({"prompt": "The balls!"}, None),  # as near as its beginning
        ({"prompt": "..."}, None),  # no word at all
        ({"prompt": "a"}, None),
        ({"prompt": "a cat"}, "no word of the prompt 'a cat' was in"),
        ({"prompt": "the cat sat"}, "no word of the prompt 'the cat sat' was in"),
        ({"prompt": "an aardvark"}, "whose words are a, ball, rolls"),
    ],
)
def test_a_request_far_from_the_training_is_said(changes, text):
    request = Request(
        **{"prompt": "a ball", "width": 64, "height": 48, "fps": 12.0, **changes}
    )
    notes = unlike_training(TRAINED, [request, request])
    assert len(notes) == (text is not None)
    assert text is None or text in notes[0]
    assert unlike_training(Usage(), [request]) == []


def test_a_base_s_own_size_is_not_far_after_a_training_on_small_clips():
    wide = GenerationDefaults(width=832, height=480, fps=16.0)
    usage = dataclasses.replace(TRAINED, generation_defaults=wide, trained_words=None)
    request = Request(prompt="x", width=832, height=480, fps=16.0)
    assert unlike_training(usage, [request]) == []

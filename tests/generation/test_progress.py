"""Progress: every step of the sampler is counted, in one compiled program."""

import dataclasses

import jax
import numpy as np
import pytest

from soraxla.cli.generate import _Bar
from soraxla.diffusion.guidance import Guidance
from soraxla.diffusion.process import Process
from soraxla.diffusion.solvers import SOLVERS
from soraxla.generation import sampling as sampling_module
from soraxla.generation.pipeline import assemble
from soraxla.generation.progress import Progress
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.sampling import programs, sampler, state_sharding
from soraxla.generation.task_inputs import Animate, Connect, Edit, Extend, Loop
from soraxla.generation.tasks import clip_count
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.parallel.mesh import one_device
from tests import tiny
from tests.generation import fake

CLIP = np.zeros((9, 32, 32, 3), np.uint8)
TASKS = [
    (Animate(), 17),
    (Animate(), 49),
    (Extend(video=CLIP), 21),
    (Extend(video=CLIP, direction="both"), 33),
    (Connect(before=CLIP, after=CLIP, strength=0.5), 33),
    (Loop(), 33),
    (Edit(video=CLIP, strength=0.5), 9),
]


@pytest.fixture
def pipeline(monkeypatch):
    """Pipelines of at most 7 latents, which compile nothing."""
    fake.replace_models(monkeypatch)
    dit = tiny.loaded_dit()
    config = dit.config | {"max_latent_frames": 7}
    return assemble(dataclasses.replace(dit, config=config), tiny.loaded_vae())


@pytest.mark.parametrize(("task", "frames"), TASKS)
def test_all_steps_of_a_request_are_expected_and_counted(pipeline, task, frames):
    request = Request(prompt="a", width=32, height=32, frames=frames, task=task)
    seen = []

    def show(progress):
        seen.append((progress.phase, progress.done, progress.total))

    videos = pipeline.generate_each([request] * 2, SamplingConfig(steps=4), show)
    assert len(list(videos)) == 2
    clips = 2 * clip_count(pipeline.context(request))
    assert seen[0][2] <= 4 * clips
    assert seen[-1][1] == seen[-1][2]
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert {phase for phase, *_ in seen} == {"compiling", "sampling", "decoding"}


def test_a_bar_appears_with_the_first_steps_to_come(capsys):
    bar = _Bar()
    bar.close()
    assert capsys.readouterr().err == ""
    progress = Progress(bar.show)
    progress.expect(8)
    with progress.during("compiling"):
        progress.step(2)
    bar.close()
    text = capsys.readouterr().err
    assert "compiling:   0%" in text and "sampling:  25%" in text and "2/8" in text


def test_all_steps_run_one_program(monkeypatch):
    """The state that a step returns has the sharding of the next step's input."""
    monkeypatch.setattr(sampling_module.dit, "encode_text", lambda *_: None)
    monkeypatch.setattr(
        sampling_module.dit, "denoiser", lambda *_, **__: lambda x, t: 0.5 * x
    )
    tokens = np.zeros((256, tiny.DIT.patch_dim), np.float32)
    segment = Segment(
        tokens=tokens,
        condition_mask=np.zeros(256, bool),
        positions=np.zeros((256, 3), np.float32),
        text=np.zeros((1, tiny.DIT.text_width), np.float32),
        visit=0,
        shift=1.0,
    )
    row = PackConfig(row_length=256, text_length=8, max_segments=1)
    batch, guidance = pack([[segment]], row), Guidance(cfg_scale=1.0)
    chosen, told = (tiny.DIT, Process(), "unipc", guidance), []
    with jax.set_mesh(one_device()):  # where JAX simplifies a result's sharding
        grid = SOLVERS["unipc"].grid(3, batch.shift)
        inputs = (batch,), grid, jax.random.key(0), np.float32(0.0)
        sampler(*chosen)({}, *inputs, lambda: told.append(1))
        sharding = state_sharding(batch, jax.sharding.get_mesh())
        begin, step = programs(*chosen, sharding)
    programs.cache_clear()  # the network was another one
    assert len(told) == 3
    assert begin._cache_size() == step._cache_size() == 1

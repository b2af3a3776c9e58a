"""Image to video of Wan 2.2 TI2V 5B against diffusers, by make_wan22_image.py."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from soraxla.checkpoints.wan.convert import open_transformer, open_vae
from soraxla.diffusion.guidance import guided
from soraxla.diffusion.process import Process
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import SOLVERS
from soraxla.generation.pipeline import Pipeline
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Animate
from soraxla.generation.tasks import sampling
from soraxla.models import dit
from soraxla.packing.pack import unpack
from soraxla.packing.patchify import patchify
from tests.golden.wan import GOLDEN, write_wan22
from tests.marks import slow
from tests.tiny import quick

SOLVER_NAMES = slow("unipc", "wan-euler")


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "wan22_image.npz") as stored:
        return dict(stored)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A text encoder that knows two texts."""

    arrays: dict
    name: str = "stored"
    width: int = 8

    def __call__(self, texts):
        return [self.arrays[text] for text in texts]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, arrays):
    folder = write_wan22(tmp_path_factory.mktemp("wan22") / "theirs")
    transformer = open_transformer(folder).load()
    model = dataclasses.replace(transformer.model, dtype="float32")
    return Pipeline(
        dit=dataclasses.replace(transformer, model=model),
        vae=open_vae(folder).load(),
        process=Process(),
        text_encoder=Stored(arrays),
    )


def tokens(clip, cfg):
    return patchify(np.moveaxis(clip, 0, -1), cfg.patch)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_every_step_from_a_picture_is_diffusers(pipeline, arrays, name):
    """The network's inputs at 10 steps and the result agree, at a guidance of 5.

    The rows are those of the pipeline: the encoded picture is a condition in place.
    """
    picture, cfg = arrays["picture"], pipeline.dit.model
    height, width = picture.shape[:2]
    request = Request(
        prompt="prompt",
        width=width,
        height=height,
        frames=9,
        task=Animate(first=picture[None]),
    )
    settings = SamplingConfig(
        steps=10, solver=name, cfg_scale=5.0, negative_prompt="negative"
    )
    clip = next(sampling(pipeline.context(request)))
    texts = dict(enumerate(pipeline.text_encoder(["prompt"])))
    [(_, (batch, negative))] = pipeline.rows({0: clip}, texts, settings)
    shown, told = [], []
    guide = guided(
        functools.partial(dit.denoiser, pipeline.dit.params, cfg),
        batch,
        negative,
        guidance=settings.guidance,
    )

    def denoise(x, t):
        def keep(x, t):
            shown.append(np.asarray(x))
            told.append(np.asarray(t)[0, 0])

        jax.debug.callback(keep, x, t, ordered=True)
        return guide(x, t)

    solver = SOLVERS[name]
    noise = np.zeros_like(batch.latents)
    own = tokens(arrays["noise"], cfg)
    noise[0, : len(own)] = own
    noise = np.where(batch.condition_mask[:, :, None], batch.latents, noise)
    out = quick(
        lambda noise, grid: sample(
            denoise, noise, batch, grid, process=Process(), solver=solver
        )
    )(noise, solver.grid(10, batch.shift))
    jax.effects_barrier()
    [[condition_mask]] = unpack(batch.condition_mask, batch.segment_ids)
    for time, times in zip(told, arrays[f"{name}.times"], strict=True):
        np.testing.assert_allclose(
            np.where(condition_mask, 0, 1000 * time), times, atol=1e-4
        )
    worst = 0.0
    for found, latents in zip([*shown, out], arrays[f"{name}.latents"], strict=True):
        [[clip]] = unpack(np.asarray(found), batch.segment_ids)
        worst = max(worst, np.abs(clip - tokens(latents, cfg)).max())
    assert worst < 1e-4 * np.abs(arrays[f"{name}.latents"]).max()

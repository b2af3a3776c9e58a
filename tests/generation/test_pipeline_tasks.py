"""The tasks through the whole pipeline: packed with others, noised, guided, cut up."""

import dataclasses

import jax
import numpy as np
import pytest

from soraxla.diffusion.guidance import Guidance
from soraxla.diffusion.process import Process
from soraxla.diffusion.solvers import SOLVERS
from soraxla.generation.pipeline import Pipeline, assemble
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.sampling import programs, sampler
from soraxla.generation.task_inputs import Animate, Connect, Edit, Extend
from soraxla.generation.tasks import sampling
from soraxla.generation.vae_streaming import decode_clip, encode_clip
from soraxla.parallel.mesh import sampling_mesh
from tests import tiny
from tests.marks import slow

SETTINGS = SamplingConfig(
    steps=2,
    solver="euler-ancestral",  # whose noise is to be each clip's own, too
    cfg_scale=3.0,
    seed=5,
)


def waves(frames, seed=0, side=32):
    """A smooth clip that moves."""
    t, y, x = np.mgrid[:frames, :side, :side] / 20.0
    colours = [np.sin(3 * (x + y) + t + seed + k) for k in range(3)]
    return (127.5 + 100 * np.stack(colours, axis=-1)).astype(np.uint8)


def request(task, frames, **changes):
    settings = {"prompt": "a red ball", "width": 32, "height": 32, "fps": 12.0}
    return Request(task=task, frames=frames, **(settings | changes))


CONNECT = request(Connect(before=waves(9), after=waves(9, seed=2)), 33)
EXTEND = request(Extend(video=waves(9)), 20, prompt="")
PLAIN = request(Animate(), 17)


@pytest.fixture(scope="module")
def pipeline():
    return assemble(tiny.loaded_dit(), tiny.loaded_vae())


def latents_of(pipeline, requests, settings=SETTINGS):
    """Returns the latents of each task's first clip."""
    clips = {i: next(sampling(pipeline.context(r))) for i, r in enumerate(requests)}
    texts = dict(enumerate(pipeline.text_encoder([r.prompt for r in requests])))
    return dict(pipeline.sample_clips(clips, texts, settings))


@pytest.fixture(scope="module")
def together(pipeline):
    return latents_of(pipeline, [CONNECT, EXTEND, PLAIN])


def test_a_task_is_sampled_the_same_alone_and_among_others(pipeline, together):
    alone = latents_of(pipeline, [CONNECT])
    np.testing.assert_allclose(alone[0], together[0], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_eight_devices_sample_what_one_does(pipeline, together):
    with jax.set_mesh(sampling_mesh()):
        spread = latents_of(pipeline, [CONNECT, EXTEND, PLAIN])
    for i, latents in together.items():
        np.testing.assert_allclose(spread[i], latents, rtol=0, atol=1e-4)


def test_what_stands_behind_a_clip_tells_it_what_comes(pipeline, together):
    """Its tokens are cut off, and have been seen."""
    other = Connect(before=waves(9), after=waves(9, seed=4))
    changed = latents_of(pipeline, [dataclasses.replace(CONNECT, task=other)])[0]
    assert together[0].shape == changed.shape == (9, 4, 4, 4)
    np.testing.assert_array_equal(changed[:3], together[0][:3])
    assert np.abs(changed - together[0])[3:].max() > 1e-3


@pytest.mark.slow
def test_an_edit_at_full_strength_is_generation_and_at_none_the_clip(
    pipeline, together
):
    plain = dataclasses.replace(PLAIN, task=Edit(video=waves(17), strength=1.0))
    whole = latents_of(pipeline, [CONNECT, EXTEND, plain])[2]
    np.testing.assert_allclose(whole, together[2], rtol=0, atol=2e-5)
    barely = dataclasses.replace(PLAIN, task=Edit(video=waves(17), strength=1e-5))
    z = encode_clip(pipeline.vae.params, tiny.VAE, waves(17))
    found = latents_of(pipeline, [barely])[0]
    np.testing.assert_allclose(found, z, rtol=0, atol=1e-3)
    half = dataclasses.replace(PLAIN, task=Edit(video=waves(17), strength=0.5))
    assert np.abs(latents_of(pipeline, [half])[0] - z).max() > 0.1


@pytest.mark.parametrize(
    ("strength", "steps", "taken"),
    slow((1.0, 4, 4), (0.5, 5, 3), (0.28, 25, 7), (0.56, 25, 14)),
)
def test_an_edit_takes_its_share_of_the_steps(
    monkeypatch, pipeline, strength, steps, taken
):
    """⌈strength · steps⌉, which in floating point is one more at times."""
    grids = []

    def watched(*_):
        return lambda params, batches, grid, *rest: (
            grids.append(grid) or np.zeros_like(batches[0].latents)
        )

    monkeypatch.setattr("soraxla.generation.pipeline.sampler", watched)
    edit = dataclasses.replace(PLAIN, task=Edit(video=waves(17), strength=strength))
    list(
        pipeline.generate_each(
            [edit], dataclasses.replace(SETTINGS, steps=steps, takes=1)
        )
    )
    assert [len(grid.t) for grid in grids] == [taken + 1]


# --- What the network is shown ----------------------------------------------------


def watch(monkeypatch, pipeline, guidance, condition_t):
    """One step of CONNECT with a network that predicts 0; all it was shown."""
    shown = {}

    def denoiser(params, model, batch, condition_t, text):
        def denoise(x, t):
            jax.debug.callback(
                shown.update, x=x, t=t, batch=batch, condition_t=condition_t
            )
            return 0.0 * x

        return denoise

    monkeypatch.setattr("soraxla.generation.sampling.dit.denoiser", denoiser)
    monkeypatch.setattr("soraxla.generation.sampling.dit.encode_text", lambda *_: None)
    clip = next(sampling(pipeline.context(CONNECT)))
    settings = SamplingConfig(
        cfg_scale=guidance.cfg_scale, image_scale=guidance.image_scale
    )
    [rows] = pipeline.rows({0: clip}, {0: np.ones((3, 16), np.float32)}, settings)
    programs.cache_clear()  # of the network that is watched
    run = sampler(tiny.DIT, Process(), "euler", guidance)
    grid = SOLVERS["euler"].grid(1, rows.batches[0].shift, 0.8)
    out = run({}, rows.batches, grid, jax.random.key(3), np.float32(condition_t))
    jax.effects_barrier()
    return rows.batches[0], np.asarray(out), shown, float(grid.t[0, 0, 0])


def test_known_tokens_are_shown_with_noise_of_their_own(monkeypatch, pipeline):
    """They are (1 − c)·x0 + c·ε, where c is the network's time."""
    batch, out, shown, _ = watch(monkeypatch, pipeline, Guidance(), 0.2)
    condition_mask = np.asarray(batch.condition_mask)
    x0, x = batch.latents[condition_mask], np.asarray(shown["x"])[condition_mask]
    eps = (x - 0.8 * x0) / 0.2
    assert float(shown["condition_t"]) == np.float32(0.2)
    assert abs(eps.mean()) < 0.1 and abs(eps.std() - 1) < 0.1
    assert np.abs(np.corrcoef(eps[:12].ravel(), eps[12:24].ravel())[0, 1]) < 0.2
    np.testing.assert_array_equal(out[condition_mask], x0)
    clean = watch(monkeypatch, pipeline, Guidance(), 0.0)
    np.testing.assert_array_equal(np.asarray(clean[2]["x"])[condition_mask], x0)


def test_with_nothing_given_known_tokens_are_as_any_other(monkeypatch, pipeline):
    """Noised like the rest in place; behind the clip they are not there."""
    guidance = Guidance(cfg_scale=2.0, image_scale=1.5)
    batch, _, shown, t = watch(monkeypatch, pipeline, guidance, 0.0)
    grid = 9 * 2 * 2
    both, image, nothing = np.asarray(shown["x"])
    np.testing.assert_array_equal(both, image)
    ids, condition_mask = (
        np.asarray(x) for x in (shown["batch"].segment_ids, batch.condition_mask[0])
    )
    assert (
        condition_mask[:12].all()
        and condition_mask[grid : grid + 12].all()
        and condition_mask.sum() == 24
    )
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[2], np.arange(ids.shape[1]) < grid)
    assert not np.asarray(shown["batch"].condition_mask)[2].any()
    np.testing.assert_array_equal(nothing[12:grid], both[12:grid])
    eps = (nothing[:12] - (1 - t) * batch.latents[0, :12]) / t
    assert 0.8 < eps.std() < 1.2
    text = np.asarray(shown["batch"].text)
    np.testing.assert_array_equal(text[1], text[2])
    assert np.abs(text[0] - text[1]).max() > 0


# --- Rounds -----------------------------------------------------------------------


@pytest.mark.slow
def test_windows_have_noise_of_their_own_and_are_decoded_in_one_stream(
    monkeypatch, pipeline
):
    """A model of at most 4 latents; the other request is done in the first round."""
    limit = pipeline.dit.config | {"max_latent_frames": 4}
    short = dataclasses.replace(
        pipeline, dit=dataclasses.replace(pipeline.dit, config=limit)
    )
    rng, visits, made = np.random.default_rng(0), [], []

    def fake(self, clips, texts, settings, turn, **_):
        visits.append((turn, sorted(clips)))
        for i, clip in clips.items():
            z = rng.normal(size=clip.latents.shape).astype(np.float32)
            z = np.where(clip.condition_mask[..., None], clip.latents, z)
            if i == 1:
                made.append(z[clip.condition_mask[:, 0, 0].sum() :])
            yield i, z

    monkeypatch.setattr(Pipeline, "sample_clips", fake)
    long = dataclasses.replace(PLAIN, frames=25, overlap=5)
    one = dataclasses.replace(PLAIN, frames=1)
    results = list(short.generate_each([one, long], SETTINGS))
    assert [place for place, _ in results] == [0, 1]
    assert visits == [(0, [0, 1]), (1, [1]), (2, [1])]
    whole = decode_clip(pipeline.vae.params, tiny.VAE, np.concatenate(made))
    np.testing.assert_array_equal(results[1][1], whole[:25])

"""The captioner: packed clips, causal text, and texts written with a cache."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.captioned import encoded
from data_pipelines.view import View, ViewConfig, segment
from soraxla.core.errors import UserError
from soraxla.models import captioner
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.captioner.decode import beam_search, nucleus
from soraxla.models.captioner.vocabulary import BEGIN, END
from soraxla.packing.pack import PackConfig, pack, unpack
from tests.tiny import quick, random_like

CFG = CaptionerConfig(
    tower_layers=1,
    layers=2,
    width=32,
    heads=2,
    mlp_width=32,
    view=ViewConfig(frames=2, side=8, patch=4, margin=2),
    stem=(4, 6),
    words=(" a", " ball"),
    max_tokens=6,
    dtype="float32",
)
CAPTIONS = ("a ball", "a x")


def views():
    rng = np.random.default_rng(0)
    sizes = ((2, 8, 8), (1, 4, 8))
    return [
        View(rng.integers(0, 255, (*size, 3), np.uint8), np.arange(size[0]) / 2)
        for size in sizes
    ]


def rows(*clips):
    text = encoded(CAPTIONS, functools.partial(CFG.vocabulary.encode, most=5))
    segments = [
        segment(shown, CFG.view, ids, visit)
        for visit, (shown, ids) in enumerate(zip(views(), text, strict=True))
    ]
    packed = [[segments[i] for i in row] for row in clips]
    return pack(packed, PackConfig(row_length=12, text_length=8, max_segments=2))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: captioner.init(jax.random.key(0), CFG))
    made = random_like(shapes)
    # Texts about as likely as each other, so that beams overtake each other.
    head = made["head"] | {"kernel": 0.3 * made["head"]["kernel"]}
    return made | {"head": head}


@pytest.fixture(scope="module")
def logits(params):
    return quick(lambda batch: captioner.apply(params, CFG, batch))


def test_a_stem_of_other_pixels_is_refused():
    with pytest.raises(UserError, match=r"a multiple of 8 for view.patch .* is 12; ch"):
        replace(CFG, view=replace(CFG.view, margin=4))


@pytest.mark.slow
def test_a_packed_clip_has_the_logits_that_it_has_in_a_row_of_its_own(logits):
    together, apart = rows((0, 1)), rows((0,), (1,))
    packed, alone = (
        unpack(logits(batch), batch.text_segment_ids) for batch in (together, apart)
    )
    for i in range(2):
        np.testing.assert_allclose(packed[0][i], alone[i][0], atol=2e-5)
    assert np.abs(packed[0][0][0] - packed[0][1][0]).max() > 3e-3


@pytest.mark.slow
def test_a_token_sees_its_clip_and_no_later_token(params, logits):
    batch = rows((0, 1))
    base = logits(batch)
    later = np.array(batch.text)
    later[0, 2, 0] = 5
    found = logits(batch._replace(text=later))
    np.testing.assert_array_equal(found[0, :2], base[0, :2])
    assert np.abs(np.asarray(found - base)[0, 2]).max() > 1e-3
    # Tokens 0…7 are of the first clip, to which the first 3 text tokens belong.
    latents = np.array(batch.latents)
    for at, sees in ((7, True), (8, False)):
        changed = latents.copy()
        changed[0, at] += 1
        away = logits(batch._replace(latents=changed))[0, 2] - base[0, 2]
        assert (np.abs(away).max() > 3e-5) == sees


def log_probabilities(logits, tokens, clip):
    """Returns those of the next tokens after a clip, without a cache."""
    ids = [BEGIN, *tokens]
    batch = rows((clip,))
    text, segment_ids = np.zeros((1, 8, 2), np.float32), np.zeros((1, 8), np.int32)
    text[0, : len(ids), 0], segment_ids[0, : len(ids)] = ids, 1
    found = np.array(logits(batch._replace(text=text, text_segment_ids=segment_ids)))
    found[:, :, BEGIN] = -1e30  # no text begins twice
    return np.asarray(jax.nn.log_softmax(jnp.asarray(found)))[0]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 16])
def test_a_text_that_is_written_with_a_cache_has_the_score_without_one(
    params, logits, beams
):
    run = quick(
        functools.partial(beam_search, cfg=CFG, beams=beams, length_penalty=0.0)
    )
    tokens, score = run(params, batch=rows((0,), (1,)))
    for clip in range(2):
        own = [int(token) for token in tokens[clip]]
        if END in own:
            own = own[: own.index(END) + 1]
        logp = log_probabilities(logits, own[:-1], clip)
        total = sum(logp[i, token] for i, token in enumerate(own))
        np.testing.assert_allclose(float(score[clip]), total, rtol=1e-4)
        if beams == 1:
            assert [int(row.argmax()) for row in logp[: len(own)]] == own


@pytest.mark.slow
def test_more_beams_find_a_likelier_text(params):
    def best(beams):
        run = functools.partial(beam_search, cfg=CFG, beams=beams, length_penalty=0.0)
        return quick(run)(params, batch=rows((0,), (1,)))[1]

    assert (np.asarray(best(8)) >= np.asarray(best(1)) - 1e-4).all()


@pytest.mark.slow
def test_draws_depend_on_the_clip_and_the_seed_and_a_narrow_nucleus_is_greedy(params):
    run = quick(functools.partial(nucleus, cfg=CFG, top_p=0.95))
    both, swapped = rows((0,), (1,)), rows((1,), (0,))
    first, turned = run(params, batch=both)[0], run(params, batch=swapped)[0]
    np.testing.assert_array_equal(first, np.asarray(turned)[::-1])
    other = quick(functools.partial(nucleus, cfg=CFG, top_p=0.95, seed=1))
    assert (np.asarray(other(params, batch=both)[0]) != np.asarray(first)).any()
    narrow = quick(functools.partial(nucleus, cfg=CFG, top_p=1e-6))
    greedy = quick(functools.partial(beam_search, cfg=CFG, beams=1))
    np.testing.assert_array_equal(
        narrow(params, batch=both)[0], greedy(params, batch=both)[0]
    )

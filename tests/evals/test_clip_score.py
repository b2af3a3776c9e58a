"""CLIP score against the reference's cosines, and what it must not depend on."""

import dataclasses

import numpy as np
import pytest

from soraxla.evals.clip_score import clip_score, load_clip
from soraxla.models.text.clip import embed_texts
from tests.models.text.golden import (
    random_images,
    read_case,
    write_encoder,
    write_model,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_clip(write_encoder(tmp_path_factory.mktemp("clip"), "clip"))


def video(seed, frames=3, size=(40, 50)):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (frames, *size, 3), np.uint8)


def test_the_score_is_the_reference_s_cosine(tmp_path):
    """Through a tokenizer that answers with the fixture's ids."""
    case = read_case("clip", "clip")
    model = load_clip(write_tokenizer(write_model(tmp_path, case), "clip_json"))
    rows = [
        ids[valid].tolist()
        for ids, valid in zip(case["ids"], case["valid"], strict=True)
    ]
    tokenizer = dataclasses.replace(
        model.tokenizer, encode=lambda text: (rows[int(text)], False)
    )
    model = dataclasses.replace(model, tokenizer=tokenizer)
    clips = [x[None] for x in random_images(case["sizes"], int(case["seed"]))[:3]]
    scores = clip_score(model, clips, ["0", "1", "2"])
    assert (case["cosine"] > 0).any()
    np.testing.assert_allclose(scores, 100 * np.maximum(case["cosine"], 0), atol=1e-3)


def test_a_video_scores_the_mean_of_its_frames(model):
    """Over more frames than are run at once, too."""
    long, prompt = video(0, frames=20), "the cat sits"
    frames = clip_score(model, [frame[None] for frame in long], [prompt] * 20)
    (whole,) = clip_score(model, [long], [prompt])
    assert frames.std() > 0.01
    np.testing.assert_allclose(whole, frames.mean(), rtol=1e-5)


def test_each_video_meets_its_own_prompt(model):
    videos, prompts = [video(1), video(2, size=(64, 33))], ["the cat", "a brown fox"]
    scores = clip_score(model, videos, prompts)
    assert scores.shape == (2,) and (scores >= 0).all() and (scores <= 100).all()
    swapped = clip_score(model, videos[::-1], prompts[::-1])
    np.testing.assert_array_equal(swapped, scores[::-1])
    assert not np.allclose(clip_score(model, videos, prompts[::-1]), scores)


@pytest.mark.slow
def test_the_text_is_read_at_its_first_end_token(model):
    ids = np.array([[5, 6, 899, 7, 8]])
    changed = np.array([[5, 6, 899, 9, 9]])
    earlier = np.array([[5, 7, 899, 7, 8]])
    valid = np.ones(ids.shape, bool)
    first, same, other = (
        np.asarray(embed_texts(model.text_replicas.params, model.text, x, valid))
        for x in (ids, changed, earlier)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("videos", "prompts", "message"),
    [
        ([video(0)], ["a", "b"], "1 videos and 2 prompts"),
        ([video(0, frames=0)], ["a"], "no frames"),
    ],
)
def test_bad_input_is_refused(model, videos, prompts, message):
    with pytest.raises(ValueError, match=message):
        clip_score(model, videos, prompts)


def test_a_text_tower_alone_is_refused(tmp_path):
    folder = write_model(tmp_path, read_case("clip", "clip_text"))
    with pytest.raises(ValueError, match=r"1 missing.*text_projection"):
        load_clip(folder)

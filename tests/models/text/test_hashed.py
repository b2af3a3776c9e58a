"""The hashed text encoder: fixed for ever, and near for what looks alike."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from soraxla.models.text import load_text_encoder
from soraxla.models.text.hashed import HashedTextEncoder, split_words

ENCODE = load_text_encoder("hashed")


def cosine(one: str, other: str) -> float:
    a, b = (ENCODE([text])[0][0] for text in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_numbers_are_the_same_for_ever():
    """Prepared datasets and trained weights rest on these."""
    empty, cat, both = ENCODE(["", "cat", "a cat"])
    assert empty.shape == cat.shape == (1, 256) and both.shape == (2, 256)
    signs = [-1, 1, -1, -1, -1, 1, 1, -1, 1, -1, 1, 1, 1, -1, -1, 1]
    np.testing.assert_array_equal(empty[0, :16], np.float32(signs) / 16)
    first = [0.05865464, 0.05865464, 0.09775773, -0.01955155, 0.01955155, 0.05865464]
    np.testing.assert_allclose(cat[0, :6], first, rtol=1e-6)
    np.testing.assert_allclose(
        both[1, :3], [0.0772487, 0.07637566, 0.11458953], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("alike", "different"),
    [
        (("rabbit", "rabbits"), ("rabbit", "astronaut")),
        (("stretches", "stretching"), ("stretches", "galaxies")),
        (("colour", "color"), ("colour", "meadow")),
    ],
)
def test_similar_words_lie_nearer_than_different_ones(alike, different):
    assert cosine(*alike) > cosine(*different) + 0.25
    assert abs(cosine(*different)) < 0.2


def test_a_word_is_told_from_another_wherever_it_stands():
    words = ENCODE(["cat " * 200 + "dog"])[0]
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    same, other = unit[:200] @ unit[:200].T, unit[:200] @ unit[200]
    assert same.min() > 0.85 and other.max() < 0.4
    assert same[np.triu_indices(200, 1)].max() < 1 - 1e-4  # but the place is seen
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=0.25)


@pytest.mark.parametrize("text", ["", " ", "\t\n\u3000", "…!?"])
def test_a_text_without_words_is_the_empty_text(text):
    np.testing.assert_array_equal(ENCODE([text])[0], ENCODE([""])[0])


def test_case_width_composition_and_punctuation_do_not_matter():
    plain = ENCODE(["a café cat"])[0]
    for text in ("A Café, cat!", "\uff41 cafe\u0301 cat", "  a\ncafé\tcat. "):
        np.testing.assert_array_equal(ENCODE([text])[0], plain)


def test_words_of_many_scripts():
    text = "Cat's close-up №5: 灰色の兎 हिन्दी 🐇 $5 \ud800"
    words = ["cat", "s", "close", "up", "no5", *"灰色の兎", "हिन्दी", "🐇", "$", "5"]
    assert list(split_words(text)) == words


def test_texts_are_encoded_apart():
    together = ENCODE(["a cat", "", "the dog sat"])
    for text, part in zip(["a cat", "", "the dog sat"], together, strict=True):
        np.testing.assert_array_equal(ENCODE([text])[0], part)
    assert ENCODE([]) == []


def test_a_text_too_long_is_cut_with_a_warning():
    words = [f"w{i}" for i in range(10_000)]
    with pytest.warns(UserWarning, match="10000 words.*256: 'w256'"):
        cut = ENCODE([" ".join(words)])[0]
    np.testing.assert_array_equal(cut, ENCODE([" ".join(words[:256])])[0])


def test_encoders_are_found_by_name():
    wide = load_text_encoder("hashed:512")
    assert (ENCODE.name, ENCODE.width) == ("hashed", 256)
    assert (wide.name, wide.width) == ("hashed:512", 512)
    assert wide(["cat"])[0].shape == (1, 512) and wide(["cat"])[0].dtype == np.float32
    assert load_text_encoder(wide.name) == wide == HashedTextEncoder(width=512)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hashd", "unknown text encoder 'hashd'.*'hashed'"),
        ("", "unknown text encoder ''"),
        ("hashed:wide", "'wide'"),
        ("hashed:100", "multiple of 8.*hashed:96"),
        ("hashed:0", "multiple of 8"),
    ],
)
def test_a_bad_name_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        load_text_encoder(name)
    assert "\n" not in str(error.value)


def test_encoding_needs_no_jax():
    code = (
        "import sys; from soraxla.models.text import load_text_encoder;"
        " load_text_encoder('hashed')(['a cat']); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("แมวสีแดง", ["แ", "ม", "ว", "สี", "แ", "ด", "ง"]),
        ("ຫມາ", ["ຫ", "ມ", "າ"]),
        ("ကြောင်", ["ကြော", "င်"]),
        ("ឆ្មាក្រហម", ["ឆ្", "មា", "ក្", "រ", "ហ", "ម"]),
        ("cat แมว2 dog", ["cat", "แ", "ม", "ว", "2", "dog"]),
        ("naïve café हिन्दी", ["naïve", "café", "हिन्दी"]),
    ],
)
def test_scripts_without_spaces_are_split_by_letters(text, words):
    """A letter keeps its marks; scripts with spaces keep their words."""
    found = list(split_words(text))
    assert found == [unicodedata.normalize("NFKC", word) for word in words]
    assert abs(cosine("แมว", "หมา")) < 0.9

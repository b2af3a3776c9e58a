"""Tokens of captions: any text is restored, and long ones are cut at a word."""

import pytest

from soraxla.models.captioner.vocabulary import (
    BEGIN,
    END,
    Vocabulary,
    common_words,
)

WORDS = common_words(["a red ball", "a red box, and a ball"], 4)


def test_frequent_words_come_first_and_equal_ones_by_spelling():
    assert WORDS == (" a", " ball", " red", " and")


@pytest.mark.parametrize(
    "text", ["a red ball", "A red-hot ball, isn't it?", "日本語 🐇 naïve", ""]
)
def test_a_text_is_restored(text):
    vocabulary = Vocabulary(words=WORDS)
    ids = vocabulary.encode(text, most=200)
    assert (ids[0], ids[-1]) == (BEGIN, END)
    assert max(ids) < len(vocabulary)
    assert vocabulary.decode(ids[1:]) == text


def test_a_long_text_is_cut_after_a_whole_word():
    vocabulary = Vocabulary(words=WORDS)
    ids = vocabulary.encode("a red balloon", most=4)
    assert vocabulary.decode(ids[1:]) == "a red"


def test_broken_bytes_are_left_out():
    vocabulary = Vocabulary(words=WORDS)
    ids = vocabulary.encode("é", most=9)
    assert vocabulary.decode([258, *ids[1:3]]) == "a"
    assert vocabulary.decode([258, END, 259]) == "a"

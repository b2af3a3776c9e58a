"""Prompts become captions like those of the training, with the user's words in them."""

import itertools

import pytest

from soraxla.generation.expansion import Grammar, word_classes
from soraxla.generation.request import Request

COLOURS, SHAPES = ("red", "blue", "green", "orange"), ("ball", "cube", "star")
WAYS = ("left", "right")
CAPTIONS = [
    f"{'an' if colour == 'orange' else 'a'} {colour} {shape} moves to the {way}{wall}"
    for colour, shape, way, wall in itertools.product(
        COLOURS, SHAPES, WAYS, ("", ", behind a grey wall")
    )
]


@pytest.fixture(scope="module")
def grammar():
    return Grammar(CAPTIONS)


def test_words_of_one_place_are_a_class():
    classes = word_classes(CAPTIONS)
    for words in (COLOURS[:3], SHAPES, WAYS):
        assert len({classes[word] for word in words}) == 1
    assert classes["red"] != classes["ball"] != classes["left"]
    assert "moves" not in classes and "wall" not in classes
    assert word_classes([]) == word_classes(["a ball"]) == {}


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("a red ball", ["a red ball"]),
        ("Red BALL", ["Red BALL"]),
        ("blue star left", ["blue star", "left"]),
        ("a magenta cube", ["a magenta cube"]),  # no caption has this colour
        ("orange cube", ["an orange cube"]),
        ("umber cube", ["an umber cube"]),
    ],
)
def test_a_caption_has_the_prompt_s_words(grammar, prompt, kept):
    texts = set()
    for seed in range(8):
        found = grammar.expand(prompt, seed)
        assert found == grammar.expand(prompt, seed) and found.prompt == prompt
        assert all(
            x in found.text for x in ((kept,) if isinstance(kept, str) else kept)
        )
        assert "moves to the" in found.text and found.by.startswith("the grammar")
        texts.add(found.text)
    assert len(texts) > 1 or "left" in prompt


def test_a_prompt_that_no_caption_is_like_stays(grammar):
    for prompt in ("a rabbit yawns", "a rabbit", "?", "two moves"):
        assert grammar.expand(prompt)[1:] == (
            prompt,
            "no training caption is like it",
        )
    assert Grammar([]).expand("a red ball").text == "a red ball"


def test_a_file_is_told_both_prompts():
    size = {"width": 16, "height": 16}
    plain = Request(prompt="a red ball", **size)
    assert plain.about() == {"description": "a red ball"}
    long = Request(prompt="a red ball falls", short="a red ball", **size)
    assert long.about() == {
        "description": "a red ball falls",
        "comment": "prompt: a red ball",
    }

"""Flags of captions: planted faults are found, and nothing else."""

import itertools

from data_pipelines.curate.caption_flags import flags

SHAPES = ("circle", "square", "star", "heart")
MOVES = ("glides to the left", "rests", "drifts up and to the right")
GOOD = [
    f"a {colour} {shape} {move} on a {ground} background"
    for (colour, shape), (move, ground) in zip(
        itertools.product(("red", "blue", "green"), SHAPES),
        itertools.cycle(itertools.product(MOVES, ("navy", "pale mint", "cream"))),
        strict=False,
    )
]


def test_planted_faults_have_their_flag_and_other_captions_none():
    long = " ".join(f"word{i}" for i in range(90))
    again = "a dog runs and a dog runs and a dog runs and a dog runs"
    near = "two old men play chess in the park under a large tree while it rains"
    faults = [long, again, near, near.replace("park", "garden") + " hard", "x"]
    found = flags([*GOOD, *faults])
    assert found[: len(GOOD)] == [[]] * len(GOOD)
    assert found[len(GOOD) :] == [["length"], ["repetition"], [], [], ["length"]]
    twice = flags([*GOOD, near, near.replace("old men", "old women"), near + "!"])
    assert twice[len(GOOD) :] == [["duplicate"], [], ["duplicate"]]


def test_near_duplicates_differ_in_a_few_words():
    words = [f"w{i}" for i in range(40)]
    other = [*words[:-1], "changed"]
    assert flags([" ".join(words), " ".join(other)]) == [["duplicate"]] * 2


def test_few_captions_have_no_outlying_length_and_empty_ones_are_allowed():
    assert flags(["a", "a b c d e f g h i j k l m n o p"]) == [[], []]
    assert flags([]) == []
    assert flags(["", "a"]) == [[], []]

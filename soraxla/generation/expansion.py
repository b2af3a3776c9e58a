"""Prompt expansion: a short prompt becomes a caption like those of the training.

Sora's report turns short prompts into detailed captions by a language model. Without
one, a grammar of the training captions does so: words that occur in the same places
form classes, such as colours, and a caption around the words of the prompt lends it all
that it leaves open.
"""

import functools
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_LEAST = 5  # times that a word of a class occurs
_ALIKE = 0.45  # of the places of two words of a class
# The costs of a prompt's word: another one of its class, one that no caption has, and
# words of the caption before it. A prompt that costs more a word fits no caption.
_OTHER, _UNKNOWN, _GAP, _DEAREST = 1.0, 1.5, 0.3, 0.75


class Expansion(NamedTuple):
    """A prompt, the text that is generated from it, and what made the text."""

    prompt: str
    text: str
    by: str


class Grammar:
    """Captions, and the classes of their words.

    Attributes:
        classes: {word: number of its class}, in lower case.
    """

    def __init__(self, captions: Sequence[str]):
        self._captions = [(caption, _words(caption)) for caption in captions]
        self.classes = word_classes(captions)

    def expand(self, prompt: str, seed: int = 0) -> Expansion:
        """Returns a caption that has the words of the prompt, in their order.

        Of the captions whose own words give way to the fewest others, the seed chooses
        one of the shorter half, which adds fewer other things. A prompt that fits none
        stays as it is.
        """
        asked = _words(prompt)
        said = [word.group().lower() for word in asked]
        unknown = sum(word not in self._known for word in said)
        costs = [self._placed(asked, words) for _, words in self._captions]
        least = min((cost for cost, _ in costs), default=np.inf)
        strange = unknown > sum(word in self.classes for word in said)
        if not asked or strange or least > _DEAREST * len(asked):
            return Expansion(prompt, prompt, "no training caption is like it")
        best = [i for i, (cost, _) in enumerate(costs) if cost == least]
        best.sort(key=lambda i: len(self._captions[i][1]))
        best = best[: (len(best) + 1) // 2]
        rng = np.random.default_rng((seed, zlib.crc32(prompt.encode())))
        chosen = best[rng.integers(len(best))]
        caption, words = self._captions[chosen]
        text = _replaced(caption, words, asked, costs[chosen][1])
        return Expansion(prompt, text, "the grammar of the training captions")

    def _placed(
        self, asked: Sequence[re.Match], words: Sequence[re.Match]
    ) -> tuple[float, list[int]]:
        """Returns the least cost of the prompt's words in a caption, and their places.

        The cost is infinite where they do not fit.
        """
        costs = np.full(len(words), np.inf)
        came = np.zeros((len(asked), len(words)), int)
        for i, word in enumerate(asked):
            own = np.array([self._cost(word, other) for other in words])
            if i == 0:
                costs = own
                continue
            # The least cost up to each place, where later places pay for the gap once.
            before = np.full(len(words), np.inf)
            best, at = np.inf, 0
            for j in range(1, len(words)):
                near = costs[j - 1]
                if j >= 2 and costs[j - 2] < best:
                    best, at = costs[j - 2], j - 2
                before[j], came[i, j] = near, j - 1
                if best + _GAP < near:
                    before[j], came[i, j] = best + _GAP, at
            costs = own + before
        if not len(words) or not np.isfinite(costs).any():
            return np.inf, []
        places = [int(costs.argmin())]
        for i in range(len(asked) - 1, 0, -1):
            places.append(int(came[i, places[-1]]))
        return float(costs.min()), places[::-1]

    def _cost(self, asked: re.Match, other: re.Match) -> float:
        """Returns the cost of a prompt's word in the place of a caption's."""
        one, two = asked.group().lower(), other.group().lower()
        if one == two:
            return 0.0
        of_one, of_two = self.classes.get(one), self.classes.get(two)
        if of_two is None:
            return np.inf
        if of_one is not None:
            return _OTHER if of_one == of_two else np.inf
        return np.inf if one in self._known or not one[0].isalpha() else _UNKNOWN

    @functools.cached_property
    def _known(self) -> set[str]:
        return {word.group().lower() for _, words in self._captions for word in words}


def word_classes(captions: Sequence[str]) -> Mapping[str, int]:
    """Returns the class of each word that others replace in the same places.

    A place is a pair of neighbouring words. Words are alike by the Bhattacharyya
    coefficient of their places, and average linkage joins them.
    """
    # A pipeline that expands no prompt does not wait for these.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import csr_array
    from scipy.spatial.distance import squareform

    places: dict[str, Counter] = defaultdict(Counter)
    for caption in captions:
        words = ["", *(w.group().lower() for w in _words(caption)), ""]
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            if word[0].isalpha():
                places[word][before, after] += 1
    often = sorted(w for w, found in places.items() if found.total() >= _LEAST)
    if len(often) < 2:
        return {}
    columns: dict[tuple[str, str], int] = {}
    entries = [
        (np.sqrt(n / places[word].total()), i, columns.setdefault(place, len(columns)))
        for i, word in enumerate(often)
        for place, n in places[word].items()
    ]
    values, rows, cols = zip(*entries, strict=True)
    table = csr_array((values, (rows, cols)), shape=(len(often), len(columns)))
    apart = np.clip(1 - (table @ table.T).toarray(), 0, 1)
    np.fill_diagonal(apart, 0)
    apart = (apart + apart.T) / 2
    tree = linkage(squareform(apart, checks=False), "average")
    labels = fcluster(tree, 1 - _ALIKE, "distance").tolist()
    sizes = Counter(labels)
    return {w: k for w, k in zip(often, labels, strict=True) if sizes[k] > 1}


def _words(text: str) -> list[re.Match]:
    return list(_WORD.finditer(text))


def _replaced(
    caption: str,
    words: Sequence[re.Match],
    asked: Sequence[re.Match],
    places: Sequence[int],
) -> str:
    """Returns the caption with the prompt's words at their places.

    An article before the first of several replaced words agrees with it.
    """
    parts, end = [], 0
    for word, place in zip(asked, places, strict=True):
        between = caption[end : words[place].start()]
        if word.group().lower() != words[place].group().lower():
            between = _agreeing(between, word.group())
        parts += [between, word.group()]
        end = words[place].end()
    return "".join([*parts, caption[end:]])


def _agreeing(text: str, word: str) -> str:
    """Returns the text with "a" or "an" at its end as the next word wants it."""
    article = "an" if word[0].lower() in "aeiou" else "a"
    return re.sub(r"\b(an?)(\s+)$", rf"{article}\2", text)

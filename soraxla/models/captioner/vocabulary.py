"""A captioner's tokens: words of its training captions, and bytes for all others.

Any text can be written: a word that is not in the vocabulary is its UTF-8 bytes. Words
carry the space before them, so texts are restored with their punctuation.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

BEGIN, END = 0, 1
_BYTES, _WORDS = 2, 258  # the first byte and the first word
_PIECE = re.compile(r" ?\w+| ?[^\w\s]|\s")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words by their tokens."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return _WORDS + len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: _WORDS + i for i, word in enumerate(self.words)}

    def encode(self, text: str, most: int) -> list[int]:
        """Returns the tokens of a text, from `BEGIN` to `END`.

        A text of more than `most` tokens between them is cut after the last whole word.
        """
        ids = [BEGIN]
        for piece in pieces(text):
            known = self._ids.get(piece)
            new = [_BYTES + b for b in piece.encode()] if known is None else [known]
            if len(ids) - 1 + len(new) > most:
                break
            ids += new
        return [*ids, END]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of tokens up to `END`; broken UTF-8 is left out."""
        data = b""
        for token in ids:
            if token == END:
                break
            if token >= _WORDS:
                data += self.words[token - _WORDS].encode()
            elif token >= _BYTES:
                data += bytes([token - _BYTES])
        return data.decode("utf-8", errors="ignore").strip()


def pieces(text: str) -> list[str]:
    """Returns the words and marks of a text, each with the space before it."""
    return _PIECE.findall(" " + " ".join(text.split()))


def common_words(captions: Sequence[str], most: int) -> tuple[str, ...]:
    """Returns the most frequent words and marks, by frequency and then by spelling."""
    counts = Counter(piece for caption in captions for piece in pieces(caption))
    ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return tuple(ranked[:most])

"""A text encoder without weights: the same vectors on every machine, permanently.

A word's vector is the mean of hashed vectors: the word's and those of its character 3-
to 5-grams, as in fastText (arXiv 1607.04606) with random instead of learned vectors. So
*rabbit* and *rabbits* are near each other, and unrelated words nearly orthogonal. NumPy
only.

Text is normalised to NFKC and lower case, then split: a run of letters, digits and
combining marks is a word. A Han or kana character is one word, since those scripts
write no spaces, and so is a Thai, Lao, Burmese or Khmer letter with its marks; so is a
symbol (emoji, currency, mathematics). Spaces and punctuation only separate: "A cat!"
equals "a cat".
"""

import hashlib
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from soraxla.core.errors import UserError

_GRAM_LENGTHS = (3, 4, 5)
# The position code's length, where a word's is 1: one word at two positions keeps a
# cosine of at least 0.88, two words without a common gram have about 0.
_POSITION_SCALE = 0.25
# English words that most captions have, whatever they describe.
FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "it", "of", "on",
    "or", "the", "to", "with",
))  # fmt: skip
_SYLLABIC = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))  # by letters
# Kana, and the CJK unified ideographs of every plane.
_UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3FFFF))


@dataclass(frozen=True, kw_only=True)
class HashedTextEncoder:
    """An encoder of prompts to (M, width) float32: a unit vector plus a position code.

    A text without words is one fixed vector. A text of more than `max_tokens` words is
    truncated, with a warning.
    """

    width: int = 256
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise UserError(
                "the hashed encoder's width must be a positive multiple of 8, got"
                f" {self.width}: use hashed:{max(8, round(self.width / 8) * 8)}"
            )
        if self.max_tokens < 1:
            raise UserError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def name(self) -> str:
        """The name from which `load_text_encoder` makes an equal encoder."""
        return "hashed" if self.width == 256 else f"hashed:{self.width}"

    def __call__(self, texts: Sequence[str]) -> list[Float[np.ndarray, "m e"]]:
        """Embeds each text; M is its number of words, at least 1."""
        return [self._embed(text) for text in texts]

    def _embed(self, text: str) -> Float[np.ndarray, "m e"]:
        words = list(split_words(text))
        if not words:
            empty = _signs("", self.width) / np.sqrt(self.width)
            return empty[None].astype(np.float32)
        if len(words) > self.max_tokens:
            warnings.warn(
                f"the text has {len(words)} words and is cut after {self.max_tokens}:"
                f" {words[self.max_tokens]!r} and later words are not read",
                stacklevel=3,
            )
            words = words[: self.max_tokens]
        vectors = np.stack([_word_vector(word, self.width) for word in words])
        return (vectors + _position_code(len(words), self.width)).astype(np.float32)


def split_words(text: str) -> Iterator[str]:
    """Yields the words of a text, in NFKC and lower case."""
    word = ""
    for char in unicodedata.normalize("NFKC", text).lower():
        kind = unicodedata.category(char)[0]  # Letter, Number, Mark, Symbol, …
        is_word = kind == "S" or _is_in(_UNSPACED, char)
        is_letter = kind == "L" and _is_in(_SYLLABIC, char)
        if word and kind in "LN" and (is_letter or _is_in(_SYLLABIC, word[0])):
            yield word
            word = ""
        if not is_word and (kind in "LN" or (kind == "M" and word)):
            word += char
            continue
        if word:
            yield word
        word = ""
        if is_word:
            yield char
    if word:
        yield word


def _is_in(ranges: tuple[tuple[int, int], ...], char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in ranges)


@lru_cache(maxsize=4096)
def _word_vector(word: str, width: int) -> Float[np.ndarray, " e"]:
    """Returns the mean vector of a word and of its grams, scaled to length 1.

    A mean of many vectors is shorter than one of few; unscaled, *a* would have four
    times the weight of *rabbit*.
    """
    marked = f"<{word}>"
    pieces = [marked] + [
        marked[start : start + length]
        for length in _GRAM_LENGTHS
        for start in range(len(marked) - length + 1)
    ]
    # Integers until the one division: no rounding, in any order.
    total = np.sum([_signs(piece, width) for piece in pieces], axis=0)
    return total / np.sqrt(max(np.square(total).sum(), 1))


def _signs(piece: str, width: int) -> np.ndarray:
    """Returns `width` times ±1: the bits of SHAKE-256, high bits first, 1 for +1."""
    digest = hashlib.shake_256(piece.encode()).digest(width // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))
    return bits.astype(np.int64) * 2 - 1


def _position_code(length: int, width: int) -> Float[np.ndarray, "m e"]:
    """Returns sines, then cosines, of the word's index (arXiv 1706.03762), scaled."""
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = np.arange(length)[:, None] * rates[None, :]
    code = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return code * (_POSITION_SCALE / np.sqrt(width // 2))

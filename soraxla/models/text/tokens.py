"""Conversion of text to token ids, by tokenizers beside a model's weights."""

import bisect
import html
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ftfy
import sentencepiece
import tokenizers

from soraxla.core.errors import UserError

JSON, SENTENCEPIECE = "tokenizer.json", "spiece.model"
_EOS = "</s>"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A conversion of text to at most `limit` ids, with special tokens.

    Attributes:
        vocab: ids are below it.
        clean: the cleaning of a text before encoding.
        encode: returns the ids of a cleaned text, cut to `limit`, and whether it was
            cut.
    """

    vocab: int
    limit: int
    clean: Callable[[str], str]
    encode: Callable[[str], tuple[list[int], bool]]

    def __call__(self, text: str) -> list[int]:
        """Returns the ids, at least one; warns if a text is cut, and names the word."""
        # Half of a surrogate pair is no character: it becomes U+FFFD, as in decoders.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = self.clean(text)
        ids, cut = self.encode(text)
        if cut:
            number, word = self._first_unread(text)
            warnings.warn(
                f"the text is longer than {self.limit} tokens and is cut at word "
                f"{number} of {len(text.split())}, {word!r}: later words are not read",
                stacklevel=3,
            )
        return ids

    def _first_unread(self, text: str) -> tuple[int, str]:
        """Returns number, from 1, and beginning of the first word that does not fit.

        Scripts without spaces make words of any length; of those, it returns the part
        that does not fit.
        """
        words = list(re.finditer(r"\S{1,24}", text))
        i = bisect.bisect_left(
            words, True, key=lambda word: self.encode(text[: word.end()])[1]
        )
        word = words[min(i, len(words) - 1)]
        return len(text[: word.end()].split()), word[0]


def load_tokenizer(folder: Path, limit: int, clean: Callable[[str], str]) -> Tokenizer:
    """Loads the tokenizer of a folder, or of `tokenizer` beside it, as in diffusers.

    `tokenizer.json` precedes `spiece.model`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folders = (folder, folder.parent / "tokenizer")
    for load, name in ((_load_json, JSON), (_load_sentencepiece, SENTENCEPIECE)):
        for path in (f / name for f in folders):
            if path.is_file():
                return load(path, limit, clean)
    raise UserError(
        f"{folder}: the tokenizer is missing, expected {JSON} or {SENTENCEPIECE} there "
        f"or in {folders[1]}; copy it from the source of the weights"
    )


def keep(text: str) -> str:
    """Returns the text unchanged, for tokenizers that clean it themselves."""
    return text


def clean_markup(text: str) -> str:
    """Repairs wrongly decoded text, resolves HTML entities and joins runs of space.

    CLIP (arXiv 2103.00020) and, for umT5, Wan (arXiv 2503.20314) clean a text like
    this. Entities are resolved twice, since captions from the web contain `&amp;lt;`.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def _load_json(path: Path, limit: int, clean: Callable[[str], str]) -> Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: damaged ({error}); download it again") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)

    def encode(text: str) -> tuple[list[int], bool]:
        encoding = tokenizer.encode(text)
        return encoding.ids, bool(encoding.overflowing)

    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return Tokenizer(vocab=size, limit=limit, clean=clean, encode=encode)


def _load_sentencepiece(
    path: Path, limit: int, clean: Callable[[str], str]
) -> Tokenizer:
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({reason}); download it again") from error
    eos = model.piece_to_id(_EOS)

    def encode(text: str) -> tuple[list[int], bool]:
        ids = model.encode(text, out_type=int)
        return [*ids[: limit - 1], eos], len(ids) > limit - 1

    return Tokenizer(
        vocab=model.get_piece_size(), limit=limit, clean=clean, encode=encode
    )

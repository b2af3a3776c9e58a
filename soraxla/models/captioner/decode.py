"""Writing of captions, token by token: beam search and nucleus sampling.

The texts of a clip are written together, as segments of one row that see one clip, so
keys and values of its frames are neither computed nor stored twice. Those of the texts
are in a cache by (place, text).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from soraxla.core.types import Array, PackedBatch
from soraxla.models.captioner import model
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.captioner.module import KeysValues, TextContext
from soraxla.models.captioner.vocabulary import BEGIN, END

_NEVER = -1e30


class Texts(NamedTuple):
    """K texts of each of B clips, of up to C tokens."""

    tokens: Int[Array, "b k c"]  # END after the last
    log_probability: Float[Array, "b k"]  # of all tokens together
    done: Bool[Array, "b k"]


# (texts, log-probabilities (b k v) of the next tokens, place) → log-probabilities of
# the new texts, the text that each goes on, and its token, all (b k).
Choose = Callable[[Texts, Array, Array], tuple[Array, Array, Array]]


def beam_search(
    params: model.Params,
    cfg: CaptionerConfig,
    batch: PackedBatch,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
) -> tuple[Int[Array, "b c"], Float[Array, " b"]]:
    """Returns the best of `beams` texts of each row's clip, and its score.

    The score is the log-probability by its number of tokens to the power of
    `length_penalty`. One beam is greedy search.

    Args:
        batch: one clip a row, as its segment 1.
    """
    rows, words = len(batch.latents), len(cfg.vocabulary)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER)
    texts = _begun(rows, beams, cfg)._replace(
        log_probability=jnp.broadcast_to(first[None], (rows, beams))
    )
    # A text that has ended goes on by END only, at no cost.
    ended = jnp.where(jnp.arange(words) == END, 0.0, _NEVER)[None, None]

    def choose(texts: Texts, logp: Array, _: Array):
        logp = jnp.where(texts.done[:, :, None], ended, logp)
        total = texts.log_probability[:, :, None] + logp
        best, place = jax.lax.top_k(total.reshape(rows, -1), beams)
        return best, place // words, place % words

    texts = _written(params, cfg, batch, texts, choose)
    length = jnp.minimum((texts.tokens != END).sum(-1) + 1, cfg.max_tokens)
    score = texts.log_probability / length.astype(jnp.float32) ** length_penalty
    best = jnp.argmax(score, axis=1)[:, None]
    tokens = jnp.take_along_axis(texts.tokens, best[:, :, None], axis=1)[:, 0]
    return tokens, jnp.take_along_axis(score, best, axis=1)[:, 0]


def nucleus(
    params: model.Params,
    cfg: CaptionerConfig,
    batch: PackedBatch,
    *,
    seed: int = 0,
    top_p: float = 0.9,
    temperature: float = 1.0,
) -> tuple[Int[Array, "b c"], Float[Array, " b"]]:
    """Returns a text of each row's clip, drawn from likely tokens, and its score.

    The likeliest tokens have a probability of `top_p` together (arXiv 1904.09751). The
    draws are keyed by the seed, the clip's visit and the place. The score is the mean
    log-probability of a token.

    Args:
        batch: as `beam_search`'s.
    """
    rows = len(batch.latents)
    base = jax.random.key(seed)
    visits = jnp.asarray(batch.visit)[:, 0]

    def choose(texts: Texts, logp: Array, place: Array):
        scaled = jax.nn.log_softmax(logp[:, 0] / temperature)
        ranked, order = jax.lax.top_k(scaled, scaled.shape[-1])
        p = jnp.exp(ranked)
        likely = jnp.where(jnp.cumsum(p, axis=-1) - p < top_p, ranked, _NEVER)

        def draw(visit: Array, row: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(base, visit), place)
            return jax.random.categorical(key, row)

        drawn = jax.vmap(draw)(visits, likely)[:, None]
        token = jnp.take_along_axis(order, drawn, axis=1)
        token = jnp.where(texts.done, END, token)
        own = jnp.take_along_axis(logp[:, 0], token, axis=1)
        total = texts.log_probability + jnp.where(texts.done, 0.0, own)
        return total, jnp.zeros_like(token), token

    texts = _written(params, cfg, batch, _begun(rows, 1, cfg), choose)
    tokens = texts.tokens[:, 0]
    length = jnp.minimum((tokens != END).sum(-1) + 1, cfg.max_tokens)
    return tokens, texts.log_probability[:, 0] / length


def _begun(rows: int, texts: int, cfg: CaptionerConfig) -> Texts:
    return Texts(
        tokens=jnp.full((rows, texts, cfg.max_tokens), END),
        log_probability=jnp.zeros((rows, texts)),
        done=jnp.zeros((rows, texts), bool),
    )


def _written(
    params: model.Params,
    cfg: CaptionerConfig,
    batch: PackedBatch,
    texts: Texts,
    choose: Choose,
) -> Texts:
    """Returns the texts after `cfg.max_tokens` tokens, or when all have ended."""
    rows, k, length = texts.tokens.shape
    memory = model.frame_memory(params, cfg, model.see(params, cfg, batch))
    shape = cfg.layers, rows, length * k, cfg.heads, cfg.head_dim
    empty = jnp.zeros(shape, cfg.dtype)
    numbers = jnp.broadcast_to(1 + jnp.arange(k)[None], (rows, k))
    key_ids = jnp.broadcast_to(1 + jnp.arange(length * k)[None] % k, (rows, length * k))
    key_index = jnp.broadcast_to(jnp.arange(length * k)[None] // k, (rows, length * k))

    def unfinished(carry: tuple[Array, Texts, KeysValues, Array]) -> Array:
        place, texts, *_ = carry
        return (place < length) & ~texts.done.all()

    def step(carry: tuple[Array, Texts, KeysValues, Array]):
        place, texts, cache, last = carry
        ctx = TextContext(
            text_ids=numbers,
            index=jnp.full((rows, k), place),
            segment_ids=jnp.ones((rows, k), jnp.int32),
            frame_ids=jnp.asarray(batch.segment_ids),
            key_ids=key_ids,
            key_index=key_index,
            slot=place * k,
        )
        logits, cache = model.write(params, cfg, last, ctx, memory, cache)
        logp = jax.nn.log_softmax(jnp.asarray(logits).at[:, :, BEGIN].set(_NEVER))
        total, parent, token = choose(texts, logp, place)
        tokens = jnp.take_along_axis(texts.tokens, parent[:, :, None], axis=1)
        done = jnp.take_along_axis(texts.done, parent, axis=1) | (token == END)
        tokens = tokens.at[:, :, place].set(token)
        cache = jax.tree.map(lambda x: _followed(x, parent), cache)
        return place + 1, Texts(tokens, total, done), cache, token

    start = jnp.full((rows, k), BEGIN), (empty, empty)
    carry = jnp.zeros((), jnp.int32), texts, start[1], start[0]
    return jax.lax.while_loop(unfinished, step, carry)[1]


def _followed(cache: Array, parent: Int[Array, "b k"]) -> Array:
    """Returns a cache (n b c·k h d) whose texts go on those of `parent`."""
    n, b, _, h, d = cache.shape
    k = parent.shape[1]
    by_text = cache.reshape(n, b, -1, k, h, d)
    moved = jnp.take_along_axis(by_text, parent[None, :, None, :, None, None], axis=3)
    return moved.reshape(cache.shape)

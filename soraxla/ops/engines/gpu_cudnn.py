"""Packed attention on Hopper GPUs and later: cuDNN's fused kernels over ragged rows.

A segment is a sequence to cuDNN, defined by its first token and its length, so other
segments are never read. The functions that reach cuDNN are private to jax; all their
uses are in this file. The program holds 64 segments per row and 16-bit numbers. Rows of
more segments, or with ids that do not ascend, go to `xla_flash` at run time; fp32 and
wide heads go there at compile time.

No GPU has run it yet. Tests lower it with jax 0.10.2 and 0.12, simulate the kernels as
jax documents them, and compare with the reference if there is a GPU.

cuDNN stores the logsumexp by (segment, head, index in the segment), with segments of
all rows numbered in sequence. Its backward pass takes a logsumexp, and an output from
which it computes delta. This module passes the multiple of `grad` whose product with
`grad` is the requested delta, so a logsumexp and delta over more keys than these work
as in other engines.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from soraxla.ops.engines import xla_flash
from soraxla.ops.engines.bias import COLUMNS, with_bias
from soraxla.ops.engines.engine import LOWEST, Engine

# The most segments per row; the logsumexp has space for that many full rows.
_SEGMENTS = 64

_OPTIONS = {
    "seed": 0,
    "dropout_rate": 0.0,
    "variadic_args": (False, False),  # a bias, and its gradient
    "mask_type": cudnn.MaskType.NO_MASK,
    "layout": cudnn.AttentionLayout.BTNH.value,
    "sliding_window_length": None,
}
if "score_mod" in inspect.signature(cudnn.dot_product_attention).parameters:
    _OPTIONS["score_mod"] = None  # since jax 0.11


def forward(q, k, v, q_ids, kv_ids, kv_bias):
    """Computes `Engine.forward`."""
    inputs = q, k, v, q_ids, kv_ids, kv_bias
    if not _is_supported(q, kv_bias):
        return xla_flash.forward(*inputs)
    packed = _is_packed(q_ids) & _is_packed(kv_ids)
    return jax.lax.cond(packed, _forward, xla_flash.forward, *inputs)


def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    """Computes `Engine.backward`."""
    inputs = q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad
    if not _is_supported(q, kv_bias):
        return xla_flash.backward(*inputs)
    packed = _is_packed(q_ids) & _is_packed(kv_ids)
    return jax.lax.cond(packed, _backward, xla_flash.backward, *inputs)


def _forward(q, k, v, q_ids, kv_ids, kv_bias):
    segments = _Segments.of(q_ids, kv_ids)
    out, lse_SNL = cudnn._dot_product_attention_fwd_p_wrapper.bind(
        *_operands(q, k, v, kv_bias, segments),
        scale=q.shape[-1] ** -0.5,
        is_training=True,
        **_OPTIONS,
    )
    # cuDNN does not write tokens outside a segment with keys.
    seen_BL = segments.of_q_BL < segments.count
    out = jnp.where(seen_BL[:, :, None, None], out[..., : v.shape[-1]], 0)
    at = jnp.minimum(segments.of_q_BL, segments.count - 1), segments.place_BL
    lse_BLN = lse_SNL[at[0], :, at[1]]
    return out, jnp.where(seen_BL[:, :, None], lse_BLN, LOWEST)


def _backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    segments = _Segments.of(q_ids, kv_ids)
    operands = _operands(q, k, v, kv_bias, segments)
    lse_SNL = jnp.zeros((segments.count, lse.shape[2], lse.shape[1]), jnp.float32)
    lse_SNL = lse_SNL.at[segments.of_q_BL, :, segments.place_BL].set(lse, mode="drop")
    grad_32 = grad.astype(jnp.float32)
    square_BLN = jnp.sum(grad_32 * grad_32, axis=-1)
    multiple_BLN = delta / jnp.where(square_BLN > 0.0, square_BLN, 1.0)
    out = (multiple_BLN[..., None] * grad_32).astype(q.dtype)
    grad_q, grad_k, grad_v = cudnn._dot_product_attention_bwd_p_wrapper.bind(
        *operands,
        lse_SNL,
        _widened(out, operands[0].shape[-1]),
        _widened(grad.astype(q.dtype), operands[0].shape[-1]),
        scale=q.shape[-1] ** -0.5,
        **_OPTIONS,
    )
    q_BL, kv_BM = (
        of[:, :, None, None] < segments.count
        for of in (segments.of_q_BL, segments.of_kv_BM)
    )
    grad_bias = None
    if kv_bias is not None:
        grad_bias = jnp.where(kv_BM[:, :, :, 0], grad_k[..., q.shape[-1]], 0)
        grad_bias = jnp.sum(grad_bias.astype(jnp.float32), axis=-1)
        grad_bias = (grad_bias * q.shape[-1] ** 0.5).astype(kv_bias.dtype)
    return (
        jnp.where(q_BL, grad_q[..., : q.shape[-1]], 0),
        jnp.where(kv_BM, grad_k[..., : k.shape[-1]], 0),
        jnp.where(kv_BM, grad_v[..., : v.shape[-1]], 0),
        grad_bias,
    )


class _Segments(NamedTuple):
    """The segments that have queries and keys, over all rows."""

    q_lengths: jax.Array  # (B, S), -1 for others
    kv_lengths: jax.Array
    q_starts: jax.Array  # (B, S + 1), -1 for others and at the end
    kv_starts: jax.Array
    of_q_BL: jax.Array  # a query's segment number over all rows; B·S if none
    of_kv_BM: jax.Array
    place_BL: jax.Array  # a query's index in its segment

    @property
    def count(self) -> int:
        return self.q_lengths.size

    @classmethod
    def of(cls, q_ids, kv_ids) -> "_Segments":
        (q_lengths, q_starts), (kv_lengths, kv_starts) = _ends(q_ids), _ends(kv_ids)
        both_BS = (q_lengths > 0) & (kv_lengths > 0)
        number_BS = jnp.cumsum(both_BS.reshape(-1)).reshape(both_BS.shape) - 1
        number_BS = jnp.where(both_BS, number_BS, both_BS.size)
        # Padding has id 0 and looks up the column before the first.
        number_BS = jnp.pad(number_BS, [(0, 0), (1, 0)], constant_values=both_BS.size)
        of_q, of_kv = (
            jnp.take_along_axis(number_BS, ids, axis=1) for ids in (q_ids, kv_ids)
        )
        q_start_BL = jnp.take_along_axis(q_starts, jnp.maximum(q_ids, 1) - 1, axis=1)
        place_BL = jnp.arange(q_ids.shape[1], dtype=jnp.int32)[None] - q_start_BL

        def shown(x_BS, columns):
            x_BS = jnp.where(both_BS, x_BS, -1)
            return jnp.pad(x_BS, [(0, 0), (0, columns)], constant_values=-1)

        return cls(
            shown(q_lengths, 0),
            shown(kv_lengths, 0),
            shown(q_starts, 1),
            shown(kv_starts, 1),
            of_q,
            of_kv,
            place_BL,
        )


def _ends(ids_BL):
    """Returns lengths and first tokens (B, S) of the segments of packed rows."""
    each = jnp.arange(1, _SEGMENTS + 1, dtype=ids_BL.dtype)
    lengths_BS = jnp.sum(
        ids_BL[:, :, None] == each[None, None, :], axis=1, dtype=jnp.int32
    )
    return lengths_BS, jnp.cumsum(lengths_BS, axis=1) - lengths_BS


def _operands(q, k, v, kv_bias, segments: _Segments):
    """Returns the first arguments of both kernels."""
    # The kernels scale the bias's columns too.
    bias = None if kv_bias is None else kv_bias * q.shape[-1] ** 0.5
    q, k = with_bias(q, k, bias)
    width = _width(q.shape[-1])
    unused = jnp.zeros(0, q.dtype)
    tokens = (_widened(x, width) for x in (q, k, v))
    return *tokens, unused, *segments[:4], unused, unused


def _width(k: int) -> int:
    return -(-k // 8) * 8


def _widened(x, width: int):
    return jnp.pad(x, [(0, 0)] * 3 + [(0, width - x.shape[-1])])


def _is_supported(q, kv_bias) -> bool:
    """Returns whether the kernels take such operands on this host's GPU.

    On a host without a GPU, a GPU that they know is assumed.
    """
    known = jax.default_backend() != "gpu" or cudnn.check_compute_capability("9.0")
    width = _width(q.shape[-1] + (0 if kv_bias is None else COLUMNS))
    return known and q.dtype in (jnp.bfloat16, jnp.float16) and width <= 256


def _is_packed(ids_BL):
    """Returns whether ids ascend, padding is at the end, and the ids are few enough."""
    last = jnp.where(ids_BL > 0, ids_BL, jnp.iinfo(ids_BL.dtype).max)
    return jnp.all(last[:, 1:] >= last[:, :-1]) & (jnp.max(ids_BL) <= _SEGMENTS)


ENGINE = Engine(forward, backward)

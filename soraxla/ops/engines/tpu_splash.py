"""Packed attention on TPU: the splash kernels that come with jax, told at run time
which blocks to visit.

Splash masks by segment id inside a block and skips what its tables say, which it makes
from a mask known ahead. Here the program makes the tables, from the range of ids of
each block, so that a packed row costs Σ(segment length)². A block that is skipped names
the next needed one as its data, which is thus fetched ahead.

Every touch of private functions of the library is in this file: they return the
logsumexp, and take that of a backward pass as an argument, which its public call does
not. Tested with jax 0.10.2 and 0.12; no TPU has run it, the TPU compiler takes it.

q bears the scale 1/√K, rounded to its dtype. A key's bias is three more columns of k
against ones in q. Rows are filled up to whole blocks, the head dim to whole lanes.

I and J are blocks of queries and of keys.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from soraxla.core.errors import UserError
from soraxla.ops.engines.bias import with_bias
from soraxla.ops.engines.blocks import blocks_meet
from soraxla.ops.engines.engine import LOWEST, Engine

# Queries and keys to a block, at most: with 2,048 queries v5p runs out of vector memory
# in the forward pass.
_BLOCK = 1024

# Entries of a table, its rows filled up to whole lanes. Two tables of int32 go to the
# scalar memory, 1 MiB on v5p and v6e; a row that needs more is computed in shares.
_TABLE = 112 * 1024

_LANES = 128
_OPTIONS = {
    "is_mqa": False,
    "mask_value": splash.DEFAULT_MASK_VALUE,
    "mask_function": None,
    "attn_logits_soft_cap": None,
}
_LAYOUTS = dict.fromkeys(
    ("q_layout", "k_layout", "v_layout"), splash.QKVLayout.HEAD_DIM_MINOR
)


class _Queries(NamedTuple):
    """A row's queries, or a share of them; the last three, in the order of the kernels'
    arguments, in the backward."""

    q_NLK: jax.Array
    ids_L: jax.Array
    lse_NL: jax.Array | None = None
    grad_NLK: jax.Array | None = None  # of the output
    delta_NL: jax.Array | None = None


class _Keys(NamedTuple):
    """A row's keys and values, or a share of them."""

    k_NMK: jax.Array
    v_NMK: jax.Array
    ids_M: jax.Array


class _Cut(NamedTuple):
    """How a side of a row is computed: in `shares` of some `blocks` of `size`."""

    shares: int
    blocks: int
    size: int

    @classmethod
    def of(cls, length: int, block: int, most_blocks: int) -> "_Cut":
        """The least shares and blocks, as equal as can be."""
        blocks = -(-length // block)
        shares = -(-blocks // most_blocks)
        blocks = -(-blocks // shares)
        return cls(shares, blocks, _up(-(-length // (shares * blocks)), _LANES))

    @property
    def length(self) -> int:
        return self.shares * self.blocks * self.size


def forward(q, k, v, q_ids, kv_ids, kv_bias, *, block=_BLOCK, interpret=False):
    """See `Engine.forward`. `interpret` runs the kernels anywhere, slowly."""
    kv_cut = _Cut.of(k.shape[1], block, k.shape[1])
    q_cut = _Cut.of(q.shape[1], block, _most_rows(kv_cut.blocks))
    queries, keys = _sides(q, k, v, q_ids, kv_ids, kv_bias, q_cut, kv_cut)

    def one_share(keys: _Keys, queries: _Queries):
        out_NLK, (lse_NL,) = splash._splash_attention_forward(
            _tables(queries.ids_L, keys.ids_M, q_cut, kv_cut),
            *_operands(queries, keys),
            block_sizes=splash.BlockSizes(q_cut.size, kv_cut.size),
            residual_checkpoint_name=None,
            save_residuals=True,
            interpret=interpret,
            **_OPTIONS,
        )
        # Without keys the kernel gives the mean of what it masked, or 0 / 0. A NaN of
        # the caller's stays one.
        seen_NL = ~(lse_NL <= LOWEST)
        out_NLK = jnp.where(seen_NL[:, :, None], out_NLK, 0)
        return out_NLK, jnp.where(seen_NL, lse_NL, LOWEST)

    def one_row(row):
        queries, keys = row
        shares = _shares(queries, q_cut)
        return _joined(jax.lax.map(partial(one_share, keys), shares))

    out_BNLK, lse_BNL = jax.lax.map(one_row, (queries, keys))
    return _token_major(out_BNLK, v.shape[-1], like=q), _token_major(lse_BNL, like=q)


def backward(
    q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad, *, block=_BLOCK, interpret=False
):
    """See `Engine.backward`; `interpret` as in `forward`.

    Raises:
        UserError: more queries than the tables have rows for, 917,504.
    """
    q_blocks = -(-q.shape[1] // block)
    most_columns = _TABLE // q_blocks // _LANES * _LANES
    if not most_columns:
        raise UserError(
            f"the gradient of attention takes rows of at most "
            f"{_TABLE // _LANES * block} tokens on a TPU device, not {q.shape[1]}: "
            "spread the row over more devices"
        )
    kv_cut = _Cut.of(k.shape[1], block, most_columns)
    q_cut = _Cut.of(q.shape[1], block, _most_rows(kv_cut.shares * kv_cut.blocks))
    queries, keys = _sides(q, k, v, q_ids, kv_ids, kv_bias, q_cut, kv_cut)
    queries = queries._replace(
        lse_NL=_head_major(lse, q_cut.length),
        grad_NLK=_head_major(_lane_filled(grad.astype(q.dtype)), q_cut.length),
        delta_NL=_head_major(delta, q_cut.length),
    )

    def grad_q(keys: _Keys, queries: _Queries):
        return splash._splash_attention_bwd_dq(
            *_operands(queries, keys),
            *queries[2:],
            bq=q_cut.size,
            bkv=kv_cut.size,
            mask_info=_tables(queries.ids_L, keys.ids_M, q_cut, kv_cut),
            interpret=interpret,
            **_OPTIONS,
            **_LAYOUTS,
        )

    def grad_kv(queries: _Queries, keys: _Keys):
        _, grad_k_NMK, grad_v_NMK = splash._splash_attention_bwd_dkv(
            *_operands(queries, keys),
            *queries[2:],
            bq=q_cut.size,
            bkv=kv_cut.size,
            bkv_compute=kv_cut.size,
            # One kernel for all three gradients keeps that of q once a block of keys.
            use_fused_bwd_kernel=False,
            mask_info=_tables(
                queries.ids_L, keys.ids_M, q_cut, kv_cut, column_major=True
            ),
            interpret=interpret,
            **_OPTIONS,
            **_LAYOUTS,
        )
        return grad_k_NMK, grad_v_NMK

    def one_row(row):
        queries, keys = row
        grad_q_CNLK = jax.lax.map(partial(grad_q, keys), _shares(queries, q_cut))
        grad_kv_C = jax.lax.map(partial(grad_kv, queries), _shares(keys, kv_cut))
        return _joined(grad_q_CNLK), *_joined(grad_kv_C)

    grad_q_, grad_k, grad_v = jax.lax.map(one_row, (queries, keys))
    width = q.shape[-1]
    grad_bias = None
    if kv_bias is not None:
        grad_bias = grad_k[:, :, : k.shape[1], width].astype(jnp.float32)
        grad_bias = jnp.sum(grad_bias, axis=1).astype(kv_bias.dtype)
    grad_q_ = _scaled(_token_major(grad_q_, width, like=q))
    grad_k = _token_major(grad_k, width, like=k)
    return grad_q_, grad_k, _token_major(grad_v, v.shape[-1], like=k), grad_bias


def _tables(ids_L, ids_M, q_cut: _Cut, kv_cut: _Cut, *, column_major=False):
    """Which blocks to visit, and what each names as the next: by rows, or by columns
    for the kernel that goes through columns."""
    meet_IJ = blocks_meet(ids_L.reshape(-1, q_cut.size), ids_M.reshape(-1, kv_cut.size))
    following_IJ = _following(meet_IJ.T).T if column_major else _following(meet_IJ)
    return mask_info.MaskInfo(
        data_next=following_IJ[None],
        mask_next=None,
        block_mask=2 * meet_IJ.astype(jnp.int32)[None],  # 2: no mask beside the ids
        partial_mask_blocks=None,
        q_sequence=None,
    )


def _following(meet_IJ):
    """The place in its row of the next block that is needed, from (i, j) on.

    Where ids ascend, what a row needs is one run of blocks; if it is not, a skipped
    block in between names itself, which costs a fetch. A running minimum over the whole
    table would have no such limit; it doubles the compiler's time for long rows.
    """
    rows, columns = meet_IJ.shape
    place_J = jnp.arange(columns, dtype=jnp.int32)[None, :]
    first_I = jnp.min(jnp.where(meet_IJ, place_J, columns), axis=1)
    last_I = jnp.max(jnp.where(meet_IJ, place_J, -1), axis=1)
    # The next row that needs any: of rows below, else the last that does.
    row_I = jnp.where(last_I >= 0, jnp.arange(rows, dtype=jnp.int32), rows)
    below_I = jnp.append(jax.lax.cummin(row_I, reverse=True)[1:], jnp.int32(rows))
    below_I = jnp.where(below_I < rows, first_I[below_I % rows], jnp.max(last_I))
    beyond_IJ = jnp.minimum(below_I, columns - 1)[:, None]
    within_IJ = jnp.maximum(place_J, first_I[:, None])
    following_IJ = jnp.where(place_J <= last_I[:, None], within_IJ, beyond_IJ)
    return jnp.clip(following_IJ, 0, columns - 1)


def _most_rows(columns: int) -> int:
    """Rows of a table of so many columns; at least one, and the compiler may refuse."""
    return max(1, _TABLE // _up(columns, _LANES))


def _sides(q, k, v, q_ids, kv_ids, kv_bias, q_cut: _Cut, kv_cut: _Cut):
    """What the kernels take: heads before tokens, scaled, biased and filled up."""
    q, k = with_bias(_scaled(q), k, kv_bias)
    q, k, v = (
        _head_major(_lane_filled(x), length)
        for x, length in ((q, q_cut.length), (k, kv_cut.length), (v, kv_cut.length))
    )
    q_ids = _filled(q_ids, q_cut.length, axis=1)
    kv_ids = _filled(kv_ids, kv_cut.length, axis=1)
    return _Queries(q, q_ids), _Keys(k, v, kv_ids)


def _scaled(q):
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _operands(queries: _Queries, keys: _Keys):
    """The first arguments of every kernel. The kernels compare ids alone, so padding
    has other ids on either side."""
    kv_ids_M = jnp.where(keys.ids_M > 0, keys.ids_M, -1)
    ids = splash.SegmentIds(queries.ids_L, kv_ids_M)
    return queries.q_NLK, keys.k_NMK, keys.v_NMK, ids, None


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _filled(x, length: int, *, axis: int):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, pad)


def _lane_filled(x):
    return _filled(x, _up(x.shape[-1], _LANES), axis=x.ndim - 1)


def _head_major(x_BLN, length: int):
    """(B, L, N, ...) to (B, N, length, ...)."""
    return _filled(x_BLN.swapaxes(1, 2), length, axis=2)


def _token_major(x_BNL, *width: int, like):
    """(B, N, L, K) or (B, N, L) to (B, L, N, ...), of `like`'s tokens and `width`."""
    x_BNL = x_BNL[:, :, : like.shape[1]]
    return (x_BNL[..., : width[0]] if width else x_BNL).swapaxes(1, 2)


def _shares(side, cut: _Cut):
    """Cuts the tokens of (L,) or (N, L, ...) into a leading axis of shares."""

    def one(x):
        axis = min(x.ndim - 1, 1)
        shape = *x.shape[:axis], cut.shares, -1, *x.shape[axis + 1 :]
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(one, side)


def _joined(side):
    """Undoes `_shares` for arrays with heads."""

    def one(x_CNL):
        x_NCL = jnp.moveaxis(x_CNL, 0, 1)
        return x_NCL.reshape(x_NCL.shape[0], -1, *x_NCL.shape[3:])

    return jax.tree.map(one, side)


ENGINE = Engine(forward, backward)

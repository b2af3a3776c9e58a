"""Packed attention on TPU: jax's splash kernels with tables made at run time.

Splash masks by segment id inside a block, and skips the blocks that its tables exclude,
which it makes from a static mask. This module makes the tables in the program, from the
range of ids in each block, so a packed row costs Σ(segment length)². A skipped block
names the next needed one as its data, which is then prefetched.

All uses of the library's private functions are in this file: they return the logsumexp
and accept that of a backward pass, which the public call does not. Tested with jax
0.10.2 and 0.12: the TPU compiler accepts the kernels; no TPU has run them.

q is scaled by 1/√K and rounded to its dtype. A key's bias is three more columns of k
against ones in q. Rows are padded to whole blocks, the head dim to whole lanes.

I and J are blocks of queries and of keys; C is chunks.
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

# The most queries or keys in a block: with 2,048 queries, v5p runs out of vector memory
# in the forward pass.
_BLOCK = 1024

# Entries of a table, with rows padded to whole lanes. Two int32 tables must fit in the
# scalar memory, 1 MiB on v5p and v6e; a row that needs more is computed in chunks.
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
    """The queries of a row or of a chunk of it.

    Only the backward pass has the last three, in the order of the kernels' arguments.
    """

    q_NLK: jax.Array
    ids_L: jax.Array
    lse_NL: jax.Array | None = None
    grad_NLK: jax.Array | None = None  # of the output
    delta_NL: jax.Array | None = None


class _Keys(NamedTuple):
    """The keys and values of a row or of a chunk of it."""

    k_NMK: jax.Array
    v_NMK: jax.Array
    ids_M: jax.Array


class _Tiling(NamedTuple):
    """The division of queries or keys into `chunks` of some `blocks` of `size`."""

    chunks: int
    blocks: int
    size: int

    @classmethod
    def of(cls, length: int, block: int, max_blocks: int) -> "_Tiling":
        """Returns the fewest chunks and blocks, as equal as possible."""
        blocks = -(-length // block)
        chunks = -(-blocks // max_blocks)
        blocks = -(-blocks // chunks)
        return cls(chunks, blocks, _round_up(-(-length // (chunks * blocks)), _LANES))

    @property
    def length(self) -> int:
        return self.chunks * self.blocks * self.size


def forward(q, k, v, q_ids, kv_ids, kv_bias, *, block=_BLOCK, interpret=False):
    """Computes `Engine.forward`. `interpret` runs the kernels on any device, slowly."""
    kv_tiling = _Tiling.of(k.shape[1], block, k.shape[1])
    q_tiling = _Tiling.of(q.shape[1], block, _max_table_rows(kv_tiling.blocks))
    queries, keys = _prepare_sides(q, k, v, q_ids, kv_ids, kv_bias, q_tiling, kv_tiling)

    def one_chunk(keys: _Keys, queries: _Queries):
        out_NLK, (lse_NL,) = splash._splash_attention_forward(
            _tables(queries.ids_L, keys.ids_M, q_tiling, kv_tiling),
            *_operands(queries, keys),
            block_sizes=splash.BlockSizes(q_tiling.size, kv_tiling.size),
            residual_checkpoint_name=None,
            save_residuals=True,
            interpret=interpret,
            **_OPTIONS,
        )
        # Without keys, the kernel returns the mean of masked values, or 0 / 0. A NaN of
        # the caller stays a NaN.
        seen_NL = ~(lse_NL <= LOWEST)
        out_NLK = jnp.where(seen_NL[:, :, None], out_NLK, 0)
        return out_NLK, jnp.where(seen_NL, lse_NL, LOWEST)

    def one_row(row):
        queries, keys = row
        chunks = _chunks(queries, q_tiling)
        return _joined(jax.lax.map(partial(one_chunk, keys), chunks))

    out_BNLK, lse_BNL = jax.lax.map(one_row, (queries, keys))
    return _token_major(out_BNLK, v.shape[-1], like=q), _token_major(lse_BNL, like=q)


def backward(
    q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad, *, block=_BLOCK, interpret=False
):
    """Computes `Engine.backward`; `interpret` as in `forward`.

    Raises:
        UserError: there are more queries than table rows, 917,504.
    """
    q_blocks = -(-q.shape[1] // block)
    max_columns = _TABLE // q_blocks // _LANES * _LANES
    if not max_columns:
        raise UserError(
            f"the gradient of attention takes rows of at most "
            f"{_TABLE // _LANES * block} tokens on a TPU device, not {q.shape[1]}: "
            "spread the row over more devices"
        )
    kv_tiling = _Tiling.of(k.shape[1], block, max_columns)
    q_tiling = _Tiling.of(
        q.shape[1], block, _max_table_rows(kv_tiling.chunks * kv_tiling.blocks)
    )
    queries, keys = _prepare_sides(q, k, v, q_ids, kv_ids, kv_bias, q_tiling, kv_tiling)
    queries = queries._replace(
        lse_NL=_head_major(lse, q_tiling.length),
        grad_NLK=_head_major(_lane_padded(grad.astype(q.dtype)), q_tiling.length),
        delta_NL=_head_major(delta, q_tiling.length),
    )

    tilings = {"q_tiling": q_tiling, "kv_tiling": kv_tiling, "interpret": interpret}

    def one_row(row):
        queries, keys = row
        grad_q_CNLK = jax.lax.map(
            partial(_grad_q, keys, **tilings), _chunks(queries, q_tiling)
        )
        grad_kv_C = jax.lax.map(
            partial(_grad_kv, queries, **tilings), _chunks(keys, kv_tiling)
        )
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


def _grad_q(
    keys: _Keys,
    queries: _Queries,
    *,
    q_tiling: _Tiling,
    kv_tiling: _Tiling,
    interpret: bool,
):
    return splash._splash_attention_bwd_dq(
        *_operands(queries, keys),
        *queries[2:],
        bq=q_tiling.size,
        bkv=kv_tiling.size,
        mask_info=_tables(queries.ids_L, keys.ids_M, q_tiling, kv_tiling),
        interpret=interpret,
        **_OPTIONS,
        **_LAYOUTS,
    )


def _grad_kv(
    queries: _Queries,
    keys: _Keys,
    *,
    q_tiling: _Tiling,
    kv_tiling: _Tiling,
    interpret: bool,
):
    _, grad_k_NMK, grad_v_NMK = splash._splash_attention_bwd_dkv(
        *_operands(queries, keys),
        *queries[2:],
        bq=q_tiling.size,
        bkv=kv_tiling.size,
        bkv_compute=kv_tiling.size,
        # A fused kernel stores one gradient of q per block of keys.
        use_fused_bwd_kernel=False,
        mask_info=_tables(
            queries.ids_L, keys.ids_M, q_tiling, kv_tiling, column_major=True
        ),
        interpret=interpret,
        **_OPTIONS,
        **_LAYOUTS,
    )
    return grad_k_NMK, grad_v_NMK


def _tables(ids_L, ids_M, q_tiling: _Tiling, kv_tiling: _Tiling, *, column_major=False):
    """Returns the blocks to visit, and the next one that each names.

    The order is by rows, or by columns for the kernel that goes through columns.
    """
    meet_IJ = blocks_meet(
        ids_L.reshape(-1, q_tiling.size), ids_M.reshape(-1, kv_tiling.size)
    )
    following_IJ = _following(meet_IJ.T).T if column_major else _following(meet_IJ)
    return mask_info.MaskInfo(
        data_next=following_IJ[None],
        mask_next=None,
        block_mask=2 * meet_IJ.astype(jnp.int32)[None],  # 2: masked by ids only
        partial_mask_blocks=None,
        q_sequence=None,
    )


def _following(meet_IJ):
    """Returns the column of the next block that is needed, from (i, j) on.

    If ids ascend, each row needs one run of blocks. If they do not, a skipped block
    inside the run names itself, which costs a fetch. A running minimum over the whole
    table would avoid that, and doubles the compile time of long rows.
    """
    rows, columns = meet_IJ.shape
    place_J = jnp.arange(columns, dtype=jnp.int32)[None, :]
    first_I = jnp.min(jnp.where(meet_IJ, place_J, columns), axis=1)
    last_I = jnp.max(jnp.where(meet_IJ, place_J, -1), axis=1)
    # The next row that needs a block, or else the last one that does.
    row_I = jnp.where(last_I >= 0, jnp.arange(rows, dtype=jnp.int32), rows)
    below_I = jnp.append(jax.lax.cummin(row_I, reverse=True)[1:], jnp.int32(rows))
    below_I = jnp.where(below_I < rows, first_I[below_I % rows], jnp.max(last_I))
    beyond_IJ = jnp.minimum(below_I, columns - 1)[:, None]
    within_IJ = jnp.maximum(place_J, first_I[:, None])
    following_IJ = jnp.where(place_J <= last_I[:, None], within_IJ, beyond_IJ)
    return jnp.clip(following_IJ, 0, columns - 1)


def _max_table_rows(columns: int) -> int:
    """Returns the rows of a table of so many columns; at least 1, even if too many."""
    return max(1, _TABLE // _round_up(columns, _LANES))


def _prepare_sides(
    q, k, v, q_ids, kv_ids, kv_bias, q_tiling: _Tiling, kv_tiling: _Tiling
):
    """Returns the kernels' inputs: heads before tokens, scaled, biased and padded."""
    q, k = with_bias(_scaled(q), k, kv_bias)
    q, k, v = (
        _head_major(_lane_padded(x), length)
        for x, length in (
            (q, q_tiling.length),
            (k, kv_tiling.length),
            (v, kv_tiling.length),
        )
    )
    q_ids = _padded(q_ids, q_tiling.length, axis=1)
    kv_ids = _padded(kv_ids, kv_tiling.length, axis=1)
    return _Queries(q, q_ids), _Keys(k, v, kv_ids)


def _scaled(q):
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _operands(queries: _Queries, keys: _Keys):
    """Returns the first arguments of every kernel.

    Padding gets different ids on both sides, since the kernels compare ids only.
    """
    kv_ids_M = jnp.where(keys.ids_M > 0, keys.ids_M, -1)
    ids = splash.SegmentIds(queries.ids_L, kv_ids_M)
    return queries.q_NLK, keys.k_NMK, keys.v_NMK, ids, None


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _padded(x, length: int, *, axis: int):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, pad)


def _lane_padded(x):
    return _padded(x, _round_up(x.shape[-1], _LANES), axis=x.ndim - 1)


def _head_major(x_BLN, length: int):
    """Transposes (B, L, N, ...) to (B, N, length, ...)."""
    return _padded(x_BLN.swapaxes(1, 2), length, axis=2)


def _token_major(x_BNL, *width: int, like):
    """Transposes (B, N, L, K) or (B, N, L) to (B, L, N, ...) of `like`'s tokens."""
    x_BNL = x_BNL[:, :, : like.shape[1]]
    return (x_BNL[..., : width[0]] if width else x_BNL).swapaxes(1, 2)


def _chunks(side, cut: _Tiling):
    """Splits the tokens of (L,) or (N, L, ...) into a leading axis of chunks."""

    def one(x):
        axis = min(x.ndim - 1, 1)
        shape = *x.shape[:axis], cut.chunks, -1, *x.shape[axis + 1 :]
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(one, side)


def _joined(side):
    """Inverts `_chunks` for arrays with heads."""

    def one(x_CNL):
        x_NCL = jnp.moveaxis(x_CNL, 0, 1)
        return x_NCL.reshape(x_NCL.shape[0], -1, *x_NCL.shape[3:])

    return jax.tree.map(one, side)


ENGINE = Engine(forward, backward)

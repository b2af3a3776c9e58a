"""Token routing in training: some tokens skip the middle blocks and rejoin.

TREAD (arXiv 2501.04765) trains faster so, and each step is cheaper: the middle blocks
compute a shorter row. A model is used without it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from soraxla.core.errors import UserError
from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.process import Purpose, token_bits
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import Context
from soraxla.packing.bin_packing import Visit
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule import schedule_window
from soraxla.packing.schedule_index import ScheduleIndex, frame_tokens
from soraxla.parallel.mesh import constrain

_LENGTHS = 64  # a shorter row is a multiple of this part of a row


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Settings of token routing (TREAD, arXiv 2501.04765).

    Condition tokens never skip a block.

    Attributes:
        share: fraction of a visit's generated tokens that skip the middle blocks.
        first: number of blocks before the middle ones.
        last: number of blocks after them.
    """

    share: float = 0.5
    first: int = 2
    last: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(
                f"routing.share is {self.share}, expected above 0 and below 1"
            )
        for name in ("first", "last"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"routing.{name} is {getattr(self, name)}, expected at least 0"
                )

    def check(self, layers: int) -> None:
        """Raises UserError unless a model of so many blocks has middle ones."""
        if self.first + self.last >= layers:
            raise UserError(
                f"step.routing leaves {self.first} blocks before the route and "
                f"{self.last} after it, but step.model.layers is {layers}: lower "
                "step.routing.first or step.routing.last, so that a block is between"
            )

    def middle(self, layers: int) -> range:
        """Returns the blocks that tokens may skip."""
        return range(self.first, layers - self.last)

    def skipping(self, generated: Array) -> Array:
        """Returns how many of a visit's generated tokens skip, rounded down."""
        return (np.float32(self.share) * generated.astype(np.float32)).astype(np.int32)


class Route(NamedTuple):
    """A new order of each row's tokens: those that compute all blocks, then the others.

    Attributes:
        order: the place of each token before.
        inverse: the place of each token in the new order.
        kept: how many tokens of a row compute all blocks.
    """

    order: Int[Array, "b l"]
    inverse: Int[Array, "b l"]
    kept: Int[Array, " b"]

    @property
    def computed(self) -> Bool[Array, "b l"]:
        """The tokens that compute all blocks, in the rows' own order."""
        return self.inverse < self.kept[:, None]


def choose_route(seed: int, batch: PackedBatch, routing: RoutingConfig) -> Route:
    """Returns the route of rows; a visit's tokens skip alike in any row.

    The tokens that skip are the ones with the smallest random numbers among a visit's
    generated tokens. The others keep their order, so segment ids still ascend.
    """
    ids, segments = jnp.asarray(batch.segment_ids), batch.visit.shape[1]
    bits = token_bits(seed, batch.visit, ids, batch.token_index, purpose=Purpose.ROUTE)
    generated = (ids > 0) & jnp.logical_not(batch.condition_mask)
    # Sorts need whole rows.
    group, bits = (
        constrain(x, "batch", None) for x in (jnp.where(generated, ids, 0), bits)
    )
    n_BG = jnp.sum(
        group[:, :, None] == jnp.arange(segments + 1)[None, None, :],
        axis=1,
        dtype=jnp.int32,
    )
    rank = jnp.argsort(jnp.lexsort((bits, group), axis=-1), axis=-1)
    before_BG = jnp.cumsum(n_BG, axis=1) - n_BG
    last_BG = before_BG + routing.skipping(n_BG)
    skips = generated & (rank < jnp.take_along_axis(last_BG, group, axis=1))
    kept = (ids > 0) & jnp.logical_not(skips)
    order = jnp.argsort(jnp.logical_not(kept), axis=-1, stable=True)
    return Route(order, jnp.argsort(order, axis=-1), jnp.sum(kept, axis=1))


@jax.custom_vjp
def permuted(
    x: Float[Array, "b l d"], order: Int[Array, "b l"], inverse: Int[Array, "b l"]
) -> Float[Array, "b l d"]:
    """Returns x in another order of tokens; the gradient is a gather too.

    A scatter runs one row after another on CPU and TPU, and in no fixed order on GPU.
    """
    return jnp.take_along_axis(x, order[:, :, None], axis=1)


def _permuted_fwd(x, order, inverse):
    return permuted(x, order, inverse), (order, inverse)


def _permuted_bwd(saved, grad):
    order, inverse = saved
    return permuted(grad, inverse, order), None, None


permuted.defvjp(_permuted_fwd, _permuted_bwd)


def enter(x: Float[Array, "b l d"], route: Route) -> Float[Array, "b l d"]:
    """Returns tokens in the order of the route."""
    return permuted(constrain(x, "batch", None, None), route.order, route.inverse)


def leave(x: Float[Array, "b l d"], route: Route) -> Float[Array, "b l d"]:
    """Returns tokens of the route in the rows' own order."""
    x = permuted(constrain(x, "batch", None, None), route.inverse, route.order)
    return constrain(x, "batch", "tokens", None)


def middle_blocks(
    params: PyTree,
    cfg: DiTConfig,
    x: Float[Array, "b l d"],
    ctx: Context,
    layers: range,
    route: Route,
    length: int,
    adapters: PyTree = None,
) -> Float[Array, "b l d"]:
    """Returns tokens, in the order of the route, after blocks that some skip.

    Args:
        ctx: the blocks' other inputs, in the rows' own order.
        length: tokens of a shorter row. If a row keeps more, whole rows are computed.
    """
    most = x.shape[1]

    def sorted_by(of_tokens: Array) -> Array:
        index = route.order.reshape(*route.order.shape, *(1,) * (of_tokens.ndim - 2))
        return jnp.take_along_axis(of_tokens, index, axis=1)

    inside = jnp.arange(most)[None, :] < route.kept[:, None]
    ids = jnp.where(inside, sorted_by(ctx.segment_ids), 0)
    cos, sin, row = map(sorted_by, (ctx.cos, ctx.sin, ctx.row))

    def computed(x: Array, n: int) -> Array:
        short = ctx._replace(
            segment_ids=ids[:, :n], cos=cos[:, :n], sin=sin[:, :n], row=row[:, :n]
        )
        y = constrain(x[:, :n], "batch", "tokens", None)
        y = dit.run_blocks(params, cfg, y, short, layers, adapters)
        y = jnp.where(inside[:, :n, None], y, x[:, :n])
        return jnp.concatenate([y, x[:, n:]], axis=1)

    if length >= most:
        return computed(x, most)
    return jax.lax.cond(
        jnp.all(route.kept <= length),
        lambda x: computed(x, length),
        lambda x: computed(x, most),
        x,
    )


# --- The length of a shorter row --------------------------------------------------


def kept_tokens(
    visits: Sequence[Visit], index: ScheduleIndex, routing: RoutingConfig
) -> Int[np.ndarray, " k"]:
    """Returns how many tokens of each visit compute all blocks, at most.

    The schedule does not know the holes, so a visit with one counts whole.
    """
    columns = np.array(
        [(v.sample, v.tokens, v.latent_frames - v.prefix, v.spatial) for v in visits]
    )
    sample, tokens, frames, spatial = columns.T
    generated = frames // index.patch[0] * frame_tokens(index, sample)
    return tokens - routing.skipping(np.where(spatial, 0, generated))


def route_length(
    index: ScheduleIndex,
    config: PackConfig,
    routing: RoutingConfig,
    *,
    seed: int,
    rows: int,
    parts: int = 1,
) -> int:
    """Returns the tokens of a shorter row, for the least mean work of the first window.

    A short row is less work, but more often too short for one of the rows that are
    computed together, which then are computed whole.

    Args:
        rows: the rows that are computed together.
        parts: devices that a row's tokens are sharded over; they divide the length.
    """
    window = schedule_window(index, config, seed=seed, window=0)
    kept = sorted(int(kept_tokens(row, index, routing).sum()) for row in window)
    whole = config.row_length
    fit = (np.arange(1, len(kept) + 1) / len(kept)) ** rows
    lengths = np.array([rounded(n, whole, parts) for n in kept])
    return int(lengths[np.argmin(fit * lengths + (1.0 - fit) * whole)])


def rounded(length: int, whole: int, parts: int = 1) -> int:
    """Returns the next length of a shorter row; there are at most 64 of a whole one."""
    unit = math.lcm(parts, max(1, whole // _LENGTHS))
    return min(whole, -(-length // unit) * unit)


def consecutive(layers: int, stops: Sequence[int]) -> list[range]:
    """Returns the blocks from 0 to `layers` in parts that end at the stops."""
    edges = sorted({0, layers, *stops})
    return [range(a, b) for a, b in itertools.pairwise(edges)]

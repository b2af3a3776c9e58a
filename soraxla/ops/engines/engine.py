"""The interface of an engine of packed attention: a forward and a backward function.

A token attends to the keys with its segment id; id 0 is padding. Logits are q · k / √K
plus the key's bias, in fp32. All engines compute the same result; they differ in
platform and speed. The logsumexp and delta of a backward pass are arguments, so a
query's keys may be spread over several calls: forward on each part of the keys, merge
the outputs by their logsumexp, and backward on each part with the merged ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

# The logsumexp of a query without keys, and the start of a running maximum: far below
# any logit, yet finite, so that subtracting it from a masked logit (-inf) is not NaN.
LOWEST = -1e30


class Engine(NamedTuple):
    """A pair of pure functions that compute packed attention and its gradients.

    Both take q (B, L, N, K), k and v (B, M, N, K), q_ids (B, L), kv_ids (B, M) and
    kv_bias (B, M) or None.

    Attributes:
        forward: (q, k, v, q_ids, kv_ids, kv_bias) to the output (B, L, N, K) in q's
            dtype and the logsumexp of each query's logits (B, L, N) in fp32. A query
            without keys has output 0 and logsumexp `LOWEST`.
        backward: (q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad) to the gradients
            of q, k, v and kv_bias (None without one). `grad` (B, L, N, K) is that of
            the output; `lse` and `delta` = Σₖ output · grad are (B, L, N) in fp32 and
            may be over more keys than these.
    """

    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]]

"""Rematerialization: the results of a block that the backward pass keeps."""

import jax

# The results that each policy keeps beside a block's input, by the names of layers.
_policies = jax.checkpoint_policies
POLICIES = {
    "full": _policies.save_only_these_names("self_attn"),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names("self_attn", "cross_attn"),
    ),
}

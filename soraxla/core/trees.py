"""Named leaves, counts and moving averages of parameter trees."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

STACKED = "blocks"  # parameters below this node have a leading layer axis


def named_leaves(tree: PyTree, separator: str = ".") -> dict[str, Any]:
    """Returns leaves by path, `{"encoder.conv_in.kernel": …}`, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=separator): leaf
        for path, leaf in leaves
    }


def nested(named: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Returns the tree of dicts whose named leaves are `named`."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split(separator)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def is_stacked(name: str) -> bool:
    """Returns whether a parameter has a leading layer axis."""
    return name.startswith(f"{STACKED}.")


def unstacked(name: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the names that store a parameter, one per layer if it is stacked."""
    if not is_stacked(name):
        return [name]
    _, _, rest = name.partition(".")
    return [f"{STACKED}.{i}.{rest}" for i in range(shape[0])]


def count(tree: PyTree) -> int:
    """Returns the number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def moving_average(average: PyTree, new: PyTree, decay: Any) -> PyTree:
    """Returns decay · average + (1 − decay) · new, in fp32."""
    return jax.tree.map(
        lambda a, b: a + (1.0 - decay) * (b.astype(jnp.float32) - a), average, new
    )

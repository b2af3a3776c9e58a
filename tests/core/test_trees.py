"""Named leaves and moving averages of parameter trees."""

import jax.numpy as jnp
import numpy as np

from soraxla.core.trees import count, moving_average, named_leaves, nested

TREE = {
    "encoder": {"conv": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}},
    "head": np.zeros(4),
}


def test_names_are_paths_and_nested_is_the_inverse():
    named = named_leaves(TREE)
    assert set(named) == {"encoder.conv.kernel", "encoder.conv.bias", "head"}
    assert named["encoder.conv.bias"] is TREE["encoder"]["conv"]["bias"]
    assert nested(named) == TREE
    slashed = named_leaves(TREE, "/")
    assert "encoder/conv/kernel" in slashed
    assert nested(slashed, "/") == TREE


def test_count_is_of_numbers():
    assert count(TREE) == 6 + 3 + 4


def test_the_moving_average_is_fp32_and_moves_by_what_decay_leaves():
    average = {"a": jnp.asarray([0.0, 4.0])}
    new = {"a": jnp.asarray([8.0, 4.0], jnp.bfloat16)}
    moved = moving_average(average, new, 0.75)["a"]
    assert moved.dtype == jnp.float32
    np.testing.assert_array_equal(moved, [2.0, 4.0])
    np.testing.assert_array_equal(moving_average(average, new, 1.0)["a"], [0.0, 4.0])
    np.testing.assert_array_equal(moving_average(average, new, 0.0)["a"], [8.0, 4.0])

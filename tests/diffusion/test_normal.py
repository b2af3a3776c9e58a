"""Noise has the same bits for any length of a loop and any instruction set."""

import functools
import hashlib

import jax
import numpy as np
import pytest
from scipy.special import erfinv, ndtr

from soraxla.diffusion.normal import normal
from tests.marks import slow
from tests.tiny import optimised

KEY = jax.random.key(3)
LOWEST = np.nextafter(np.float32(-1.0), np.float32(0.0))


@functools.cache
def drawn(length):
    return np.asarray(optimised(lambda key: normal(key, (length,)))(KEY))


@pytest.mark.parametrize("length", [7, 1003, *slow(1, 24)])
def test_any_length_starts_with_the_same_bits(length):
    np.testing.assert_array_equal(drawn(length), drawn(4096)[:length])


def test_one_program_and_one_operation_at_a_time_give_the_same_bits():
    """Operation by operation, no product can be fused into an addition."""
    with jax.disable_jit():
        apart = np.asarray(normal(KEY, (1003,)))
    np.testing.assert_array_equal(drawn(1003), apart)


def test_the_bits_are_the_same_on_every_machine():
    """Additions, products and roots of IEEE 754, each rounded once: one answer."""
    digest = hashlib.sha256(drawn(100_003).tobytes()).hexdigest()
    assert digest == (
        "ae180d54fd408cabacd349c062f41f9f39e54ca7cff6a28e0c81d449b898269d"
    )


def test_the_numbers_are_those_of_jax_and_nearer_to_the_exact_ones():
    """Tolerance: fp32 rounding of some ten operations; JAX's are up to 1e-5 off."""
    ours, theirs = drawn(100_003), np.asarray(jax.random.normal(KEY, (100_003,)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-7)
    uniform = jax.random.uniform(KEY, (100_003,), minval=LOWEST, maxval=1.0)
    exact = np.sqrt(2.0) * erfinv(np.asarray(uniform, np.float64))
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-9)


def test_the_distribution_is_the_standard_normal_one():
    """Kolmogorov and Smirnov's distance stays below its 1 % level."""
    x = np.sort(drawn(100_003).astype(np.float64))
    distance = np.abs(ndtr(x) - np.arange(len(x)) / len(x)).max()
    assert distance < 1.63 / np.sqrt(len(x))

"""Adapters: of no effect at the start, and merged as the product that they are."""

import jax
import numpy as np
import pytest

from soraxla.core.trees import named_leaves
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.dit import lora
from soraxla.models.dit.lora import LoRAConfig, targeted
from tests import tiny

KEY = jax.random.key(0)
merge = tiny.quick(lora.merge, static_argnums=2)
ATTENTION = [f"blocks.{a}.{x}" for a in ("cross_attn", "self_attn") for x in "koqv"]


@pytest.fixture(scope="module")
def base():
    return tiny.dit_params()


def test_by_default_attention_is_adapted(base):
    assert sorted(targeted(base, LoRAConfig().targets)) == ATTENTION
    adapters = named_leaves(lora.init(KEY, base, LoRAConfig(rank=3)))
    assert sorted({name.rpartition(".")[0] for name in adapters}) == ATTENTION
    assert adapters["blocks.self_attn.q.a"].shape == (2, 64, 3)
    assert adapters["blocks.self_attn.q.b"].shape == (2, 3, 64)


@pytest.mark.slow
def test_fresh_adapters_change_no_bit(base):
    settings = LoRAConfig(rank=2, targets=("*",))
    fresh = lora.init(KEY, base, settings)
    merged = merge(base, fresh, settings)
    assert sha256_of_tree(merged) == sha256_of_tree(base)
    again = lora.init(KEY, jax.eval_shape(lambda: base), settings)
    assert sha256_of_tree(again) == sha256_of_tree(fresh)
    a = fresh["blocks"]["mlp"]["in_proj"]["a"]
    assert np.abs(a).max() <= 64**-0.5 < 1.1 * np.abs(a).max()
    assert np.unique(a).size == a.size


def test_merging_adds_the_scaled_product_and_touches_nothing_else(base):
    """Merges layer by layer, in stacked blocks and in a single layer."""
    settings = LoRAConfig(
        rank=3, alpha=1.5, targets=("blocks.mlp.*", "text_embed.in_proj")
    )
    adapters = tiny.random_like(lora.init(KEY, base, settings))
    before = named_leaves(base)
    after = named_leaves(merge(base, adapters, settings))
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    layers = ("blocks.mlp.in_proj", "blocks.mlp.out_proj", "text_embed.in_proj")
    assert changed == {f"{layer}.kernel" for layer in layers}
    named = named_leaves(adapters)
    for layer in layers:
        a, b = (np.asarray(named[f"{layer}.{x}"], np.float64) for x in "ab")
        kernel = np.asarray(before[f"{layer}.kernel"], np.float64)
        for i in np.ndindex(kernel.shape[:-2]):
            expected = kernel[i] + 0.5 * a[i] @ b[i]
            np.testing.assert_allclose(
                after[f"{layer}.kernel"][i], expected, rtol=0, atol=1e-6
            )


def test_the_hash_sees_every_bit_name_and_shape():
    tree = {"a": np.zeros((2, 3), np.float32), "b": np.float32(1.0)}
    hashes = {
        sha256_of_tree(other)
        for other in (
            tree,
            tree | {"a": np.zeros((3, 2), np.float32)},
            tree | {"a": np.zeros((2, 3), np.int32)},
            tree | {"a": np.float32([[0, 0, 0], [0, 0, 1e-45]])},
            {"a": tree["a"], "c": tree["b"]},
            {"a": tree["a"]},
        )
    }
    assert len(hashes) == 6
    assert sha256_of_tree(dict(reversed(tree.items()))) == sha256_of_tree(tree)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0, expected at least 1"),
        ({"alpha": 0.0}, "alpha is 0.0, expected a number above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"targets": ("blocks.*_attn.q", "blocks.ffn.*")}, "'blocks.ffn.*' is no lay"),
        ({"targets": ("blocks.self_attn.norm_q",)}, "is no layer"),
        ({"targets": ()}, "is no layer"),
    ],
)
def test_settings_that_cannot_be(base, settings, message):
    with pytest.raises(ValueError, match=r"^lora\.") as error:
        lora.init(KEY, base, LoRAConfig(**settings))
    assert message in str(error.value) and "\n" not in str(error.value)

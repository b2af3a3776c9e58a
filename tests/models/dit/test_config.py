"""Sizes of the transformer, and settings that make none."""

import jax
import pytest

from soraxla.models import dit
from soraxla.models.dit.config import SIZES, dit_config


def test_sizes_are_those_they_are_named_after():
    def count(size):
        shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), SIZES[size]))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    # Wan2.1-T2V-1.3B has 1,418,996,800 parameters; ours has a known-mask embedding.
    assert count("wan_1_3b") == 1_418_996_800 + 1536
    assert 5e6 < count("xs") < 1.2e7
    assert SIZES["wan_14b"].head_dim == SIZES["l"].head_dim == 128


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        ("xx", {}, "unknown DiT size 'xx': did you mean 'xs'"),
        ("xs", {"layer": 3}, "unknown DiT setting 'layer': did you mean 'layers'"),
        ("xs", {"heads": 3}, "256 with 3 heads"),
        ("xs", {"layers": 0}, "layers is 0"),
        ("xs", {"local_width": 0}, "local_width is 0: expected ≥ 1"),
        ("xs", {"forecast_layers": -1}, "forecast_layers is -1: expected ≥ 0"),
        ("wan_14b", {"text_refiner_layers": 1}, "text_pad_to=512"),
        ("xs", {"shift": -1.0}, "shift -1.0"),
    ],
)
def test_settings_that_make_no_model_are_refused(size, settings, message):
    with pytest.raises(ValueError, match=message):
        dit_config(size, **settings)

"""Controls: rows that steer tokens, from nothing on."""

import dataclasses

import jax
import numpy as np
import pytest

from soraxla.models import dit
from soraxla.packing.controls import Controls
from tests.models.dit.rows import CFG, A, B, C, jit, pack, random_params, run


@pytest.mark.slow
def test_controls_are_added_to_their_tokens_and_start_at_nothing():
    cfg = dataclasses.replace(CFG, controls=Controls(actions=("forward", "left")))
    fresh = jit(lambda: dit.init(jax.random.key(0), cfg)["control_embed"])()
    assert not fresh["kernel"].any()
    weights = random_params(cfg)
    x, t, batch, condition_t = pack(A, B, C)
    controls = np.zeros((*batch.segment_ids.shape, cfg.controls.width), np.float32)
    at = np.flatnonzero(batch.segment_ids[0] == 2)
    controls[0, at[:2], 0] = 1.0
    out, other = (
        run(weights, cfg, x, t, batch._replace(controls=c), condition_t)
        for c in (np.zeros_like(controls), controls)
    )
    changed = np.abs(out - other).max(axis=-1)[0] > 1e-4
    np.testing.assert_array_equal(changed, batch.segment_ids[0] == 2)
    with pytest.raises(ValueError, match="control width is 0, expected 9"):
        jax.eval_shape(lambda: dit.apply(weights, cfg, x, t, batch, condition_t))

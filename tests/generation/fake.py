"""A sampler for tests that are not about the network: no compile, noise by visit."""

import jax
import numpy as np


def sampler(*settings):
    """Stands in for `soraxla.generation.pipeline.sampler`."""

    def run(params, batches, grid, key, condition_t):
        batch, seed = batches[0], int(jax.random.key_data(key)[-1])
        out = np.zeros(batch.latents.shape, np.float32)
        for b, s in np.ndindex(*batch.visit.shape):
            at = batch.segment_ids[b] == s + 1
            rng = np.random.default_rng([int(batch.visit[b, s]), seed])
            out[b, at] = rng.normal(size=(at.sum(), out.shape[-1]))
        return np.where(batch.condition_mask[..., None], batch.latents, out)

    return run

"""Models small enough to compile in a second or two, with weights that all matter."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.core.config import to_dict
from soraxla.models import dit, vae
from soraxla.models.dit.config import dit_config
from soraxla.models.vae.model import VAEConfig

VAE = VAEConfig(
    base_width=4,
    latent_channels=4,
    multipliers=(1, 1, 1, 2),
    res_blocks=1,
    latent_mean=(0.5, -1.0, 2.0, 0.0),
    latent_std=(0.5, 2.0, 1.5, 1 / 3),
    dtype="float32",
)
DIT = dit_config("debug", latent_channels=4, text_width=16, dtype="float32")


def random_like(tree, seed=0):
    """No leaf left at the 0 or 1 it starts from, so that nothing is invisible."""
    rng = np.random.default_rng(seed)

    def leaf(path, a):
        noise = rng.normal(size=a.shape)
        if jax.tree_util.keystr(path[-1:], simple=True) == "scale":
            value = 1.0 + 0.2 * noise
        elif len(a.shape) > 1:
            value = 1.5 * np.prod(a.shape[:-1]) ** -0.5 * noise
        else:
            value = 0.2 * noise
        # Rounded on the host: jax would compile a conversion for every shape.
        return jnp.asarray(np.asarray(value, np.float32))

    return jax.tree_util.tree_map_with_path(leaf, tree)


@functools.cache
def _random(model, cfg, seed):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), cfg))
    return random_like(shapes, seed)


def vae_params(cfg=VAE):
    return jax.tree.map(lambda leaf: leaf, _random(vae, cfg, 0))


def dit_params(cfg=DIT):
    return jax.tree.map(lambda leaf: leaf, _random(dit, cfg, 1))


def loaded_vae():
    config = {"kind": "vae", "model": to_dict(VAE)}
    return LoadedModel(params=vae_params(), model=VAE, config=config)


def loaded_dit(controls=DIT.controls):
    cfg = replace(DIT, controls=controls)
    config = {
        "kind": "dit",
        "model": to_dict(cfg),
        "process": {"schedule": "rectified_flow", "prediction": "flow"},
        "text_encoder": "hashed:16",
    }
    return LoadedModel(params=dit_params(cfg), model=cfg, config=config)


def quick(function, **settings):
    """Compiles as `jax.jit` does in half the time, to slower code."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options, **settings)


def guarded(function):
    """The compiled step; nothing but its arguments, put there, goes to the device."""
    compiled = quick(function)

    def run(state, batch):
        batch = jax.device_put(batch)
        with jax.transfer_guard("disallow"):
            return compiled(state, batch)

    return run


def optimised(function, **settings):
    """Compiles as users do, for tests of bits that the compiler's effort may change."""
    options = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }
    return jax.jit(function, compiler_options=options, **settings)

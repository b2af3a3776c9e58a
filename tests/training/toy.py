"""The smallest possible experiment, for tests of only the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.core.config import to_dict
from soraxla.evals.evaluator import EvaluationContext
from soraxla.parallel.mesh import one_device
from soraxla.training.loop import Experiment, LoopConfig, train
from soraxla.training.optim import OptimConfig
from soraxla.training.state import create, update
from tests import tiny

OPTIM = OptimConfig(learning_rate=0.05, warmup_steps=2)
WIDTH = 300


class Batches:
    """Random vectors numbered from 0; those in `broken` hold a NaN.

    `at` maps a number to what is called when that batch is drawn.
    """

    def __init__(self, *, broken=(), at=None):
        self.broken, self.at, self.number = set(broken), at or {}, 0

    def __iter__(self):
        return Batches(broken=self.broken, at=self.at)

    def __next__(self):
        self.at.get(self.number, lambda: None)()
        x = np.random.default_rng(self.number).normal(size=WIDTH).astype(np.float32)
        if self.number in self.broken:
            x[0] = np.nan
        self.number += 1
        return x

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


def init(width=WIDTH):
    zeros = jnp.zeros(width)
    return create({"layer": {"w": zeros}}, OPTIM, {"sum": jnp.zeros(width)})


def step(state, x):
    def loss_fn(params):
        return jnp.mean(jnp.square(params["layer"]["w"] - x))

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    extra = {"sum": state.extra["sum"] + x}
    state, metrics = update(state, loss, grads, extra, OPTIM)
    return state, {**metrics, "numbers": jnp.asarray(x.size)}


def context(state, *, step, workdir):
    """The EMA; there is nothing else that evaluators could measure."""
    return EvaluationContext(
        params=state.ema,
        model=tiny.DIT,
        mesh=one_device(),
        step=step,
        workdir=workdir,
        seed=0,
    )


def folder_of(workdir, kind, step, state, **settings):
    """Writes a model's training folder that holds `state`, which nothing has trained.

    Returns the state that the folder holds.
    """

    def count(state, _):
        zero = state.skipped * 1.0
        metrics = {"loss": zero, "skipped_in_a_row": state.skipped_in_a_row}
        metrics["batches"] = zero + 1
        return state._replace(step=state.step + 1), metrics

    made = Experiment(
        settings={
            "kind": kind,
            "step": to_dict(step),
            "text_encoder": "hashed:8",
            "max_latent_frames": 5,
            **settings,
        },
        init=lambda: state,
        step=count,
        batches=Batches(),
        unit="batches",
    )
    return train(made, LoopConfig(steps=1), workdir)


def zeros(init, step):
    """Returns a state of the shapes of `init`, without compiling it."""
    shapes = jax.eval_shape(lambda: init(step))
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)


def job(*, settings=None, width=WIDTH, **batches):
    return Experiment(
        settings={"kind": "toy", "step": {"rate": 0.05}, **(settings or {})},
        init=functools.partial(init, width),
        step=step,
        batches=Batches(**batches),
        unit="numbers",
        context=context,
        put=jax.device_put,
    )

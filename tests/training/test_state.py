"""The effect of a gradient on the state, and of a gradient that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.core.trees import named_leaves
from soraxla.models.vae.model import VAEConfig
from soraxla.training.experiment import VAETrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig, schedule
from soraxla.training.state import create, update
from soraxla.training.vae_step import VAEStepConfig
from tests.tiny import quick

SETTINGS = OptimConfig(learning_rate=0.1, warmup_steps=1, ema_decay=0.5)
PARAMS = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([0.5])}
GRADS = {"w": jnp.asarray([0.3, 0.1]), "b": jnp.asarray([-0.2])}


compiled = quick(update, static_argnums=4)


def step(state, *, loss=1.0, grads=GRADS, extra=None, settings=SETTINGS, sound=True):
    extra = {"seen": jnp.ones(2)} if extra is None else extra
    loss, sound = jnp.float32(loss), jnp.bool_(sound)
    return compiled(state, loss, grads, extra, settings, sound=sound)


@pytest.fixture
def state():
    fresh = create(PARAMS, SETTINGS, {"seen": jnp.zeros(2)})
    return step(step(fresh)[0])[0]  # moments are no longer 0


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_a_new_state_holds_every_buffer_once():
    """A donated state must not: the second donation of a buffer is an error."""
    fresh = create(PARAMS, SETTINGS, {})
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(fresh)]
    assert len(set(buffers)) == len(buffers)
    assert same(fresh.ema, fresh.params)


def test_a_finite_step_moves_everything(state):
    after, metrics = step(state, extra={"seen": jnp.full(2, 7.0)})
    for name in ("params", "ema", "opt", "extra"):
        assert not same(getattr(state, name), getattr(after, name)), name
    assert after.step == state.step + 1 == 3
    assert after.skipped == after.skipped_in_a_row == 0
    assert metrics["loss"] == 1.0
    norm = np.sqrt(0.3**2 + 0.1**2 + 0.2**2)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-6)


BROKEN = {
    "loss": {"loss": np.nan},
    "infinite loss": {"loss": np.inf},
    "gradient": {"grads": {**GRADS, "b": jnp.asarray([np.nan])}},
    "infinite gradient": {"grads": {**GRADS, "w": jnp.asarray([0.0, np.inf])}},
    "norm": {"grads": {**GRADS, "w": jnp.full(2, 3e38)}},  # its square overflows
    "discriminator": {"sound": False},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_step_that_is_not_finite_changes_nothing_but_counters(state, broken):
    after, metrics = step(state, extra={"seen": jnp.full(2, np.nan)}, **broken)
    for name in ("params", "ema", "opt", "extra"):
        assert same(getattr(state, name), getattr(after, name)), name
    assert after.step == state.step + 1
    assert after.skipped == after.skipped_in_a_row == 1
    assert metrics["skipped"] == metrics["skipped_in_a_row"] == 1
    again, _ = step(after, **broken)
    assert again.skipped == again.skipped_in_a_row == 2
    # It recovers, as if the broken steps had never been.
    healed, _ = step(again)
    expected, _ = step(state)
    assert same(healed.params, expected.params) and same(healed.opt, expected.opt)
    assert healed.skipped == 2 and healed.skipped_in_a_row == 0


def test_the_average_starts_quickly_and_ends_at_its_decay():
    """Decay (1+k)/(10+k) at step k, never over the limit."""
    fresh = create(PARAMS, SETTINGS, {"seen": jnp.zeros(2)})
    for k, decay in ((0, 1 / 10), (1, 2 / 11), (100, 0.5)):
        state = fresh._replace(step=jnp.asarray(k, jnp.int32))
        state = state._replace(ema=jax.tree.map(lambda a: a + 1.0, state.ema))
        after, _ = step(state)
        for average, old, new in zip(
            *map(jax.tree.leaves, (after.ema, state.ema, after.params)), strict=True
        ):
            expected = decay * old + (1 - decay) * new
            np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    """Adam's first moment after one step is (1 − b1) times the clipped gradient."""
    fresh = create(PARAMS, SETTINGS, {"seen": jnp.zeros(2)})
    norm = float(np.sqrt(0.3**2 + 0.1**2 + 0.2**2))
    for factor in (100.0, 0.5):
        grads = {name: factor * grad for name, grad in GRADS.items()}
        after, metrics = step(fresh, grads=grads)
        named = named_leaves(after.opt)
        clipped = min(factor, 1.0 / norm)
        for name, grad in GRADS.items():
            (moment,) = (v for k, v in named.items() if k.endswith(f"mu.{name}"))
            np.testing.assert_allclose(moment, 0.1 * clipped * grad, rtol=1e-5)
        # What is reported is not clipped.
        np.testing.assert_allclose(metrics["grad_norm"], factor * norm, rtol=1e-5)


def test_the_rate_warms_up_then_stays_or_decays_to_nothing():
    """No step has a rate of 0, neither the first nor the last."""
    constant = schedule(OptimConfig(warmup_steps=4), 2.0)
    np.testing.assert_allclose(
        [constant(k) for k in (0, 1, 3, 4, 1000)], [0.5, 1.0, 2.0, 2.0, 2.0]
    )
    cosine = schedule(OptimConfig(warmup_steps=4, decay_steps=13), 2.0)
    np.testing.assert_allclose(
        [cosine(k) for k in (0, 1, 3, 8, 13, 20)], [0.5, 1, 2, 1, 0, 0], atol=1e-6
    )
    assert cosine(12) > 0.01
    for short in (0, 1):
        assert schedule(OptimConfig(warmup_steps=short), 2.0)(0) == 2.0
        ends = schedule(OptimConfig(warmup_steps=short, decay_steps=2), 2.0)
        assert ends(0) == 2.0 and abs(ends(1) - 1.0) < 1e-6


def test_the_first_update_trains_and_weights_decay_only_in_kernels():
    """A gradient of 0 leaves the decay; biases, norms and tables have none."""
    settings = OptimConfig(learning_rate=0.1, warmup_steps=2, weight_decay=0.5)
    names = {
        **{"kernel": True, "taps": True, "a": True, "b": True},
        **{"bias": False, "scale": False, "table": False, "known_embed": False},
    }
    params = {name: jnp.ones((2, 2)) for name in names}
    fresh = create({"layer": params}, settings, {})
    grads = jax.tree.map(jnp.zeros_like, fresh.params)
    after, _ = step(fresh, grads=grads, extra={}, settings=settings)
    for name, decays in names.items():
        expected = 1 - 0.05 * 0.5 if decays else 1.0
        np.testing.assert_allclose(after.params["layer"][name], expected, err_msg=name)
    with pytest.raises(ValueError, match="decay_steps is 4, expected more") as error:
        schedule(OptimConfig(warmup_steps=4, decay_steps=4), 2.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"learning_rate": -1e-4}, "optim.learning_rate is -0.0001, expected a number"),
        ({"b1": 1.0}, "optim.b1 is 1.0, expected a number from 0 on and below 1"),
        ({"ema_decay": 5.0}, "optim.ema_decay is 5.0"),
        ({"clip_norm": 0.0}, "optim.clip_norm is 0.0, expected above 0"),
        ({"weight_decay": float("nan")}, "optim.weight_decay is nan"),
    ],
)
def test_settings_that_train_nothing_are_refused(setting, text):
    with pytest.raises(ValueError, match=text):
        OptimConfig(**setting)


def test_steps_at_a_rate_of_0_are_refused():
    step = VAEStepConfig(
        model=VAEConfig(), optim=OptimConfig(decay_steps=100, warmup_steps=1)
    )
    shape = WindowShape(frames=1, height=16, width=16, batch=1)
    windows = WindowConfig(shapes=(shape,))
    VAETrainingConfig(step=step, windows=windows, loop=LoopConfig(steps=100))
    with pytest.raises(
        ValueError, match=r"loop\.steps is 101, but from .* on the rate is 0"
    ):
        VAETrainingConfig(step=step, windows=windows, loop=LoopConfig(steps=101))


def test_muon_turns_the_matrices_of_blocks_and_adamw_the_rest():
    rng = np.random.default_rng(0)
    shapes = {
        ("blocks", "kernel"): (2, 24, 16),
        ("blocks", "table"): (2, 6, 16),
        ("head", "kernel"): (16, 8),
    }
    params: dict = {"blocks": {}, "head": {}}
    steps: list[dict] = [{"blocks": {}, "head": {}} for _ in range(3)]
    for (room, name), shape in shapes.items():
        params[room][name] = jnp.zeros(shape)
        for grads in steps:
            # Singular values over two orders of magnitude, layers of unlike size.
            grad = rng.normal(size=shape) * np.logspace(-2, 0, shape[-1])
            if len(shape) == 3:
                grad *= np.array([1.0, 30.0])[:, None, None]
            grads[room][name] = jnp.asarray(grad, jnp.float32)

    def moved(steps, **rates):
        settings = OptimConfig(learning_rate=1e-3, warmup_steps=1, **rates)
        state = create(params, settings, {})
        for grads in steps:
            state, _ = step(state, grads=grads, extra={}, settings=settings)
        return state.params

    muon = moved(steps[:1], muon_learning_rate=0.1)
    for matrix in muon["blocks"]["kernel"]:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() < 2.5 * values.min()
        np.testing.assert_allclose(np.mean(matrix**2) ** 0.5, 0.2 * 0.1, rtol=0.2)
    adamw, muon = moved(steps), moved(steps, muon_learning_rate=0.1)
    for room, name in (("blocks", "table"), ("head", "kernel")):
        assert np.abs(adamw[room][name]).max() > 1e-4
        np.testing.assert_allclose(muon[room][name], adamw[room][name], rtol=1e-6)


@pytest.mark.slow
def test_muon_turns_the_matrices_of_local_layers_too():
    rng = np.random.default_rng(0)
    params = {
        "blocks": {"mlp": {"kernel": jnp.zeros((2, 24, 16))}},
        "local": {
            "layer_0": {"mlp": {"kernel": jnp.zeros((24, 16))}, "taps": jnp.zeros(9)},
            "head": {"kernel": jnp.zeros((24, 16))},
        },
        "known_embed": jnp.zeros(9),
    }

    def gradient(x):
        spread = np.logspace(-2, 0, 16) if x.ndim > 1 else 1.0
        return jnp.asarray(rng.normal(size=x.shape) * spread, jnp.float32)

    settings = OptimConfig(learning_rate=1e-3, warmup_steps=1, muon_learning_rate=0.1)
    state = create(params, settings, {})
    grads = jax.tree.map(gradient, params)
    state, _ = step(state, grads=grads, extra={}, settings=settings)
    matrix = state.params["local"]["layer_0"]["mlp"]["kernel"]
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.max() < 2.5 * values.min()
    for other in (
        state.params["local"]["head"]["kernel"],
        state.params["local"]["layer_0"]["taps"],
        state.params["known_embed"],
    ):
        np.testing.assert_allclose(np.abs(other).max(), 1e-3, rtol=0.5)


def test_muon_needs_blocks():
    with pytest.raises(ValueError, match=r"no blocks.*leave it out") as error:
        create(PARAMS, OptimConfig(muon_learning_rate=0.1), {})
    assert "\n" not in str(error.value)

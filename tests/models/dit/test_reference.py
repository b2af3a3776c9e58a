"""The transformer against Wan 2.1 written out: one clip, float64 NumPy, unpacked."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from soraxla.core.types import PackedBatch
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from tests.tiny import quick

CFG = DiTConfig(
    layers=2,
    width=32,
    heads=2,
    mlp_width=48,
    latent_channels=2,
    text_width=6,
    text_refiner_layers=0,
    text_pad_to=9,
    position_embed=False,
    dtype="float32",
)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(p, x):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * p["scale"]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def turn(x_LNK, positions_L3):
    """Head dim 16: 8 features turn by time, 4 by height, 4 by width."""
    angles = []
    for axis, dim in enumerate((8, 4, 4)):
        frequency = 10000.0 ** (-np.arange(0, dim, 2) / dim)
        angles.append(positions_L3[:, axis, None] * frequency[None, :])
    phase = np.exp(1j * np.concatenate(angles, -1))[:, None, :]
    out = (x_LNK[..., 0::2] + 1j * x_LNK[..., 1::2]) * phase
    return np.stack([out.real, out.imag], -1).reshape(x_LNK.shape)


def attend(p, x, source, positions=None):
    q = rms_norm(p["norm_q"], dense(p["q"], x)).reshape(len(x), 2, 16)
    k = rms_norm(p["norm_k"], dense(p["k"], source)).reshape(len(source), 2, 16)
    v = dense(p["v"], source).reshape(len(source), 2, 16)
    if positions is not None:
        q, k = turn(q, positions), turn(k, positions)
    weights = softmax(np.einsum("lnk,mnk->nlm", q, k) / 4.0)
    return dense(p["o"], np.einsum("nlm,mnk->lnk", weights, v).reshape(len(x), -1))


def copy(p, x, noisy, positions):
    """A token's 8 numbers are one head of 16."""
    q, k = (
        turn(rms_norm(p[f"norm_{n}"], dense(p[n], x))[:, None], positions)[:, 0]
        for n in "qk"
    )
    return softmax(q @ k.T / 4.0) @ noisy


def wan(params, x, t_L, positions, text):
    """Per-token time, every pad a real token, one block after the other."""
    text = np.pad(text, ((0, CFG.text_pad_to - len(text)), (0, 0)))
    embed, noisy = params["text_embed"], x
    text = dense(embed["out_proj"], gelu(dense(embed["in_proj"], text)))
    x = dense(params["patch_embed"], x)
    angle = 1000.0 * t_L[:, None] * 10000.0 ** (-np.arange(128) / 128)[None, :]
    e = dense(params["time_in"], np.concatenate([np.cos(angle), np.sin(angle)], -1))
    e = dense(params["time_out"], silu(e))
    modulation = dense(params["time_proj"], silu(e)).reshape(len(x), 6, CFG.width)
    for i in range(CFG.layers):
        p = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        shift, scale, gate, shift_2, scale_2, gate_2 = np.moveaxis(
            p["table"][None] + modulation, 1, 0
        )
        h = layer_norm(x) * (1 + scale) + shift
        x = x + gate * attend(p["self_attn"], h, h, positions)
        h = layer_norm(x) * p["cross_norm"]["scale"] + p["cross_norm"]["bias"]
        x = x + attend(p["cross_attn"], h, text)
        h = layer_norm(x) * (1 + scale_2) + shift_2
        mlp = p["mlp"]
        x = x + gate_2 * dense(mlp["out_proj"], gelu(dense(mlp["in_proj"], h)))
    shift, scale = params["head_table"][:, None, :] + e[None]
    hidden = layer_norm(x) * (1 + scale) + shift
    x = dense(params["head"], hidden)
    if "gate" not in params:
        return x
    own, other = np.split(dense(params["gate"], hidden), 2, axis=-1)
    copied = copy(params["copy_attn"], hidden, noisy, positions)
    return x + own * (noisy - x) + other * (copied - x)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [replace(CFG, input_gate=True), CFG])
def test_it_is_wan_s_network(cfg):
    """Condition tokens have a separate time, as in Wan's image-to-video; one case has a
    gate, which Wan lacks."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), cfg))
    params = jax.tree_util.tree_map_with_path(
        lambda path, s: (
            rng.normal(size=s.shape)
            * (s.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.3)
            + (path[-1].key == "scale")
        ).astype(np.float32),
        shapes,
    )
    params["known_embed"] = np.zeros(CFG.width, np.float32)  # ours, not Wan's
    x = rng.normal(size=(1, 12, 8)).astype(np.float32)
    index = np.arange(12)
    positions = np.stack([index // 4, index // 2 % 2, index % 2], -1)[None]
    condition_mask = (index < 4)[None]
    batch = PackedBatch(
        latents=x,
        segment_ids=np.ones((1, 12), np.int32),
        token_index=index[None],
        positions=positions.astype(np.float32),
        condition_mask=condition_mask,
        controls=np.zeros((1, 12, 0), np.float32),
        features=np.zeros((1, 12, 0), np.float32),
        text=rng.normal(size=(1, 5, 6)).astype(np.float32),
        text_segment_ids=np.ones((1, 5), np.int32),
        visit=np.zeros((1, 1), np.uint32),
        shift=np.ones((1, 1), np.float32),
    )
    t, condition_t = np.array([[0.7]], np.float32), np.array([[0.05]], np.float32)
    out = quick(dit.apply, static_argnums=1)(params, cfg, x, t, batch, condition_t)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    t_L = np.where(condition_mask[0], 0.05, 0.7)
    expected = wan(params, x[0], t_L, positions[0], batch.text[0])
    assert expected.std() > 0.5
    # fp32 phases of 1000·t are off by up to 6e-5 radians.
    np.testing.assert_allclose(out[0], expected, rtol=0, atol=1e-4)

"""A causal video VAE from nothing.

    soraxla train --config configs/vae.py:xs --data MEDIA_FOLDER --workdir runs/vae

Sizes: `debug` (width 4, for tests), `xs` (width 16, 3.6 M parameters, fp32: what
soraxla ships; see soraxla/assets/vae_small/README.md for its data, time and PSNR),
`wan` (width 96, 127 M parameters, Wan 2.1's, bf16: an accelerator's work).
"""

from ml_collections import ConfigDict

from data_pipelines.windows import WindowShape, WindowSpec
from soraxla.models.vae import VAEConfig
from soraxla.optim import OptimSettings
from soraxla.settings import to_dict
from soraxla.training.jobs import VAETraining
from soraxla.training.loop import LoopSettings
from soraxla.training.steps import VAEStep

# (frames, height, width, batch, weight)
SHAPES = {
    "debug": [(5, 32, 32, 1, 1.0), (1, 32, 32, 2, 1.0)],
    "xs": [(1, 64, 64, 4, 3.0), (9, 48, 48, 1, 3.0), (17, 48, 48, 1, 2.0)],
    "wan": [(1, 256, 256, 16, 1.0), (17, 256, 256, 4, 2.0), (33, 192, 192, 4, 1.0)],
}
WIDTHS = {"debug": 4, "xs": 16, "wan": 96}
STEPS = {"debug": 20, "xs": 6000, "wan": 200_000}


def get_config(size: str = "xs") -> ConfigDict:
    """The training settings of a size."""
    if size not in SHAPES:
        raise ValueError(f"unknown VAE size {size!r}: expected {', '.join(SHAPES)}")
    steps = STEPS[size]
    training = VAETraining(
        step=VAEStep(
            model=VAEConfig(
                base_width=WIDTHS[size],
                dtype="bfloat16" if size == "wan" else "float32",
            ),
            optim=OptimSettings(
                learning_rate=1e-4 if size == "wan" else 4e-4,
                warmup_steps=max(2, min(100, steps // 10)),
                decay_steps=steps,
                ema_decay=0.998,
            ),
        ),
        windows=WindowSpec(
            shapes=tuple(
                WindowShape(frames=t, height=h, width=w, batch=b, weight=p)
                for t, h, w, b, p in SHAPES[size]
            )
        ),
        loop=LoopSettings(steps=steps, checkpoint_every=500, preview_every=1000),
    )
    return ConfigDict({"kind": "vae", **to_dict(training)})

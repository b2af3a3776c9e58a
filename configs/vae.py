"""A causal video VAE from nothing, or the decoder of any.

    soraxla train --config vae:xs-pictures --data MEDIA --workdir PICTURES
    soraxla train --config vae:xs --data MEDIA --workdir VAE --init PICTURES
    soraxla train --config vae:decoder --data MEDIA --workdir DECODER --init VAE

Sizes: `debug` (width 4, for tests), `xs-pictures` and then `xs` (width 16, 3.6 M
parameters, fp32: what soraxla ships; see soraxla/assets/vae_small/README.md for its
data, time and PSNR), `linear` (encodes into the 96 principal components of its clips
and trains only the decoder: good in minutes where clips are simple), `worlds` (turns
blocks of 4 frames and 4×4 pixels into channels first; 64 and 160 channels, 3.0 M
parameters, fp32, for simulated clips of 64×64; principal components, with which it
starts, give 24 to 27 dB), `wan` (width 96, 127 M parameters, Wan 2.1's, bf16; it needs
an accelerator), `decoder` (trains only the decoder of --init, whatever its widths).
Single frames teach the spatial half at a tenth of a clip's cost and noise. A fresh VAE
treats a still clip as a picture, so the second run starts from the first one's weights.
"""

from typing import Any

from ml_collections import ConfigDict

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.core.config import lock, to_config_dict
from soraxla.core.errors import UserError
from soraxla.models.vae.model import VAEConfig
from soraxla.training.experiment import VAETrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_losses.kl import KL
from soraxla.training.vae_losses.losses import VAELosses
from soraxla.training.vae_step import VAEStepConfig

# (frames, height, width, batch, weight)
SHAPES = {
    "debug": [(5, 32, 32, 1, 1.0), (1, 32, 32, 2, 1.0)],
    "xs-pictures": [(1, 24, 24, 32, 2.0), (1, 48, 48, 8, 1.0)],
    "xs": [
        (1, 32, 32, 16, 1.0),
        (9, 24, 24, 8, 2.0),
        (17, 32, 32, 3, 2.0),
        (33, 40, 40, 1, 1.0),
    ],
    "linear": [(9, 48, 48, 4, 2.0), (17, 64, 64, 1, 1.0), (1, 64, 64, 6, 0.3)],
    "worlds": [(17, 64, 64, 5, 2.0), (9, 64, 64, 8, 1.0), (1, 64, 64, 24, 0.5)],
    "decoder": [(1, 64, 64, 8, 1.0), (9, 64, 64, 2, 2.0), (17, 64, 64, 1, 1.0)],
    "wan": [(1, 256, 256, 16, 1.0), (17, 256, 256, 4, 2.0), (33, 192, 192, 4, 1.0)],
}
WIDTHS = {
    "debug": 4,
    "xs-pictures": 16,
    "xs": 16,
    "linear": 16,
    "worlds": 32,
    "decoder": 96,  # until the folder of --init is read
    "wan": 96,
}
STAGES = {
    "worlds": {
        "pixel_patch": 4,
        "frame_patch": 4,
        "multipliers": (2, 5),
        "temporal_down": (False,),
        "res_blocks": (1, 2),
    }
}
STEPS = {
    "debug": 20,
    "xs-pictures": 6000,
    "xs": 1500,
    "linear": 900,
    "worlds": 8000,
    "decoder": 2000,
    "wan": 200_000,
}
RATES = {
    "debug": 5e-4,
    "xs-pictures": 5e-4,
    "xs": 1e-4,
    "linear": 6e-4,
    "worlds": 2e-4,
    "decoder": 1e-4,
    "wan": 1e-4,
}
KL_WEIGHTS = {"worlds": 1e-3}


def get_config(size: str = "xs") -> ConfigDict:
    """Returns the training settings of a size."""
    if size not in SHAPES:
        raise UserError(f"unknown VAE size {size!r}: expected {', '.join(SHAPES)}")
    steps = STEPS[size]
    training = VAETrainingConfig(
        step=VAEStepConfig(
            model=VAEConfig(
                base_width=WIDTHS[size],
                **STAGES.get(size, {}),
                latent_channels=96 if size == "linear" else 16,
                linear=size == "linear",
                dtype="bfloat16" if size == "wan" else "float32",
            ),
            optim=OptimConfig(
                learning_rate=RATES[size],
                muon_learning_rate=10 * RATES[size] if size == "worlds" else None,
                warmup_steps=max(2, min(100, steps // 10)),
                decay_steps=steps,
                ema_decay=0.998,
            ),
            train="decoder" if size == "decoder" else "all",
            losses=VAELosses(kl=KL(weight=KL_WEIGHTS.get(size, 1e-6))),
        ),
        windows=WindowConfig(
            shapes=tuple(
                WindowShape(frames=t, height=h, width=w, batch=b, weight=p)
                for t, h, w, b, p in SHAPES[size]
            )
        ),
        loop=LoopConfig(
            steps=steps,
            checkpoint_every=500,
            evaluators={"preview": {"every": 1000}},
        ),
    )
    config = to_config_dict("vae", training)
    if size == "decoder":  # the folder of --init fixes the model
        step: Any = config.step
        with step.unlocked():
            step.model = ConfigDict({})
        lock(config, VAETrainingConfig)
    return config

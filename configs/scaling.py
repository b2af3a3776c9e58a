r"""Four small transformers on simulated worlds, for a scaling study on a CPU.

    soraxla worlds --world occlusion --clips 6000 --out worlds
    soraxla prepare --source tfds:soraxla_worlds/occlusion --data-dir worlds \
        --vae soraxla/assets/worlds/vae --out worlds_data
    soraxla scale --config scaling --data worlds_data --sizes s,m,l,xl \
        --base-pflop 0.0004 --compute 1,4,12,32 --clips 32 --out scaling

Sizes: `s` (3 layers × 96), `m` (4 × 128), `l` (6 × 192), `xl` (8 × 256). They share the
rows, the rates and the seed, so points differ only in size and compute.
"""

from ml_collections import ConfigDict

from soraxla.core.config import to_config_dict
from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.models.dit.config import dit_config
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig

# (layers, width)
SIZES = {"s": (3, 96), "m": (4, 128), "l": (6, 192), "xl": (8, 256)}


def get_config(size: str = "s") -> ConfigDict:
    """Returns the training settings of a size."""
    if size not in SIZES:
        raise UserError(f"unknown size {size!r}: expected one of {', '.join(SIZES)}")
    layers, width = SIZES[size]
    training = DiTTrainingConfig(
        step=DiTStepConfig(
            model=dit_config(
                "xs",
                layers=layers,
                width=width,
                mlp_width=4 * width,
                heads=width // 32,
                latent_channels=96,
                shift=3.0,
                remat="none",
            ),
            process=Process(prediction="x0"),
            optim=OptimConfig(
                learning_rate=1e-3,
                muon_learning_rate=8e-3,
                warmup_steps=10,
                ema_decay=0.99,
            ),
        ),
        pack=PackConfig(row_length=1024, text_length=128, max_segments=10),
        eval_share=0.05,
        loop=LoopConfig(steps=10_000, checkpoint_every=500),
    )
    return to_config_dict("dit", training)

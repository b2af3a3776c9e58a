r"""A small transformer of every task on simulated worlds, trained on a CPU.

    soraxla worlds --world flat --clips 4000 --out worlds
    soraxla prepare --source tfds:soraxla_worlds/flat --data-dir worlds \
        --vae soraxla/assets/worlds/vae --out worlds_data
    soraxla train --config configs/worlds.py --data worlds_data --workdir runs/worlds

The model that is shipped was trained so; `--init soraxla/assets/worlds` goes on.
"""

from ml_collections import ConfigDict

from soraxla.diffusion.process import Process
from soraxla.mixture import EVERY_TASK
from soraxla.models.config import dit_config
from soraxla.optim import OptimSettings
from soraxla.packing import PackSpec
from soraxla.settings import to_dict
from soraxla.training.jobs import DiTTraining
from soraxla.training.loop import LoopSettings
from soraxla.training.steps import DiTStep


def get_config() -> ConfigDict:
    """One leg; `--init` of the last leg's weights begins the next."""
    steps = 2600
    training = DiTTraining(
        step=DiTStep(
            model=dit_config(
                "xs",
                layers=6,
                width=192,
                mlp_width=768,
                heads=3,
                latent_channels=64,
                # A frame says much of the next: without a shift most of the noise
                # hides nothing of what a clip is about.
                shift=3.0,
                remat="none",
            ),
            # Tokens of 256 numbers are too many to carry their noise through the
            # network, which predicting it or a velocity takes (arXiv 2511.13720).
            process=Process(prediction="x0"),
            optim=OptimSettings(
                learning_rate=1.5e-3,
                muon_learning_rate=12e-3,
                warmup_steps=100,
                decay_steps=steps,
                ema_decay=0.999,
            ),
        ),
        pack=PackSpec(
            row_length=2048, text_length=512, max_segments=32, mixture=EVERY_TASK
        ),
        loop=LoopSettings(steps=steps, checkpoint_every=250),
    )
    return ConfigDict({"kind": "dit", **to_dict(training)})

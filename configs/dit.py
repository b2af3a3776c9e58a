"""A packed diffusion transformer on a prepared dataset.

    soraxla train --config dit:xs --data DATASET --workdir runs/dit

It has every size of `soraxla.models.dit.config.SIZES`. `debug` and `xs` train on a CPU,
`s` on one accelerator, larger sizes on several. (`soraxla demo` trains a size between
`debug` and `xs` on the ten shipped samples; README.md has its results.)
"""

from ml_collections import ConfigDict

from soraxla.core.config import to_config_dict
from soraxla.models.dit.config import dit_config
from soraxla.packing.conditioning import EVERY_TASK
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig


def get_config(size: str = "xs") -> ConfigDict:
    """Returns the training settings of a size."""
    small = size in ("debug", "xs")
    training = DiTTrainingConfig(
        step=DiTStepConfig(
            model=dit_config(size),
            optim=OptimConfig(
                learning_rate=1e-3 if small else 1e-4,
                warmup_steps=20 if small else 1000,
                ema_decay=0.99 if small else 0.9999,
            ),
        ),
        pack=PackConfig(
            row_length=1024 if small else 16384,
            text_length=512 if small else 8192,
            max_segments=16 if small else 64,
            mixture=EVERY_TASK,
        ),
        batch_rows=1 if small else 8,
        loop=LoopConfig(
            steps=500 if small else 100_000,
            checkpoint_every=100 if small else 1000,
            evaluators={"preview": {"every": 250 if small else 5000}},
        ),
    )
    return to_config_dict("dit", training)

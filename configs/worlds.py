r"""A small transformer of every task on simulated worlds, trained on a CPU.

    soraxla worlds --world flat --clips 40000 --pictures 1 --seed 1 --out pictures
    soraxla prepare --source tfds:soraxla_worlds/flat --data-dir pictures \
        --vae soraxla/assets/worlds/vae --out pictures_data
    soraxla train --config worlds:pictures --data pictures_data \
        --workdir runs/pictures
    soraxla worlds --world flat --clips 24000 --out worlds
    soraxla prepare --source tfds:soraxla_worlds/flat --data-dir worlds \
        --vae soraxla/assets/worlds/vae --out worlds_data
    soraxla train --config worlds:forecast --data worlds_data \
        --init runs/pictures --workdir runs/forecast
    soraxla train --config worlds --data worlds_data --init runs/forecast \
        --workdir runs/worlds
    soraxla worlds --world flat --clips 92000 --pictures 0.65 --seed 2 --out mixed
    soraxla prepare --source tfds:soraxla_worlds/flat --data-dir mixed \
        --vae soraxla/assets/worlds/vae --out mixed_data
    soraxla train --config worlds:details --data mixed_data \
        --init runs/worlds --workdir runs/details

The shipped model was trained nearly so; its card, soraxla/assets/worlds/README.md, has
the details. `--init soraxla/assets/worlds` starts from its weights.
"""

from typing import Literal, NamedTuple

from ml_collections import ConfigDict

from soraxla.core.config import to_config_dict
from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.models.dit.config import dit_config
from soraxla.packing.conditioning import EVERY_TASK, ConditioningMixture
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig


class Stage(NamedTuple):
    steps: int
    rate: float
    rows: int
    pack: PackConfig
    part: Literal["all", "forecast"] = "all"
    shift: float | None = None


_CLIPS = PackConfig(
    row_length=512,
    text_length=288,
    max_segments=24,
    cut_share=0.6,
    next_share=0.6,
    mixture=EVERY_TASK,
)
_STAGES = {
    # A picture costs a tenth of a clip and teaches as much about a caption's objects.
    "pictures": Stage(
        1200, 1.5e-3, 1, PackConfig(row_length=2048, text_length=1664, max_segments=112)
    ),
    "clips": Stage(7000, 1e-3, 4, _CLIPS),
    # The shift of "clips" rarely draws times that leave a clip nearly clean. Pictures
    # among the clips go on teaching how objects look.
    "details": Stage(1900, 1.1e-3, 4, _CLIPS, shift=3.0),
    # The first frame is a condition, because no frame precedes it to predict it from.
    "forecast": Stage(
        3000,
        3e-3,
        4,
        PackConfig(
            row_length=512,
            text_length=64,
            max_segments=20,
            mixture=ConditioningMixture(none=0.0, first=1.0),
        ),
        "forecast",
    ),
}


def get_config(stage: str = "clips") -> ConfigDict:
    """Returns the training settings of a stage, which starts from the stage before."""
    if stage not in _STAGES:
        raise UserError(
            f"unknown stage {stage!r}: expected one of {', '.join(_STAGES)}"
        )
    steps, rate, rows, pack, part, shift = _STAGES[stage]
    training = DiTTrainingConfig(
        step=DiTStepConfig(
            model=dit_config(
                "xs",
                layers=6,
                width=192,
                mlp_width=768,
                heads=3,
                latent_channels=96,
                input_gate=True,
                local_layers=4,
                local_width=192,
                forecast_layers=4,
                # Frames resemble their neighbours: without a shift, most noise levels
                # hide nothing of a clip's content.
                shift=6.0,
                remat="none",
            ),
            # To predict noise or a velocity, the network would have to carry the noise
            # of tokens of 384 numbers (arXiv 2511.13720).
            process=Process(prediction="x0"),
            optim=OptimConfig(
                learning_rate=rate,
                muon_learning_rate=8 * rate if part == "all" else None,
                warmup_steps=100,
                decay_steps=steps,
                ema_decay=0.999,
            ),
            part=part,
        ),
        pack=pack,
        batch_rows=rows,
        shift=shift,
        loop=LoopConfig(steps=steps, checkpoint_every=250),
    )
    return to_config_dict("dit", training)

"""Fine-tuning of Wan weights on a prepared dataset, in whole or by LoRA.

    soraxla import wan --from WAN --out wan --text-encoder umt5:WAN/text_encoder
    soraxla prepare --source MEDIA --out DATASET --vae wan/vae \\
        --text-encoder umt5:WAN/text_encoder
    soraxla train --config finetune_wan:lora --data DATASET --init wan \\
        --workdir runs/lora
    soraxla generate --checkpoint runs/lora --prompt "…" --out clip.mp4
    soraxla export wan --checkpoint runs/lora --out merged
    soraxla export wan --checkpoint runs/lora --out adapter --adapter

`lora` trains adapters of the attention layers, about 1 % of the weights, and is for
hundreds of clips; `full` trains every weight, for many thousands. The folder fixes the
model, so it has no settings here. Clips keep their sizes and share rows of 32,768
tokens, as many as a clip of 81 frames at 832×480 has. For a smoke run on a CPU, take
`--set pack.row_length=256 --set loop.steps=20` and a tiny model.
"""

from typing import Any

from ml_collections import ConfigDict

from soraxla.core.config import lock, to_config_dict
from soraxla.core.errors import UserError
from soraxla.models.dit.config import dit_config
from soraxla.models.dit.lora import LoRAConfig
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig


def get_config(weights: str = "lora") -> ConfigDict:
    """Returns the training settings of `full` or `lora` weights."""
    if weights not in ("full", "lora"):
        raise UserError(f"unknown fine-tuning {weights!r}: expected full or lora")
    adapt = weights == "lora"
    training = DiTTrainingConfig(
        step=DiTStepConfig(
            model=dit_config("debug"),
            optim=OptimConfig(
                learning_rate=1e-4 if adapt else 1e-5,
                ema_decay=0.99 if adapt else 0.999,
            ),
            lora=LoRAConfig() if adapt else None,
        ),
        pack=PackConfig(row_length=32768, text_length=4096, max_segments=32),
        loop=LoopConfig(
            steps=2000 if adapt else 10_000,
            checkpoint_every=250,
            evaluators={"preview": {"every": 500}},
        ),
    )
    config = to_config_dict("dit", training)
    # The folder of --init fixes the model and its process.
    step: Any = config.step
    with step.unlocked():
        step.model = ConfigDict({"remat": "full"})
        del step["process"]
    lock(config, DiTTrainingConfig)
    return config

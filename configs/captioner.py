"""A captioner of clips: frames in, a sentence out.

    soraxla worlds --world occlusion --clips 24000 --pictures 0.8 --out worlds
    soraxla caption train --source tfds:soraxla_worlds/occlusion --data-dir worlds \
        --workdir runs/captioner
    soraxla caption score --checkpoint runs/captioner --world occlusion

Sizes: `debug` (for tests), `worlds` (2.8 M parameters, fp32, for simulated clips of up
to 112 pixels, on a CPU; most samples are pictures, which teach colours and shapes at a
fifth of the work), `base` (over a pretrained tower that --init names, bf16; it needs an
accelerator).
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from data_pipelines.view import ViewConfig
from soraxla.core.config import nearest, to_config_dict
from soraxla.core.errors import UserError
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.packing.pack import RowConfig
from soraxla.training.caption_step import CaptionStepConfig
from soraxla.training.experiment import CaptionTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig


class Size(NamedTuple):
    model: CaptionerConfig
    pack: RowConfig
    batch_rows: int
    rate: float
    steps: int
    muon_rate: float | None = None


_SIZES = {
    "debug": Size(
        CaptionerConfig(
            tower_layers=1,
            layers=1,
            width=32,
            heads=2,
            mlp_width=64,
            view=ViewConfig(frames=3, side=32, patch=16),
            max_words=256,
            max_tokens=32,
            dtype="float32",
        ),
        RowConfig(row_length=32, text_length=64, max_segments=4),
        batch_rows=1,
        rate=3e-3,
        steps=20,
    ),
    "worlds": Size(
        CaptionerConfig(
            tower_layers=4,
            layers=3,
            width=160,
            heads=4,
            mlp_width=640,
            view=ViewConfig(frames=4, side=112, patch=16, margin=8),
            stem=(32, 48),
            max_words=512,
            max_tokens=64,
            dtype="float32",
        ),
        RowConfig(row_length=512, text_length=384, max_segments=24),
        batch_rows=4,
        rate=1e-3,
        muon_rate=8e-3,
        steps=2000,
    ),
    "base": Size(
        CaptionerConfig(
            tower_layers=4,
            layers=12,
            width=768,
            heads=12,
            mlp_width=3072,
            view=ViewConfig(frames=8, side=224, patch=14, square=True),
            max_words=32_768,
            max_tokens=128,
        ),
        RowConfig(row_length=8192, text_length=2048, max_segments=64),
        batch_rows=16,
        rate=2e-4,
        steps=100_000,
    ),
}


def get_config(size: str = "worlds") -> ConfigDict:
    """Returns the training settings of a size."""
    if size not in _SIZES:
        raise UserError(f"unknown captioner size {size!r}{nearest(size, _SIZES)}")
    model, pack, rows, rate, steps, muon = _SIZES[size]
    training = CaptionTrainingConfig(
        step=CaptionStepConfig(
            model=model,
            optim=OptimConfig(
                learning_rate=rate,
                muon_learning_rate=muon,
                warmup_steps=max(2, min(500, steps // 20)),
                decay_steps=steps,
                weight_decay=0.01,
                ema_decay=0.99 if size == "debug" else 0.999,
            ),
        ),
        pack=pack,
        batch_rows=rows,
        loop=LoopConfig(steps=steps, checkpoint_every=max(10, min(500, steps // 20))),
    )
    return to_config_dict("captioner", training)

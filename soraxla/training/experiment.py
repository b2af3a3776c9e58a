"""Configurations of a whole training: transformer, VAE and captioner."""

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.vae_windows import WindowConfig
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.evals.evaluators import check_evaluators
from soraxla.packing.pack import PackConfig, RowConfig
from soraxla.parallel.mesh import (
    MeshConfig,
)
from soraxla.training.caption_step import CaptionStepConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_step import VAEStepConfig


@dataclass(frozen=True, kw_only=True)
class DiTTrainingConfig:
    """The settings of a training run of the diffusion transformer.

    Attributes:
        batch_rows: rows per step, on all devices together.
        accumulate: micro-batches that `batch_rows` is split into, to save memory; the
            step is the same up to rounding.
        shift: time shift in training, as `DiTConfig.shift`; None uses the model's, as
            sampling does. A lower shift trains more on nearly clean latents.
        eval_share: fraction of the dataset's sources that are held out for evaluation.
    """

    step: DiTStepConfig
    pack: PackConfig
    loop: LoopConfig
    batch_rows: int = 1
    accumulate: int = 1
    shift: float | Literal["auto"] | None = None
    eval_share: float = 0.0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        _check_decay(self.step.optim, self.loop)
        if not 0 <= self.eval_share < 1:
            raise UserError(
                f"eval_share is {self.eval_share}, expected at least 0 and below 1"
            )
        check_evaluators(self.loop.evaluators, "dit", self.eval_share)
        if self.shift is not None:
            time_shift(self.shift, height=1, width=1, latent_frames=1)  # refuses it
        for name in ("batch_rows", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class VAETrainingConfig:
    """The settings of a training run of the VAE."""

    step: VAEStepConfig
    windows: WindowConfig
    loop: LoopConfig
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        _check_decay(self.step.optim, self.loop)
        check_evaluators(self.loop.evaluators, "vae")
        for i, shape in enumerate(self.windows.shapes):
            for name, least in self.step.least_sides().items():
                if min(shape.height, shape.width) < least:
                    raise UserError(
                        f"windows.shapes[{i}] is {shape.width}x{shape.height} pixels, "
                        f"but step.losses.{name} needs {least} on each side; enlarge "
                        "the window or leave the loss out"
                    )


@dataclass(frozen=True, kw_only=True)
class CaptionTrainingConfig:
    """The settings of a training run of the captioner.

    Attributes:
        batch_rows: rows per step, on all devices together.
    """

    step: CaptionStepConfig
    pack: RowConfig
    loop: LoopConfig
    batch_rows: int = 1
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        _check_decay(self.step.optim, self.loop)
        check_evaluators(self.loop.evaluators, "captioner")
        if self.batch_rows < 1:
            raise UserError(f"batch_rows is {self.batch_rows}, expected at least 1")
        text = self.step.model.max_tokens
        if self.pack.text_length < text:
            raise UserError(
                f"pack.text_length is {self.pack.text_length}, less than a caption's "
                f"step.model.max_tokens = {text}; raise it"
            )


def _check_decay(optim: OptimConfig, loop: LoopConfig) -> None:
    if optim.decay_steps is not None and loop.steps > optim.decay_steps:
        raise UserError(
            f"loop.steps is {loop.steps}, but from step.optim.decay_steps = "
            f"{optim.decay_steps} on the rate is 0: set both alike; a training that "
            f"goes on takes --change step.optim.decay_steps={loop.steps}"
        )

"""Evaluators: measurements of a training in progress, made every so many steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jax.sharding import Mesh
from jaxtyping import PyTree

from data_pipelines.dataset import Dataset
from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.evals.metrics.metric import Metric
from soraxla.models.dit.config import DiTConfig
from soraxla.models.vae.model import VAEConfig
from soraxla.packing.pack import PackConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationContext:
    """A training at one of its steps.

    Attributes:
        params: the EMA of the parameters; adapters are merged into their base.
        process: of a transformer; None for a VAE.
        dataset: the prepared dataset of a transformer; None for a VAE.
        held_out: the samples of `dataset` that are not trained on; None where
            `eval_share` is 0.
        pack: the budgets of a transformer's rows; None for a VAE.
        media: the files of a VAE.
        mesh: the devices; the mesh is set while an evaluator runs.
        step: the number of steps done.
        workdir: the training folder.
        seed: of the training.
    """

    params: PyTree
    model: DiTConfig | VAEConfig
    process: Process | None = None
    dataset: Dataset | None = None
    held_out: Dataset | None = None
    pack: PackConfig | None = None
    media: Sequence[Path] = ()
    mesh: Mesh
    step: int
    workdir: Path
    seed: int


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """The settings of a measurement.

    All processes run it, since each holds a part of the parameters, and all must return
    the same numbers; the first process writes them to the log.

    Attributes:
        every: steps between runs; 0 for none.
        chooses: the metric by which `loop.best` may choose a step, the lower the
            better; None if there is none.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dit", "vae")
    needs_held_out: ClassVar[bool] = False
    chooses: ClassVar[str | None] = None

    every: int

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UserError(f"every is {self.every}, expected at least 0")

    def run(self, context: EvaluationContext) -> dict[str, Metric]:
        """Returns the metrics of the training at the context's step, by name."""
        raise NotImplementedError

    def picture(self, context: EvaluationContext) -> Path | None:
        """Returns the file of the first process that shows the run; None for none."""
        return None

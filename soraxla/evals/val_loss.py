"""Validation loss: the denoising error of clips that are not trained on."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from data_pipelines.loader import segments, segments_of
from soraxla.core.errors import UserError
from soraxla.core.keyed_random import permutation
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.evals.denoising import Triple, denoising_errors
from soraxla.evals.evaluator import EvaluationContext, Evaluator
from soraxla.evals.metrics.metric import Metric, bootstrap
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.pack import Segment
from soraxla.packing.schedule import visits_of_share
from soraxla.packing.tasks import SHARES
from soraxla.parallel.multihost import everywhere


@dataclass(frozen=True, kw_only=True)
class ValLoss(Evaluator):
    """The training loss of held-out clips, per bin of t, size class and task.

    Every clip, with its caption and without conditions, is denoised at one time of each
    bin; times and noise are the same in every run and in every training. A clip that
    is longer than a row keeps the beginning that fits. All times count alike, whatever
    the time shift, and so do all clips: trainings of different shifts compare.

    Attributes:
        clips: the most held-out clips that are measured.
        bins: number of equal intervals of the time t.
        task_clips: the most clips that are measured with the conditions of each share
            of the training's mixture.
        cells: report also every task by size class and bin.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dit",)
    needs_held_out: ClassVar[bool] = True
    chooses: ClassVar[str | None] = "loss"

    clips: int = 64
    bins: int = 10
    task_clips: int = 16
    cells: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clips", "bins"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"evaluators.val_loss.{name} is {getattr(self, name)}, expected at "
                    "least 1"
                )
        if self.task_clips < 0:
            raise UserError(
                f"evaluators.val_loss.task_clips is {self.task_clips}, expected at "
                "least 0"
            )

    def run(self, context: EvaluationContext) -> dict[str, Metric]:
        """Returns `loss`, `t_LOW_HIGH` of each bin, and losses of classes and tasks.

        The classes are `pictures`, and `short_clips` and `long_clips`, which have at
        most and more than the median tokens; an empty class is left out. `task_SHARE`
        is the loss of the generated tokens of clips with a share's conditions. A cell
        is `CLASS/t_LOW_HIGH`, or `task_SHARE/CLASS/t_LOW_HIGH`.
        """
        clips = everywhere(lambda: self._clips(context))
        losses = self._losses(context, clips)
        metrics = {"loss": bootstrap(losses.mean(axis=1))}
        for name, column in zip(self._bin_names(), losses.T, strict=True):
            metrics[name] = bootstrap(column)
        for name, members in size_classes(clips).items():
            if members.any():
                metrics[name] = bootstrap(losses[members].mean(axis=1))
        metrics |= self._cells("", clips, losses)
        for share in self._shares(context):
            given = everywhere(lambda share=share: self._given(context, share))
            if given:
                losses = self._losses(context, given)
                metrics[f"task_{share}"] = bootstrap(losses.mean(axis=1))
                metrics |= self._cells(f"task_{share}/", given, losses)
        return metrics

    def _bin_names(self) -> list[str]:
        edges = [i / self.bins for i in range(self.bins + 1)]
        return [f"t_{low:.2f}_{high:.2f}" for low, high in pairwise(edges)]

    def _cells(
        self, task: str, clips: list[Segment], losses: Float[np.ndarray, "clips bins"]
    ) -> dict[str, Metric]:
        return {
            f"{task}{size}/{name}": bootstrap(column)
            for size, members in size_classes(clips).items()
            if self.cells and members.any()
            for name, column in zip(self._bin_names(), losses[members].T, strict=True)
        }

    def clip_losses(
        self, context: EvaluationContext
    ) -> Float[np.ndarray, "clips bins"]:
        """Returns the loss of every measured clip in each bin of t."""
        return self._losses(context, everywhere(lambda: self._clips(context)))

    def _clips(self, context: EvaluationContext) -> list[Segment]:
        held_out, model, pack = context.held_out, context.model, context.pack
        assert held_out is not None and isinstance(model, DiTConfig) and pack
        chosen = permutation(0, "val_loss", 0, len(held_out))[: self.clips]
        return segments(
            held_out.subset(np.sort(chosen)),
            partial(time_shift, model.shift),
            model.rope_fps,
            model.controls,
            row_length=pack.row_length,
        )

    def _shares(self, context: EvaluationContext) -> list[str]:
        """Returns the shares of the mixture that have conditions."""
        if not self.task_clips or context.pack is None:
            return []
        mixture = context.pack.mixture
        return [name for name in SHARES[1:] if getattr(mixture, name) > 0]

    def _given(self, context: EvaluationContext, share: str) -> list[Segment]:
        """Returns held-out clips with the conditions of a share."""
        held_out, model, pack = context.held_out, context.model, context.pack
        assert held_out is not None and isinstance(model, DiTConfig) and pack
        visits = visits_of_share(held_out.sizes, pack, share)
        order = permutation(0, "val_loss", 0, len(visits))[: self.task_clips]
        return segments_of(
            held_out,
            [visits[i] for i in np.sort(order)],
            partial(time_shift, model.shift),
            model.rope_fps,
            model.controls,
        )

    def _losses(
        self, context: EvaluationContext, clips: list[Segment]
    ) -> Float[np.ndarray, "clips bins"]:
        process, model, pack = context.process, context.model, context.pack
        assert process is not None and isinstance(model, DiTConfig) and pack
        times = stratified_times(len(clips), self.bins)
        triples = [
            Triple(clip, float(t))
            for clip, of_clip in zip(clips, times, strict=True)
            for t in of_clip
        ]
        errors, _ = denoising_errors(
            context.params, model, process, triples, pack, mesh=context.mesh
        )
        weight = process.loss_weight(jnp.minimum(times, process.max_time))
        return errors.reshape(times.shape) * np.asarray(weight)


def stratified_times(clips: int, bins: int) -> Float[np.ndarray, "clips bins"]:
    """Returns a time of each bin for every clip, spread evenly over the bin."""
    order = np.stack([permutation(0, "times", b, clips) for b in range(bins)], axis=1)
    t = (np.arange(bins) + (order + 0.5) / clips) / bins
    return t.astype(np.float32)


def size_classes(clips: list[Segment]) -> dict[str, np.ndarray]:
    """Returns which clips are of a class: pictures, and clips by the median tokens."""
    tokens = np.array([len(clip.tokens) for clip in clips])
    picture = np.array([np.ptp(clip.positions[:, 0]) == 0 for clip in clips])
    long = tokens > np.median(tokens[~picture]) if (~picture).any() else ~picture
    return {
        "pictures": picture,
        "short_clips": ~picture & ~long,
        "long_clips": ~picture & long,
    }

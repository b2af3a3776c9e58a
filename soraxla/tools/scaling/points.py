"""The points of a scaling study: a size of model, trained with an amount of compute."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from data_pipelines.dataset import Dataset, open_dataset
from data_pipelines.held_out import split
from soraxla.checkpoints.load import load_dit
from soraxla.core.errors import UserError
from soraxla.evals.evaluation import evaluate
from soraxla.evals.generation_set import generate_set, of_dataset
from soraxla.evals.metrics.metric import Metric, bootstrap
from soraxla.evals.run_folder import save_run
from soraxla.evals.val_loss import ValLoss
from soraxla.files.atomic_folder import atomic_folder
from soraxla.parallel.multihost import barrier, is_main
from soraxla.training.presets import load_preset
from soraxla.training.run import open_experiment, run_training
from soraxla.training.summary import count

EVAL_SHARE = 0.05  # of the sources, where the configuration holds out none


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model in training.

    Attributes:
        compute: in multiples of the base.
        steps: of the training up to here.
        flops: of these steps.
        parameters: of the transformer.
        tokens: seen in these steps, without padding.
    """

    size: str
    compute: float
    steps: int
    flops: float
    parameters: int
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.size}_x{self.compute:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A point's measurements.

    Attributes:
        losses: of each held-out clip, the mean over times.
        metrics: of the clips that the model generated, by name.
        clips: the folder of these clips.
    """

    point: Point
    losses: Float[np.ndarray, " clips"]
    metrics: Mapping[str, Metric]
    clips: Path

    @property
    def loss(self) -> Metric:
        return bootstrap(self.losses)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The trainings of a study, and the way they are measured.

    Attributes:
        config: a preset or a file whose argument is the size, such as "dit".
        settings: dotted keys and their values, of every size.
        base: FLOPs at a compute of 1.
        clips: held-out clips that are measured, and generated, at every point.
        metrics: of generated clips, names of `soraxla.evals.choice`; may be empty.
        features: networks of the metrics.
    """

    config: str
    settings: Mapping[str, Any]
    data: Path
    sizes: Sequence[str]
    base: float
    computes: Sequence[float]
    clips: int
    metrics: Sequence[str]
    features: Sequence[str]

    def training(self, size: str, steps: int) -> dict[str, Any]:
        """Returns the configuration of a training of so many steps.

        The rate is constant, so that a longer training has the shorter ones in it.
        """
        found = load_preset(f"{self.config}:{size}", self.settings).to_dict()
        if found["kind"] != "dit":
            raise UserError(f"{self.config}: trains no transformer; name one that does")
        found["step"]["optim"]["decay_steps"] = None
        found["eval_share"] = found["eval_share"] or EVAL_SHARE
        loop = {"steps": steps, "evaluators": {}, "best": None}
        return found | {"loop": found["loop"] | loop}

    def held_out(self) -> Dataset:
        """Returns the samples that no size is trained on."""
        share = self.training(self.sizes[0], 1)["eval_share"]
        _, held_out = split(open_dataset(self.data), share)
        assert held_out is not None
        return held_out


def points_of(study: Study) -> list[Point]:
    """Returns all points, by size and then by compute.

    Raises:
        UserError: a compute is less than a step, or the data do not fit a size.
    """
    points = []
    for size in study.sizes:
        opened = open_experiment(study.training(size, 1), data=study.data, workdir=None)
        work = opened.work
        assert work.flops is not None
        for compute in sorted(study.computes):
            steps = round(compute * study.base / work.flops)
            if steps < 1:
                raise UserError(
                    f"size {size!r}: a step has {work.flops:.3g} FLOPs, more than "
                    f"{compute:g} times the base of {study.base:.3g}; raise "
                    "--base-pflop, or leave the size out"
                )
            points.append(
                Point(
                    size=size,
                    compute=compute,
                    steps=steps,
                    flops=float(steps * work.flops),
                    parameters=count(opened.experiment.state.params),
                    tokens=steps * work.amount,
                )
            )
    return points


def measured(study: Study, point: Point, out: Path) -> Measured:
    """Trains up to a point and measures it, unless the folder has its measurements.

    Raises:
        UserError: as `run_training`, `generate_set` and `evaluate`.
        KeyboardInterrupt: the training was interrupted, and is saved.
    """
    folder, clips = out / "points" / point.name, out / "clips" / point.name
    if not folder.exists():
        workdir, config = (
            out / "runs" / point.size,
            study.training(point.size, point.steps),
        )
        run = run_training(config, data=study.data, workdir=workdir, interrupts=True)
        if run.step < point.steps:
            raise KeyboardInterrupt
        losses = held_out_losses(study, config, workdir)
        _measure(study, point, workdir, losses, folder, clips)
    with np.load(folder / "losses.npz") as stored:
        losses = stored["losses"]
    found = json.loads((folder / "point.json").read_text(encoding="utf-8"))
    if found["point"] != asdict(point):
        raise UserError(
            f"{folder}: is of another study; name another --out, or remove {out}"
        )
    metrics = {name: Metric(**value) for name, value in found["metrics"].items()}
    return Measured(
        point=point, losses=losses, metrics=metrics, clips=clips / "generated"
    )


def held_out_losses(
    study: Study, config: Mapping[str, Any], workdir: Path
) -> Float[np.ndarray, " clips"]:
    """Returns the validation loss of each held-out clip, by the training's EMA."""
    experiment = open_experiment(config, data=study.data, workdir=None).experiment
    assert experiment.context is not None
    with jax.set_mesh(experiment.mesh):
        state = experiment.state._replace(ema=load_dit(workdir).params)
        context = experiment.context(state, step=0, workdir=workdir)
        return ValLoss(every=1, clips=study.clips).clip_losses(context).mean(axis=1)


def _measure(
    study: Study,
    point: Point,
    workdir: Path,
    losses: Float[np.ndarray, " clips"],
    folder: Path,
    clips: Path,
) -> None:
    """Generates clips like the held-out ones and writes the point's folder."""
    held_out = study.held_out()
    wanted = of_dataset(held_out, min(study.clips, len(held_out)))
    generate_set(str(workdir), wanted, clips, dataset=held_out)
    evaluation = None
    if study.metrics:
        evaluation = evaluate(
            clips / "generated",
            clips / "reference",
            metrics=study.metrics,
            features=study.features,
        )
    if is_main():
        values = evaluation.values if evaluation else {}
        found = {
            "point": asdict(point),
            "loss": asdict(bootstrap(losses)),
            "metrics": {name: asdict(value) for name, value in values.items()},
        }
        with atomic_folder(folder) as partial:
            if evaluation:
                save_run(evaluation, partial / "evaluation")
            np.savez(partial / "losses.npz", losses=losses)
            text = json.dumps(found, indent=2) + "\n"
            (partial / "point.json").write_text(text, encoding="utf-8")
    barrier(folder.name)

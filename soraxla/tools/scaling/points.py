"""The points of a scaling study: a size of model, trained with an amount of compute."""

import json
import shutil
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
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.evals.evaluation import evaluate
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.generation_set import generate_set, of_dataset, write_references
from soraxla.evals.metrics.metric import Metric, bootstrap
from soraxla.evals.run_folder import read_manifest, read_metrics, save_run
from soraxla.evals.val_loss import ValLoss
from soraxla.files.atomic_folder import atomic_folder
from soraxla.parallel.mesh import make_mesh
from soraxla.parallel.multihost import barrier, is_main
from soraxla.training.dit_experiment import put_computed, with_widths
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.presets import load_preset
from soraxla.training.presets import split as split_kind
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

    Its clips are measured again where the study has other metrics than before.

    Raises:
        UserError: as `run_training`, `generate_set` and `evaluate`.
        KeyboardInterrupt: the training was interrupted, and is saved.
    """
    folder, clips = out / "points" / point.name, out / "clips" / point.name
    if not folder.exists():
        _train(study, point, out, clips)
    found = json.loads((folder / "point.json").read_text(encoding="utf-8"))
    if found != asdict(point):
        raise UserError(
            f"{folder}: is of another study; name another --out, or remove {out}"
        )
    with np.load(folder / "losses.npz") as stored:
        losses = stored["losses"]
    generated = clips / "generated"
    metrics = _clip_metrics(study, generated, out / "reference", folder / "evaluation")
    return Measured(point=point, losses=losses, metrics=metrics, clips=generated)


def _train(study: Study, point: Point, out: Path, clips: Path) -> None:
    """Trains up to a point, generates its clips, and writes the point's folder."""
    workdir = out / "runs" / point.size
    config = study.training(point.size, point.steps)
    run = run_training(config, data=study.data, workdir=workdir, interrupts=True)
    if run.step < point.steps:
        raise KeyboardInterrupt
    held_out = study.held_out()
    losses = held_out_losses(study, config, workdir, held_out)
    wanted = of_dataset(held_out, min(study.clips, len(held_out)))
    generate_set(str(workdir), wanted, clips)
    write_references(held_out, wanted, out / "reference")
    folder = out / "points" / point.name
    if is_main():
        with atomic_folder(folder) as partial:
            np.savez(partial / "losses.npz", losses=losses)
            text = json.dumps(asdict(point), indent=2) + "\n"
            (partial / "point.json").write_text(text, encoding="utf-8")
    barrier(folder.name)


def held_out_losses(
    study: Study, config: Mapping[str, Any], workdir: Path, held_out: Dataset
) -> Float[np.ndarray, " clips"]:
    """Returns the validation loss of each held-out clip, by the training's EMA."""
    trained = load_dit(workdir)
    settings = with_widths(split_kind(config)[1], held_out)
    cfg = build(DiTTrainingConfig, settings)
    mesh = make_mesh(cfg.mesh, width=cfg.step.model.width)
    with jax.set_mesh(mesh):
        context = EvaluationContext(
            params=put_computed(jax.device_get(trained.params), trained.model, mesh),
            model=trained.model,
            process=cfg.step.process,
            held_out=held_out,
            pack=cfg.pack,
            mesh=mesh,
            step=0,
            workdir=workdir,
            seed=cfg.step.seed,
        )
        return ValLoss(every=1, clips=study.clips).clip_losses(context).mean(axis=1)


def _clip_metrics(
    study: Study, generated: Path, reference: Path, run: Path
) -> dict[str, Metric]:
    """Returns the metrics of generated clips, from a run's folder if it has them."""
    if not study.metrics:
        return {}
    if not _has(run, study):
        evaluation = evaluate(
            generated, reference, metrics=study.metrics, features=study.features
        )
        if is_main():
            shutil.rmtree(run, ignore_errors=True)
            save_run(evaluation, run)
        barrier("evaluation")
    return read_metrics(run)


def _has(run: Path, study: Study) -> bool:
    """Returns whether a run's folder has the metrics of the study."""
    if not run.exists():
        return False
    was = read_manifest(run / "manifest.json")
    asked = {"metrics": list(study.metrics), "features": list(study.features)}
    return all(was[name] == value for name, value in asked.items())

"""A whole training, from a configuration and data to a folder that can be sampled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from data_pipelines import records
from data_pipelines.captioned import open_views
from data_pipelines.synthetic import tokens_of
from data_pipelines.vae_windows import WindowDataset
from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.training_folder import CHECKPOINTS, check_path
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.parallel.mesh import make_mesh
from soraxla.parallel.multihost import is_main
from soraxla.training import caption_experiment as captions
from soraxla.training.dit_experiment import (
    dit_experiment,
    with_features,
    with_widths,
)
from soraxla.training.experiment import (
    CaptionTrainingConfig,
    DiTTrainingConfig,
    VAETrainingConfig,
)
from soraxla.training.finetune import open_start, settings_of
from soraxla.training.growth import as_trained
from soraxla.training.loop import Experiment, LoopConfig, train
from soraxla.training.metrics_log import METRICS
from soraxla.training.open_data import Data, only_place, open_data
from soraxla.training.presets import changes, split
from soraxla.training.record import recorded_init, resumed
from soraxla.training.summary import (
    StepWork,
    ending,
    indented,
    packed_work,
    setting_lines,
    step_memory,
    summary,
    window_work,
)
from soraxla.training.vae_experiment import media_files, vae_experiment, with_model


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training folder and the step that its training has reached.

    Attributes:
        skipped: how many of the steps had no finite gradient, and changed nothing.
    """

    workdir: Path
    step: int
    skipped: int = 0

    def metrics(self) -> dict[str, np.ndarray]:
        """Returns the columns of the folder's `metrics.jsonl`, one row a step.

        `step` holds integers, every other column float64. A step that was skipped for
        a gradient that is not finite holds NaN. A column `eval/EVALUATOR/METRIC` holds
        NaN at the steps without that evaluator.

        Raises:
            FileNotFoundError: no step has been logged in the folder.
        """
        lines = (self.workdir / METRICS).read_text(encoding="utf-8").splitlines()
        by_step: dict[int, dict[str, Any]] = {}
        for record in map(json.loads, lines):
            row = by_step.setdefault(record["step"], {})
            for name, value in record.items():
                row[name] = value["value"] if isinstance(value, dict) else value
        rows = list(by_step.values())
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        return {
            name: np.array(column, np.int64 if name == "step" else np.float64)
            for name, column in columns.items()
        }

    def preview(self) -> Image.Image:
        """Returns the newest contact sheet of the folder.

        Raises:
            UserError: the folder holds none.
        """
        sheets = sorted((self.workdir / "previews").glob("step_*.png"))
        if not sheets:
            raise UserError(
                f"{self.workdir}: holds no preview; set loop.evaluators.preview.every "
                f"to at most the {self.step} steps that were trained"
            )
        with Image.open(sheets[-1]) as sheet:
            sheet.load()
            return sheet


class Opened(NamedTuple):
    """A training with its data; `data` describes them in a few words."""

    experiment: Experiment
    loop: LoopConfig
    data: str
    work: StepWork
    unusable: Mapping[Path, str] = {}  # media that are left out, with the reasons

    def summary(self) -> list[str]:
        """Returns the lines on the model, the mesh, the data and a step's work."""
        return summary(self.experiment, self.loop, self.data, self.work)


def run_training(
    config: Mapping[str, Any],
    *,
    data: Data,
    workdir: str | Path,
    init: str | Path | None = None,
    mesh: Mesh | None = None,
    interrupts: bool = False,
    change: Mapping[str, Any] | None = None,
) -> Run:
    """Trains the model that `config["kind"]` names in `workdir`.

    Args:
        config: nested settings of a class of `soraxla.training.presets.KINDS`.
        data: a prepared dataset for a DiT, or several, a mapping of their folders to
            weights; a folder of media for a VAE; captioned views for a captioner.
        workdir: the training folder; an existing one is continued.
        init: the folder of a model to fine-tune.
        mesh: the devices; None is `config["mesh"]` over all devices.
        interrupts: SIGINT saves and returns, as SIGTERM does.
        change: settings of a training that goes on, by dotted keys; see
            `soraxla.training.record.RESUME`.

    Raises:
        UserError: a setting, the data or the model to fine-tune does not fit.
        OSError: a file cannot be read or written, or another training runs there.
        FloatingPointError: no finite gradient for 20 steps in a row.
        KeyboardInterrupt: a second SIGINT; says where the training stands.
    """
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir}: is a file, expected a folder")
    check_path(workdir)
    if (workdir / records.CARD).exists() or (workdir / records.PROGRESS).exists():
        raise UserError(f"workdir {workdir}: is a dataset; name a folder for the run")
    config = resumed(config, workdir, change or {})
    opened = open_experiment(config, data=data, workdir=workdir, init=init, mesh=mesh)
    _say([*indented("not as in the preset:", changes(config)), *opened.summary()])
    loop = opened.loop
    try:
        state = train(
            opened.experiment, loop, workdir, interrupts=interrupts, change=change or ()
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_standing(workdir, loop.steps)) from None
    finally:
        left_out = _listed(opened.unusable, workdir)
    step, skipped = int(state.step), int(state.skipped)
    kind = opened.experiment.settings["kind"]
    if tokens_of(opened.experiment.settings.get("data")):
        kind = "synthetic"
    _say([*left_out, *ending(kind, workdir, step, loop.steps, skipped)])
    return Run(workdir=workdir, step=step, skipped=skipped)


def _standing(workdir: Path, steps: int) -> str:
    """Returns a line on a training that ended at once, and how it goes on."""
    folder = workdir / CHECKPOINTS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    saved = max((int(name) for name in names if name.isdecimal()), default=0)
    where = f"checkpoint of step {saved:,} of {steps:,}" if saved else "first step"
    return f"interrupted; the same command goes on from the {where} in {workdir}"


def _listed(unusable: Mapping[Path, str], workdir: Path) -> list[str]:
    """Writes the list of media that were left out; returns a line on them."""
    if not unusable or not is_main():
        return []
    listed = workdir / records.SKIPPED
    workdir.mkdir(parents=True, exist_ok=True)
    rows = [{"file": str(file), "reason": why} for file, why in unusable.items()]
    records.write_lines(listed, rows)
    return [
        f"{len(rows)} files could not be used and were left out; {listed} lists them "
        "with the reasons"
    ]


def dry_run(
    config: Mapping[str, Any],
    *,
    data: Data,
    init: str | Path | None = None,
    mesh: Mesh | None = None,
) -> list[str]:
    """Returns the summary of a training and all its settings; writes nothing.

    A transformer's step is compiled, which may take minutes, for the memory it needs.

    Raises:
        UserError: a setting, the data or the model to fine-tune does not fit.
        OSError: a file cannot be read.
    """
    opened = open_experiment(config, data=data, workdir=None, init=init, mesh=mesh)
    memory = []
    if opened.experiment.settings["kind"] == "dit":
        memory = step_memory(opened.experiment)
    return [
        *indented("not as in the preset:", changes(config)),
        *opened.summary(),
        *memory,
        *indented("settings:", setting_lines(opened.experiment.settings)),
    ]


def _say(lines: list[str]) -> None:
    if is_main():
        print("\n".join(lines), flush=True)


def open_experiment(
    config: Mapping[str, Any],
    *,
    data: Data,
    workdir: str | Path | None,
    init: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Opened:
    """Returns the training that `run_training` of these arguments runs.

    A `workdir` of None writes nothing.

    Raises:
        UserError: a setting, the data or the model to fine-tune does not fit.
        OSError: a file cannot be read.
    """
    kind, settings = split(config)
    folder = None if workdir is None else Path(workdir)
    start = recorded_init(folder) if init is None else Path(init)
    openers = {"dit": _open_dit, "vae": _open_vae, "captioner": _open_captioner}
    source: Any = data if kind == "dit" else only_place(data, kind)
    return openers[kind](settings, source, folder, start, mesh)


def _open_vae(
    config: Mapping[str, Any],
    media: Path,
    workdir: Path | None,
    init: Path | None,
    mesh: Mesh | None,
) -> Opened:
    cfg = build(VAETrainingConfig, config)
    mesh = make_mesh(cfg.mesh) if mesh is None else mesh
    with jax.set_mesh(mesh):
        start = load_vae(init) if init else None
        cfg = build(VAETrainingConfig, with_model(config, start))
        files = media_files(media)
        experiment = vae_experiment(cfg, media, start=start, mesh=mesh)
    if init:
        begun = {**experiment.settings["init"], "folder": str(init.resolve())}
        settings = {**experiment.settings, "init": begun}
        experiment = replace(experiment, settings=settings)
    assert isinstance(experiment.batches, WindowDataset)
    unusable, data = experiment.batches.unusable, f"{media}: {len(files):,} files"
    if unusable:
        data += f", of which {len(unusable):,} cannot be used"
    return Opened(experiment, cfg.loop, data, window_work(cfg.windows), unusable)


def _open_captioner(
    config: Mapping[str, Any],
    data: Path,
    workdir: Path | None,
    init: Path | None,
    mesh: Mesh | None,
) -> Opened:
    views = open_views(data)
    start = captions.open_start(init) if init else None
    settings = captions.with_words(captions.started(config, start), views)
    cfg = build(CaptionTrainingConfig, settings)
    mesh = make_mesh(cfg.mesh, width=cfg.step.model.width) if mesh is None else mesh
    with jax.set_mesh(mesh):
        experiment, work = captions.caption_experiment(
            cfg, views, start=start, mesh=mesh
        )
    words = f"{data}: {len(views):,} clips, {len(cfg.step.model.words):,} words"
    return Opened(experiment, cfg.loop, words, work)


def _open_dit(
    config: Mapping[str, Any],
    data: Data,
    workdir: Path | None,
    init: Path | None,
    mesh: Mesh | None,
) -> Opened:
    start = open_start(init) if init else None
    settings = settings_of(config, start)
    dataset, words = open_data(data, settings)
    if start is None:
        settings = with_widths(settings, dataset)
    cfg = build(DiTTrainingConfig, with_features(settings, dataset))
    dataset, grown = as_trained(dataset, cfg, workdir)
    words = f"{words}; {grown}" if grown else words
    mesh = make_mesh(cfg.mesh, width=cfg.step.model.width) if mesh is None else mesh
    with jax.set_mesh(mesh):
        experiment = dit_experiment(cfg, dataset, workdir, start=start, mesh=mesh)
    work = packed_work(cfg, dataset.sizes)
    if work.flops and cfg.step.lora is None and cfg.step.part == "all":
        # A step that trains a part of the parameters computes less than is counted.
        flops = work.flops / work.amount
        experiment = replace(experiment, unit_flops=flops)
    return Opened(experiment, cfg.loop, words, work)

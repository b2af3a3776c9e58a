"""The training loop, the same for the VAE and the diffusion transformer."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soraxla.core.config import CLASSES
from soraxla.core.errors import UserError
from soraxla.evals.evaluator import EvaluationContext, Evaluator
from soraxla.evals.evaluators import EVALUATORS, build_evaluators
from soraxla.parallel.compiler import jit
from soraxla.parallel.file_lock import folder_lock
from soraxla.parallel.mesh import (
    REPLICATED,
    Rules,
    one_device,
    param_shardings,
    put_tree,
    with_shardings,
)
from soraxla.parallel.multihost import is_main
from soraxla.parallel.peak_flops import peak_flops
from soraxla.parallel.preemption import Preemption
from soraxla.training import wandb_run
from soraxla.training.best import keep_best
from soraxla.training.metrics_log import MetricsLog, NoLog
from soraxla.training.profiling import Profiler
from soraxla.training.record import check_record, write_record
from soraxla.training.saving import Checkpoints
from soraxla.training.state import Metrics, TrainState

MAX_SKIPPED_IN_A_ROW = 20

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The length of a training run and its intervals; a resume may change them.

    Attributes:
        steps: total number of steps, including those before a resume.
        checkpoint_every: steps between checkpoints; the last step always has one.
        keep: number of checkpoints that stay on disk.
        best: the evaluator, such as "val_loss", whose best step keeps its EMA in the
            folder `best`; None keeps none.
        wandb: a project of Weights & Biases that gets all metrics; None for none.
        evaluators: settings of each evaluator, by its name in
            `soraxla.evals.evaluators.EVALUATORS`; None removes one.
    """

    steps: int
    checkpoint_every: int = 1000
    keep: int = 2
    best: str | None = None
    wandb: str | None = None
    evaluators: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata={CLASSES: EVALUATORS}
    )

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"loop.{name} is {getattr(self, name)}, expected at least 1"
                )
        object.__setattr__(self, "evaluators", build_evaluators(self.evaluators))
        if self.best is None:
            return
        chooser = self.evaluators.get(self.best)
        if chooser is None or not chooser.every or chooser.chooses is None:
            raise UserError(
                f"loop.best is {self.best!r}, which is no evaluator that runs and "
                f"chooses; set loop.evaluators.{self.best}.every, or loop.best to None"
            )

    def due(self, step: int) -> dict[str, Evaluator]:
        """Returns the evaluators that run after a step, by name."""
        return {
            name: evaluator
            for name, evaluator in self.evaluators.items()
            if evaluator and evaluator.every and step % evaluator.every == 0
        }


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training for the loop: pure functions, data and evaluation.

    Attributes:
        settings: all settings that determine the result, as plain JSON.
        config: their dataclass, for records that are older than some of them.
        init: (*init_args) → the state before the first step.
        init_args: trees of NumPy arrays that are sharded as the state is.
        step: (state, batch, *frozen) → (state, metrics).
        batches: iterable whose iterator has Grain's `get_state` and `set_state`.
        unit: the metric that counts a step's tokens or pixels.
        context: (state, *frozen, step=, workdir=) → what evaluators see; None runs no
            evaluator.
        frozen: further inputs of the step, constant and not checkpointed.
        mesh: the devices.
        rules: how the state is sharded over them.
        put: puts a host's batch on the mesh.
        convolves: see `soraxla.parallel.compiler.compiler_options`.
        unit_flops: FLOPs of the step per token or pixel; None logs no MFU.
    """

    settings: dict[str, Any]
    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Metrics]]
    batches: Iterable[Any]
    unit: str
    config: type | None = None
    init_args: tuple[Any, ...] = ()
    context: Callable[..., EvaluationContext] | None = None
    frozen: tuple[Any, ...] = ()
    mesh: Mesh = field(default_factory=one_device)
    rules: Rules = REPLICATED
    put: Callable[[Any], Any] = lambda batch: batch
    convolves: bool = False
    unit_flops: float | None = None

    @cached_property
    def state(self) -> TrainState:
        """The shapes of a state, with shardings.

        Raises:
            UserError: the rules do not fit the model.
        """
        abstract = jax.eval_shape(self.init, *self.init_args)
        shardings = param_shardings(abstract, self.rules, self.mesh)
        return with_shardings(abstract, shardings)

    @property
    def peak_rate(self) -> float | None:
        """Tokens or pixels per second at the devices' peak; None if unknown."""
        peak = peak_flops(self.mesh.devices.flat[0])
        if peak is None or self.unit_flops is None:
            return None
        return peak * self.mesh.size / self.unit_flops

    def start(self) -> TrainState:
        """Returns the state before the first step, created with its sharding."""
        # A captioner over a pretrained tower starts from the tower's parameters only.
        args = (
            put_tree(arg, self.rules, self.mesh, part=True) for arg in self.init_args
        )
        return jit(self.init, out_shardings=_shardings(self.state))(*args)

    def step_fn(self) -> Any:
        """Returns the step, jitted for the mesh that is set; the state is donated."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        out = (_shardings(self.state), whole)
        return jit(
            self.step, convolves=self.convolves, donate_argnums=0, out_shardings=out
        )

    def compiled_step(self) -> jax.stages.Compiled:
        """Returns the step, compiled for the shapes of the data's first batch."""
        with jax.set_mesh(self.mesh):
            batch = self.put(next(iter(self.batches)))
            return self.step_fn().lower(self.state, batch, *self.frozen).compile()


def train(
    experiment: Experiment,
    loop: LoopConfig,
    workdir: Path,
    *,
    interrupts: bool = False,
    change: Collection[str] = (),
) -> TrainState:
    """Trains until `loop.steps`, going on from the newest checkpoint in `workdir`.

    SIGTERM, to any of its processes, saves and returns early, and with `interrupts`
    SIGINT does, once; SIGUSR1 traces some steps (`Profiler`). The settings that
    `change` names may differ from the recorded ones.

    Raises:
        UserError: another training runs in `workdir`.
        UserError: `workdir` holds another configuration or a damaged checkpoint.
        FloatingPointError: no finite gradient for 20 steps in a row.
    """
    with ExitStack() as stack:
        stack.enter_context(folder_lock(workdir))
        record = experiment.settings, experiment.config, change
        check_record(workdir, *record)
        preemption = stack.enter_context(Preemption(interrupts=interrupts))
        profiler = stack.enter_context(Profiler(workdir))
        stack.enter_context(jax.set_mesh(experiment.mesh))
        # ---- Restore -------------------------------------------------------------
        checkpoints = stack.enter_context(closing(Checkpoints(workdir, keep=loop.keep)))
        state, batches = _restored(experiment, checkpoints)
        first = int(state.step)
        write_record(workdir, *record, step=first)

        # ---- Loop ----------------------------------------------------------------
        step_fn = experiment.step_fn()
        log = stack.enter_context(closing(_log(experiment, loop, workdir, first)))
        for step in range(first + 1, loop.steps + 1):
            profiler.before(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                # Devices compute the step before while this batch is read and sent.
                batch = experiment.put(next(batches))
                state, metrics = step_fn(state, batch, *experiment.frozen)
            profiler.after(step, metrics)
            log.write(step, metrics)
            stop = preemption.reached(step)
            if stop or step % loop.checkpoint_every == 0:
                # A run resumed from here writes only the steps after this one.
                log.flush()
                checkpoints.save(step, state, batches.get_state())
            if stop:
                break
            if experiment.context is not None and (due := loop.due(step)):
                log.flush()
                context = partial(experiment.context, state, *experiment.frozen)
                context = partial(context, step=step, workdir=workdir)
                _evaluate(due, context, log, loop.best)
        log.flush()
        checkpoints.save(int(state.step), state, batches.get_state())
    return state


def _restored(
    experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, Any]:
    """Returns the newest state, or that before the first step, and its batches."""
    batches: Any = iter(experiment.batches)
    if checkpoints.latest() is None:
        return experiment.start(), batches
    state, position = checkpoints.restore(experiment.state)
    batches.set_state(position)
    return state, batches


def _shardings(abstract: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, abstract)


class _LateLog:
    """A log that reads a step's metrics after the next step has been dispatched.

    Reading them at once would let the devices wait for the host.
    """

    def __init__(self, log: MetricsLog | NoLog):
        self._log = log
        self._pending: tuple[int, Metrics] | None = None
        self.close = log.close
        self.write_evaluation = log.write_evaluation
        self.write_picture = log.write_picture
        self.restart_clock = log.restart_clock

    def write(self, step: int, metrics: Metrics) -> None:
        """Writes the metrics of the step before, and keeps these.

        Raises:
            FloatingPointError: that step was one too many without a finite gradient.
        """
        self._write_pending()
        self._pending = step, metrics

    def flush(self) -> None:
        """Writes the metrics that are kept, and everything to disk."""
        self._write_pending()
        self._log.flush()

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        (step, kept), self._pending = self._pending, None
        metrics = {k: v.item() for k, v in jax.device_get(kept).items()}
        self._log.write(step, metrics)
        if metrics["skipped_in_a_row"] >= MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"step {step}: no finite gradient for {MAX_SKIPPED_IN_A_ROW} steps in "
                "a row; lower the rates in step.optim and begin again in another "
                "--workdir, or, --init this folder, from its last checkpoint"
            )


def _log(
    experiment: Experiment, loop: LoopConfig, workdir: Path, first: int
) -> _LateLog:
    if not is_main():
        return _LateLog(NoLog())
    run = None
    if loop.wandb is not None:
        run = wandb_run.start(loop.wandb, workdir, experiment.settings)
    log = MetricsLog(
        workdir,
        first_step=first,
        steps=loop.steps,
        unit=experiment.unit,
        peak_rate=experiment.peak_rate,
        wandb=run,
    )
    return _LateLog(log)


def _evaluate(
    evaluators: Mapping[str, Evaluator],
    context: Callable[[], EvaluationContext],
    log: _LateLog,
    best: str | None,
) -> None:
    """Runs evaluators, all processes each, and logs their metrics.

    The traceback of one that fails is logged, and the training goes on. The EMA stays
    if the evaluator `best` finds it the best so far.
    """
    for name, evaluator in evaluators.items():
        try:
            now = context()
            found = evaluator.run(now)
            log.write_evaluation(now.step, name, found)
            if (file := evaluator.picture(now)) is not None:
                log.write_picture(now.step, name, file)
            if name == best and evaluator.chooses is not None:
                value = found[evaluator.chooses].value
                keep_best(now, f"{name}/{evaluator.chooses}", value)
        except (Exception, SystemExit):
            _LOG.exception("evaluator %r failed; the training goes on", name)
    log.restart_clock()
    log.flush()

"""The training loop, the same for the VAE and the diffusion transformer."""

import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from soraxla.checkpoint import Checkpoints, write_settings
from soraxla.compiler import jit
from soraxla.training.metrics import MetricsLog
from soraxla.training.profile import Profiler
from soraxla.training.state import Metrics, TrainState

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how often; a resumed run may change them.

    Attributes:
        steps: total number of steps, over all resumed runs.
        checkpoint_every: steps between checkpoints; the last step always has one.
        preview_every: steps between contact sheets in `previews/`; 0 for none.
        keep: how many checkpoints stay on disk.
    """

    steps: int
    checkpoint_every: int = 1000
    preview_every: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("checkpoint_every", 1),
            ("preview_every", 0),
            ("keep", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"loop.{name} is {getattr(self, name)}, expected at least {least}"
                )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained: the pure functions, the data and how to look at it.

    Attributes:
        settings: everything that decides the result, as plain JSON.
        init: the state before the first step.
        step: (state, batch, *frozen) → (state, metrics).
        batches: iterable whose iterator has Grain's `get_state` and `set_state`.
        units: how many `unit`s a batch holds.
        preview: a contact sheet of what the state can do, or None.
        frozen: what else the step reads; it stays as it is and is not checkpointed.
    """

    settings: dict[str, Any]
    init: Callable[[], TrainState]
    step: Callable[..., tuple[TrainState, Metrics]]
    batches: Iterable[Any]
    unit: str
    units: Callable[[Any], int]
    preview: Callable[[TrainState], Image.Image] | None = None
    frozen: tuple[Any, ...] = ()


def train(job: Job, loop: LoopSettings, workdir: Path) -> TrainState:
    """Trains until `loop.steps`, going on from the newest checkpoint in `workdir`.

    SIGTERM saves and returns early; SIGUSR1 traces some steps (`Profiler`).

    Raises:
        ValueError: `workdir` holds another configuration or a damaged checkpoint.
        FloatingPointError: no finite gradient for 20 steps in a row.
    """
    write_settings(workdir, job.settings)
    with ExitStack() as stack:
        sigterm = stack.enter_context(_SigtermFlag())
        profiler = stack.enter_context(Profiler(workdir))
        # ---- Restore -------------------------------------------------------------
        checkpoints = stack.enter_context(closing(Checkpoints(workdir, keep=loop.keep)))
        batches: Any = iter(job.batches)
        if checkpoints.latest() is None:
            state = job.init()
        else:
            state, plan = checkpoints.restore(jax.eval_shape(job.init))
            batches.set_state(plan)
        first = int(state.step)

        # ---- Loop ----------------------------------------------------------------
        step_fn = jit(job.step, donate_argnums=0)
        log = stack.enter_context(
            closing(
                MetricsLog(workdir, first_step=first, steps=loop.steps, unit=job.unit)
            )
        )
        pending: tuple[int, Metrics, int] | None = None
        for step in range(first + 1, loop.steps + 1):
            profiler.before(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                batch = next(batches)
                state, metrics = step_fn(state, batch, *job.frozen)
            profiler.after(step, metrics)
            # The numbers of the step before: reading this one's would wait for it.
            _write(log, pending)
            pending = (step, metrics, job.units(batch))
            if sigterm.seen or step % loop.checkpoint_every == 0:
                # A run resumed from here writes only the steps after this one.
                _write(log, pending)
                pending = None
                log.flush()
                checkpoints.save(step, state, batches.get_state())
            if loop.preview_every and step % loop.preview_every == 0:
                _preview(job, state, workdir, step)
            if sigterm.seen:
                break
        _write(log, pending)
        log.flush()
        checkpoints.save(int(state.step), state, batches.get_state())
    return state


def _write(log: MetricsLog, pending: tuple[int, Metrics, int] | None) -> None:
    if pending is None:
        return
    step, device_metrics, units = pending
    metrics = {k: v.item() for k, v in jax.device_get(device_metrics).items()}
    log.write(step, metrics, units)
    if metrics["skipped_in_a_row"] >= MAX_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"step {step}: no finite gradient for {MAX_SKIPPED_IN_A_ROW} steps in a "
            "row; lower the rates in step.optim, or go on from an earlier checkpoint"
        )


def _preview(job: Job, state: TrainState, workdir: Path, step: int) -> None:
    if job.preview is None:
        return
    folder = workdir / "previews"
    folder.mkdir(exist_ok=True)
    job.preview(state).save(folder / f"step_{step:07d}.png")


class _SigtermFlag:
    """`seen` becomes true on SIGTERM while the context is open."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> "_SigtermFlag":
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self.seen = True

"""A prepared dataset as an endless stream of packed batches.

The plan of `soraxla.planning` is the source; reading and packing hang behind it. Every
host computes the whole plan, which sees sizes only, and reads its own rows. The state
of the pipeline is the place in the plan, the same on all hosts: what a thread has read
ahead is not part of it, so a restored pipeline gives the very same batches.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
from grain.experimental import ThreadPrefetchIterDataset

from data_pipelines.conditions import lay
from data_pipelines.dataset import STEERING, Dataset
from soraxla.core.errors import UserError
from soraxla.core.keyed_random import uniforms
from soraxla.core.types import PackedBatch
from soraxla.packing.bin_packing import ScheduledRow, Visit
from soraxla.packing.controls import Controls, of_tokens
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.schedule import SCHEDULE_START, SchedulePosition, schedule_steps
from soraxla.packing.schedule_index import ScheduleIndex, check_index

NO_CONTROLS = Controls()


@runtime_checkable  # what the checks of types in tests need
class ShiftRule(Protocol):
    """α of a clip's time shift; `functools.partial(time_shift, "auto")` is one."""

    def __call__(self, *, height: int, width: int, latent_frames: int) -> float:
        """`height` and `width` in pixels, `latent_frames` as packed."""
        ...


def packed_batches(
    dataset: Dataset,
    spec: PackConfig,
    *,
    seed: int,
    batch_rows: int,
    shift: ShiftRule,
    rope_fps: float = 16.0,
    controls: Controls = NO_CONTROLS,
    prefetch: int = 2,
    own: Sequence[int] | None = None,
) -> grain.IterDataset[PackedBatch]:
    """Endless `PackedBatch`es of NumPy arrays, a host's own rows of each step.

    Latents and text are float32. A draw whose caption is dropped carries the empty
    caption; what a draw is given, by the mixture of `spec`, is known. Hosts' rows
    together are the B rows that one host would get.

    Args:
      dataset: from `open_dataset`.
      spec: the budgets of a row.
      seed: of the order of samples, of cuts and of dropped captions.
      batch_rows: B, of all hosts.
      shift: α of a clip from its pixel size and the latent frames kept.
      rope_fps: the frame rate positions are counted in; belongs to the model.
      controls: what steers the model.
      prefetch: batches a thread reads ahead; 0 reads in the caller's thread.
      own: which of the B rows are read; all if None.

    Raises:
      UserError: `own` is not of the B rows, a sample can never be packed (see
        `check_index`), or a record turns out to be damaged when it is read.
    """
    if batch_rows < 1:
        raise UserError(f"batch_rows is {batch_rows}, expected at least 1")
    if prefetch < 0:
        raise UserError(f"prefetch is {prefetch}, expected at least 0")
    own = range(batch_rows) if own is None else own
    if not own or min(own) < 0 or max(own) >= batch_rows:
        raise UserError(f"own rows {list(own)}: expected some of 0 … {batch_rows - 1}")
    check_index(dataset.plan, spec)
    _check_controls(dataset, controls)
    layout = Layout(shift=shift, rope_fps=rope_fps, controls=controls)

    def read(rows: list[ScheduledRow]) -> PackedBatch:
        return pack(
            [
                [
                    _segment(dataset, layout, visit, _said(spec, controls, seed, visit))
                    for visit in row
                ]
                for row in (rows[i] for i in own)
            ],
            spec,
        )

    steps = ScheduledSteps(dataset.plan, spec, seed=seed, batch_rows=batch_rows)
    return ThreadPrefetchIterDataset(steps.map(read), prefetch_buffer_size=prefetch)


class ScheduledSteps(grain.IterDataset[list[ScheduledRow]]):
    """The steps of the plan, B rows each, without end.

    The state is the next place in the plan.
    """

    def __init__(
        self,
        index: ScheduleIndex,
        spec: PackConfig,
        *,
        seed: int,
        batch_rows: int,
    ):
        super().__init__()
        self._plan = partial(
            schedule_steps, index, spec, seed=seed, batch_rows=batch_rows
        )

    def __iter__(self) -> grain.DatasetIterator[list[ScheduledRow]]:
        return _ScheduledStepIterator(self._plan)


class _ScheduledStepIterator(grain.DatasetIterator[list[ScheduledRow]]):
    def __init__(self, plan: partial):
        super().__init__()
        self._plan = plan
        self.set_state(SCHEDULE_START._asdict())

    def __next__(self) -> list[ScheduledRow]:
        self._place, rows = next(self._steps)
        return rows

    def get_state(self) -> dict[str, Any]:
        return self._place._asdict()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._place = SchedulePosition(
            *(int(state[name]) for name in SchedulePosition._fields)
        )
        self._steps = self._plan(start=self._place)


class Layout(NamedTuple):
    """How a model has its tokens; see `packed_batches`."""

    shift: ShiftRule
    rope_fps: float
    controls: Controls


def segments(
    dataset: Dataset,
    shift: ShiftRule,
    rope_fps: float,
    controls: Controls = NO_CONTROLS,
    *,
    most: int | None = None,
) -> list[Segment]:
    """Every sample, or the first so many, whole, with its caption; its number is its
    draw."""
    layout = Layout(shift, rope_fps, controls)
    return [
        _segment(
            dataset, layout, Visit(i, i, 0, 0, int(dataset.plan.t[i]), True), STEERING
        )
        for i in range(len(dataset))[:most]
    ]


def _said(
    spec: PackConfig, controls: Controls, seed: int, visit: Visit
) -> tuple[str, ...]:
    """What a draw tells of what steers it: a share nothing, and where there are actions
    half of the rest no camera, so that these alone are enough."""
    if not controls.width:
        return ()
    u = uniforms(seed, "controls", visit.number, 1)[0]
    if u[0] < spec.control_dropout:
        return ()
    return STEERING if u[1] < 0.5 or not controls.actions else STEERING[:1]


def _check_controls(dataset: Dataset, controls: Controls) -> None:
    actions, camera = dataset.card["actions"], dataset.card["camera"]
    if controls.actions and list(controls.actions) != actions:
        raise UserError(
            f"{dataset.path}: knows the actions {actions}, the model "
            f"{list(controls.actions)}; set step.model.controls.actions to those"
        )
    if controls.camera and not camera:
        raise UserError(
            f"{dataset.path}: has no camera, but step.model.controls.camera is set; "
            "unset it, or prepare clips that have one"
        )


def _segment(
    dataset: Dataset, layout: Layout, visit: Visit, said: tuple[str, ...]
) -> Segment:
    record, plan = dataset.read(visit.sample), dataset.plan
    tokens, places, condition_mask = lay(
        record.latents,
        record.conditions,
        visit,
        patch=plan.patch,
        fps=float(plan.fps[visit.sample]),
        rope_fps=layout.rope_fps,
    )
    rows = layout.controls.rows(
        visit.latent_frames,
        *(record.steering.get(name) if name in said else None for name in STEERING),
        start=visit.start,
    )
    a_frame = int(plan.h[visit.sample]) * int(plan.w[visit.sample])
    own = visit.latent_frames * a_frame // math.prod(plan.patch)
    controls = of_tokens(rows, own=own, tokens=len(tokens), step=plan.patch[0])
    return Segment(
        tokens=tokens,
        controls=controls,
        positions=places,
        condition_mask=condition_mask,
        text=record.text if visit.caption_kept else dataset.empty_text,
        visit=visit.number,
        shift=layout.shift(
            height=int(plan.height[visit.sample]),
            width=int(plan.width[visit.sample]),
            latent_frames=visit.latent_frames,
        ),
    )

"""A prepared dataset as an endless stream of packed batches.

The schedule of `soraxla.packing.schedule` is the source, followed by reading, by many
threads, and packing. Every host computes the whole schedule, which needs sizes only,
and reads its rows. The pipeline's state is the position in the schedule, the same on
all hosts. What was read ahead is not part of it, so a restored pipeline gives exactly
the same batches.
"""

import atexit
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
from grain.experimental import ThreadPrefetchIterDataset
from jaxtyping import Float

from data_pipelines.condition_layout import lay_out
from data_pipelines.dataset import STEERING, Dataset, Record
from data_pipelines.read_ahead import ReadAhead
from data_pipelines.token_features import on_grid
from soraxla.core.errors import UserError
from soraxla.core.keyed_random import uniforms
from soraxla.core.types import PackedBatch
from soraxla.packing.bin_packing import ScheduledRow, Visit
from soraxla.packing.controls import Controls, of_tokens
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.patchify import Patch
from soraxla.packing.schedule import SCHEDULE_START, SchedulePosition, schedule_steps
from soraxla.packing.schedule_index import ScheduleIndex, check_index

NO_CONTROLS = Controls()


@runtime_checkable  # for type checks in tests
class ShiftRule(Protocol):
    """A function for the α of a clip's time shift, such as a partial `time_shift`.

    `functools.partial(time_shift, "auto")` is one.
    """

    def __call__(self, *, height: int, width: int, latent_frames: int) -> float:
        """Returns α; `height` and `width` in pixels, `latent_frames` as packed."""
        ...


def packed_batches(
    dataset: Dataset,
    config: PackConfig,
    *,
    seed: int,
    batch_rows: int,
    shift: ShiftRule,
    rope_fps: float = 16.0,
    controls: Controls = NO_CONTROLS,
    features: bool = False,
    prefetch: int = 2,
    host_rows: Sequence[int] | None = None,
) -> grain.IterDataset[PackedBatch]:
    """Returns endless `PackedBatch`es of NumPy arrays, with a host's rows of each step.

    Latents and text are float32. A visit with a dropped caption has the empty caption;
    the mixture in `config` chooses its condition tokens. The rows of all hosts together
    are the B rows of one host.

    Args:
        dataset: from `open_dataset`.
        config: the budgets of a row.
        seed: of the order of samples, of cuts and of dropped captions.
        batch_rows: B, of all hosts.
        shift: α of a clip from its pixel size and the latent frames kept.
        rope_fps: the frame rate of positions in time; belongs to the model.
        controls: the model's actions and camera.
        features: read the features of tokens that the dataset stores.
        prefetch: batches that a thread reads ahead; 0 reads in the caller's thread.
        host_rows: the rows of the B to read; None is all.

    Raises:
        UserError: `host_rows` is not of the B rows, a sample can never be packed (see
            `check_index`), or a record is damaged when it is read.
    """
    _check_controls(dataset, controls)
    layout = Layout(shift, rope_fps, controls, features)

    def read(visit: Visit) -> Segment:
        shown = _shown_controls(config, controls, seed, visit)
        return _segment(dataset, layout, visit, shown)

    return read_batches(
        dataset.sizes,
        config,
        read,
        seed=seed,
        batch_rows=batch_rows,
        prefetch=prefetch,
        host_rows=host_rows,
    )


def read_batches(
    index: ScheduleIndex,
    config: PackConfig,
    read: Callable[[Visit], Segment],
    *,
    seed: int,
    batch_rows: int,
    prefetch: int = 2,
    host_rows: Sequence[int] | None = None,
) -> grain.IterDataset[PackedBatch]:
    """Returns endless batches of the scheduled visits, each read by `read`.

    The arguments and errors are those of `packed_batches`.
    """
    if prefetch < 0:
        raise UserError(f"prefetch is {prefetch}, expected at least 0")
    own = _checked_rows(host_rows, batch_rows)
    check_index(index, config)
    steps = ScheduledSteps(index, config, seed=seed, batch_rows=batch_rows)
    steps = steps.map(lambda rows: [rows[i] for i in own])
    if prefetch:
        segments = ReadAhead(steps, read)
    else:
        segments = steps.map(lambda rows: [list(map(read, row)) for row in rows])
    batches = segments.map(lambda rows: pack(rows, config))
    return _Prefetched(batches, prefetch_buffer_size=prefetch)


# Iterators whose threads read ahead.
_READING: weakref.WeakSet[grain.DatasetIterator] = weakref.WeakSet()


@atexit.register
def _stop_reading() -> None:
    """Ends the threads at the exit, before the modules that they need are gone.

    Grain closes a deleted iterator, and a script's own iterator is deleted last.
    """
    for iterator in list(_READING):
        iterator.close()
        iterator.close = lambda: None


class _Prefetched(ThreadPrefetchIterDataset):
    """A dataset of batches that are read ahead, until the interpreter exits."""

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        _READING.add(iterator)
        return iterator


def _checked_rows(host_rows: Sequence[int] | None, batch_rows: int) -> Sequence[int]:
    if batch_rows < 1:
        raise UserError(f"batch_rows is {batch_rows}, expected at least 1")
    host_rows = range(batch_rows) if host_rows is None else host_rows
    if not host_rows or min(host_rows) < 0 or max(host_rows) >= batch_rows:
        raise UserError(
            f"host_rows {list(host_rows)}: expected some of 0 … {batch_rows - 1}"
        )
    return host_rows


class ScheduledSteps(grain.IterDataset[list[ScheduledRow]]):
    """The steps of the schedule, B rows each, without end.

    The state is the next position in the schedule.
    """

    def __init__(
        self,
        index: ScheduleIndex,
        config: PackConfig,
        *,
        seed: int,
        batch_rows: int,
    ):
        super().__init__()
        self._schedule = partial(
            schedule_steps, index, config, seed=seed, batch_rows=batch_rows
        )

    def __iter__(self) -> grain.DatasetIterator[list[ScheduledRow]]:
        return _ScheduledStepIterator(self._schedule)


class _ScheduledStepIterator(grain.DatasetIterator[list[ScheduledRow]]):
    def __init__(self, schedule: partial):
        super().__init__()
        self._schedule = schedule
        self.set_state(SCHEDULE_START._asdict())

    def __next__(self) -> list[ScheduledRow]:
        self._position, rows = next(self._steps)
        return rows

    def get_state(self) -> dict[str, Any]:
        return self._position._asdict()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._position = SchedulePosition(
            *(int(state[name]) for name in SchedulePosition._fields)
        )
        self._steps = self._schedule(start=self._position)


class Layout(NamedTuple):
    """A model's settings for tokens; see `packed_batches`."""

    shift: ShiftRule
    rope_fps: float
    controls: Controls
    features: bool = False


def segments(
    dataset: Dataset,
    shift: ShiftRule,
    rope_fps: float,
    controls: Controls = NO_CONTROLS,
    *,
    most: int | None = None,
    row_length: int | None = None,
) -> list[Segment]:
    """Returns every sample with its caption; its number is its visit's.

    Args:
        most: the first so many samples; None is all.
        row_length: tokens that a clip keeps of its beginning, at most, in whole
            latent frames; None keeps all.
    """
    sizes, (pt, ph, pw) = dataset.sizes, dataset.sizes.patch
    frames = sizes.t
    if row_length is not None:
        most_steps = row_length // ((sizes.h // ph) * (sizes.w // pw))
        frames = np.minimum(frames, most_steps * pt)
    visits = [
        Visit(i, i, 0, 0, int(frames[i]), True) for i in range(len(dataset))[:most]
    ]
    return segments_of(dataset, visits, shift, rope_fps, controls)


def segments_of(
    dataset: Dataset,
    visits: Sequence[Visit],
    shift: ShiftRule,
    rope_fps: float,
    controls: Controls = NO_CONTROLS,
) -> list[Segment]:
    """Returns the samples of visits, with all of their controls."""
    layout = Layout(shift, rope_fps, controls)
    return [_segment(dataset, layout, visit, STEERING) for visit in visits]


def _shown_controls(
    config: PackConfig, controls: Controls, seed: int, visit: Visit
) -> tuple[str, ...]:
    """Returns the controls that a visit shows.

    A share shows none; if there are actions, half of the rest shows no camera, so that
    the model learns from actions only.
    """
    if not controls.width:
        return ()
    u = uniforms(seed, "controls", visit.number, 1)[0]
    if u[0] < config.control_dropout:
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
    dataset: Dataset, layout: Layout, visit: Visit, shown: tuple[str, ...]
) -> Segment:
    record, sizes = dataset.read(visit.sample), dataset.sizes
    tokens, positions, condition_mask = lay_out(
        record.latents,
        record.conditions,
        visit,
        patch=sizes.patch,
        fps=float(sizes.fps[visit.sample]),
        rope_fps=layout.rope_fps,
    )
    rows = layout.controls.rows(
        visit.latent_frames,
        *(record.steering.get(name) if name in shown else None for name in STEERING),
        start=visit.start,
    )
    frame_tokens = int(sizes.h[visit.sample]) * int(sizes.w[visit.sample])
    clip_tokens = visit.latent_frames * frame_tokens // math.prod(sizes.patch)
    controls = of_tokens(rows, own=clip_tokens, tokens=len(tokens), step=sizes.patch[0])
    return Segment(
        tokens=tokens,
        controls=controls,
        features=_features(record, visit, sizes.patch, len(tokens))
        if layout.features
        else None,
        positions=positions,
        condition_mask=condition_mask,
        text=record.text if visit.caption_kept else dataset.empty_text,
        visit=visit.number,
        shift=layout.shift(
            height=int(sizes.height[visit.sample]),
            width=int(sizes.width[visit.sample]),
            latent_frames=visit.latent_frames,
        ),
    )


def _features(
    record: Record, visit: Visit, patch: Patch, tokens: int
) -> Float[np.ndarray, "n f"]:
    """Returns the features of a visit's tokens; those of appended conditions are 0."""
    pt, ph, pw = patch
    stored = record.features
    assert stored is not None  # the card says so
    frames = stored[visit.start : visit.start + visit.latent_frames]
    frames = frames.reshape(-1, pt, *frames.shape[1:]).astype(np.float32).mean(axis=1)
    _, height, width, _ = record.latents.shape
    own = on_grid(frames, height // ph, width // pw).reshape(-1, stored.shape[-1])
    own = own.astype(stored.dtype)
    return np.pad(own, ((0, tokens - len(own)), (0, 0)))

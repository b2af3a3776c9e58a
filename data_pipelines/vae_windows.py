"""Pixel windows for training the VAE: random crops in space and time, not scaled.

Every step has one shape of a small table, so there are as many compiles as shapes.
Nothing is padded or resized: a clip provides windows of the shapes that fit into it, a
picture those of one frame.
"""

import copy
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import grain
import numpy as np
from jaxtyping import UInt8

from data_pipelines.bad_media import check_share
from soraxla.core.config import NEW
from soraxla.core.errors import UserError
from soraxla.media.read import VideoInfo, probe, read_frames

_LOG = logging.getLogger(__name__)
_MAX_SHAPES = 4
_SHAPE, _WINDOW = 0, 1  # purposes of a random stream

_Frames = TypeVar("_Frames", list[np.ndarray], np.ndarray)
_WHOLE = slice(None), slice(None)


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """A batch of `batch` windows of (frames, height, width), drawn by `weight`."""

    frames: int
    height: int
    width: int
    batch: int
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The table of window shapes and the memory for decoded clips.

    Attributes:
        shapes: at most four crop shapes, each with `frames`, `height`, `width`, `batch`
            and `weight`. A step uses a shape with probability proportional to `weight`.
        cache_bytes: memory for decoded clips.
        max_bad: share of the files that may be unusable; they are left out.
    """

    shapes: tuple[WindowShape, ...]
    cache_bytes: int = 2 << 30
    max_bad: float = field(default=0.05, metadata={NEW: True})

    def __post_init__(self) -> None:
        if not 1 <= len(self.shapes) <= _MAX_SHAPES:
            raise UserError(
                f"{len(self.shapes)} window shapes, expected 1 to {_MAX_SHAPES}: "
                "each one costs a compile"
            )
        for shape in self.shapes:
            if (
                min(shape.frames, shape.height, shape.width, shape.batch) < 1
                or not shape.weight > 0
            ):
                raise UserError(f"{shape}: every number must be positive")
        if not 0 <= self.max_bad <= 1:
            raise UserError(
                f"windows.max_bad is {self.max_bad}, expected a share between 0 and 1"
            )


class WindowDataset(grain.IterDataset):
    """Endless batches {"video": uint8 (B, T, H, W, 3)}.

    Batch k is a function of (seed, k) and the files only; the iterator's whole state is
    {"step": k}. A step's shape is drawn by weight among the shapes for which some file
    is large enough, each window's file uniformly among those files, and its corner
    uniformly in the file. A file that cannot be used, now or when a window is cut from
    it, is left out, and another one is drawn in its place.

    Attributes:
        files: the files that are used.
        unusable: the reason for each file that was left out, shared by all copies.
        skipped: number of files that are smaller than every shape.
        shapes: the shapes for which at least one file is large enough.

    Raises:
        UserError: no file is large enough for any shape, or more than the
            configuration's `max_bad` cannot be used.
    """

    def __init__(self, files: Sequence[Path], config: WindowConfig, *, seed: int):
        super().__init__()
        self.unusable: dict[Path, str] = {}
        self._total, self._max_bad = len(files), config.max_bad
        infos, self.files = [], []
        for file in map(Path, files):
            try:
                infos.append(_measured(file))
                self.files.append(file)
            except (UserError, OSError) as error:
                self._leave_out(file, error)
        fits = [
            [i for i, info in enumerate(infos) if _fits(info, shape)]
            for shape in config.shapes
        ]
        used = {i for members in fits for i in members}
        if not used:
            raise UserError(_too_small(config, infos))
        self.skipped = len(infos) - len(used)
        self.shapes = tuple(s for s, m in zip(config.shapes, fits, strict=True) if m)
        self._infos = infos
        self._fits = [members for members in fits if members]
        self._clips = _ClipCache(config.cache_bytes)
        self._seed = seed
        self._rows_of: Callable[[int], Sequence[int]] = range

    def for_host(self, rows_of: Callable[[int], Sequence[int]]) -> "WindowDataset":
        """Returns the same batches, with only the windows rows_of(B) of B."""
        part = copy.copy(self)
        part._rows_of = rows_of
        return part

    def __iter__(self) -> "WindowIterator":
        return WindowIterator(self)

    def batch_at(self, step: int) -> dict[str, UInt8[np.ndarray, "b t h w 3"]]:
        """Returns batch number `step`."""
        weights = np.array([shape.weight for shape in self.shapes])
        rng = np.random.default_rng([self._seed, _SHAPE, step])
        index = rng.choice(len(weights), p=weights / weights.sum())
        shape = self.shapes[index]
        windows = [
            self._window(shape, self._fits[index], step, row)
            for row in self._rows_of(shape.batch)
        ]
        return {"video": np.stack(windows)}

    def _window(
        self, shape: WindowShape, members: list[int], step: int, row: int
    ) -> np.ndarray:
        rng = np.random.default_rng([self._seed, _WINDOW, step, row])
        failed: set[int] = set()
        while True:
            member = members[rng.integers(len(members))]
            try:
                return self._crop(shape, member, rng)
            except (UserError, OSError) as error:
                file = self.files[member]
                if file not in self.unusable:
                    self._leave_out(file, error)
                    _LOG.warning("%s is left out (%s)", file, self.unusable[file])
                failed.add(member)
                if len(failed) == len(members):
                    raise

    def _crop(
        self, shape: WindowShape, member: int, rng: np.random.Generator
    ) -> np.ndarray:
        info = self._infos[member]
        assert info.frames is not None
        start = int(rng.integers(info.frames - shape.frames + 1))
        top = int(rng.integers(info.height - shape.height + 1))
        left = int(rng.integers(info.width - shape.width + 1))
        crop = slice(top, top + shape.height), slice(left, left + shape.width)
        return self._clips.window(self.files[member], info, start, shape.frames, crop)

    def _leave_out(self, file: Path, error: Exception) -> None:
        """Notes a file that cannot be used; raises UserError if they are too many."""
        reason = str(error).removeprefix(f"{file}: ")
        self.unusable[file] = reason
        check_share(
            self.unusable,
            self._total,
            self._max_bad,
            f"{file}: {reason}",
            "repair or remove them, or raise windows.max_bad",
        )


class WindowIterator(grain.DatasetIterator):
    """An iterator over a `WindowDataset`; its state is the number of the next batch."""

    def __init__(self, dataset: WindowDataset):
        super().__init__()
        self._dataset = dataset
        self._step = 0

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._dataset.batch_at(self._step)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        self._step = int(state["step"])


class _ClipCache:
    """A cache of decoded clips up to a number of bytes, least recently used first out.

    A video that failed is not decoded again. A video larger than the whole budget is
    never cached: its windows are streamed. If it has fewer frames than its container
    states, windows beyond its end are its last.
    """

    def __init__(self, budget: int):
        self._budget, self._held = budget, 0
        self._clips: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._failed: dict[Path, UserError | OSError] = {}

    def window(
        self,
        file: Path,
        info: VideoInfo,
        start: int,
        count: int,
        crop: tuple[slice, slice],
    ) -> UInt8[np.ndarray, "t h w 3"]:
        assert info.frames is not None
        size = info.frames * info.height * info.width * 3
        if file in self._failed:
            raise self._failed[file]
        if file in self._clips:
            self._clips.move_to_end(file)
        elif size > self._budget:
            frames = list(islice(_cropped(file, info, crop), start, start + count))
            if len(frames) < count:
                frames = list(deque(_cropped(file, info, crop), maxlen=count))
            return np.stack(_enough(file, info, frames, count))
        else:
            while self._clips and self._held + size > self._budget:
                self._held -= self._clips.popitem(last=False)[1].nbytes
            self._clips[file] = self._decoded(file, info)
            self._held += self._clips[file].nbytes
        clip = self._clips[file]
        start = max(0, min(start, len(clip) - count))
        return _enough(file, info, clip[start : start + count, *crop], count)

    def _decoded(self, file: Path, info: VideoInfo) -> np.ndarray:
        try:
            return np.stack(list(_cropped(file, info, _WHOLE)))
        except (UserError, OSError) as error:
            self._failed[file] = error
            raise


def _cropped(
    file: Path, info: VideoInfo, crop: tuple[slice, slice]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for frame in read_frames(file):
        if frame.shape != (info.height, info.width, 3):
            raise UserError(
                f"{file}: holds {frame.shape[1]}x{frame.shape[0]}, but declares "
                f"{info.width}x{info.height}; remove it, or encode it again"
            )
        yield frame[crop]


def _enough(file: Path, info: VideoInfo, frames: _Frames, count: int) -> _Frames:
    if len(frames) < count:
        raise UserError(
            f"{file}: holds {len(frames)} frames, but declares {info.frames}; remove "
            "it, or encode it again"
        )
    return frames


def _measured(file: Path) -> VideoInfo:
    """Returns `probe`'s result, with frames counted if the container states none."""
    info = probe(file)
    if info.frames is not None:
        return info
    count = sum(1 for _ in read_frames(file))
    return VideoInfo(
        height=info.height,
        width=info.width,
        frames=count,
        fps=info.fps,
        is_image=info.is_image,
    )


def _fits(info: VideoInfo, shape: WindowShape) -> bool:
    return (
        (info.frames or 0) >= shape.frames
        and info.height >= shape.height
        and info.width >= shape.width
    )


def _too_small(config: WindowConfig, infos: list[VideoInfo]) -> str:
    if not infos:
        return "there are no media files to take windows from"
    smallest = min(config.shapes, key=lambda s: s.frames * s.height * s.width)
    largest = max(infos, key=lambda i: (i.frames or 0) * i.height * i.width)
    return (
        f"all {len(infos)} files are smaller than every window shape: the smallest "
        f"shape is {smallest.frames} frames of {smallest.width}x{smallest.height}, the "
        f"largest file {largest.frames} of {largest.width}x{largest.height}; choose a "
        "smaller shape or larger files"
    )

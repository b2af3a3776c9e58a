"""The stage `shots`: cuts and fades, found while frames pass by.

A detector of `data_pipelines.curate.cuts` proposes cuts. A proposal is no cut if the
picture returns within a fifth of a second: a flash. A run of flat frames, the bottom of
a fade, parts two shots as well.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.curate.cuts import FOOLED_BY_FLASHES, SIDE, detector
from data_pipelines.curate.shrink import at_most
from data_pipelines.curate.stage import Limit, Scores, Stage


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """Parameters of the search for shots."""

    cuts: str = "adaptive"  # the detector; the other one is transnetv2
    adaptive: float = 3.0  # change of a frame over the mean change around it
    content: float = 15.0  # least change, 0 to 255, of a cut
    flash_seconds: float = 0.2  # a picture that returns this soon was not cut
    returned: float = 0.7  # change of a returned picture, as a share of the cut's
    flat: float = 2.0  # standard deviation of luma, 0 to 255, of a flat frame
    trim_frames: int = 2  # left out on each side of a cut
    max_seconds: float = 60.0  # longer shots are divided


STAGE = Stage(
    name="shots",
    summary="finds cuts and fades; flashes are none; trims the ends",
    scores={"seconds": "length of the clip"},
    limits={"seconds": Limit(min=2.0, max=60.0)},
    parameters=ShotsConfig(),
)
_THUMB, _MOVE = (32, 18), 2  # (width, height) of frames to compare, and their motion


class Shot(NamedTuple):
    """The frames start … start + frames of a film, with its ends trimmed."""

    start: int
    frames: int


class _Signal(NamedTuple):
    thumb: np.ndarray  # grey, float32
    spread: float  # standard deviation of luma
    cut: bool  # proposed between this frame and the one before


def scores(shot: Shot, fps: float) -> Scores:
    """Returns the scores of a shot; a picture has no length."""
    return {"seconds": shot.frames / fps if fps else None}


def find_shots(
    frames: Iterable[np.ndarray], fps: float, cfg: ShotsConfig
) -> Iterator[Shot]:
    """Yields the shots of RGB frames (H, W, 3), soon after the end of each.

    About a second of small frames is held. Each shot has at most `max_seconds`, up to
    rounding to a frame.
    """
    finder = _Finder(fps, cfg)
    for signal in _signals(frames, cfg):
        yield from finder.push(signal)
    yield from finder.end()


def find_cuts(frames: Iterable[np.ndarray], fps: float, cfg: ShotsConfig) -> list[int]:
    """Returns the first frame of every shot but the first, before trimming."""
    finder = _Finder(fps, cfg)
    for signal in _signals(frames, cfg):
        finder.push(signal)
    finder.end()
    return finder.cuts


def _signals(frames: Iterable[np.ndarray], cfg: ShotsConfig) -> Iterator[_Signal]:
    """Yields a signal for each frame, some frames late."""
    found = detector(cfg.cuts, adaptive=cfg.adaptive, content=cfg.content)
    waiting: list[_Signal] = []
    sent = 0

    def mark(cuts: list[int]) -> None:
        for cut in cuts:
            waiting[cut - sent] = waiting[cut - sent]._replace(cut=True)

    for frame in frames:
        small = at_most(frame, longer=SIDE)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        thumb = cv2.resize(grey, _THUMB, interpolation=cv2.INTER_AREA)
        spread = float(cv2.meanStdDev(grey)[1][0, 0])
        waiting.append(_Signal(thumb.astype(np.float32), spread, False))
        mark(found.push(frame))
        if len(waiting) > found.late:
            yield waiting.pop(0)
            sent += 1
    mark(found.end())
    yield from waiting


class _Finder:
    """The decisions on proposed cuts, `flash` frames after each."""

    def __init__(self, fps: float, cfg: ShotsConfig):
        rate = fps or 25.0
        self._cfg = cfg
        self._flash = max(2, round(rate * cfg.flash_seconds))
        self._most = max(1, int(rate * cfg.max_seconds))
        self._held: dict[int, _Signal] = {}
        self._spreads: list[float] = []  # of the frames since the shot's start
        self._pushed = self._next = 0
        self._start: int | None = 0  # None between two shots
        self._run: int | None = None  # the first of a run of flat frames
        self._cut_before = self._faded_before = False
        self.cuts: list[int] = []

    def push(self, signal: _Signal) -> list[Shot]:
        """Takes the next frame's signal; returns the shots that have ended."""
        self._held[self._pushed] = signal
        self._pushed += 1
        made = []
        while self._next + self._flash < self._pushed:
            made += self._decide(self._next)
        self._held.pop(self._next - 3 * self._flash - 3, None)
        return made

    def end(self) -> list[Shot]:
        """Returns the shots that end with the film."""
        made = []
        while self._next < self._pushed:
            made += self._decide(self._next)
        faded = self._run is not None and self._run > 0
        stop = self._run if faded and self._run is not None else self._pushed
        return made + self._end_shot(stop, cut=False, faded=faded)

    def _decide(self, index: int) -> list[Shot]:
        signal, made = self._held[index], []
        self._next = index + 1
        if signal.spread < self._cfg.flat:
            self._run = index if self._run is None else self._run
            # A flash is short; a longer run ends the shot at its beginning.
            if self._run > 0 and index - self._run == self._flash:
                made = self._end_shot(self._run, cut=True, faded=True)
        elif self._run is not None:
            begun, self._run = self._run, None
            flash = index - begun <= self._flash and self._returns(begun, index)
            if begun > 0 and not flash:
                made = self._end_shot(begun, cut=True, faded=True)
                self._begin(index, faded=True)
            elif begun == 0:  # the film fades in
                self._start, self._spreads, self._faded_before = index, [], True
        elif signal.cut and index and not self._is_flash(index):
            made = self._end_shot(index, cut=True, faded=False)
            self._begin(index, faded=False)
        elif self._start is not None and index - self._start >= self._most:
            made = self._end_shot(index, cut=False, faded=False)
            self._start, self._spreads = index, []
            self._cut_before = self._faded_before = False
        if self._start is not None:
            self._spreads.append(signal.spread)
        return made

    def _is_flash(self, index: int) -> bool:
        return self._cfg.cuts in FOOLED_BY_FLASHES and self._returns(index, index)

    def _begin(self, index: int, *, faded: bool) -> None:
        self.cuts.append(index)
        self._start, self._spreads = index, []
        self._cut_before, self._faded_before = True, faded

    def _returns(self, stop: int, start: int) -> bool:
        """Returns True if the picture before `stop` is back soon after `start`."""
        before = self._thumbs(stop - 1, -1)
        after = self._thumbs(start, 1)
        if not before or not after:
            return False
        change = _nearest(before[:1], [self._held[stop].thumb])
        # Unrelated pictures differ by about their spread; a white flash by more.
        most = min(change, float(before[0].std()))
        return _nearest(before, after) < self._cfg.returned * most

    def _thumbs(self, first: int, step: int) -> list[np.ndarray]:
        places = range(first, first + step * (self._flash + 1), step)
        return [self._held[i].thumb for i in places if i in self._held]

    def _end_shot(self, stop: int, *, cut: bool, faded: bool) -> list[Shot]:
        """Returns the shot that ends at `stop`, trimmed, or nothing if none is left."""
        if self._start is None:
            return []
        start, self._start = self._start, None
        spreads = self._spreads[: stop - start]
        level = 0.5 * float(np.median(spreads)) if spreads else 0.0
        full = [spread >= level for spread in spreads]
        first = full.index(True) if self._faded_before and True in full else 0
        last = full[::-1].index(True) if faded and True in full else 0
        first = max(first, self._cfg.trim_frames if self._cut_before else 0)
        last = max(last, self._cfg.trim_frames if cut else 0)
        frames = stop - last - start - first
        return [Shot(start + first, frames)] if frames > 0 else []


def _nearest(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Returns the least mean difference of two thumbs, moved by up to `_MOVE`."""
    m, (width, height) = _MOVE, _THUMB
    one, other = np.stack(before), np.stack(after)[:, m:-m, m:-m]
    least = np.inf
    for y in range(2 * m + 1):
        for x in range(2 * m + 1):
            moved = one[:, y : height - 2 * m + y, x : width - 2 * m + x]
            change = np.abs(moved[:, None] - other[None]).mean((2, 3))
            least = min(least, float(change.min()))
    return least

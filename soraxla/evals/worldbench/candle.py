"""The family `candle`: a flame that was blown out stays out, any other burns on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import effects
from data_pipelines.worlds.draw import pixel_grid
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    FIRST_SEED,
    Case,
    Family,
    Measure,
    Score,
    Video,
    candidates,
    nothing_to_ask,
)
from soraxla.evals.worldbench.tracking import masked_median

_LEAST = 5  # condition frames that show a flame
_SOME = 0.25  # of the flame's pixels: a flame
_AWAY = 60.0  # in RGB: another thing than the candle
_DIM = 8.0  # of 255: no smoke


def case(seed: int, size: Size) -> Case:
    """Returns a candle; every other one is blown out after the condition frames."""
    blown = (seed - FIRST_SEED) % 2 == 0
    for candidate in candidates(seed) if size.frames > _LEAST + 4 else ():
        truth = effects.simulate(candidate, **size._asdict(), scene="candle")
        out = int((~truth.state["lit"]).argmax()) or (size.frames + 1) // 2
        condition_frames = 1 + (out - 1) // 4 * 4
        if condition_frames >= _LEAST and truth.state["lit"].all() != blown:
            return Case(candidate, truth, condition_frames)
    raise nothing_to_ask("effects", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, made = case.truth, np.arange(len(video)) >= case.condition_frames
    due = truth.state["lit"]
    right = (burns(video, truth) == due) & shown(video, truth)
    fumes = [_smoke(each, truth) for each in (truth.video, video)]
    out = made & ~due
    values = {
        "flame right": float(right[made].mean()),
        "smoke error": float(min(np.abs(fumes[0] - fumes[1])[out].sum(), 1.0))
        if out.any()
        else np.nan,
    }
    lit = due.astype(float), burns(video, truth).astype(float)
    return Score(values, {"flame": lit})


def burns(video: Video, truth: Episode) -> Bool[np.ndarray, " t"]:
    """Returns the frames with pixels of a flame's colour about the wick."""
    flames = [_warm(each, truth) for each in (truth.video, video)]
    return flames[1] >= _SOME * np.median(flames[0][truth.state["lit"]])


def _warm(video: Video, truth: Episode) -> Float[np.ndarray, " t"]:
    """Returns the warm and bright pixels around the true flame's place."""
    dx, dy = _from_wick(truth)
    tall = float(truth.state["flame"])
    near = (np.abs(dx) < tall) & (dy < 0.3 * tall) & (dy > -1.3 * tall)
    red, green, blue = np.moveaxis(video[:, near].astype(float), -1, 0)
    return ((red > 190) & (green > 110) & (red - blue > 70)).sum(1).astype(float)


def shown(video: Video, truth: Episode) -> Bool[np.ndarray, " t"]:
    """Returns the frames that show the candle in place."""
    wax = (truth.ids == 1).all(0)
    look = truth.video[0][wax].astype(np.float32)
    away = np.linalg.norm(video[:, wax].astype(np.float32) - look[None], axis=-1)
    return np.median(away, axis=1) < _AWAY


def _smoke(video: Video, truth: Episode) -> Float[np.ndarray, " t"]:
    """Returns the change above the wick, from the dark room, in frames without flame.

    The truth's frames sum to 1.
    """
    dark = ~truth.state["lit"]
    if not dark.any():
        return np.zeros(len(video))
    dx, dy = _from_wick(truth)
    above = (np.abs(dx) < 1.5 * float(truth.state["flame"])) & (dy < 0)
    seen = (truth.ids == 0) & dark[:, None, None]
    room = masked_median(truth.video, seen)[above]

    def fumes(frames: Video) -> Float[np.ndarray, " t"]:
        change = np.abs(frames[:, above].astype(np.float32) - room[None]).mean(-1)
        return (change - _DIM).clip(0).sum(1) * dark

    return fumes(video) / max(float(fumes(truth.video).sum()), 1.0)


def _from_wick(truth: Episode) -> tuple[np.ndarray, np.ndarray]:
    x, y = pixel_grid(truth.video.shape[2], truth.video.shape[1])
    wick = truth.state["wick"]
    return x - wick[0] + 0 * y, y - wick[1] + 0 * x


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the share of frames that are right if the flame always or never burns."""
    lit = [c.truth.state["lit"][c.condition_frames :].mean() for c in cases]
    return {
        "always burning": float(np.mean(lit)),
        "at once out": 1 - float(np.mean(lit)),
    }


FAMILY = Family(
    what="a candle is blown out after the condition frames, or nobody blows",
    measures={
        "flame right": Measure(
            unit="share",
            what="of frames with the candle, and with a flame or without as in truth",
            higher=True,
        ),
        "smoke error": Measure(
            unit="share",
            what="of the true smoke, more or less; 1 is none, or worse",
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

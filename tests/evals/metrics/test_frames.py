"""Metrics of the frames of one clip, and of clips and prompts."""

import numpy as np
import pytest

from soraxla.evals.metrics.clip_rank import CLIPRank
from soraxla.evals.metrics.consistency import Consistency
from soraxla.evals.metrics.drift import Drift
from soraxla.evals.metrics.metric import Clip


class Angles:
    """Features on a circle: a frame's grey value is its angle in degrees."""

    name, sha256, dimension, frames = "angles", "0", 2, None

    def __call__(self, frames):
        angles = np.radians(frames[:, 0, 0, 0].astype(float))
        return 3.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def clip(*greys):
    frames = np.array(greys, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3))
    return Clip(name="a", frames=frames.astype(np.uint8))


def test_consistency_is_to_the_first_and_the_neighbouring_frame():
    found = Consistency(extractor=Angles()).row(clip(0, 60, 120))
    cosines = (
        1 / 2,
        0.0,
        1 / 2,
        1 / 2,
    )  # of the first frame, negative as 0; neighbours
    assert found == pytest.approx(np.mean(cosines))
    assert Consistency(extractor=Angles()).row(clip(7)) == 1.0


def test_drift_is_the_way_of_the_last_window_from_the_first():
    greys = np.repeat(np.arange(8) * 10, 2)
    metric = Drift(extractor=Angles())
    rows = metric.update({}, [clip(*greys)])
    np.testing.assert_allclose(rows["a"], 1 - np.cos(np.radians(np.arange(8) * 10)))
    assert metric.compute(rows).value == pytest.approx(1 - np.cos(np.radians(70)))


def test_the_rank_is_among_a_hundred_prompts():
    """Clip 0's prompt is beaten by that of clip 100, which does not compete with it."""
    rng = np.random.default_rng(0)
    texts = np.linalg.qr(rng.normal(size=(102, 102)))[0]
    videos = texts.copy()
    videos[0] = texts[0] + 2 * texts[100]
    videos[1] = texts[1] + 2 * texts[2]
    rows = {f"{i:03}": np.stack([videos[i], texts[i]]) for i in range(102)}
    assert CLIPRank(model=None).compute(rows).value == pytest.approx(101 / 102)
    few = dict(list(rows.items())[:3])
    assert CLIPRank(model=None).compute(few).value == pytest.approx(2 / 3)

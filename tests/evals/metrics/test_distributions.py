"""Distances between sets, against SciPy and the definitions, and their intervals."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from soraxla.evals.comparison import compare
from soraxla.evals.metrics import frechet as frechet_module
from soraxla.evals.metrics import metric
from soraxla.evals.metrics.frechet import Frechet, frechet, moments
from soraxla.evals.metrics.metric import Clip
from soraxla.evals.metrics.mmd import MMD, mmd


class Colours:
    """Mean colours of a frame's quarters, as features."""

    name, sha256, dimension, frames = "colours", "0", 12, None

    def __init__(self):
        self.calls = 0

    def __call__(self, frames):
        self.calls += 1
        t, h, w, _ = frames.shape
        parts = frames.reshape(t, 2, h // 2, 2, w // 2, 3).mean(axis=(2, 4))
        return parts.reshape(t, 12) / 255.0


def gaussian(seed, n, d, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(
        size=d
    )


@pytest.mark.parametrize(("n", "d"), [(200, 8), (400, 24)])
def test_the_frechet_distance_is_scipys(n, d):
    one, other = moments(gaussian(0, n, d)), moments(gaussian(1, n + 7, d, 2.0))
    root = np.trace(sqrtm(one[1] @ other[1])).real
    expected = np.square(one[0] - other[0]).sum()
    expected += np.trace(one[1]) + np.trace(other[1]) - 2 * root
    np.testing.assert_allclose(frechet(*one, *other), expected, rtol=1e-6)
    np.testing.assert_allclose(one[1], np.cov(gaussian(0, n, d).T), rtol=1e-9)


def test_of_fewer_samples_than_features_it_is_still_a_distance():
    """The covariances have eigenvalues of 0."""
    few = moments(gaussian(0, 6, 24))
    assert frechet(*few, *few) == pytest.approx(0, abs=1e-7 * np.trace(few[1]))
    moved = (few[0] + 2.0, few[1])
    np.testing.assert_allclose(frechet(*few, *moved), 24 * 4.0, rtol=1e-6)


def test_main_directions_have_the_spread_of_all_features(monkeypatch):
    """The value stays that of all; a comparison projects all its sets alike."""
    monkeypatch.setattr(metric, "RESAMPLES", 200)
    rng = np.random.default_rng(0)
    sizes = 0.8 ** np.arange(40)

    def rows(shift):
        found = sizes * rng.normal(size=(150, 1, 40)) + shift * sizes
        return {f"{i:03d}": row for i, row in enumerate(found)}

    near, far, real = rows(0.1), rows(0.5), rows(0.0)
    distance = Frechet(extractor=None)

    def measured():
        one = distance.compute(near, real)
        runs = [
            {
                **{"metrics": {"d": distance}, "extractors": {}},
                **{"rows": {"d": x}, "reference_rows": {"d": real}},
            }
            for x in (near, far)
        ]
        return one, compare(*runs)["d"]

    whole = measured()
    monkeypatch.setattr(frechet_module, "MAIN", 16)
    for a, b in zip(whole, measured(), strict=True):
        assert (a.value, a.n) == (b.value, b.n)
        np.testing.assert_allclose(
            [b.low - b.value, b.high - b.value],
            [a.low - a.value, a.high - a.value],
            rtol=0.05,
        )


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_the_discrepancy_is_its_definition(kernel):
    x, y = gaussian(0, 30, 5), gaussian(1, 20, 5)
    unit = [x, y]
    if kernel == "gaussian":
        unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]

    def k(a, b):
        if kernel == "gaussian":
            return 1000 * np.exp(-(cdist(a, b) ** 2) / 200)
        return (a @ b.T / 5 + 1) ** 3

    a, b = unit
    pairs = [~np.eye(len(z), dtype=bool) for z in unit]
    within = [np.mean(k(z, z)[of]) for z, of in zip(unit, pairs, strict=True)]
    expected = sum(within) - 2 * k(a, b).mean()
    np.testing.assert_allclose(mmd(x, y, kernel), expected, rtol=1e-6)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("soraxla.evals.metrics.metric.RESAMPLES", 100)


def clips(seed, n, shift=0):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 200, (n, 1, 1, 1, 3)) + rng.integers(0, 20, (n, 3, 4, 4, 3))
    video = np.clip(base + shift, 0, 255).astype(np.uint8)
    return [Clip(name=f"{i:02}", frames=frames) for i, frames in enumerate(video)]


def rows_of(metric, of):
    return metric.update({}, of)


@pytest.mark.parametrize("kind", [Frechet, MMD])
def test_real_clips_are_told_from_shifted_ones_only(kind):
    metric = kind(extractor=Colours(), frames=3)
    reference = rows_of(metric, clips(0, 40))
    same = metric.compute(rows_of(metric, clips(1, 40)), reference)
    moved = metric.compute(rows_of(metric, clips(1, 40, shift=55)), reference)
    assert same.low <= same.value <= same.high
    assert moved.value > same.high and moved.low > same.value
    assert (moved.n, kind.better, kind.needs) == (40, "lower", "reference")


def test_digits_do_not_depend_on_the_order_of_clips_nor_on_the_hosts():
    metric = Frechet(extractor=Colours(), frames=3)
    of = clips(2, 12)
    reference = rows_of(metric, clips(3, 12))
    whole = metric.compute(rows_of(metric, of), reference)
    hosts = [rows_of(metric, of[k::2][::-1]) for k in (1, 0)]
    assert metric.compute(metric.merge(*hosts), reference) == whole
    with pytest.raises(ValueError, match="'00' was measured twice"):
        metric.merge(hosts[1], hosts[1])
    with pytest.raises(ValueError, match="no clip to measure"):
        metric.compute({}, reference)


def test_features_are_extracted_once_for_all_metrics():
    extractor = Colours()
    metrics = [kind(extractor=extractor, frames=3) for kind in (Frechet, MMD)]
    (clip,) = clips(0, 1)
    frames, mean = (metric.row(clip) for metric in metrics)
    assert extractor.calls == 1
    np.testing.assert_array_equal(mean, frames.mean(axis=0))


def test_jedis_estimate_is_the_published_one():
    """The example in the program of its authors, which prints 270.7, times 100."""
    x = np.arange(1.0, 10.0).reshape(3, 3)
    y = np.array([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    assert mmd(x, y, "quadratic") / 100 == pytest.approx(270.7, abs=0.06)

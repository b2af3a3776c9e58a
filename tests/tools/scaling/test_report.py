"""The report of a scaling study, from points whose losses follow a law."""

import numpy as np
import pytest

from soraxla.evals.metrics.metric import Metric
from soraxla.media.write import write_video
from soraxla.tools.scaling import report
from soraxla.tools.scaling.law import predicted
from soraxla.tools.scaling.points import Measured, Point
from tests.tools.scaling.test_law import LAW

SIZES = {"a": 100_000, "b": 400_000, "c": 1_600_000, "d": 6_400_000}
COMPUTES = (1.0, 4.0, 16.0, 64.0)


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Every clip's loss is the law's and an offset of the clip."""
    monkeypatch.setattr(report, "RESAMPLES", 3)
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(2):
        write_video(clips / f"{i}.png", np.full((1, 8, 8, 3), i, np.uint8), 0)
    offsets = np.array([-0.02, -0.01, 0.0, 0.03])

    def measured(size, compute):
        n, flops = float(SIZES[size]), 1e12 * compute
        loss = predicted(LAW, np.array([n]), np.array([flops / (6 * n)]))
        point = Point(
            size=size,
            compute=compute,
            steps=round(100 * compute),
            flops=flops,
            parameters=SIZES[size],
            tokens=round(flops / (6 * n)),
        )
        metrics = {"frechet/clip": Metric(float(loss[0]), -0.1, 2.0, 4)}
        return Measured(
            point=point, losses=loss + offsets, metrics=metrics, clips=clips
        )

    return [measured(size, compute) for size in SIZES for compute in COMPUTES]


def test_the_report_has_every_point_the_law_and_the_clips(points):
    page = report.page("Scaling", points)
    assert all(f"<td>{each.point.name}</td>" in page for each in points)
    assert page.count("<svg") == 3 and page.count("data:image/webp;base64,") == 2
    assert "L = E + A / N" in page and "There is no fit" not in page
    assert "From a_x1 to " in page


def test_the_law_of_the_points_is_found_with_its_intervals(points):
    found = report.fitted(points)
    assert found is not None
    np.testing.assert_allclose(found.law, LAW, rtol=0.02)
    assert all(low <= high for low, high in zip(found.low, found.high, strict=True))
    assert report.fitted([p for p in points if p.point.size != "a"]) is None


def test_a_fall_is_measured_clip_by_clip(points):
    """Clips differ more than the computes do, and yet each falls alike."""
    first, *_, last = report.best_of(points)
    fall = report.gain(first, last)
    assert fall.low == pytest.approx(fall.high) and fall.low > 0
    assert last.point.compute == 64 and last.point.size != "a"

"""Charts: logarithmic axes place the points."""

import re

from soraxla.evals.charts import Line, chart


def test_points_of_a_power_law_are_on_a_line_and_have_their_intervals():
    x = [1.0, 10.0, 100.0]
    line = Line(
        name="a<b", x=x, y=[8.0, 4.0, 2.0], low=[7.0, 3.0, 1.0], high=[9.0, 5.0, 3.0]
    )
    drawn = chart([line], x="FLOPs", y="loss")
    assert drawn.startswith("<svg xmlns=") and "a&lt;b" in drawn
    ends = re.findall(r'points="(.*?)"', drawn)[0].split()
    (a, b), (c, d), (e, f) = (map(float, each.split(",")) for each in ends)
    assert abs((c - a) - (e - c)) < 0.2 and abs((d - b) - (f - d)) < 0.2
    assert a < c < e and b < d < f  # SVG counts downwards
    assert len(re.findall(r'<line [^>]*stroke="#c0392b"', drawn)) == 3
    labels = re.findall(r"<text[^>]*>([\d.e+]+)</text>", drawn)
    assert {"1", "10", "100"} <= set(labels)


def test_a_narrow_range_has_round_ticks():
    drawn = chart([Line(name="a", x=[3.0, 4.0], y=[0.51, 0.53])], x="x", y="y")
    labels = re.findall(r"<text[^>]*>([\d.e+]+)</text>", drawn)
    assert len(labels) >= 6 and "0.52" in labels

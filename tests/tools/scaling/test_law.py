"""The fit of the law of the loss, on losses that follow one."""

import numpy as np
import pytest

from soraxla.core.errors import UserError
from soraxla.tools.scaling.law import Law, _error, fit, predicted

LAW = Law(E=0.3, A=40.0, a=0.4, B=300.0, b=0.5)


def grid(sizes=4, computes=4):
    n = 1e5 * 4.0 ** np.arange(sizes)
    flops = 1e12 * 3.0 ** np.arange(computes)
    n, flops = (x.ravel() for x in np.meshgrid(n, flops))
    return n, flops / (6 * n)


def test_a_law_is_found_again():
    n, d = grid()
    found = fit(n, d, predicted(LAW, n, d))
    np.testing.assert_allclose(found, LAW, rtol=2e-2)
    start = LAW._replace(E=0.33, A=30.0)
    np.testing.assert_allclose(fit(n, d, predicted(LAW, n, d), start), LAW, rtol=2e-2)


def test_the_gradient_is_that_of_the_error():
    n, d = grid()
    logs = np.log(n), np.log(d), np.log(predicted(LAW, n, d)) + 0.01 * np.sin(n)
    x = np.array([-1.0, 3.0, 0.3, 5.0, 0.4])
    error, gradient = _error(x, *logs)
    for i in range(5):
        step = 1e-6 * np.eye(5)[i]
        slope = (_error(x + step, *logs)[0] - _error(x - step, *logs)[0]) / 2e-6
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert error > 0 and (np.abs(gradient) > 1).all()


def test_few_points_have_no_fit():
    n, d = grid(sizes=3)
    with pytest.raises(UserError, match="3 sizes at 4 computes or more, expected at"):
        fit(n, d, predicted(LAW, n, d))

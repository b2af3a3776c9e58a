"""A join shows where its step is larger than those of the clip."""

import numpy as np
import pytest

from soraxla.evals.drift import colour_drift
from soraxla.generation.blending import frame_errors, join_ratio


def brightening(values):
    values = np.asarray(values, np.uint8)[:, None, None, None]
    return values.repeat(4, 1).repeat(6, 2).repeat(3, 3)


def test_steps_are_mean_differences():
    assert frame_errors(brightening([10, 14, 12])).tolist() == [4.0, 2.0]


def test_a_smooth_join_is_one_and_a_jump_is_its_size():
    assert join_ratio(brightening([0, 4, 8, 12, 16]), [2]) == pytest.approx(1.0)
    assert join_ratio(brightening([0, 4, 20, 24, 28]), [2]) == pytest.approx(4.0)
    jumps = brightening([0, 4, 20, 24, 28, 40, 44])
    assert join_ratio(jumps, [2, 5]) == pytest.approx(4.0)


def test_a_loop_is_closed():
    there_and_back = brightening([0, 4, 8, 4])
    assert join_ratio(there_and_back, [0, 2], closed=True) == pytest.approx(1.0)
    assert join_ratio(brightening([0, 4, 8, 12]), [0], closed=True) == pytest.approx(3)


def test_where_nothing_moves_half_a_grey_value_is_the_measure():
    assert join_ratio(brightening([7, 7, 7, 8, 8]), [3]) == pytest.approx(2.0)


@pytest.mark.parametrize("joins", [[0], [5], []])
def test_joins_lie_within_the_clip(joins):
    with pytest.raises(ValueError, match="expected 1 to 4"):
        join_ratio(brightening([0, 1, 2, 3, 4]), joins)


def test_a_clip_of_joins_alone_is_as_one_in_which_nothing_moves():
    assert join_ratio(brightening([0, 2]), [1]) == pytest.approx(4.0)


def test_drift_is_of_the_channel_that_drifts_most():
    before, after = brightening([10, 10]), brightening([12, 12, 12])
    after[..., 1] += 3
    assert colour_drift(before, after) == pytest.approx(5.0)

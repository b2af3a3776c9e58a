"""An error in one process ends the call in all, and is of the same kind in all."""

import jax
import numpy as np
import pytest

from soraxla.core.errors import UserError
from soraxla.parallel import multihost
from soraxla.parallel.multihost import everywhere


@pytest.fixture
def beside(monkeypatch):
    """Gives this process the kind of error that a second one has met."""
    gather = multihost.multihost_utils

    def other(error):
        kind = multihost._kind(error)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(gather, "process_allgather", lambda x: np.array([x, kind]))

    return other


def fails(error):
    def function():
        raise error

    return function


def test_without_an_error_the_value_is_returned(beside):
    beside(None)
    assert everywhere(lambda: 3) == 3


@pytest.mark.parametrize(
    "mistake", [UserError("a: is empty"), FileNotFoundError(2, "No such file", "a")]
)
def test_a_mistake_in_another_process_is_one_line_here_too(beside, mistake):
    beside(mistake)
    with pytest.raises(UserError, match=r"^process 1 cannot go on; its log says why$"):
        everywhere(lambda: 3)


@pytest.mark.parametrize("bug", [ValueError("a bug"), OSError("no file of a user's")])
def test_a_bug_in_another_process_is_none_of_the_user_s(beside, bug):
    beside(bug)
    with pytest.raises(RuntimeError, match=r"^process 1 failed; its log has the trace"):
        everywhere(lambda: 3)


def test_the_process_s_own_error_is_raised_as_it_is(beside):
    beside(UserError("another"))
    with pytest.raises(KeyError, match="its own"):
        everywhere(fails(KeyError("its own")))

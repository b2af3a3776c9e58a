"""The test run checks the annotated types of the library."""

import jaxtyping
import numpy as np
import pytest

from soraxla.core.types import LatentGrid
from soraxla.packing.patchify import positions
from tests.conftest import OFTEN


def refusal(function, *arguments):
    with pytest.raises(TypeError) as error:  # a checker's is one too
        function(*arguments)
    return error.type


def test_every_call_with_a_wrong_type_is_refused():
    """A function's first call, the later ones, and a dataclass's fields.

    A function that other tests have called often is checked at one call in OFTEN.
    """
    grid = LatentGrid(t=1, h=2, w=2)
    for _ in range(2):
        assert jaxtyping.TypeCheckError in [
            refusal(positions, grid, "122", 24.0) for _ in range(OFTEN)
        ]
        with pytest.raises(jaxtyping.TypeCheckError):
            LatentGrid(t="1", h=2, w=2)
        assert positions(grid, (1, 2, 2), 24.0).dtype == np.float32

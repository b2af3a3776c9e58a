"""Marks of single cases."""

import pytest


def slow(*cases):
    """Cases of a parametrisation that only `pytest -m slow` runs; tuples of values."""
    values = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*each, marks=pytest.mark.slow) for each in values]

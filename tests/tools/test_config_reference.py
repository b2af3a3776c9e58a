"""docs/configuration.md is what the dataclasses say."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from soraxla.core.config import leaves
from soraxla.tools import config_reference
from soraxla.tools.config_reference import attributes, page
from soraxla.training.presets import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "python -m soraxla.tools.config_reference > docs/configuration.md"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_row_with_a_meaning(kind):
    rows = {
        cells[1].strip(" `"): cells[4].strip()
        for cells in (
            line.replace(r"\|", "/").split("|") for line in page().splitlines()
        )
        if len(cells) == 6
    }
    keys = {key for key, *_ in leaves(KINDS[kind])}
    assert keys <= rows.keys()
    assert [key for key in keys if not rows[key]] == []


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Attributes:
    depth: metres, or
        feet.
    """

    depth: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A toy.

    Attributes:
        rate: of change.
        maybe: is left out by default.

    More words: no attribute.
    """

    rate: float
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def test_a_group_that_may_be_none_has_a_row(monkeypatch):
    assert attributes(Outer) == {
        "rate": "of change.",
        "maybe": "is left out by default.",
    }
    monkeypatch.setattr(config_reference, "KINDS", {"vae": Outer})
    table = page().partition("## Evaluators")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    depth = r"depth` | int \| None | `None` | metres, or feet. |"
    assert rows == [
        "| `rate` | float | required | of change. |",
        "| `maybe` | group | `None` | is left out by default. |",
        f"| `inner.{depth}",
        f"| `maybe.{depth}",
    ]

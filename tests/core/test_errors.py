"""The errors of the command line: a mistake is one line, a bug a traceback."""

import jax.numpy as jnp
import pytest

from soraxla.cli.main import main
from soraxla.core.errors import UserError


def wrong_einsum(args):
    jnp.einsum("b l d, d e -> b l e", jnp.ones((1, 2, 3)), jnp.ones((4, 5)))


def raises(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("runs/a: is\nempty"), "runs/a: is empty"),
        (FileNotFoundError(2, "No such file", "a.mp4"), "a.mp4: No such file"),
        (FloatingPointError("step 3: the loss is nan"), "step 3: the loss is nan"),
    ],
)
@pytest.mark.parametrize("words", [[], ["--traceback"]])
def test_a_mistake_is_one_line(monkeypatch, capsys, error, line, words):
    monkeypatch.setattr("soraxla.cli.demo.run", raises(error))
    assert main(["demo", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"soraxla demo: {line}"
    assert (lines[0] == "Traceback (most recent call last):") == bool(words)
    assert (len(lines) == 1) == (not words)


@pytest.mark.parametrize(
    "run",
    [
        wrong_einsum,  # jax raises a ValueError
        raises(ValueError("an inner contract")),
        raises(OSError("no file of a user's")),
        raises(RuntimeError("a bug")),
    ],
)
def test_a_bug_keeps_its_traceback(monkeypatch, run):
    monkeypatch.setattr("soraxla.cli.demo.run", run)
    with pytest.raises((ValueError, OSError, RuntimeError, TypeError)) as error:
        main(["demo"])
    assert not isinstance(error.value, UserError)
    assert run.__name__ in [entry.name for entry in error.traceback]

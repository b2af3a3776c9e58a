"""Help answers at once: no verb loads JAX, or any other large package, to parse."""

import json
import os
import subprocess
import sys

import pytest

from soraxla.cli.main import VERBS, main

LARGE = ("jax", "numpy", "flax", "grain", "orbax", "av", "PIL", "ml_collections")


HELPS = """
import contextlib, io, json, sys
from soraxla.cli.main import main
verbs, large = map(json.loads, sys.argv[1:])
for verb in verbs:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main([verb, "--help"] if verb else ["--help"])
        except SystemExit as stop:
            assert not stop.code
    print(json.dumps([out.getvalue(), [name for name in large if name in sys.modules]]))
"""


def test_help_loads_nothing_large():
    """All of them in one interpreter, which has loaded nothing large after any."""
    verbs = ["", *VERBS]
    done = subprocess.run(
        [sys.executable, "-c", HELPS, json.dumps(verbs), json.dumps(LARGE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = map(json.loads, done.stdout.splitlines())
    for verb, (text, loaded) in zip(verbs, answers, strict=True):
        assert loaded == [], verb
        assert text.startswith("usage: soraxla"), verb
        assert all(name in text for name in (VERBS if not verb else ["--"])), verb


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "VERB"),
        (["trian"], "'train'"),
        (["generate", "--frames", "many"], "--frames"),
        (["worlds", "--clips", "2"], "--out"),
        (["train", "--config", "a"], "--data"),
    ],
)
def test_a_wrong_command_line_is_one_line(refusal, arguments, text):
    line = refusal(*arguments)
    assert text in line and "--help" in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["generate", "--promt", "a"], "argument --promt: did you mean --prompt?"),
        (["generate", "--promt=a"], "argument --promt=a: did you mean --prompt?"),
        (["worlds", "--out", "b", "c"], "argument c;"),
    ],
)
def test_an_unknown_argument_names_the_verb_and_the_one_meant(refusal, arguments, text):
    line = refusal(*arguments)
    verb = f"soraxla {arguments[0]}"
    assert line.startswith(f"{verb}: ") and line.endswith(f"see {verb} --help")
    assert text in line and "soraxla --help" not in line


def test_every_solver_is_in_the_help(monkeypatch, capsys):
    """The help loads no solver, so that their names stand there once more."""
    from soraxla.diffusion.solvers import SOLVERS

    monkeypatch.setenv("COLUMNS", "200")  # no name is cut at its hyphen
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(SOLVERS) <= set(words)


def test_control_c_is_no_mistake(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("soraxla.cli.demo.run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "soraxla demo: interrupted\n"


COMPILES = """
import sys
from soraxla.cli import export, main

def run(args):
    import jax, jax.monitoring, numpy
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    jax.jit(lambda x: 3 * x)(numpy.ones(3))
    print(any(event.endswith("cache_hits") for event in events))

export.run = run
sys.exit(main.main(["export", "--checkpoint", "a", "--out", "b"]))
"""


@pytest.mark.slow
def test_a_second_command_reads_what_the_first_compiled(tmp_path):
    """From the user's cache, where no other place is named."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    for hit in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", COMPILES],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"{hit}\n", done.stderr
    assert any((tmp_path / "soraxla").iterdir())

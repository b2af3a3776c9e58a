"""Help answers at once: no verb loads JAX, or any other large package, to parse."""

import subprocess
import sys

import pytest

from soraxla.cli.main import VERBS, main

LARGE = ("jax", "numpy", "flax", "grain", "orbax", "av", "PIL", "ml_collections")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_nothing_large(verb):
    code = (
        "import sys\n"
        "from soraxla.cli.main import main\n"
        "try:\n"
        f"    main({[verb, '--help'][not verb :]!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"sys.exit(' '.join(name for name in {LARGE!r} if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) in ((0, ""), (1, "")), done.stderr
    assert done.stdout.startswith("usage: soraxla")
    assert all(name in done.stdout for name in (VERBS if not verb else ["--"]))


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


def test_every_solver_is_in_the_help(capsys):
    """The help loads no solver, so that their names stand there once more."""
    from soraxla.sampling import SOLVERS

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

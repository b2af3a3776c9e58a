"""Every command ends with the next one to type, and that one is a command."""

import ast
import inspect
import re
import shlex
from argparse import Namespace

import pytest

from soraxla.cli import export, import_, prepare, worlds
from soraxla.cli.following import say_generate, say_prepare
from soraxla.cli.main import VERBS, _module, parser
from soraxla.training.run import ending


@pytest.fixture
def following(capsys):
    """Returns the words of the one command that was said."""

    def read() -> list[str]:
        line = capsys.readouterr().err.strip()
        assert line.startswith("next: soraxla ") and "\n" not in line
        words = shlex.split(line)[2:]
        parser().parse_args(words)
        return words

    return read


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_the_next_one(verb):
    """A call of `say_…`, or a line that is printed or returned; an import is none."""
    source = inspect.getsource(ending if verb == "train" else _module(verb))
    lines = (
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Call, ast.Return))
    )
    said = re.compile(r"say_\w+\(|print\(f'next: |return .*f'next: ")
    assert any(map(said.match, lines))


def test_a_path_with_spaces_is_one_word(following):
    say_generate("my runs/b")
    assert following()[:3] == ["generate", "--checkpoint", "my runs/b"]
    say_prepare("vae")
    assert following()[0] == "prepare"


@pytest.mark.parametrize(
    ("text_encoder", "verb"),
    [("hashed", "train"), ("umt5:/wan/text_encoder", "doctor")],
)
def test_a_dataset_is_trained_on_next(
    tmp_path, monkeypatch, following, text_encoder, verb
):
    card = {"samples": 1, "tokens": 2, "skipped": 0, "text_encoder": text_encoder}
    made = Namespace(card=card)
    monkeypatch.setattr("soraxla.tools.prepare.prepare_dataset", lambda *_, **__: made)
    words = ["prepare", "--source", "a", "--out", str(tmp_path)]
    prepare.run(parser().parse_args(words))
    assert following()[0] == verb


def test_worlds_are_encoded_next(tmp_path, monkeypatch, following):
    monkeypatch.setattr(
        "data_pipelines.worlds.builder.build", lambda *_, **__: tmp_path
    )
    worlds.run(parser().parse_args(["worlds", "--out", str(tmp_path)]))
    assert "tfds:soraxla_worlds/mixed" in following()


@pytest.mark.parametrize(("kind", "verb"), [("dit", "generate"), ("vae", "prepare")])
def test_imported_weights_are_used_next(tmp_path, monkeypatch, following, kind, verb):
    monkeypatch.setattr("soraxla.checkpoints.wan.import_wan", lambda *_, **__: None)
    (tmp_path / kind).mkdir()
    words = ["import", "wan", "--from", "a", "--out", str(tmp_path)]
    import_.run(parser().parse_args(words))
    assert following()[0] == verb


@pytest.mark.parametrize(
    ("options", "verb"),
    [([], "prepare"), (["wan"], "import"), (["wan", "--adapter"], "import")],
)
def test_exported_weights_are_used_next(
    tmp_path, monkeypatch, following, options, verb
):
    monkeypatch.setattr(export, "_export_ours", lambda args: None)
    monkeypatch.setattr(export, "_export_wan", lambda args: None)
    words = ["export", *options, "--checkpoint", "a", "--out", str(tmp_path)]
    export.run(parser().parse_args(words))
    assert following()[0] == verb

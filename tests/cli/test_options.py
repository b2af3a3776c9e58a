"""Options that messages name: each is one that a command has."""

import argparse
import ast
import re
from pathlib import Path

import pytest

from soraxla.cli.main import parser

ROOT = Path(__file__).parents[2]
# Of other programs.
OTHERS = {"--file_format", "--no-deps"}


def named(tree):
    """The options in the texts of a file, without its docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and id(node) not in docs:
            yield from re.findall(r"(?<![\w-])--[a-z][\w-]*\w", text)


def commands(of):
    """The parser and those of its commands and their parts."""
    yield of
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


@pytest.mark.slow
def test_every_option_that_a_message_names_exists():
    known = set(OTHERS)
    for command in commands(parser()):
        known |= set(command._option_string_actions)
    found = {}
    for folder in ("soraxla", "data_pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            for option in named(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(option, path.name)
    assert "--max-tokens" in found
    assert {o: where for o, where in found.items() if o not in known} == {}

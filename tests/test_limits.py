"""Limits on every file: its length, its functions' and what it may import."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = ("soraxla", "data_pipelines", "configs", "benchmarks", "colabs", "tests")
FILE, FUNCTION = 400, 60  # lines
# A library and the only files that import it: whoever reads, trains or converts without
# it need not wait for it.
PLACES = {
    "flax": ("soraxla/models/",),
    "grain": (
        "data_pipelines/loader.py",
        "data_pipelines/read_ahead.py",
        "data_pipelines/vae_windows.py",
    ),
    "tensorflow": (),
    "tensorflow_datasets": ("data_pipelines/",),
    "torch": ("soraxla/tools/convert_features.py",),
}
# Packages that compute the same on any platform and any number of processes.
PORTABLE = (
    *("soraxla/packing/", "soraxla/diffusion/", "soraxla/models/"),
    *("soraxla/training/dit_step.py", "soraxla/training/vae_step.py"),
    *("soraxla/training/state.py", "soraxla/training/vae_losses/"),
)
PLATFORM = {"default_backend", "process_count", "process_index", "platform"}


@functools.cache
def trees() -> list[tuple[str, str, ast.Module]]:
    """Returns the path, the text and the syntax tree of every file."""
    found = []
    for folder in TREES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append((path.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    return found


def long_functions(tree: ast.Module) -> list[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.end_lineno - node.lineno >= FUNCTION
    ]


def libraries(tree: ast.Module) -> set[str]:
    """Returns the top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def stray_libraries(path: str, tree: ast.Module) -> set[str]:
    return {
        name
        for name in libraries(tree) & PLACES.keys()
        if not any(path.startswith(place) for place in PLACES[name])
    }


def platform_names(tree: ast.Module) -> set[str]:
    """Returns the names by which a file asks about its platform or its process."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PLATFORM:
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names} & PLATFORM
    return used


def test_files_and_functions_are_short_and_none_is_called_utils():
    long = []
    for path, text, tree in trees():
        long += [path] if text.count("\n") > FILE or path.endswith("utils.py") else []
        long += [f"{path}: {name}" for name in long_functions(tree)]
    assert long == []


def test_libraries_are_imported_where_they_belong():
    stray = {
        path: found
        for path, _, tree in trees()
        if not path.startswith(("tests/", "benchmarks/", "colabs/"))
        and (found := stray_libraries(path, tree))
    }
    assert stray == {}


def test_models_diffusion_and_steps_do_not_ask_what_they_run_on():
    asking = {
        path: found
        for path, _, tree in trees()
        if path.startswith(PORTABLE) and (found := platform_names(tree))
    }
    assert asking == {}


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (long_functions, "def f():\n" + "    a = 1\n" * FUNCTION),
        (lambda tree: stray_libraries("soraxla/a.py", tree), "import flax.linen"),
        (lambda tree: stray_libraries("soraxla/a.py", tree), "from grain import x"),
        (platform_names, "import jax\nif jax.process_count() > 1: ..."),
        (platform_names, "from soraxla.parallel.compiler import platform"),
    ],
)
def test_a_breach_is_found(find, text):
    assert find(ast.parse(text))
    assert not find(ast.parse("def f():\n    return 1"))

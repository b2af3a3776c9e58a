"""The order of packages in ARCHITECTURE.md, read from the imports of every file.

A package imports only packages above it in `ORDER`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (
    *("soraxla/assets", "soraxla/core", "soraxla/media", "soraxla/parallel"),
    *("soraxla/files", "soraxla/packing", "soraxla/ops", "soraxla/diffusion"),
    *(
        "data_pipelines",
        "data_pipelines/curate",
        "soraxla/models",
        "soraxla/checkpoints",
    ),
    *("soraxla/generation", "soraxla/evals", "soraxla/training", "soraxla/tools"),
    *("configs", "soraxla", "soraxla/cli"),
)

Sources = Mapping[str, str]  # path from the root, with /, to its text


def read_sources(*folders: str) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported_files(path: str, sources: Sources) -> set[str]:
    """The files of `sources` that a file imports, anywhere in it."""
    files = set()
    for node in ast.walk(ast.parse(sources[path], path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.split("/")[: -node.level] if node.level else []
            parts = base + (node.module.split(".") if node.module else [])
            names = [".".join([*parts, alias.name]) for alias in node.names]
        for name in names:
            stem = name.replace(".", "/")
            parent = stem.rpartition("/")[0]
            for file in (
                f"{stem}.py",
                f"{stem}/__init__.py",
                f"{parent}.py",
                f"{parent}/__init__.py",
            ):
                if file in sources:
                    files.add(file)
                    break
    return files - {path}


def package_of(path: str) -> str:
    """The package of `ORDER` that a file belongs to, or ValueError."""
    parts = path.split("/")
    name = "/".join(parts[:2])
    name = name if parts[0] == "soraxla" or name in ORDER else parts[0]
    name = "soraxla" if path == "soraxla/__init__.py" else name
    if name not in ORDER:
        raise ValueError(f"{path} belongs to no package of ARCHITECTURE.md")
    return name


def wrong_imports(sources: Sources) -> Iterator[str]:
    """Imports from a package below the file's own in `ORDER`."""
    for path in sources:
        own = package_of(path)
        for file in sorted(imported_files(path, sources)):
            if ORDER.index(package_of(file)) > ORDER.index(own):
                yield f"{path} imports {file}"


def cycle(sources: Sources) -> list[str]:
    """A ring of files that import each other; empty when there is none."""
    graph = {path: imported_files(path, sources) for path in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def sources():
    return read_sources("soraxla", "data_pipelines", "configs")


def test_a_package_imports_only_packages_above_it(sources):
    assert list(wrong_imports(sources)) == []


def test_no_files_import_each_other_in_a_ring(sources):
    assert cycle(sources) == []


def test_the_page_names_the_packages_in_this_order():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    table = [row.rstrip("/") for row in rows if row.endswith("/")]
    assert [name.removeprefix("soraxla/") for name in table] == [
        name.removeprefix("soraxla/") for name in ORDER if name != "soraxla"
    ]


def test_the_command_line_starts_without_jax(sources):
    """`--help` answers at once: jax is imported inside the functions that need it."""
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in sources
        if path.startswith("soraxla/cli/") or path == "soraxla/__init__.py"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'jax' in sys.modules: sys.exit(f'{name} loads jax')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("soraxla/core/types.py", "import soraxla.ops.rope"),
        ("soraxla/core/types.py", "def f():\n    import soraxla.ops.rope"),
        ("soraxla/core/types.py", "from soraxla.ops import rope"),
        ("soraxla/core/types.py", "from ..ops.rope import x"),
        ("data_pipelines/loader.py", "from soraxla.models.dit import model"),
        ("soraxla/core/a.py", "from soraxla import x"),
    ],
)
def test_a_wrong_import_is_found(path, text):
    files = ("core/types", "ops/rope", "models/dit/model", "__init__")
    tree = {f"soraxla/{name}.py": "" for name in files}
    assert list(wrong_imports(tree)) == []
    assert len(list(wrong_imports({**tree, path: text}))) == 1
    with pytest.raises(ValueError, match="no package"):
        list(wrong_imports({**tree, "soraxla/helpers.py": ""}))


def test_a_ring_is_found():
    tree = {f"soraxla/evals/{name}.py": "" for name in "abc"}
    tree["soraxla/evals/a.py"] = "from soraxla.evals import b"
    tree["soraxla/evals/b.py"] = "def f():\n    from soraxla.evals.c import x"
    assert cycle(tree) == []
    tree["soraxla/evals/c.py"] = "import soraxla.evals.a"
    assert set(cycle(tree)) == {f"soraxla/evals/{name}.py" for name in "abc"}

"""Tests of the sentence rule of CONTRIBUTING.md, and of names in sentences.

The rule covers docstrings, comments, errors and help of Python files, the text of shell
scripts, and pages, notebooks included. Every dotted name of the project must exist.

python -m tests.test_words soraxla/packing tests    # lists the faults of folders
"""

import ast
import functools
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import soraxla

ROOT = Path(__file__).parent.parent
# Folders that keep the rule.
DONE = ("soraxla", "data_pipelines", "configs", "benchmarks", "colabs", "tests")

# Names of files that docs/extending.md adds, and of none, in tests.
ADDED = (
    *("data_pipelines.sources.frames", "soraxla.evals.weight_rms"),
    *("soraxla.Vidoe", "soraxla.evals.a", "soraxla.evals.c"),
)

FIRST_WORDS = ("What", "Where", "Of", "Whether", "How")
# A public function's docstring opens with a verb; these end in s and are none.
NOUNS = (
    *(
        "This",
        "Its",
        "Those",
        "Adapters",
        "Actions",
        "Axes",
        "Blocks",
        "Bytes",
        "Clips",
    ),
    *("Colours", "Conditions", "Files", "Frames", "Inputs", "Keys", "Latents", "Means"),
    *(
        "Metrics",
        "Neighbours",
        "Numbers",
        "Options",
        "Others",
        "Parameters",
        "Pictures",
    ),
    *("Pixels", "Rows", "Seeds", "Segments", "Settings", "Shapes", "Shares", "Steps"),
    *("Tensors", "Times", "Tokens", "Values", "Views", "Videos", "Weights", "Words"),
)
_VERB = re.compile(rf"(?!(?:{'|'.join(NOUNS)})\b)[A-Z][a-z]+s\b")
PHRASES = (
    r"what is given",
    r"of (?:its|their|one's) own",
    r"st(?:and|ands|anding|ood) behind",
    r"alone",
    r"(?:is|are|was|were|be) told",
    r"mend(?:s|ed|ing)?",
    r"(?:lies|lie)",
    r"a file a verb",
    r"(?:recipes?|studios?|seams?)",
)
_PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)


class Text(NamedTuple):
    """A docstring, a comment or a page with its place."""

    where: str
    text: str
    public_function: bool = False


def docstrings(path: str, source: str) -> Iterator[Text]:
    """Yields every docstring of a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    library = path.startswith(("soraxla/", "data_pipelines/"))

    def walk(node: ast.AST, public: bool) -> Iterator[Text]:
        for child in ast.iter_child_nodes(node):
            name = getattr(child, "name", "")
            if not isinstance(child, kinds):
                yield from walk(child, public)
                continue
            seen = public and not name.startswith("_")
            function = not isinstance(child, ast.ClassDef)
            if text := ast.get_docstring(child):
                where = f"{path}:{child.lineno} {name}"
                yield Text(where, text, seen and function and not is_value(child))
            yield from walk(child, seen and not function)

    tree = ast.parse(source, path)
    if text := ast.get_docstring(tree):
        yield Text(f"{path}:1", text)
    yield from walk(tree, library)


def is_value(node: ast.AST) -> bool:
    """Returns True for a property, whose docstring names a thing."""
    names = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(name.endswith("property") for name in names)


def comments(path: str, source: str) -> Iterator[Text]:
    """Yields every block of comments; one that runs over lines is one text."""
    last, lines = 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row = token.start[0]
            if lines and row != last + 1:
                yield Text(f"{path}:{last}", " ".join(lines))
                lines = []
            lines.append(token.string.lstrip("# "))
            last = row
    if lines:
        yield Text(f"{path}:{last}", " ".join(lines))


def messages(path: str, source: str) -> Iterator[Text]:
    """Yields the text of every error that is made, and of every option's help."""
    for node in ast.walk(ast.parse(source, path)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        shown = [k.value for k in node.keywords if k.arg == "help"]
        if re.search(r"(Error|DoesNotFit|exit|fail|note)$", name):
            shown += node.args
        for part in shown:
            strings = [n.value for n in ast.walk(part) if isinstance(n, ast.Constant)]
            words = " ".join(s for s in strings if isinstance(s, str))
            yield Text(f"{path}:{node.lineno} {name}", words)


def prose(text: str) -> str:
    """Returns a text without its code: fences, indented blocks, spans and links."""
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n*)+", " ", text)
    text = re.sub(r"`[^`]*`", " ", text)
    text = re.sub(r"\]\([^)]*\)", " ", text)
    return " ".join(text.split())


def faults(text: Text) -> Iterator[str]:
    """Yields each way in which a docstring, comment or page breaks the rule."""
    for match in _PHRASE.finditer(prose(text.text)):
        yield f"{text.where}: {match.group()!r} is not said in this project"


def docstring_faults(text: Text) -> Iterator[str]:
    """Yields each way in which a docstring's opening breaks the rule."""
    first = re.split(r"[\s.,:;]", text.text, maxsplit=1)[0]
    if first in FIRST_WORDS:
        yield f"{text.where}: begins with {first!r}"
    elif text.public_function and not _VERB.match(text.text):
        yield f"{text.where}: begins with {first!r}, expected a verb such as 'Returns'"


def file_faults(path: str, source: str) -> list[str]:
    """Returns every fault of a Python file."""
    texts = list(docstrings(path, source))
    found = [fault for text in texts for fault in docstring_faults(text)]
    # Few files have one of the phrases anywhere; the others need no further parsing.
    if _PHRASE.search(re.sub(r"""["'#\s]+""", " ", source)):
        texts += [*comments(path, source), *messages(path, source)]
        found += [fault for text in texts for fault in faults(text)]
    return found


# Options of `soraxla generate` and suffixes of files, which are no attributes.
_NO_NAMES = re.compile(r"\.(?:mp4|png|egg|py|md|json|toml|safetensors)\b")
_DOTTED = re.compile(
    r"(?<![\w./])(?:soraxla|data_pipelines|benchmarks)(?:\.[A-Za-z_]\w*)+"
)


def unknown_names(text: Text) -> Iterator[str]:
    """Yields the dotted names in a text that are no module, class or function."""
    for match in _DOTTED.finditer(text.text):
        name = match.group()
        if name not in ADDED and not _NO_NAMES.search(name) and not exists(name):
            yield f"{text.where}: there is no {name}"


@functools.cache
def exists(name: str) -> bool:
    """Returns True for the dotted name of a module or of something that it holds."""
    if name.removeprefix("soraxla.") in soraxla.__all__:
        return True
    parts = name.split(".")
    if parts[:2] == ["soraxla", "configs"]:  # as it is installed
        parts = parts[1:]
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return _holds(_tree(file), parts[length:])
    return False


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _holds(node: ast.AST, names: list[str]) -> bool:
    """Returns True if a module or class defines the first name, and that the next."""
    if not names:
        return True
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            if child.name == names[0]:
                return _holds(child, names[1:])
        elif isinstance(child, ast.Import | ast.ImportFrom):
            if any(names[0] == (a.asname or a.name) for a in child.names):
                return True
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            if any(isinstance(t, ast.Name) and t.id == names[0] for t in targets):
                return True
    return False


def files(*places: str) -> dict[str, str]:
    """Returns the Python files of folders by their path from the root."""
    found = {}
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if name != "tests/test_words.py":
                found[name] = file.read_text(encoding="utf-8")
    return found


def pages() -> Iterator[Text]:
    """Yields the Markdown pages of the project, and the cells of its notebooks."""
    inside = ("docs", "benchmarks", "soraxla", "data_pipelines")
    below = [page for folder in inside for page in (ROOT / folder).rglob("*.md")]
    for page in sorted([*ROOT.glob("*.md"), *below]):
        yield Text(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    for notebook in sorted((ROOT / "colabs").glob("*.ipynb")):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield Text(f"colabs/{notebook.name}", "".join(cell["source"]))


def names_today(text: Text) -> Text:
    """Returns a page without the names that the changelog says were changed."""
    if text.where != "CHANGELOG.md":
        return text
    rows = re.findall(
        r"^\| `(?:soraxla|data_pipelines)\..*\| (.*) \|$", text.text, re.M
    )
    spread = re.sub(r"(\S+?)\{([^}]*)\}", _spread, "\n".join(rows))
    return text._replace(text=spread)


def _spread(match: re.Match[str]) -> str:
    """Returns `a.b a.c` for `a.{b,c}`."""
    return " ".join(match[1] + name for name in match[2].split(","))


@pytest.mark.parametrize("place", DONE)
def test_docstrings_and_comments_keep_the_rule(place):
    found = [f for path, text in files(place).items() for f in file_faults(path, text)]
    assert found == []


def test_pages_use_the_words_of_the_project():
    # CONTRIBUTING.md holds the rule itself.
    texts = (text for text in pages() if text.where != "CONTRIBUTING.md")
    assert [fault for text in texts for fault in faults(text)] == []


def test_shell_scripts_use_the_words_of_the_project():
    scripts = (*(ROOT / "tpu_scripts").glob("*.sh"), ROOT / ".ci/run")
    texts = [
        Text(script.name, script.read_text(encoding="utf-8")) for script in scripts
    ]
    assert [match for text in texts for match in faults(text)] == []


def test_names_in_sentences_exist():
    folders = ("soraxla", "data_pipelines", "configs", "benchmarks", "tests", "colabs")
    texts = [names_today(text) for text in pages()]
    texts += [Text(path, source) for path, source in files(*folders).items()]
    assert [name for text in texts for name in unknown_names(text)] == []


def test_a_name_that_is_gone_is_found():
    for name in ("soraxla.packing", "soraxla.packing.pack.RowConfig.row_length"):
        assert exists(name)
    for name in ("soraxla.pipeline", "soraxla.packing.pack.PackSpec"):
        assert list(unknown_names(Text("page", f"`{name}`"))) != []


@pytest.mark.parametrize(
    "body",
    [
        'def f():\n    """What comes out."""',
        'def f():\n    """The sum."""',
        'class A:\n    """Of a row."""',
        'class A:\n    """A row."""\n    def f(self):\n        """Rows."""',
        'def f():\n    """Returns what is given."""',
        "x = 1  # encoded\n# alone",
        'raise UserError(f"{x} is alone")',
        'p.add_argument("-x", help="where it lies")',
    ],
)
def test_a_fault_is_found(body):
    assert file_faults("soraxla/a.py", 'def g():\n    """Returns a row."""') == []
    assert len(file_faults("soraxla/a.py", body)) == 1


def test_code_is_no_prose():
    page = "The columns `alone` are\n\n```python\n# alone\n```\n\n    frame alone\n"
    assert list(faults(Text("page", page))) == []
    assert len(list(faults(Text("page", page + "\nIt lies.\n")))) == 1


if __name__ == "__main__":
    for path, text in files(*(sys.argv[1:] or ["soraxla"])).items():
        for fault in file_faults(path, text):
            print(fault)

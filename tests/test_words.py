"""The sentence rule of CONTRIBUTING.md, read from docstrings, comments and pages.

python -m tests.test_words soraxla/packing tests    # lists what breaks it there
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
# Folders and files that keep the rule; all of them shall.
DONE = (
    *(
        f"soraxla/{name}"
        for name in (
            *("__init__.py", "assets", "cli", "core", "diffusion", "files", "media"),
            *("ops", "packing", "parallel", "tools"),
            *("checkpoints", "evals/worldbench", "evals/clip_score.py"),
            *("evals/drift.py", "evals/retrieval.py", "generation"),
            *("models/dit", "models/text"),
        )
    ),
    "data_pipelines",
    *("tests/core", "tests/media", "tests/test_architecture.py", "tests/tiny.py"),
    *("tests/test_docs.py", "tests/test_extending.py"),
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
    found = []
    for text in docstrings(path, source):
        found += [*docstring_faults(text), *faults(text)]
    for text in comments(path, source):
        found += faults(text)
    return found


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


def pages() -> list[Path]:
    """Returns the Markdown pages of the project."""
    inside = ("docs", "benchmarks", "soraxla", "data_pipelines")
    below = [page for folder in inside for page in (ROOT / folder).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *below])


@pytest.mark.parametrize("place", DONE)
def test_docstrings_and_comments_keep_the_rule(place):
    found = [f for path, text in files(place).items() for f in file_faults(path, text)]
    assert found == []


def test_pages_use_the_words_of_the_project():
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages()]
    found = []
    for page, text in texts:
        name = page.relative_to(ROOT).as_posix()
        if name == "CONTRIBUTING.md":  # it holds the rule itself
            continue
        found += faults(Text(name, text))
    assert found == []


@pytest.mark.parametrize(
    "body",
    [
        'def f():\n    """What comes out."""',
        'def f():\n    """The sum."""',
        'class A:\n    """Of a row."""',
        'class A:\n    """A row."""\n    def f(self):\n        """Rows."""',
        'def f():\n    """Returns what is given."""',
        "x = 1  # encoded\n# alone",
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

"""The changes of docs/extending.md, applied to a copy of the code and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {
    text.partition("\n")[0]: text
    for text in PAGE.split("\n## ")[1:]
    if "```diff" in text
}
MOST_FILES = 5


def fences(text: str, language: str) -> list[str]:
    """Returns the blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def apply(change: str, tree: Path) -> None:
    """Applies a diff to a tree; an assertion shows git's own words."""
    done = subprocess.run(
        ["git", "apply", "--verbose", "-"],
        cwd=tree,
        input=change,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
    )
    assert done.returncode == 0, done.stderr


def changed(section: str) -> set[str]:
    """Returns the files that a section's diffs change."""
    return set(re.findall(r"^\+\+\+ b/(.*)$", section, re.MULTILINE))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code without weights, with every change of the page."""
    tree = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.mp4")
    for folder in ("soraxla", "data_pipelines", "configs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for section in SECTIONS.values():
        for change in fences(section, "diff"):
            apply(change, tree)
    return tree


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_names_the_files_that_it_changes(title):
    section = SECTIONS[title]
    files = changed(section)
    assert 1 <= len(files) <= MOST_FILES
    listed = re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)
    assert set(listed) == files


@pytest.mark.slow
def test_the_changes_apply_and_the_programs_run(tree, tmp_path):
    """One process for all of them: most of its time goes to imports."""
    programs = [fences(section, "python") for section in SECTIONS.values()]
    assert all(programs)
    script = tmp_path / "programs.py"
    script.write_text("\n\n".join(text for group in programs for text in group))
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_change_is_found(tree):
    change = next(iter(fences(PAGE, "diff")))
    with pytest.raises(AssertionError, match="does not apply"):
        apply(change, tree)  # a second time

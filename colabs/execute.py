"""Executes the notebooks of this folder, one after the other, in one working folder.

    python colabs/execute.py [--full] [FOLDER]

The notebooks run at a tiny size (SORAXLA_SMOKE=1), or with --full at their full size.
FOLDER keeps their files; the default is a temporary folder. An error, and an output
that was committed, ends with status 1.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

# The second reads the dataset of the first.
NOTEBOOKS = ("quickstart.ipynb", "training_step.ipynb")


def execute(path: Path, folder: Path) -> None:
    """Runs a notebook's cells in `folder`; raises what a cell raises."""
    start = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        sys.exit(f"{path} holds outputs; clear them before you commit")
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=600, startup_timeout=300, resources=where
    ).execute()
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"{path.name}: {cells} cells, {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Runs all notebooks."""
    parser = argparse.ArgumentParser(description="Executes the notebooks.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--full", action="store_true", help="at their whole size")
    args = parser.parse_args()
    colabs = Path(__file__).parent
    unknown = {path.name for path in colabs.glob("*.ipynb")} - set(NOTEBOOKS)
    if unknown:
        sys.exit(f"{min(unknown)} is not in NOTEBOOKS of {__file__}; add it")
    if not args.full:
        os.environ["SORAXLA_SMOKE"] = "1"
        # XLA compiles quickly, to slower code.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in NOTEBOOKS:
            execute(colabs / name, folder)


if __name__ == "__main__":
    main()

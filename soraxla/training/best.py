"""The folder `best/` of a training: the EMA of its best step so far."""

import json
import math
import os
import shutil
from pathlib import Path

import jax

from soraxla.checkpoints.model_folder import save_folder
from soraxla.checkpoints.training_folder import read_settings, trained_config
from soraxla.evals.evaluator import EvaluationContext
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import copy_tree
from soraxla.parallel.multihost import everywhere, fetch, is_main

FOLDER, RECORD = "best", "best.json"
_NEW = ".best.new"  # whole, until it has the name of the folder


def keep_best(context: EvaluationContext, metric: str, value: float) -> None:
    """Writes the EMA of a transformer as a model folder if its value is the least.

    A step that is repeated after a resume has its own value again and changes nothing.
    All processes must call it, with equal values.

    Raises:
        OSError: the folder cannot be written.
    """
    if not value < everywhere(lambda: _recorded(context.workdir, metric)):
        return
    params = jax.tree.map(fetch, context.params)

    def write() -> None:
        with atomic_folder(context.workdir / _NEW) as partial:
            config = trained_config(read_settings(context.workdir), None)
            save_folder(partial / "dit", params, config)
            copy_tree(context.workdir / "vae", partial / "vae")
            record = {"step": context.step, "metric": metric, "value": value}
            (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        _put_in_place(context.workdir)

    everywhere(write if is_main() else lambda: None)


def _recorded(workdir: Path, metric: str) -> float:
    """Returns the value of the folder; infinity for none, or another metric's."""
    if is_main():
        _put_in_place(workdir)  # a process may have been killed before it did
    try:
        text = (workdir / FOLDER / RECORD).read_text(encoding="utf-8")
        record = json.loads(text)
        return float(record["value"]) if record["metric"] == metric else math.inf
    except (OSError, ValueError, KeyError):
        return math.inf


def _put_in_place(workdir: Path) -> None:
    if (workdir / _NEW).exists():
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)
        os.replace(workdir / _NEW, workdir / FOLDER)

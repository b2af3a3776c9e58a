"""Training state on disk: Orbax, asynchronous, with the position in the schedule."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from soraxla.checkpoints.training_folder import (
    CHECKPOINTS,
    SETTINGS,
    check_shapes,
    newest_step,
    on_a_device,
    read_settings,
    restoring,
)
from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file
from soraxla.parallel.multihost import is_main

# These settings do not change the result of a run: its length, its intervals, its
# devices and memory, the path of the folder that it starts from, and the share of
# unusable media that stops it.
_MAY_CHANGE = (
    *("loop.", "mesh.", "accumulate", "step.model.remat", "init.folder"),
    "windows.max_bad",
)


_SCHEDULE = ("schedule", "schedule_constants")


class Checkpoints:
    """The checkpoints of one training folder; the newest `keep` are kept.

    A checkpoint that was being written when the process died is not listed: Orbax
    gives it its final name when it is whole.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._workdir = workdir
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS).resolve(),
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "plan": ocp.JsonCheckpointHandler(),  # the position in the schedule
            },
        )

    def latest(self) -> int | None:
        """Returns the step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, position: dict[str, Any]) -> None:
        """Starts to write; returns before it is done."""
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                plan=ocp.args.JsonSave(position),
            ),
        )

    def restore(self, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Returns the state and the schedule's position of the newest checkpoint.

        `abstract` has shapes, types and shardings; a leaf without a sharding is put on
        the first device.

        Raises:
            UserError: there is none, it is damaged, or it is of another model.
        """
        step = newest_step(self._manager, self._workdir)
        target = jax.tree.map(on_a_device, abstract)
        with restoring(self._workdir, step):
            check_shapes(self._manager, step, abstract)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    plan=ocp.args.JsonRestore(),
                ),
            )
        return restored["state"], restored["plan"]

    def close(self) -> None:
        """Waits for running writes."""
        self._manager.wait_until_finished()
        self._manager.close()


def write_settings(workdir: Path, settings: dict[str, Any]) -> None:
    """Records the settings of a training, or checks them against the recorded ones.

    Settings of `_MAY_CHANGE` may change from run to run.

    Raises:
        UserError: the folder was trained with other settings (names the first), or with
            another version of the schedule.
    """
    path = workdir / SETTINGS
    if path.exists():
        found = read_settings(workdir)
        if any(found.get(key) != settings.get(key) for key in _SCHEDULE):
            raise UserError(
                f"{path}: was trained with another schedule of its visits than this "
                f"version's; finish it with {_version(found)}, or start from it: "
                f"--init {workdir} --workdir NEW"
            )
        for key, expected, value in _differences(found, settings):
            if not key.startswith(_MAY_CHANGE):
                raise UserError(
                    f"{path}: was trained with {key} = {expected!r}, not {value!r}; "
                    "use the same settings or another folder"
                )
    if not is_main():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _version(found: dict[str, Any]) -> str:
    # Trainings of 0.1.0 do not record their schedule.
    return "the version that began it" if "schedule" in found else "soraxla 0.1.0"


def _differences(a: Any, b: Any, prefix: str = ""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{prefix}{key}.")
    elif a != b:
        yield prefix.rstrip("."), a, b

"""Training state on disk: Orbax, asynchronous, with the data plan's state beside it."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from soraxla.core.trees import named_leaves
from soraxla.parallel.multihost import is_main

FOLDER = "checkpoints"
SETTINGS = "train.json"
# How long, how often, on what devices and in what memory, and where the start lies: not
# what is computed.
_MAY_CHANGE = ("loop.", "mesh.", "accumulate", "step.model.remat", "init.folder")


class Checkpoints:
    """The checkpoints of one training folder; the newest `keep` are kept.

    A checkpoint that was being written when the process died is not listed: Orbax
    gives it its final name when it is whole.
    """

    def __init__(self, workdir: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._folder = workdir / FOLDER
        self._manager = ocp.CheckpointManager(
            self._folder.resolve(),
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "plan": ocp.JsonCheckpointHandler(),
            },
        )

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, plan: dict[str, Any]) -> None:
        """Starts writing; returns before it is done."""
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), plan=ocp.args.JsonSave(plan)
            ),
        )

    def restore(self, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """State and plan of the newest checkpoint.

        `abstract` gives shapes, types and shardings; without one, the first device.

        Raises:
            ValueError: there is none, it is damaged, or it is of another model.
        """
        step = self.latest()
        if step is None:
            raise ValueError(
                f"{self._folder}: no whole checkpoint; train first, or name another "
                "folder"
            )
        target = jax.tree.map(_placed, abstract)
        try:
            self._check_shapes(step, abstract)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    plan=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise a dozen kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise ValueError(
                f"{self._folder / str(step)}: cannot be restored, it is damaged or of "
                f"another configuration ({reason}); remove it to go back to the one "
                "before"
            ) from error
        return restored["state"], restored["plan"]

    def _check_shapes(self, step: int, abstract: PyTree) -> None:
        # Orbax refuses another shape as well, but prints pages on its way out.
        found = named_leaves(self._manager.item_metadata(step)["state"])
        for name, leaf in named_leaves(abstract).items():
            if name not in found:
                raise ValueError(f"{name!r} is missing")
            if tuple(found[name].shape) != leaf.shape:
                raise ValueError(
                    f"{name!r} is {tuple(found[name].shape)}, expected {leaf.shape}"
                )

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def write_settings(workdir: Path, settings: dict[str, Any]) -> None:
    """Records what the folder is trained with, or checks it against what is recorded.

    Those of `_MAY_CHANGE` may change from run to run.

    Raises:
        ValueError: the folder was trained with other settings; names the first.
    """
    path = workdir / SETTINGS
    if path.exists():
        found = read_settings(workdir)
        for key, expected, value in _differences(found, settings):
            if not key.startswith(_MAY_CHANGE):
                raise ValueError(
                    f"{path}: was trained with {key} = {expected!r}, not {value!r}; "
                    "use the same settings or another folder"
                )
    if not is_main():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_settings(workdir: Path) -> dict[str, Any]:
    """What `write_settings` recorded.

    Raises:
        ValueError: the folder is not a training folder, or its record is damaged.
    """
    path = workdir / SETTINGS
    if not path.is_file():
        raise ValueError(
            f"{workdir}: not a training folder, {SETTINGS} is missing; give the folder "
            "that `soraxla train` wrote"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); restore it from a copy"
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: damaged, not settings; restore it from a copy")
    return settings


def _differences(a: Any, b: Any, prefix: str = ""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{prefix}{key}.")
    elif a != b:
        yield prefix.rstrip("."), a, b

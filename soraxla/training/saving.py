"""Training state on disk: Orbax, asynchronous, with the position in the schedule."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from soraxla.checkpoints.training_folder import (
    CHECKPOINTS,
    check_shapes,
    checkpoints_of,
    newest_step,
    on_a_device,
    restoring,
)
from soraxla.core.paths import Place, is_remote
from soraxla.files.checksums import CHECKSUMS, remove_stale, verify, write_checksums
from soraxla.parallel.multihost import everywhere, is_main

_LOG = logging.getLogger(__name__)


def saved_position(workdir: Place) -> dict[str, int] | None:
    """Returns the schedule's position of the newest checkpoint; None without one.

    Raises:
        UserError: the checkpoint is damaged.
    """
    if not (workdir / CHECKPOINTS).is_dir():
        return None
    handlers = {"plan": ocp.JsonCheckpointHandler()}
    folder = checkpoints_of(workdir)
    with ocp.CheckpointManager(folder, item_handlers=handlers) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        with restoring(workdir, step):
            args = ocp.args.Composite(plan=ocp.args.JsonRestore())
            return manager.restore(step, args=args)["plan"]


class Checkpoints:
    """The checkpoints of one training folder; the newest `keep` are kept.

    A checkpoint that was being written when the process died is not listed: Orbax
    gives it its final name when it is whole. Its checksums are written right after
    that, in the background, and `restore` verifies them. An object store keeps its
    own, so a remote folder has none.
    """

    def __init__(self, workdir: Place, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._workdir = workdir
        self._checksums = ThreadPoolExecutor(1)
        self._manager = ocp.CheckpointManager(
            checkpoints_of(workdir),
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
        self._checksums.submit(self._write_checksums)

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
            if not is_remote(self._workdir):
                checkpoint = self._workdir / CHECKPOINTS / str(step)
                everywhere(lambda: verify(checkpoint, self._workdir / CHECKSUMS))
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
        self._checksums.submit(self._write_checksums)
        self._checksums.shutdown()
        self._manager.close()

    def _write_checksums(self) -> None:
        """Waits for a running write; writes the checksums that checkpoints lack."""
        if is_remote(self._workdir):
            return
        folder, place = self._workdir / CHECKPOINTS, self._workdir / CHECKSUMS
        try:
            self._manager.wait_until_finished()
        except Exception:  # `save` and `close` raise it as well
            return
        try:
            for step in self._manager.all_steps():
                write_checksums(folder / str(step), place)
            if is_main():
                remove_stale(folder, place)
        except OSError as error:  # a full disk; the checkpoint itself is whole
            _LOG.warning("%s: no checksums (%s)", folder, error)

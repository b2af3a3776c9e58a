"""Weights & Biases: the metrics of a training beside its other logs."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file

ID = "wandb_id"


def start(project: str, workdir: Path, settings: Mapping[str, Any]) -> Any:
    """Returns a run of the client `wandb`; a training that goes on has one run.

    The client's own variables, such as WANDB_MODE=offline, work as it documents them.

    Raises:
        UserError: the client is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(
            "loop.wandb needs the package wandb; run pip install 'soraxla[wandb]', or "
            "set loop.wandb to None"
        ) from None
    place = workdir / ID
    if not place.exists():
        with atomic_file(place) as partial:
            partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    return wandb.init(
        project=project,
        dir=str(workdir),
        id=place.read_text(encoding="utf-8"),
        name=workdir.resolve().name,
        resume="allow",
        config=dict(settings),
    )

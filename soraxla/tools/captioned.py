"""The captioned views of a captioner's training, in its training folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.captioned import write_views
from data_pipelines.sources.files import open_source
from data_pipelines.view import ViewConfig
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.parallel.multihost import barrier, is_main
from soraxla.training.caption_experiment import open_start, started
from soraxla.training.presets import split

VIEWS = "views"


def views_folder(
    config: Mapping[str, Any],
    workdir: Path,
    source: str | None,
    data_dir: Path | None,
    init: Path | None,
) -> Path:
    """Returns the views of a training folder; writes them from `source` if it has none.

    Raises:
        UserError: there is neither a source nor views; or as `write_views`.
    """
    views = workdir / VIEWS
    if is_main() and not views.is_dir():
        if source is None:
            raise UserError(f"{workdir}: has no views yet; name the clips by --source")
        start = open_start(init) if init else None
        model = started(split(config)[1], start)["step"]["model"]
        view = build(ViewConfig, model.get("view", {}), "step.model.view.")
        workdir.mkdir(parents=True, exist_ok=True)
        # A captioner learns from people, not from the captions of another.
        samples = open_source(source, data_dir=data_dir, caption_mix=1.0)
        write_views(samples, views, view)
    barrier("the views are there")
    return views

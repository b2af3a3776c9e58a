"""Curation with the models of its stages by folder and file."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.core.errors import UserError

_HEAD = "head.safetensors"


def curate_folder(
    source: Path | str,
    out: Path | str,
    *,
    thresholds: Path | None = None,
    eval_share: float = 0.0,
    require_safety: bool = False,
    cuts: str = "adaptive",
    aesthetic: Path | None = None,
    safety: Path | None = None,
    workers: int | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Curates media below `source` into `out`, and returns the rows of the table.

    Args:
        source, out: folders, or with a runner, URLs of an object store.
        thresholds: a TOML file; see docs/curation.md.
        cuts: the detector of cuts, "adaptive" or "transnetv2".
        aesthetic: folder of head.safetensors and of CLIP's own folder, clip/.
        safety: opennsfw's ONNX file.
        workers: one per core by default, or one without Apache Beam.
        runner: a runner of Beam, in place of `workers` processes of this machine.
        runner_options: "K=V" each for the runner, or "K" for a switch.

    Raises:
        UserError: a package, model, option or file is missing or wrong.
    """
    _check_installed()
    from data_pipelines.curate.cuts import detector
    from data_pipelines.curate.film import CurateConfig
    from data_pipelines.curate.run import curate
    from data_pipelines.curate.shots import ShotsConfig

    shots = ShotsConfig(cuts=cuts)
    detector(cuts, adaptive=shots.adaptive, content=shots.content)  # refuses it

    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}, expected at least 1")
    if runner_options and runner is None:
        raise UserError("--runner-option has no --runner; name one")
    for name, place in (("aesthetic", aesthetic), ("safety", safety)):
        if place is not None and not place.exists():
            raise UserError(f"--{name} {place}: no such file; check the name")
    return curate(
        source,
        out,
        cfg=CurateConfig(shots=shots, aesthetic=_name(aesthetic), safety=_name(safety)),
        keep=_filter(thresholds, eval_share, require_safety),
        load_scorers=partial(_load, aesthetic, safety),
        workers=_default_workers() if workers is None else workers,
        runner=runner,
        runner_options=runner_options,
    )


def filter_again(
    out: Path,
    *,
    thresholds: Path | None = None,
    eval_share: float = 0.0,
    require_safety: bool = False,
) -> list[dict[str, Any]]:
    """Filters the clips of `out` from their scores; see `curate_folder`."""
    _check_installed()
    from data_pipelines.curate.run import refilter

    return refilter(out, _filter(thresholds, eval_share, require_safety))


def write_media(out: Path) -> tuple[Path, int, int]:
    """Writes the kept clips of `out` as files.

    Returns:
        Their folder, and how many of them were copied and encoded.
    """
    _check_installed()
    from data_pipelines.curate.materialize import FOLDER, materialize

    made = materialize(out)
    return out / FOLDER, made.copied, made.encoded


def stage_list() -> str:
    """Returns the stages with scores, thresholds and parameters, in lines."""
    _check_installed()
    from data_pipelines.curate.stages import listing

    return listing()


def _default_workers() -> int:
    if importlib.util.find_spec("apache_beam") is None:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_installed() -> None:
    for package in ("cv2", "scenedetect"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"curation needs {package}; run pip install 'soraxla[curate]'"
            )


def _filter(thresholds: Path | None, eval_share: float, require_safety: bool) -> Any:
    from data_pipelines.curate.run import Filter
    from data_pipelines.curate.stages import read_thresholds

    if not 0 <= eval_share < 1:
        raise UserError(f"--eval-share is {eval_share}, expected 0 up to below 1")
    return Filter(
        thresholds=read_thresholds(thresholds),
        eval_share=eval_share,
        require_safety=require_safety,
    )


def _name(place: Path | None) -> str | None:
    """Returns a name that changes with the weights of a model."""
    if place is None:
        return None
    files = [place] if place.is_file() else sorted(place.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return f"{place.name}:{digest.hexdigest()[:16]}"


def _load(aesthetic: Path | None, safety: Path | None) -> Any:
    from data_pipelines.curate.film import Scorers
    from data_pipelines.curate.safety import opennsfw

    return Scorers(
        aesthetic=_aesthetic(aesthetic) if aesthetic else None,
        safety=opennsfw(safety) if safety else None,
    )


def _aesthetic(folder: Path) -> Any:
    from safetensors.numpy import load_file

    from data_pipelines.curate.aesthetic import linear_head
    from soraxla.evals.features import load_features

    head = folder / _HEAD
    if not head.is_file():
        raise UserError(f"{head}: no such file; it holds weight (1, d) and bias (1)")
    tensors = load_file(head)
    if set(tensors) != {"weight", "bias"}:
        raise UserError(f"{head}: holds {sorted(tensors)}, expected bias and weight")
    features = load_features(f"clip:{folder / 'clip'}")
    return linear_head(
        lambda pictures: np.asarray(features(pictures)),
        tensors["weight"],
        float(tensors["bias"].reshape(-1)[0]),
    )

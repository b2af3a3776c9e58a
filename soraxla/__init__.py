"""Sora in JAX for TPU pods: one packed video diffusion transformer for every task.

    import soraxla

    data = soraxla.prepare("my_clips", "my_dataset")
    cfg = soraxla.config("dit:s", {"step.optim.learning_rate": 3e-4}, batch_rows=16)
    run = soraxla.train(cfg, data="my_dataset", workdir="runs/dit")
    pipe = soraxla.load("runs/dit")
    video = pipe.generate("a rabbit yawns", size=(640, 360), frames=97)
    soraxla.save(video, "rabbit.mp4")

JAX and other large packages are imported when a function is called.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from ml_collections import ConfigDict

    from data_pipelines.dataset import Dataset
    from soraxla.evals.evaluation import Evaluation
    from soraxla.generation.pipeline import Pipeline
    from soraxla.generation.video import Video
    from soraxla.training.open_data import Data
    from soraxla.training.run import Run

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Evaluation",
    "Pipeline",
    "Run",
    "Video",
    "config",
    "evaluate",
    "load",
    "prepare",
    "save",
    "train",
]

# The types that the functions return, by the modules that are imported for them.
_TYPES = {
    "Dataset": "data_pipelines.dataset",
    "Evaluation": "soraxla.evals.evaluation",
    "Pipeline": "soraxla.generation.pipeline",
    "Run": "soraxla.training.run",
    "Video": "soraxla.generation.video",
}


def config(
    spec: str, overrides: Mapping[str, Any] | None = None, **keys: Any
) -> "ConfigDict":
    """Returns the configuration of a training, checked.

    Args:
        spec: a preset, `NAME[:ARGUMENT]` such as "dit:s", or the path of a Python file
            with a `get_config`.
        overrides: dotted keys and their values.
        keys: keys of the top level and their values.

    Raises:
        UserError: an unknown preset or key (names the nearest), or a wrong value.
    """
    from soraxla.training.presets import check_config, load_preset

    made = load_preset(spec, {**(overrides or {}), **keys})
    check_config(made.to_dict())
    return made


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vae: str | os.PathLike[str] | None = None,
    text_encoder: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    conditions: bool = True,
    caption_mix: float = 0.05,
    caption_column: str | None = None,
    max_tokens: int = 32768,
    max_side: int | None = None,
    fps: float | None = None,
    max_bad: float = 0.05,
    features: str | None = None,
    shard_bytes: int = 256 << 20,
    worker: tuple[int, int] | None = None,
) -> "Dataset | None":
    """Encodes captioned media into the dataset folder `out`, on all devices.

    Interrupted, it is continued by the next call; None if other workers are not ready.

    Args:
        source: a folder with captions, or another of docs/dataset.md; or "samples",
            the clips and pictures that are shipped.
        vae: a VAE's model folder or training folder; None is the small one shipped.
        text_encoder: hashed (None), minilm, umt5:PATH, t5:PATH, clip:PATH or bert:PATH.
        data_dir: folder of TFDS datasets; None is TFDS_DATA_DIR or TFDS's own.
        conditions: encode also the condition frames of tasks other than text to video.
        caption_mix, caption_column, max_tokens, max_side, fps, max_bad, features: as
            the options of `soraxla prepare`.
        shard_bytes: size of a file of samples, at most.
        worker: (i, n) encodes share i of n, from 0, into a folder that all share.

    Raises:
        UserError: a setting that cannot be used, bad media, or an `out` of other files.
        OSError: `out` cannot be written, or another run writes it.
    """
    from soraxla.core.paths import refuse_urls
    from soraxla.tools.prepare import prepare_dataset

    refuse_urls(source=source, out=out, vae=vae, data_dir=data_dir)
    return prepare_dataset(
        source if isinstance(source, str) else Path(source),
        Path(out),
        vae=None if vae is None else Path(vae),
        text_encoder=text_encoder,
        data_dir=None if data_dir is None else Path(data_dir),
        conditions=conditions,
        caption_mix=caption_mix,
        caption_column=caption_column,
        max_tokens=max_tokens,
        max_side=max_side,
        fps=fps,
        max_bad=max_bad,
        features=features,
        shard_bytes=shard_bytes,
        worker=worker,
    )


def train(
    cfg: "ConfigDict | Mapping[str, Any]",
    *,
    data: "Data",
    workdir: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    mesh: "Mesh | None" = None,
    change: Mapping[str, Any] | None = None,
) -> "Run":
    """Trains a diffusion transformer or a VAE; a folder that exists is continued.

    An interrupt (Ctrl-C, a notebook's stop button) saves a checkpoint and returns the
    Run after the current step; a second one raises KeyboardInterrupt at once.

    Args:
        cfg: from `config`.
        data: a prepared dataset for a transformer, a folder of media for a VAE. Several
            datasets are a list or, with weights, a mapping: {"films": 3, "pets": 1}.
        workdir: the training folder.
        init: the folder of a model to fine-tune.
        mesh: the devices; None is `cfg.mesh` over all devices.
        change: new values for a training that goes on, such as
            {"step.optim.learning_rate": 1e-5}; docs/training.md lists the keys.

    Raises:
        UserError: a setting, the data or the model to fine-tune does not fit.
        OSError: a file cannot be read or written, or another training runs there.
        FloatingPointError: no finite gradient for 20 steps in a row.
    """
    from soraxla.core.allocator import keep_freed_pages

    keep_freed_pages()  # before JAX is imported
    from ml_collections import ConfigDict

    from soraxla.core.paths import refuse_urls
    from soraxla.training.run import run_training

    places = data if isinstance(data, str | os.PathLike) else list(data)
    refuse_urls(data=places, workdir=workdir, init=init)
    return run_training(
        cfg.to_dict() if isinstance(cfg, ConfigDict) else cfg,
        data=data,
        workdir=Path(workdir),
        init=None if init is None else Path(init),
        mesh=mesh,
        interrupts=True,
        change=change,
    )


def evaluate(
    generated: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    metrics: Sequence[str],
    features: Sequence[str] = (),
    vae: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> "Evaluation":
    """Measures a folder of clips; its `values` are metrics with 95 % intervals.

    Args:
        generated: the folder; with `vae`, of media that the VAE reconstructs.
        reference: the folder of the other set, for metrics of pairs and of sets.
        metrics: names such as "psnr"; docs/evaluate.md lists all.
        features: networks and their weights, such as "clip:weights/clip-vit-base".
        vae: the folder of a VAE.
        out: a new folder for results.json, manifest.json, rows.npz and report.html.

    Raises:
        UserError: an unknown name, a missing folder or weights, sets that do not fit a
            metric, or an `out` that exists.
        OSError: `out` cannot be written.
    """
    from soraxla.core.paths import refuse_urls
    from soraxla.evals.evaluation import evaluate
    from soraxla.evals.run_folder import save_run
    from soraxla.evals.worldbench.record import check_new

    refuse_urls(generated=generated, reference=reference, vae=vae, out=out)
    if out is not None:
        check_new(Path(out))
    evaluation = evaluate(
        Path(generated),
        None if reference is None else Path(reference),
        metrics=metrics,
        features=features,
        vae=None if vae is None else Path(vae),
    )
    if out is not None:
        save_run(evaluation, Path(out))
    return evaluation


def load(
    path: str | os.PathLike[str] | None = None, mesh: "Mesh | None" = None
) -> "Pipeline":
    """Returns a pipeline that generates videos and images.

    Args:
        path: a training folder, a model folder of `soraxla import` or `export`, both
            local or such as gs://bucket/folder, or `hf:ORG/NAME`; None is the small
            model of simulated worlds that is shipped, with the size, length and rate
            that it was trained for.
        mesh: the devices; None is all devices, which share each row of tokens.

    Raises:
        UserError: the folder is missing, incomplete, damaged, or holds something else.
    """
    from soraxla.core.paths import place, refuse_urls
    from soraxla.generation import pipeline
    from soraxla.parallel.mesh import sampling_mesh

    where = None if path is None else place(path)
    refuse_urls(path=where)
    return pipeline.load(where, sampling_mesh() if mesh is None else mesh)


def save(video: "Video", path: str | os.PathLike[str]) -> None:
    """Writes a video as .mp4, .webm, .gif or .webp, one frame as .png or .jpg.

    The path may be an address such as gs://bucket/video.mp4.

    Raises:
        UserError: an unknown suffix, several frames for a picture, a size or rate that
            the format does not take, or a bucket that cannot be written.
        OSError: the folder is missing or cannot be written.
    """
    from soraxla.core.paths import place, refuse_urls
    from soraxla.generation import video as videos

    refuse_urls(path=place(path))
    videos.save(video, path)


def __getattr__(name: str) -> Any:
    if name not in _TYPES:
        raise AttributeError(f"module 'soraxla' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_TYPES[name]), name)

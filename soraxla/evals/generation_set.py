"""The clips that a checkpoint generates for a set of prompts, in a folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from data_pipelines.dataset import Dataset, open_dataset
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.generation.defaults import model_defaults, read_usage
from soraxla.generation.pipeline import Pipeline, load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.vae_streaming import decode_clip
from soraxla.media.write import write_video
from soraxla.parallel.mesh import sampling_mesh

# Both sets pass one encoder, so that its losses are no difference between them.
_SUFFIX = ".mp4"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A clip to generate, and the sample of a dataset that is its reference."""

    name: str
    prompt: str
    width: int
    height: int
    frames: int
    fps: float
    sample: int | None = None


def of_prompts(checkpoint: str | None, file: Path) -> list[Wanted]:
    """Returns a clip for each line of a text file, of the model's size and length.

    Raises:
        UserError: the file cannot be read, or has no line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8; save the prompts as UTF-8") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{file}: holds no prompt, expected one a line; add some")
    defaults = model_defaults(read_usage(checkpoint))
    size = {"width": defaults.width, "height": defaults.height}
    return [
        Wanted(
            name=f"{i:05d}",
            prompt=prompt,
            frames=defaults.frames,
            fps=defaults.fps,
            **size,
        )
        for i, prompt in enumerate(prompts)
    ]


def of_dataset(data: Path, clips: int) -> tuple[list[Wanted], Dataset]:
    """Returns clips like samples of a prepared dataset, evenly spaced in its index.

    Raises:
        UserError: the dataset cannot be read, or has fewer samples.
    """
    dataset = open_dataset(data)
    if len(dataset) < clips:
        raise UserError(
            f"{data}: has {len(dataset)} samples, expected {clips}; ask for fewer by "
            "--clips"
        )
    sizes, captions = dataset.sizes, dataset.index["caption"].to_pylist()
    temporal = dataset.card["vae_temporal"]
    wanted = [
        Wanted(
            name=f"{i:05d}",
            prompt=captions[i],
            width=int(sizes.width[i]),
            height=int(sizes.height[i]),
            frames=1 + (int(sizes.t[i]) - 1) * temporal,
            fps=float(sizes.fps[i]) or 1.0,
            sample=int(i),
        )
        for i in np.linspace(0, len(dataset) - 1, clips).round().astype(int)
    ]
    return wanted, dataset


def generate_set(
    checkpoint: str | None,
    wanted: Sequence[Wanted],
    folder: Path,
    *,
    seed: int = 0,
    dataset: Dataset | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes `generated/` and, with a dataset, `reference/` in a folder.

    Clips that are there already are kept, so that an interrupted run goes on. The noise
    of a clip depends on its place only. References are the samples' latents, decoded.

    Raises:
        UserError: a model that cannot be loaded, or a folder of other clips.
    """
    asked = {"checkpoint": checkpoint, "seed": seed, "clips": [vars(w) for w in wanted]}
    _begin(folder, json.dumps(asked, indent=1))
    generated = folder / "generated"
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(checkpoint)
        sampling = {**pipeline.defaults.sampling, "seed": seed}
        settings = build(SamplingConfig, sampling)
        missing = [
            i for i, w in enumerate(wanted) if not (generated / _file(w)).exists()
        ]
        requests = [pipeline.with_rate(_request(wanted[i], i)) for i in missing]
        done = len(wanted) - len(missing)
        told(done, len(wanted))
        for place, video in pipeline.generate_each(requests, settings):
            clip = wanted[missing[place]]
            write_video(generated / _file(clip), video, clip.fps)
            done += 1
            told(done, len(wanted))
        if dataset is not None:
            _write_references(pipeline, wanted, dataset, folder / "reference")
    lines = [json.dumps({"file": _file(w), "caption": w.prompt}) for w in wanted]
    (generated / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _file(clip: Wanted) -> str:
    return clip.name + (".png" if clip.frames == 1 else _SUFFIX)


def _request(clip: Wanted, noise: int) -> Request:
    return Request(
        prompt=clip.prompt,
        width=clip.width,
        height=clip.height,
        frames=clip.frames,
        fps=clip.fps,
        noise=noise,
    )


def _begin(folder: Path, asked: str) -> None:
    record = folder / "asked.json"
    if record.exists() and record.read_text(encoding="utf-8") != asked:
        raise UserError(
            f"{folder}: holds clips of another checkpoint, seed or prompts; name "
            "another --out, or remove the folder"
        )
    for name in ("generated", "reference"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    record.write_text(asked, encoding="utf-8")


def _write_references(
    pipeline: Pipeline, wanted: Sequence[Wanted], dataset: Dataset, folder: Path
) -> None:
    vae = pipeline.vae
    for clip in wanted:
        if clip.sample is not None and not (folder / _file(clip)).exists():
            latents = np.asarray(dataset.read(clip.sample).latents, np.float32)
            video = decode_clip(vae.params, vae.model, latents)
            video = video[: clip.frames, : clip.height, : clip.width]
            write_video(folder / _file(clip), video, clip.fps)

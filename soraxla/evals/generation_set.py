"""The clips that a checkpoint generates for a set of prompts, in a folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from data_pipelines.dataset import Dataset
from soraxla.checkpoints.load import load_vae
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file
from soraxla.files.hashing import sha256_of_tree
from soraxla.generation.defaults import model_defaults, read_usage
from soraxla.generation.pipeline import Pipeline, load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.vae_streaming import decode_clip
from soraxla.media.write import write_video
from soraxla.parallel.mesh import sampling_mesh
from soraxla.parallel.multihost import barrier, everywhere, is_main

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


def of_dataset(dataset: Dataset, clips: int) -> list[Wanted]:
    """Returns clips like samples of a prepared dataset, evenly spaced in its index.

    Raises:
        UserError: it has fewer samples.
    """
    if len(dataset) < clips:
        raise UserError(
            f"{dataset.path}: has {len(dataset)} samples, expected {clips}; ask for "
            "fewer by --clips"
        )
    sizes, captions = dataset.sizes, dataset.index["caption"].to_pylist()
    temporal = dataset.card["vae_temporal"]
    return [
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


def generate_set(
    checkpoint: str | None,
    wanted: Sequence[Wanted],
    folder: Path,
    *,
    seed: int = 0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the clips into `generated/` in a folder.

    Clips that are there already are kept, so that an interrupted run goes on. The noise
    of a clip depends on its place only. Each of several processes generates a part of
    the clips, on its own devices.

    Raises:
        UserError: a model that cannot be loaded, or a folder of other clips.
    """

    def own() -> None:
        places = range(jax.process_index(), len(wanted), jax.process_count())
        with jax.set_mesh(sampling_mesh()):
            pipeline = load(checkpoint)
            _begin(folder, checkpoint, pipeline, seed, wanted)
            _generate(pipeline, _own(wanted), places, folder / "generated", seed, told)

    everywhere(own)
    if is_main():
        lines = [json.dumps({"file": _file(w), "caption": w.prompt}) for w in wanted]
        file = folder / "generated" / "captions.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    barrier("captions")


def write_references(dataset: Dataset, wanted: Sequence[Wanted], folder: Path) -> None:
    """Writes the samples of the clips, decoded by the dataset's VAE, into a folder.

    Clips that are there already are kept. Each of several processes decodes a part.

    Raises:
        UserError: the VAE cannot be loaded.
    """

    def own() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [w for w in _own(wanted) if not (folder / _file(w)).exists()]
        with jax.set_mesh(sampling_mesh()):
            vae = load_vae(dataset.path / "vae") if missing else None
            for clip in missing:
                assert vae is not None and clip.sample is not None
                latents = np.asarray(dataset.read(clip.sample).latents, np.float32)
                video = decode_clip(vae.params, vae.model, latents)
                video = video[: clip.frames, : clip.height, : clip.width]
                write_video(folder / _file(clip), video, clip.fps)

    everywhere(own)


def _own(wanted: Sequence[Wanted]) -> Sequence[Wanted]:
    """Returns the clips of this process."""
    return wanted[jax.process_index() :: jax.process_count()]


def _generate(
    pipeline: Pipeline,
    wanted: Sequence[Wanted],
    noises: Sequence[int],
    folder: Path,
    seed: int,
    told: Callable[[int, int], None],
) -> None:
    """Writes the clips that the folder lacks.

    Args:
        noises: the number of each clip's noise.
    """
    settings = build(SamplingConfig, {**pipeline.defaults.sampling, "seed": seed})
    missing = [i for i, w in enumerate(wanted) if not (folder / _file(w)).exists()]
    requests = [pipeline.with_rate(_request(wanted[i], noises[i])) for i in missing]
    done = len(wanted) - len(missing)
    told(done, len(wanted))
    for place, video in pipeline.generate_each(requests, settings):
        clip = wanted[missing[place]]
        write_video(folder / _file(clip), video, clip.fps)
        done += 1
        told(done, len(wanted))


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


def _begin(
    folder: Path,
    checkpoint: str | None,
    pipeline: Pipeline,
    seed: int,
    wanted: Sequence[Wanted],
) -> None:
    """Records what the clips of the folder are.

    Raises:
        UserError: they are others; a checkpoint that was trained on is another one.
    """
    asked = {
        "checkpoint": checkpoint,
        "weights": sha256_of_tree(pipeline.dit.params),
        "seed": seed,
        "clips": [vars(clip) for clip in wanted],
    }
    record = folder / "asked.json"
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8")) != asked:
            raise UserError(
                f"{folder}: holds clips of another checkpoint, seed or prompts; name "
                "another --out, or remove the folder"
            )
        return
    (folder / "generated").mkdir(parents=True, exist_ok=True)
    if is_main():
        with atomic_file(record) as file:
            file.write_text(json.dumps(asked, indent=1), encoding="utf-8")

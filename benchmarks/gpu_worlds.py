"""Trains a model of simulated worlds on one accelerator, in ten minutes.

    python -m benchmarks.gpu_worlds --out FOLDER [--vae FOLDER] [--seconds 540] [--tiny]

The program simulates pictures and clips on all CPU cores, trains a VAE on them (or
takes `--vae`), encodes them, and trains a text-conditioned transformer, pictures first.
All data stays in the accelerator's memory. At the end it writes a model folder for
`soraxla generate --checkpoint FOLDER/model`, bfloat16 EMA weights, and a table of
losses, some 62 MB. `--tiny` runs the same program on a CPU.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from benchmarks.harness import conditions, write_json
from data_pipelines.worlds import WORLDS
from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import LoadedModel, save_folder
from soraxla.checkpoints.usage import GenerationDefaults, Usage
from soraxla.core.config import to_dict
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.models import vae
from soraxla.models.dit.config import DiTConfig
from soraxla.models.text.hashed import HashedTextEncoder
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.packing.patchify import positions
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step
from soraxla.training.linear_start import components_start
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_step import VAEStepConfig, vae_fine_tuned, vae_step

SIDE, FPS = 64, 16.0  # pixels, frames a second
WORDS = 48  # of a caption, at most
SHOWN = 20  # losses of a training in the table


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of the models, the data and the steps."""

    vae: VAEConfig
    dit: DiTConfig
    clips: int
    frames: int
    vae_batch: tuple[int, int]  # pictures, clips
    row: tuple[int, int]  # pictures, clips in a row
    rows: tuple[int, int]  # rows of pictures, of clips in a step


_STAGES: dict[str, Any] = {
    "pixel_patch": 4,
    "frame_patch": 4,
    "multipliers": (2, 5),
    "temporal_down": (False,),
    "res_blocks": (1, 2),
}
_PLAIN: dict[str, Any] = {"patch": (1, 1, 1), "remat": "none", "text_width": 256}
FULL = Sizes(
    vae=VAEConfig(base_width=40, latent_channels=16, dtype="bfloat16", **_STAGES),
    dit=DiTConfig(
        layers=10, width=384, heads=6, mlp_width=1536, latent_channels=16, **_PLAIN
    ),
    clips=60_000,
    frames=17,
    vae_batch=(128, 32),
    row=(16, 4),
    rows=(64, 48),
)
TINY = Sizes(
    vae=VAEConfig(base_width=8, latent_channels=8, dtype="float32", **_STAGES),
    dit=DiTConfig(
        layers=2,
        width=24,
        heads=2,
        mlp_width=32,
        latent_channels=8,
        dtype="float32",
        **_PLAIN,
    ),
    clips=24,
    frames=5,
    vae_batch=(4, 2),
    row=(4, 2),
    rows=(2, 1),
)


class Data(NamedTuple):
    """Clips (n, t, h, w, 3) uint8, their captions and the world of each."""

    video: np.ndarray
    captions: list[str]


class Captions(NamedTuple):
    """Embedded captions on the accelerator."""

    text: jax.Array  # (n, WORDS, e) bfloat16
    words: jax.Array  # (n,)


def simulate_one(world: str, frames: int, seed: int) -> tuple[np.ndarray, str]:
    episode = WORLDS[world](seed, width=SIDE, height=SIDE, frames=frames, fps=FPS)
    return episode.video, episode.caption


def simulate(world: str, sizes: Sizes, until: float) -> Data:
    """Simulates `sizes.clips` clips on all cores, or as many as there is time for."""
    one = functools.partial(simulate_one, world, sizes.frames)
    videos, captions = [], []
    with multiprocessing.get_context("spawn").Pool() as pool:
        for video, caption in pool.imap(one, range(sizes.clips), chunksize=16):
            videos.append(video)
            captions.append(caption)
            if time.monotonic() > until and len(videos) >= sum(sizes.vae_batch):
                pool.terminate()
                break
    return Data(np.stack(videos), captions)


def windows(data: Data, pictures: int, clips: int, seed: int) -> Iterator[dict]:
    """Yields batches of clips, two of three times, and of pictures."""
    rng = np.random.default_rng(seed)
    count, frames = data.video.shape[:2]
    while True:
        for number in (clips, clips, pictures):
            chosen = rng.integers(count, size=number)
            if number == clips:
                yield {"video": data.video[chosen]}
            else:
                at = rng.integers(frames, size=number)
                yield {"video": data.video[chosen, at][:, None]}


def train_vae(data: Data, sizes: Sizes, until: float, log: list) -> LoadedModel:
    """Returns the EMA of a VAE that starts from principal components."""
    batches = windows(data, *sizes.vae_batch, seed=1)
    start = components_start(sizes.vae, batches, seed=0)
    optim = OptimConfig(
        learning_rate=3e-4, muon_learning_rate=2e-3, ema_decay=0.998, warmup_steps=50
    )
    cfg = VAEStepConfig(model=sizes.vae, optim=optim)
    state = vae_fine_tuned(start.params, cfg=cfg, start=start.model)
    step = jit(functools.partial(vae_step, cfg=cfg), donate_argnums=0, convolves=True)
    state = _until("VAE", until, log, lambda state: step(state, next(batches)), state)
    mean, std = latent_statistics(state.extra)
    model = replace(sizes.vae, latent_mean=mean, latent_std=std)
    config = {"kind": "vae", "model": to_dict(model)}
    return LoadedModel(params=state.ema, model=model, config=config)


def encode(data: Data, loaded: LoadedModel, batch: int) -> tuple[jax.Array, jax.Array]:
    """Returns normalised latents of first frames as pictures, and of whole clips."""

    def run(params, video):
        mean, _ = vae.encode(params, loaded.model, video / 127.5 - 1.0)
        return vae.normalise(loaded.model, mean).astype(jnp.bfloat16)

    run = jit(run, convolves=True)
    found: list[list] = [[], []]
    for first in range(0, len(data.video), batch):
        clips = data.video[first : first + batch].astype(np.float32)
        # A picture of another frame of the clip, so that pictures differ from starts.
        places = np.arange(first, first + len(clips)) % clips.shape[1]
        pictures = clips[np.arange(len(clips)), places][:, None]
        for kept, video in zip(found, (pictures, clips), strict=True):
            kept.append(run(loaded.params, video))
    return tuple(jnp.concatenate(kept) for kept in found)  # pyright: ignore


def embed(captions: list[str], width: int) -> Captions:
    encoder = HashedTextEncoder(width=width, max_tokens=WORDS)
    text = np.zeros((len(captions), WORDS, width), ml_dtypes.bfloat16)
    words = np.zeros(len(captions), np.int32)
    for place, caption in enumerate(captions):
        (found,) = encoder([caption])
        text[place, : len(found)], words[place] = found, len(found)
    return Captions(jnp.asarray(text), jnp.asarray(words))


def packed(
    latents: jax.Array, captions: Captions, chosen: jax.Array, first_visit: jax.Array
) -> PackedBatch:
    """Returns rows of clips of one size; `chosen` (b, s) are their numbers."""
    b, s = chosen.shape
    _, t, h, w, c = latents.shape
    n = t * h * w
    grid = positions(LatentGrid(t=t, h=h, w=w), (1, 1, 1), FPS)
    segment = jnp.arange(1, s + 1, dtype=jnp.int32)
    real = jnp.arange(WORDS)[None, None] < captions.words[chosen][:, :, None]
    text_ids = jnp.where(real, segment[None, :, None], 0)
    visit = jnp.arange(b * s, dtype=jnp.uint32).reshape(b, s) + first_visit

    def rows(x: Any) -> jax.Array:
        return jnp.broadcast_to(x, (b, *x.shape))

    return PackedBatch(
        latents=latents[chosen].reshape(b, s * n, c),
        segment_ids=rows(jnp.repeat(segment, n)),
        token_index=rows(jnp.tile(jnp.arange(n, dtype=jnp.int32), s)),
        positions=rows(jnp.tile(jnp.asarray(grid, jnp.float32), (s, 1))),
        condition_mask=jnp.zeros((b, s * n), bool),
        controls=jnp.zeros((b, s * n, 0)),
        features=jnp.zeros((b, s * n, 0)),
        text=captions.text[chosen].reshape(b, s * WORDS, -1),
        text_segment_ids=text_ids.reshape(b, s * WORDS),
        visit=visit,
        shift=jnp.full((b, s), 2.5, jnp.float32),
    )


def train_dit(
    latents: tuple[jax.Array, jax.Array],
    captions: Captions,
    sizes: Sizes,
    until: tuple[float, float],
    log: list,
) -> Any:
    """Returns the EMA of a transformer that learns pictures, then clips."""
    optim = OptimConfig(
        learning_rate=3e-4, muon_learning_rate=5e-3, ema_decay=0.9995, warmup_steps=200
    )
    cfg = DiTStepConfig(model=sizes.dit, optim=optim)
    state = jit(functools.partial(dit_init, cfg))()
    names, visit = ("pictures", "clips"), 0
    for i, (name, end) in enumerate(zip(names, until, strict=True)):
        step = jit(functools.partial(_dit_step, cfg=cfg), donate_argnums=0)
        shape = sizes.rows[i], sizes.row[i]
        draws = _draws(len(latents[i]), shape, first=visit)
        once = functools.partial(_drawn, step, draws, (latents[i], captions))
        state = _until(name, end, log, once, state)
        visit += 2**31  # pictures and clips share no noise
    return state.ema


def _dit_step(state, data, chosen, first, *, cfg: DiTStepConfig) -> Any:
    latents, captions = data
    return dit_step(state, packed(latents, captions, chosen, first), cfg=cfg)


def _draws(count: int, shape: tuple[int, int], first: int) -> Iterator[tuple]:
    """Yields the numbers of the clips of a step, and that of its first visit."""
    rng = np.random.default_rng(2)
    for number in itertools.count():
        chosen = rng.integers(count, size=shape).astype(np.int32)
        yield chosen, np.uint32(first + number * chosen.size)


def _drawn(step: Callable, draws: Iterator[tuple], data: tuple, state: Any) -> Any:
    return step(state, data, *next(draws))


def _until(
    name: str, until: float, log: list, once: Callable[[Any], Any], state: Any
) -> Any:
    """Takes steps until a time; logs losses, and steps a second after the compiles."""
    for _ in range(3):  # the windows of a VAE have two shapes
        state, metrics = once(state)
    jax.block_until_ready(metrics)
    start, number, losses = time.monotonic(), 0, []
    while time.monotonic() < until or number < 2:
        state, metrics = once(state)
        losses.append(metrics["loss"])
        number += 1
        if number % 20 == 0:
            jax.block_until_ready(metrics)  # the host runs ahead otherwise
    seconds = time.monotonic() - start
    each = max(1, len(losses) // SHOWN)
    means = [
        float(np.mean(jax.device_get(losses[i : i + each])))
        for i in range(0, len(losses), each)
    ]
    log.append({"name": name, "steps": number, "seconds": seconds, "losses": means})
    print(f"{name}: {number} steps, {number / seconds:.2f} a second, loss {means[-1]}")
    return state


def save(folder: Path, ema: Any, loaded: LoadedModel, sizes: Sizes) -> None:
    usage = Usage(
        max_latent_frames=1 + (sizes.frames - 1) // 4,
        trained_tasks=("text", "edit"),
        generation_defaults=GenerationDefaults(
            fps=FPS, width=SIDE, height=SIDE, frames=sizes.frames, shift=2.5
        ),
    )
    config = {
        "kind": "dit",
        "model": to_dict(sizes.dit),
        "process": to_dict(DiTStepConfig(model=sizes.dit).process),
        "text_encoder": HashedTextEncoder(width=sizes.dit.text_width).name,
        **usage.record(),
    }
    save_folder(folder / "dit", ema, config, dtype="bfloat16")
    save_folder(folder / "vae", loaded.params, loaded.config, dtype="bfloat16")


def main(
    sizes: Sizes, world: str, out: Path, vae_folder: Path | None, seconds: float
) -> None:
    began = time.monotonic()

    def at(share: float) -> float:
        return began + share * seconds

    log: list[dict] = []
    data = simulate(world, sizes, at(0.15))
    print(f"{len(data.captions)} clips of {world} by {time.monotonic() - began:.0f} s")
    if vae_folder is None:
        loaded = train_vae(data, sizes, at(0.4), log)
    else:
        loaded = load_vae(vae_folder)
    latents = encode(data, loaded, sizes.vae_batch[1])
    captions = embed(data.captions, sizes.dit.text_width)
    print(f"encoded by {time.monotonic() - began:.0f} s")
    ema = train_dit(latents, captions, sizes, (at(0.75), at(0.96)), log)
    out.mkdir(parents=True, exist_ok=True)
    save(out / "model", ema, loaded, sizes)
    report = {"conditions": conditions(), "clips": len(data.captions), "log": log}
    write_json(out / "report.json", report)
    print(json.dumps([{**each, "losses": each["losses"][-1]} for each in log]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--world", default="occlusion", help=", ".join(WORLDS))
    parser.add_argument("--vae", type=Path, help="a VAE in place of a new one")
    parser.add_argument("--seconds", type=float, default=540.0, help="of everything")
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    asked = parser.parse_args()
    main(TINY if asked.tiny else FULL, asked.world, asked.out, asked.vae, asked.seconds)

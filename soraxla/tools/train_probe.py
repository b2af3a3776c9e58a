r"""Training of the worlds probe on the simulators' truth.

    python -m soraxla.tools.train_probe --clips 12000 --cache CLIPS --out DIR

It simulates clips in several processes, keeps them in `--cache`, and trains on a CPU.
`scores.json` has the share of right answers, or the error, on held-out clips.
"""

import argparse
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.worlds import WORLDS, Episode
from soraxla.core.allocator import keep_freed_pages
from soraxla.files.atomic_file import atomic_file

CLIP = 33  # frames of a simulated clip, from which the probe's are cut
FIRST_SEED, HELD_OUT_SEED = 2_000_000_000, 2_500_000_000
_PART = 250  # clips of a file of the cache
_BATCH = 32
_NAMED = ("world", "count", "shape")  # heads of logits
_HELD, _HELD_STEPS = 8, 50  # files in memory, and the steps that use them


class Truth(NamedTuple):
    """The largest object of a clip, frame by frame, and the clip's other truth.

    `world` numbers `WORLDS`; `shape` is −1 where a world has none.
    """

    world: int
    count: int
    shape: int
    xy: Float[np.ndarray, "t 2"]  # in 0…1
    seen: np.ndarray  # (t,) bool: the object has at least 4 pixels
    rgb: Float[np.ndarray, " 3"]  # in 0…1, the median


def truth_of(world: int, episode: Episode) -> Truth:
    """Returns the truth of an `Episode`."""
    ids, video = np.asarray(episode.ids), np.asarray(episode.video)
    areas = np.bincount(ids.reshape(-1), minlength=256)[1:]
    largest = 1 + int(areas.argmax())
    masks = (ids == largest) & bool(areas.sum())
    xy, seen = np.zeros((len(ids), 2)), masks.sum(axis=(1, 2)) >= 4
    for t in np.flatnonzero(seen):
        y, x = np.nonzero(masks[t])
        xy[t] = x.mean() / (ids.shape[2] - 1), y.mean() / (ids.shape[1] - 1)
    rgb = np.median(video[masks], axis=0) / 255 if masks.any() else np.zeros(3)
    shape = -1
    if masks.any() and "shape" in episode.state:
        shape = _shapes().get(str(episode.state["shape"][largest - 1]), -1)
    count = min(int((areas > 0).sum()), 7)
    return Truth(world, count, shape, xy, seen, rgb)


@functools.cache
def _shapes() -> dict[str, int]:
    from data_pipelines.worlds.draw import SHAPES

    return {name: i for i, name in enumerate(SHAPES)}


def simulated(world: int, first: int, count: int) -> dict[str, np.ndarray]:
    """Returns clips (n, t, h, w, 3) of a world and their truth, from seeds on."""
    from soraxla.models.vision.worlds_probe import SIDE

    simulate = list(WORLDS.values())[world]
    clips, truths = [], []
    for seed in range(first, first + count):
        clip = simulate(seed, width=SIDE, height=SIDE, frames=CLIP, fps=16.0)
        clips.append(np.asarray(clip.video))
        truths.append(truth_of(world, clip))
    columns = zip(*truths, strict=True)
    found = dict(zip(Truth._fields, map(np.array, columns), strict=True))
    return {"video": np.stack(clips), **found}


def _cached(task: tuple[int, int, int, Path]) -> None:
    world, first, count, file = task
    if not file.exists():
        made = simulated(world, first, count)
        with atomic_file(file) as partial, partial.open("wb") as stream:
            np.savez(stream, **made)  # pyright: ignore


def simulate_all(clips: int, first: int, cache: Path) -> list[Path]:
    """Returns files of as many clips of every world, in the cache or written to it."""
    from tqdm import tqdm

    cache.mkdir(parents=True, exist_ok=True)
    tasks = []
    each = clips // len(WORLDS)
    for world in range(len(WORLDS)):
        for start in range(0, each, _PART):
            count = min(_PART, each - start)
            file = cache / f"{world}_{first + start}_{count}.npz"
            tasks.append((world, first + start, count, file))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in tqdm(pool.map(_cached, tasks), total=len(tasks), unit="file"):
            pass
    return [file for *_, file in tasks]


def read(files: Iterable[Path]) -> dict[str, np.ndarray]:
    """Returns the clips of files and their truth."""
    parts = [dict(np.load(file)) for file in files]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class Batch(NamedTuple):
    """Windows of clips, and their truth; `seen` is 1 where a place counts."""

    pixels: UInt8[np.ndarray, "b t h w 3"]
    world: Int[np.ndarray, " b"]
    count: Int[np.ndarray, " b"]
    shape: Int[np.ndarray, " b"]
    xy: Float[np.ndarray, "b p 2"]
    seen: Float[np.ndarray, "b p"]
    velocity: Float[np.ndarray, "b 2"]
    moves: Float[np.ndarray, " b"]
    rgb: Float[np.ndarray, "b 3"]


def window(
    clips: dict[str, np.ndarray], chosen: np.ndarray, starts: np.ndarray
) -> Batch:
    """Returns the windows of some clips that start at these frames."""
    from soraxla.models.vision.worlds_probe import FRAMES, PLACES

    frames = starts[:, None] + np.arange(FRAMES)
    at = frames[:, np.linspace(0, FRAMES - 1, PLACES).round().astype(int)]
    rows = chosen[:, None]
    xy, seen = clips["xy"][rows, at], clips["seen"][rows, at]
    # From the first to the last place where the object is seen, of the clip's side.
    first, last = seen.argmax(axis=1), PLACES - 1 - seen[:, ::-1].argmax(axis=1)
    order = np.arange(len(chosen))
    return Batch(
        pixels=clips["video"][rows, frames],
        world=clips["world"][chosen].astype(np.int32),
        count=clips["count"][chosen].astype(np.int32),
        shape=clips["shape"][chosen].astype(np.int32),
        xy=xy.astype(np.float32),
        seen=seen.astype(np.float32),
        velocity=(xy[order, last] - xy[order, first]).astype(np.float32),
        moves=(last > first).astype(np.float32) * seen.any(axis=1),
        rgb=clips["rgb"][chosen].astype(np.float32),
    )


def batches(files: Sequence[Path], steps: int) -> Iterator[Batch]:
    """Yields random windows of random clips, from a few files at a time."""
    from soraxla.models.vision.worlds_probe import FRAMES

    rng, order, clips = np.random.default_rng(0), [], {}
    for step in range(steps):
        if step % _HELD_STEPS == 0:
            if len(order) < _HELD:
                order += rng.permutation(len(files)).tolist()
            clips = read(files[i] for i in order[:_HELD])
            order = order[_HELD:]
        chosen = rng.integers(len(clips["video"]), size=_BATCH)
        yield window(clips, chosen, rng.integers(CLIP - FRAMES + 1, size=_BATCH))


def loss_of(params, batch: Batch):
    """Returns the sum of the heads' losses and the share of right answers of each."""
    import jax.numpy as jnp
    import optax

    from soraxla.models.vision import worlds_probe as probe

    pixels = batch.pixels.astype(jnp.float32) / 127.5 - 1
    found = probe.heads(params, probe.features(params, pixels))
    loss, right = 0.0, {}
    for name in _NAMED:
        answer = getattr(batch, name)
        known = (answer >= 0).astype(jnp.float32)
        logits = found[name]
        error = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(answer, 0)
        )
        weight = jnp.maximum(known.sum(), 1)
        loss += (error * known).sum() / weight
        right[name] = ((logits.argmax(-1) == answer) * known).sum() / weight
    visible = batch.seen.any(axis=1).astype(jnp.float32)
    xy = jnp.abs(found["xy"].reshape(batch.xy.shape) - batch.xy).mean(-1)
    errors = {
        "xy": (xy, batch.seen),
        "velocity": (jnp.abs(found["velocity"] - batch.velocity).mean(-1), batch.moves),
        "rgb": (jnp.abs(found["rgb"] - batch.rgb).mean(-1), visible),
    }
    for name, (error, weight) in errors.items():
        right[name] = (error * weight).sum() / jnp.maximum(weight.sum(), 1)
        loss += 10 * right[name]
    return loss, right


def train(files: Sequence[Path], steps: int):
    """Returns the parameters after so many steps of AdamW."""
    import jax
    import optax
    from tqdm import tqdm

    from soraxla.models.vision import worlds_probe as probe
    from soraxla.parallel.compiler import jit

    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, steps)
    optimizer = optax.adamw(rate, weight_decay=1e-2)
    params = probe.init(jax.random.key(0), probe.WorldsProbeConfig())
    state = optimizer.init(params)

    def step(params, state, batch):
        (loss, right), slope = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, loss, right

    run = jit(step, convolves=True, donate_argnums=(0, 1))
    with tqdm(batches(files, steps), total=steps, unit="step") as bar:
        for number, batch in enumerate(bar):
            params, state, loss, right = run(params, state, batch)
            if number % 50 == 0:
                numbers = {"loss": loss, **right}
                shown = (f"{name} {float(x):.3f}" for name, x in numbers.items())
                bar.set_postfix_str(", ".join(shown))
    return params


def scores(params, clips: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns each head's share right, or error, over the clips that have its truth."""
    from soraxla.parallel.compiler import jit

    run = jit(loss_of, convolves=True)
    sums, weights = dict[str, float](), dict[str, float]()
    for first in range(0, len(clips["video"]) - _BATCH + 1, _BATCH):
        chosen = np.arange(first, first + _BATCH)
        batch = window(clips, chosen, np.zeros(_BATCH, int))
        for name, value in run(params, batch)[1].items():
            weight = float(_counted(batch)[name])
            sums[name] = sums.get(name, 0.0) + weight * float(value)
            weights[name] = weights.get(name, 0.0) + weight
    return {name: sums[name] / max(weights[name], 1.0) for name in sums}


def _counted(batch: Batch) -> dict[str, Any]:
    """Returns how many truths of a batch each head's number is the mean of."""
    return {
        **{name: (getattr(batch, name) >= 0).sum() for name in _NAMED},
        "xy": batch.seen.sum(),
        "velocity": batch.moves.sum(),
        "rgb": batch.seen.any(axis=1).sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12_000, help="of all worlds")
    parser.add_argument("--held-out", type=int, default=800, help="clips to report on")
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--cache", type=Path, required=True, help="folder for clips")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    args = parser.parse_args()
    keep_freed_pages()  # before JAX is imported

    import ml_dtypes

    from soraxla.files.atomic_folder import atomic_folder
    from soraxla.files.disk import save_tensors
    from soraxla.models.vision.worlds_probe import KIND

    files = simulate_all(args.clips, FIRST_SEED, args.cache)
    held_out = read(simulate_all(args.held_out, HELD_OUT_SEED, args.cache))
    params = train(files, args.steps)
    tensors = {
        f"{name}.{part}": np.asarray(value).astype(ml_dtypes.bfloat16)
        for name, layer in params.items()
        for part, value in layer.items()
    }
    found = scores(params, held_out)
    with atomic_folder(args.out) as partial:
        save_tensors(tensors, partial / "model.safetensors")
        text = json.dumps({"model_type": KIND}, indent=2) + "\n"
        (partial / "config.json").write_text(text)
        text = json.dumps({"held_out": found, "clips": args.clips, "steps": args.steps})
        (partial / "scores.json").write_text(text + "\n")
    print(found)


if __name__ == "__main__":
    main()

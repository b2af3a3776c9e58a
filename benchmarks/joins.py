"""Do the joins of a model's clips show, do they go on as the simulator does, and do
colours drift? On held-out worlds.

    python -m benchmarks.joins [--checkpoint DIR] [--window FRAMES] [--json FILE]

Ten clips of 33 frames at 64×64 a task. A join passes when its step between frames is at
most 1.5 times the clip's median step. Clips in which the simulator's own steps at these
places are larger, since what moves is hidden for most of them, are not asked: the truth
itself would fail. The same is asked, of one take, of the transformer with random
weights, which should fail. Drift: scenes of the simulator in which nothing moves,
extended by four windows, without guidance; the change of the mean colour, of 255.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.harness import conditions, write_json
from data_pipelines.worlds import WORLDS, Episode, World
from data_pipelines.worlds.sizes import Size
from soraxla.assets import worlds_model
from soraxla.cli import sampling
from soraxla.evals.joins import colour_drift, join_ratio
from soraxla.evals.worldbench.cases import FIRST_SEED
from soraxla.models import dit
from soraxla.pipeline import Pipeline, load
from soraxla.request import (
    Animate,
    Connect,
    Extend,
    Loop,
    Request,
    SampleSettings,
    Task,
)
from soraxla.sharding import sampling_mesh
from soraxla.trees import sha256_of_tree

CLIPS, FRAMES, GIVEN = 10, 33, 17
PASSES = 1.5
OVERLAP, WINDOWS = 9, 4
SIZE = Size(width=64, height=64, frames=FRAMES, fps=16.0)
FIRST = FIRST_SEED + 500_000_000  # beyond what WorldBench asks


def held_out(count: int) -> list[Episode]:
    """Clips of the three flat worlds in turn whose own joins pass."""

    def passing(simulate: World) -> Iterator[Episode]:
        for seed in itertools.count(FIRST):
            clip = simulate(seed, **SIZE._asdict())
            if max(own_ratios(clip).values()) <= PASSES:
                yield clip

    worlds = [passing(WORLDS[name]) for name in ("occlusion", "physics", "marks")]
    return [next(worlds[i % 3]) for i in range(count)]


def still(count: int) -> list[Episode]:
    """Scenes in which nothing moves, as their captions say: shapes that rest."""

    def resting() -> Iterator[Episode]:
        for seed in itertools.count(FIRST):
            clip = WORLDS["occlusion"](seed, **SIZE._asdict())
            if not np.ptp(clip.video, axis=0).any():
                yield clip

    return list(itertools.islice(resting(), count))


def own_ratios(clip: Episode) -> dict[str, float]:
    """Of the simulator's clip, by the tasks that are to go on with it, or into it."""
    return {
        name: join_ratio(clip.video, joins)
        for name, (task, _, joins) in tasks(clip, clip).items()
        if isinstance(task, Animate | Extend)
    }


def tasks(
    clip: Episode, other: Episode, strength: float = 1.0
) -> dict[str, tuple[Task, int, list[int]]]:
    """Task, frames of the result, and the first frame after each join; connections and
    loops start at the strength."""
    video = clip.video
    return {
        "first frame": (Animate(first=video[:1]), FRAMES, [1]),
        "first and last frame": (
            Animate(first=video[:1], last=video[-1:]),
            FRAMES,
            [1, FRAMES - 1],
        ),
        "forward": (Extend(video=video[:GIVEN]), FRAMES, [GIVEN]),
        "backward": (
            Extend(video=video[-GIVEN:], direction="backward"),
            FRAMES,
            [FRAMES - GIVEN],
        ),
        "connect": (
            Connect(before=video[:GIVEN], after=other.video[:GIVEN], strength=strength),
            2 * GIVEN + 15,
            [GIVEN, GIVEN + 15],
        ),
        "loop": (Loop(video=video[:GIVEN], strength=strength), FRAMES, [0, GIVEN]),
    }


def joined(
    pipeline: Pipeline, settings: SampleSettings, window: int | None, strength: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """By task, the join ratio of each clip; they are extended forward in windows.

    And how far those are from the simulator's, by the frames after what was given: the
    root of the mean square over all of them, of 255.
    """
    clips = held_out(CLIPS)
    asked = [tasks(clip, clips[i - 1], strength) for i, clip in enumerate(clips)]
    found, far = {}, {}
    for name in asked[0]:
        requests = [
            request(task[name][0], clip.caption, task[name][1])
            for task, clip in zip(asked, clips, strict=True)
        ]
        if name == "forward":
            requests = [dataclasses.replace(r, window=window) for r in requests]
        made = dict(pipeline.generate_each(requests, settings))
        joins = asked[0][name][2]
        found[name] = [
            join_ratio(made[i], joins, closed=name == "loop") for i in range(CLIPS)
        ]
        if name == "forward":
            far = {str(after): distance(clips, made, after) for after in (4, 8, 12)}
    return found, far


def distance(clips: list[Episode], made: dict[int, np.ndarray], after: int) -> float:
    frame = GIVEN + after - 1
    errors = [
        made[i][frame].astype(np.float64) - clip.video[frame]
        for i, clip in enumerate(clips)
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def drifts(pipeline: Pipeline, settings: SampleSettings, window: int) -> list[float]:
    """Between the given frames and those of the last of four windows."""
    last = window - OVERLAP
    frames = FRAMES + WINDOWS * last
    scenes = still(6)
    requests = [
        request(Extend(video=scene.video), scene.caption, frames) for scene in scenes
    ]
    requests = [dataclasses.replace(r, window=window) for r in requests]
    made = dict(pipeline.generate_each(requests, settings))
    ends = [made[i][-last:] for i in range(len(scenes))]
    return [colour_drift(s.video, end) for s, end in zip(scenes, ends, strict=True)]


def request(task: Task, prompt: str, frames: int) -> Request:
    return Request(
        prompt=prompt,
        width=SIZE.width,
        height=SIZE.height,
        frames=frames,
        fps=SIZE.fps,
        task=task,
        overlap=OVERLAP,
    )


def with_random_weights(pipeline: Pipeline) -> Pipeline:
    """The same sizes; gates at random too, or blocks would pass everything on."""
    shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), pipeline.dit.model))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * 0.05).astype(np.float32), shapes
    )
    loaded = dataclasses.replace(pipeline.dit, params=params)
    return dataclasses.replace(pipeline, dit=loaded)


def row(name: str, values: Sequence[float]) -> str:
    passed = sum(value <= PASSES for value in values)
    return f"{name:24} {passed:2} of {len(values)}   median {np.median(values):5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=worlds_model())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--window", type=int, help="of clips extended forward")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="of connections and loops"
    )
    sampling.add_arguments(parser)
    args = parser.parse_args()
    settings = dataclasses.replace(sampling.settings_of(args), takes=args.takes)
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(args.checkpoint)
        onward = args.window, args.strength
        found, far = joined(pipeline, settings, *onward)
        once = dataclasses.replace(settings, takes=1)
        chance, _ = joined(with_random_weights(pipeline), once, *onward)
        plain = dataclasses.replace(once, cfg_scale=1.0, image_scale=1.0)
        drift = {
            f"{WINDOWS} windows of {window}": drifts(pipeline, plain, window)
            for window in sorted({args.window or FRAMES, FRAMES})
        }
    for source, by_task in (("model", found), ("random weights", chance)):
        print(f"{source}: joins of at most {PASSES} times the median step")
        print("\n".join(f"  {row(*item)}" for item in by_task.items()))
    print("away from the simulator's, of 255, after so many frames:", far)
    for windows, values in drift.items():
        print(f"drift over {windows}, of 255: {np.round(values, 2).tolist()}")
    if args.json:
        results = {
            "sha256": sha256_of_tree(pipeline.dit.params),
            "settings": dataclasses.asdict(settings)
            | {"window": args.window, "strength": args.strength},
            "joins": {"model": found, "random weights": chance},
            "distance": far,
            "drift": drift,
        }
        write_json(args.json, {**conditions(), "results": results})


if __name__ == "__main__":
    main()

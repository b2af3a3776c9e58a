"""Visible joins, distance from the simulator, and colour drift on held-out worlds.

    python -m benchmarks.joins [--checkpoint DIR] [--window FRAMES] [--json FILE]

Each task has twenty clips of 33 frames at 64×64; settings are chosen on other clips
(`--choosing`). A join passes when its step between frames is at most 1.5 times the
clip's median step. Clips whose simulated steps at these places are larger are left out,
because the truth would fail: there the moving thing is hidden most of the time. The
transformer with random weights, sampled once, should fail.

Drift is the change of the mean colour, of 255, of still scenes that are extended by
four windows without guidance. A join does not show a cut further on, so the report also
has the largest step over the mean step of bridges and loops.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.harness import conditions, write_json
from data_pipelines.worlds import WORLDS, Episode, World
from data_pipelines.worlds.sizes import Size
from soraxla.assets import worlds_model
from soraxla.cli import sampling
from soraxla.evals.drift import colour_drift
from soraxla.evals.worldbench.cases import FIRST_SEED
from soraxla.files.hashing import sha256_of_tree
from soraxla.generation.blending import frame_errors, join_ratio
from soraxla.generation.pipeline import Pipeline, load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import BRIDGE, Animate, Connect, Extend, Loop, Task
from soraxla.models import dit
from soraxla.parallel.mesh import sampling_mesh

CLIPS, FRAMES, INPUT_FRAMES = 20, 33, 17
PASSES = 1.5
OVERLAP, WINDOWS = 9, 4
SIZE = Size(width=64, height=64, frames=FRAMES, fps=16.0)
# The generated frames of these tasks, with an input frame on either side.
BRIDGES = {
    "connect": slice(INPUT_FRAMES - 1, INPUT_FRAMES + BRIDGE + 1),
    "loop": slice(INPUT_FRAMES - 1, FRAMES + 1),
}
# Beyond WorldBench's seeds: clips to choose settings on, and clips to report.
CHOOSING, TELLING = FIRST_SEED + 500_000_000, FIRST_SEED + 600_000_000


def held_out(count: int, first: int) -> list[Episode]:
    """Returns clips of the three flat worlds in turn whose simulated joins pass.

    Seeds are `first` and later.
    """

    def passing(simulate: World) -> Iterator[Episode]:
        for seed in itertools.count(first):
            clip = simulate(seed, **SIZE._asdict())
            if max(own_ratios(clip).values()) <= PASSES:
                yield clip

    worlds = [passing(WORLDS[name]) for name in ("occlusion", "physics", "marks")]
    return [next(worlds[i % 3]) for i in range(count)]


def still(count: int, first: int) -> list[Episode]:
    """Returns scenes in which nothing moves: shapes that rest, as captions say."""

    def resting() -> Iterator[Episode]:
        for seed in itertools.count(first):
            clip = WORLDS["occlusion"](seed, **SIZE._asdict())
            if not np.ptp(clip.video, axis=0).any():
                yield clip

    return list(itertools.islice(resting(), count))


def own_ratios(clip: Episode) -> dict[str, float]:
    """Returns the join ratios of a simulated clip, by task."""
    return {
        name: join_ratio(clip.video, joins)
        for name, (task, _, joins) in tasks(clip, clip).items()
        if isinstance(task, Animate | Extend)
    }


def tasks(
    clip: Episode, other: Episode, strength: float = 1.0
) -> dict[str, tuple[Task, int, list[int]]]:
    """Returns each task, its video's frames, and the first frame after each join.

    Connections and loops start at the strength.
    """
    video = clip.video
    return {
        "first frame": (Animate(first=video[:1]), FRAMES, [1]),
        "first and last frame": (
            Animate(first=video[:1], last=video[-1:]),
            FRAMES,
            [1, FRAMES - 1],
        ),
        "forward": (Extend(video=video[:INPUT_FRAMES]), FRAMES, [INPUT_FRAMES]),
        "backward": (
            Extend(video=video[-INPUT_FRAMES:], direction="backward"),
            FRAMES,
            [FRAMES - INPUT_FRAMES],
        ),
        "connect": (
            Connect(
                before=video[:INPUT_FRAMES],
                after=other.video[:INPUT_FRAMES],
                strength=strength,
            ),
            2 * INPUT_FRAMES + BRIDGE,
            [INPUT_FRAMES, INPUT_FRAMES + BRIDGE],
        ),
        "loop": (
            Loop(video=video[:INPUT_FRAMES], strength=strength),
            FRAMES,
            [0, INPUT_FRAMES],
        ),
    }


class Found(NamedTuple):
    """The measurements of generated clips, by task.

    Attributes:
        joins: the join ratio of each clip.
        cuts: the largest step over the mean step of each bridge or loop.
        far: root of the mean square distance of forward extensions from the
            simulator's, of 255, by the frames since the input.
    """

    joins: dict[str, list[float]]
    cuts: dict[str, list[float]]
    far: dict[str, float]


def joined(
    pipeline: Pipeline,
    settings: SamplingConfig,
    clips: list[Episode],
    window: int | None,
    strength: float,
) -> Found:
    """Returns the measurements of all tasks; forward extensions take windows."""
    asked = [tasks(clip, clips[i - 1], strength) for i, clip in enumerate(clips)]
    found = Found({}, {}, {})
    for name in asked[0]:
        requests = [
            request(task[name][0], clip.caption, task[name][1])
            for task, clip in zip(asked, clips, strict=True)
        ]
        if name == "forward":
            requests = [dataclasses.replace(r, window=window) for r in requests]
        made = dict(pipeline.generate_each(requests, settings))
        joins = asked[0][name][2]
        videos = [made[i] for i in range(len(clips))]
        found.joins[name] = [
            join_ratio(video, joins, closed=name == "loop") for video in videos
        ]
        if name == "forward":
            for after in (4, 8, 12):
                found.far[str(after)] = distance(clips, videos, after)
        if name in BRIDGES:
            found.cuts[name] = [largest_over_mean(v, BRIDGES[name]) for v in videos]
    return found


def largest_over_mean(video: np.ndarray, bridge: slice) -> float:
    """Returns the largest step between frames over the mean step, at least 0.5.

    Steps are those from one input frame to the next, around the end of the clip.
    """
    errors = frame_errors(np.concatenate([video, video[:1]])[bridge])
    return float(errors.max() / max(errors.mean(), 0.5))


def distance(clips: list[Episode], made: list[np.ndarray], after: int) -> float:
    frame = INPUT_FRAMES + after - 1
    errors = [
        made[i][frame].astype(np.float64) - clip.video[frame]
        for i, clip in enumerate(clips)
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def drifts(
    pipeline: Pipeline, settings: SamplingConfig, scenes: list[Episode], window: int
) -> list[float]:
    """Returns the drift between input frames and the last of four windows."""
    last = window - OVERLAP
    frames = FRAMES + WINDOWS * last
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
    """Returns the pipeline with random weights.

    Gates are random too, because blocks with gates of 0 would pass everything on.
    """
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
    parser.add_argument(
        "--choosing", action="store_true", help="the clips that settings are chosen on"
    )
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
        first = CHOOSING if args.choosing else TELLING
        clips = held_out(CLIPS, first)
        found = joined(pipeline, settings, clips, args.window, args.strength)
        once = dataclasses.replace(settings, takes=1)
        random = with_random_weights(pipeline)
        chance = joined(random, once, clips, args.window, args.strength)
        plain = dataclasses.replace(once, cfg_scale=1.0, image_scale=1.0)
        scenes = still(6, first)
        drift = {
            f"{WINDOWS} windows of {window}": drifts(pipeline, plain, scenes, window)
            for window in sorted({args.window or FRAMES, FRAMES})
        }
    for source, by_task in (("model", found.joins), ("random weights", chance.joins)):
        print(f"{source}: joins of at most {PASSES} times the median step")
        print("\n".join(f"  {row(*item)}" for item in by_task.items()))
    for name, cuts in found.cuts.items():
        print(
            f"{name}: largest over mean step on the way, median {np.median(cuts):.1f}"
        )
    print("away from the simulator's, of 255, after so many frames:", found.far)
    for windows, values in drift.items():
        print(f"drift over {windows}, of 255: {np.round(values, 2).tolist()}")
    if args.json:
        results = {
            "sha256": sha256_of_tree(pipeline.dit.params),
            "settings": dataclasses.asdict(settings)
            | {"window": args.window, "strength": args.strength, "first seed": first},
            "joins": {"model": found.joins, "random weights": chance.joins},
            "cuts": found.cuts,
            "distance": found.far,
            "drift": drift,
        }
        write_json(args.json, {**conditions(), "results": results})


if __name__ == "__main__":
    main()

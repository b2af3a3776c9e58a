"""The Fréchet distance of damaged clips: does it grow with the damage?

    python -m benchmarks.damage [--features worlds] [--clips 512] [--json FILE]

Real clips of `occlusion` are compared with other real clips that are damaged in five
ways, each at four strengths: noise, blur, a frozen end, shuffled frames, and clips of
another world among them. A network of features is of use if its distance grows with
each strength, and if the weakest damage is above the interval of real clips.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from benchmarks.harness import conditions, write_json
from data_pipelines.worlds import WORLDS
from soraxla.evals.features import load_features
from soraxla.evals.metrics.frechet import Frechet
from soraxla.evals.metrics.metric import Clip, Extractor, Rows

# From weak to strong: the standard deviation of noise, of 255; the radius of a Gaussian
# blur in pixels; the share of frames at the end that show one; the frames of a block
# that is shuffled; the share of clips of another world.
STRENGTHS = {
    "noise": (8, 16, 32, 64),
    "blur": (0.7, 1.0, 1.5, 2.5),
    "frozen": (0.25, 0.5, 0.75, 1.0),
    "shuffled": (3, 5, 9, 17),
    "other world": (0.125, 0.25, 0.5, 1.0),
}
_SIDE, _FRAMES = 64, 17
_FIRST = 2_500_100_000  # seeds that no training has


def clips(world: str, first: int, count: int) -> Iterator[np.ndarray]:
    """Yields clips of a world, (t, h, w, 3) uint8."""
    simulate = WORLDS[world]
    for seed in range(_FIRST + first, _FIRST + first + count):
        clip = simulate(seed, width=_SIDE, height=_SIDE, frames=_FRAMES, fps=16.0)
        yield np.asarray(clip.video)


def damaged(
    video: np.ndarray, other: np.ndarray, kind: str, strength: float, seed: int
) -> np.ndarray:
    """Returns a clip with a damage of `STRENGTHS`.

    Args:
        other: a clip of another world.
        seed: of the clip's noise and order; a clip is replaced by `other` in the share
            of seeds that the strength is.
    """
    rng = np.random.default_rng(seed)
    if kind == "noise":
        noisy = video + strength * rng.standard_normal(video.shape)
        return noisy.clip(0, 255).round().astype(np.uint8)
    if kind == "blur":
        how = ImageFilter.GaussianBlur(strength)
        return np.stack([np.asarray(Image.fromarray(x).filter(how)) for x in video])
    order = np.arange(len(video))
    if kind == "frozen":
        last = round((1 - strength) * (len(video) - 1))
        return video[np.minimum(order, last)]
    if kind == "shuffled":
        for start in range(0, len(order), int(strength)):
            rng.shuffle(order[start : start + int(strength)])
        return video[order]
    return other if rng.random() < strength else video


def distances(
    features: Extractor, count: int, told: Callable[[], Any] = lambda: None
) -> dict[str, list[dict[str, float]]]:
    """Returns the distance and its interval, "real" and those of each strength."""
    metric = Frechet(extractor=features)

    def rows(videos: Iterator[np.ndarray]) -> Rows:
        found: Rows = {}
        for i, video in enumerate(videos):
            clip = Clip(name=f"{i:06d}", frames=video)
            found = metric.update(found, [clip])
            told()
        return found

    reference = rows(clips("occlusion", 0, count))
    real = list(clips("occlusion", count, count))
    others = list(clips("physics", 0, count))
    kinds: list[tuple[str, float | None]] = [("real", None)]
    kinds += [(kind, each) for kind, levels in STRENGTHS.items() for each in levels]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind, _ in kinds}
    for kind, strength in kinds:
        videos: Any = real
        if strength is not None:
            pairs = enumerate(zip(real, others, strict=True))
            videos = (damaged(x, y, kind, strength, i) for i, (x, y) in pairs)
        value = metric.compute(rows(iter(videos)), reference)
        entry = {"value": value.value, "low": value.low, "high": value.high}
        found[kind].append(entry if strength is None else {"at": strength, **entry})
    return found


def grows(found: dict[str, list[dict[str, float]]]) -> dict[str, bool]:
    """Returns of each damage whether its distances rise, all above real clips'."""
    limit = found["real"][0]["high"]
    values = {kind: [limit, *(x["value"] for x in found[kind])] for kind in STRENGTHS}
    return {
        kind: all(a < b for a, b in itertools.pairwise(each))
        for kind, each in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", default="worlds", help="NAME or NAME:FOLDER")
    parser.add_argument("--clips", type=int, default=512, help="of each set")
    parser.add_argument("--json", type=Path, help="where the report is written")
    arguments = parser.parse_args()
    features, count = load_features(arguments.features), arguments.clips
    sets = 2 + sum(map(len, STRENGTHS.values()))
    with tqdm(total=sets * count, unit="clip") as bar:
        found = distances(features, count, lambda: bar.update())
    results: dict[str, Any] = {
        "features": {"name": features.name, "sha256": features.sha256},
        "clips": count,
        "distances": found,
        "grows": grows(found),
    }
    print(json.dumps(results, indent=1))
    if arguments.json is not None:
        write_json(arguments.json, {**conditions(), "results": results})


if __name__ == "__main__":
    main()

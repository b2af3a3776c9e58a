"""WorldBench's text scores of short prompts, plain and expanded.

    python -m benchmarks.short_prompts [--checkpoint C] [--clips 100] [--json FILE]

Prompts name a colour and a shape, such as "red star", of the held-out cases of the
family `text`. Each is generated as it is and as `pipe.expand` makes it, from the same
noise; the reader of the family names what it sees.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.harness import conditions, write_json
from soraxla.evals.metrics.metric import Metric, bootstrap
from soraxla.evals.worldbench.cases import SIZE
from soraxla.evals.worldbench.reading import read_shape
from soraxla.evals.worldbench.runner import FAMILIES, draw_cases
from soraxla.evals.worldbench.text import requested
from soraxla.generation.pipeline import load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.parallel.mesh import sampling_mesh

WAYS = ("plain", "expanded")


def right(
    pipeline: Any, clips: int, told: Any = lambda: None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns for each way whether colour and shape are right, and the expansions.

    The pipeline is one of `soraxla.load`. An array has a row (colour, shape, both) of 0
    and 1 for each clip.
    """
    asked = [requested(c.truth) for c in draw_cases(FAMILIES["text"], clips, SIZE)]
    short = [f"{wanted.colour} {wanted.shape}" for wanted in asked]
    expanded = [pipeline.expand(prompt).text for prompt in short]
    settings = SamplingConfig(**pipeline.defaults.sampling)
    found = {}
    for way, prompts in zip(WAYS, (short, expanded), strict=True):
        requests = [
            Request(prompt=prompt, **SIZE._asdict(), noise=i)
            for i, prompt in enumerate(prompts)
        ]
        rows = np.zeros((clips, 3))
        for i, video in pipeline.generate_each(requests, settings):
            seen = read_shape(video)
            parts = seen.colour == asked[i].colour, seen.shape == asked[i].shape
            rows[i] = *parts, all(parts)
            told()
        found[way] = rows
    return found, dict(zip(short, expanded, strict=True))


def summary(found: dict[str, np.ndarray]) -> dict[str, dict[str, Metric]]:
    """Returns the shares of each way, and the gain by expansion, clip by clip."""
    columns = ("colour", "shape", "both")
    values = {**found, "gain": found["expanded"] - found["plain"]}
    return {
        way: {name: bootstrap(rows[:, i]) for i, name in enumerate(columns)}
        for way, rows in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="default: the shipped model")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--json", type=Path, help="where the report is written")
    arguments = parser.parse_args()
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(arguments.checkpoint)
        with tqdm(total=2 * arguments.clips, unit="clip") as bar:
            found, texts = right(pipeline, arguments.clips, bar.update)
    results = {
        "shares": {
            way: {name: vars(metric) for name, metric in metrics.items()}
            for way, metrics in summary(found).items()
        },
        "prompts": dict(list(texts.items())[:10]),
    }
    print(json.dumps(results, indent=1))
    if arguments.json is not None:
        write_json(arguments.json, {**conditions(), "results": results})


if __name__ == "__main__":
    main()

"""Makes the README's gallery, by the commands that the README shows.

    python -m benchmarks.gallery

First the worlds simulate the input clips and pictures, with seeds that no dataset has.
Then every `soraxla generate` of the section runs in `docs/gallery/`.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.harness import ROOT
from data_pipelines.worlds import WORLDS
from soraxla.evals.worldbench.cases import FIRST_SEED
from soraxla.generation.defaults import model_defaults, read_usage
from soraxla.media.write import write_video

FOLDER = ROOT / "docs" / "gallery"
FIRST = FIRST_SEED + 700_000_000  # beyond what WorldBench and joins ask
# Name of the file, world, seed, and the frames of its clip of 33.
INPUTS = (
    ("shapes.mp4", "occlusion", 4, slice(0, 17)),
    ("balls.mp4", "physics", 5, slice(0, 17)),
    ("apple.png", "marks", 11, slice(0, 1)),
    ("wall.png", "occlusion", 3, slice(0, 1)),
    ("wall_later.png", "occlusion", 3, slice(-1, None)),
)
HOLE = (slice(16, 48), slice(16, 48))  # rows and columns of the mask that are white


def commands(readme: str) -> list[list[str]]:
    """Returns the words of every `soraxla generate` below the heading Gallery."""
    section = readme.split("\n## Gallery\n")[1].split("\n## ")[0]
    lines = section.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("soraxla generate")]


def write_inputs(folder: Path) -> None:
    """Writes the input files of the commands."""
    usual = model_defaults(read_usage(None))
    size = {"width": usual.width, "height": usual.height, "fps": usual.fps}
    for name, world, seed, frames in INPUTS:
        clip = WORLDS[world](FIRST + seed, frames=33, **size)
        write_video(folder / name, clip.video[frames], clip.fps)
    mask = np.zeros((usual.height, usual.width), np.uint8)
    mask[HOLE] = 255
    Image.fromarray(mask).save(folder / "hole.png")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    write_inputs(FOLDER)
    todo = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    soraxla = Path(sys.executable).with_name("soraxla")
    for words in tqdm(todo, unit="command"):
        start = time.perf_counter()
        subprocess.run([soraxla, *words[1:]], cwd=FOLDER, check=True)
        print(f"{time.perf_counter() - start:5.1f} s  {shlex.join(words)}")


if __name__ == "__main__":
    main()

"""Proves that two checkouts compute the same bits.

    python tests/bits.py --checkout BEFORE --out before.json
    python tests/bits.py --checkout AFTER --out after.json
    python tests/bits.py --compare before.json after.json

The script knows only the command line of a checkout, its `configs/` and its shipped
model, so a move of modules leaves the script as it is. The commands prepare, train,
export, generate and measure in the smallest sizes. XLA compiles them without its
optimisations, which would take most of the time. A run takes about five minutes on two
idle cores. Two runs compare only if one machine and one environment made both.

The commit "Make noise bits independent of shape, sharding and instruction set" changed
the rounding of noise, and with it `train` and `generate`. Compare these two with that
commit, and the other commands with any.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import safetensors
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

CLI = "soraxla.cli.main"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_COMPILATION_CACHE_DIR": "",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
# One interpreter runs `python -m CLI` for every line, because imports take seconds.
RUNNER = """
import json, runpy, sys, time
from pathlib import Path
module, checkout, lines = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for words in lines:
    start, sys.argv = time.monotonic(), ["soraxla", *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"soraxla {' '.join(words)}: the command failed")
    print(f"{words[0]} {words[-1]}: {time.monotonic() - start:.0f} s", flush=True)
roots = checkout, sys.prefix, sys.base_prefix
for loaded in list(sys.modules.values()):
    file = getattr(loaded, "__file__", None)
    if file and not any(Path(file).is_relative_to(root) for root in roots):
        sys.exit(f"{file}: a command loaded this file from outside of {checkout}")
"""

# The last word of a line is its output. Later lines read what earlier lines write.
# Seed 128096 gives a clip of each world: three have one shape, and one is a picture.
LINES = """
worlds --world mixed --clips 4 --seed 128096 --out worlds
prepare --source samples --no-conditions --out samples
prepare --source tfds:soraxla_worlds/mixed --data-dir worlds --out mixed
train --config {configs}/vae.py:debug --data media {windows} --workdir vae
export --checkpoint vae --out vae32
prepare --source media --vae vae --out latents
train --config {configs}/dit.py:debug --data mixed {rows} {controls} --workdir dit
export --checkpoint dit --out dit32
export --checkpoint dit --dtype bfloat16 --out dit16
export wan --checkpoint dit --out wan
import wan --from wan --text-encoder hashed --out back
train --config {configs}/finetune_wan.py:lora --init dit32 --data mixed {rows} \
    --workdir lora
export --checkpoint lora --out merged
export wan --checkpoint lora --adapter --out adapter
generate --prompt "a burger" {size} --frames 1 --steps 2 --out picture.png
generate --prompt "a red ball rolls" {size} --frames 9 {sampler} --out text.mp4
generate --image first.png {size} --frames 9 --image-scale 2 {sampler} --out first.mp4
generate --image first.png --last-image last.png {size} --frames 9 {sampler} \
    --out first_last.mp4
generate --last-image last.png {size} --frames 9 {sampler} --out last.mp4
generate --extend {a} --frames 21 {sampler} --takes 2 --out forward.mp4
generate --extend {a} --frames 13 --direction backward {sampler} --out backward.mp4
generate --extend {a} --frames 17 --direction both {sampler} --out both_ways.mp4
generate --connect {a} {b} --strength 0.5 {sampler} --out connect.mp4
generate --loop {a} {sampler} --out loop.mp4
generate --edit {a} --prompt "a green ball" --solver euler-ancestral {sampler} \
    --out edit.mp4
generate --inpaint {a} --mask mask.png --solver unipc {sampler} --out inpaint.mp4
generate --inpaint {a} --canvas 48x32 {sampler} --out canvas.mp4
generate --checkpoint dit --actions forward+left*7 --image first.png {size} --frames 9 \
    {sampler} --out actions.mp4
worldbench --checkpoint {shipped} --clips 2 {size} --frames 17 --steps 1 --out bench
"""
WORDS = {
    # `prepare` encodes clips of these names with a hole as well.
    "a": "media/clip_28.png",
    "b": "media/clip_63.png",
    "size": "--size 32x32",
    "sampler": "--steps 2 --overlap 5 --takes 1 --codec png",  # which loses nothing
    "rows": "--set pack.row_length=256 --set pack.text_length=64 --set loop.steps=3 "
    "--set pack.max_segments=4 --set step.optim.warmup_steps=1",
    "controls": "--set \"step.model.controls={'camera': True, 'actions': ('forward', "
    "'back', 'left', 'right', 'up', 'down', 'jump', 'dig', 'place', 'step_left', "
    "'step_right')}\"",
    "windows": "--set step.model.res_blocks=1 --set loop.steps=3 --set "
    "\"windows.shapes=[{'frames': 5, 'height': 16, 'width': 16, 'batch': 1}]\"",
}

Parts = Iterator[tuple[str, Iterable[bytes]]]


# --- What is run ------------------------------------------------------------------


def commands(checkout: Path) -> list[list[str]]:
    """Returns the words of all lines."""
    [config] = checkout.rglob("assets/worlds/dit/config.json")
    places = {"configs": checkout / "configs", "shipped": config.parent.parent}
    words = {key: str(place) for key, place in places.items()} | WORDS
    return [shlex.split(line.format(**words)) for line in LINES.strip().splitlines()]


def draw_media(folder: Path) -> None:
    """Writes two captioned clips, the first frame of each, and a mask."""
    (folder / "media").mkdir()
    t, y, x = np.mgrid[:9, :32, :32].astype(float)
    for k, (name, frame) in enumerate((("a", "first"), ("b", "last")), 1):
        clip = folder / WORDS[name]
        video = np.stack([6 * x + 3 * k * t, 5 * y + 20 * k, 8 * np.abs(x - y)], -1)
        video[(abs(x - 8 - 1.5 * t) < 5) & (abs(y - 16 - k) < 5)] = 230, 40 * k, 30
        first, *rest = map(Image.fromarray, video.clip(0, 255).astype(np.uint8))
        first.save(folder / f"{frame}.png")
        first.save(clip, save_all=True, append_images=rest, duration=80)
        clip.with_suffix(".txt").write_text(f"a square at place {k}")
    mask = np.where(x[0] + y[0] < 24, np.uint8(255), np.uint8(0))
    Image.fromarray(mask).save(folder / "mask.png")


def run(checkout: Path, folder: Path) -> dict[str, str]:
    """Runs all commands of a checkout in a folder and returns their outputs' hashes."""
    draw_media(folder)
    lines = commands(checkout)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, CLI, str(checkout), json.dumps(lines)],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(checkout)},
    )
    if done.returncode:
        sys.exit(done.returncode)
    return {
        f"{verb} {out}: {part}": digest(chunks)
        for verb, *_, out in lines
        for part, chunks in READERS[verb](folder / out)
    }


def digest(chunks: Iterable[bytes]) -> str:
    """Returns the SHA-256 of the chunks and their lengths."""
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(len(chunk).to_bytes(8) + chunk)
    return whole.hexdigest()


# --- What is hashed ---------------------------------------------------------------


def world_parts(folder: Path) -> Parts:
    """Returns the examples of a TFDS dataset."""
    yield "examples", record_bytes(folder)


def data_parts(folder: Path) -> Parts:
    """Returns the records, the index and the card of a prepared dataset."""
    yield "records", record_bytes(folder)
    yield "index", [json_bytes(pq.read_table(folder / "index.parquet").to_pylist())]
    yield "card", [json_bytes(read_json(folder / "dataset.json"))]
    yield "empty text", tensor_bytes(folder / "empty_text.safetensors")


def training_parts(folder: Path) -> Parts:
    """Returns the settings of a training without places, its numbers without rates."""
    settings = without_none(read_json(folder / "train.json"))
    settings.get("init", {}).pop("folder", None)
    # None changes a parameter. `data` of a VAE is a hash of the media's times too.
    for key in ("loop", "eval_share", "data"):
        settings.pop(key, None)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    numbers = [{k: v for k, v in x.items() if "per_second" not in k} for x in lines]
    yield "settings", [json_bytes(settings)]
    yield "metrics", [json_bytes(numbers)]


def weight_parts(folder: Path) -> Parts:
    """Returns the tensors and the settings of all weights in a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    yield "tensors", (part for file in files for part in tensor_bytes(file))
    settings = [without_none(read_json(f)) for f in sorted(folder.rglob("*.json"))]
    yield "settings", [json_bytes(settings)]


def frame_parts(file: Path) -> Parts:
    """Returns the decoded frames of a picture or a clip."""
    with av.open(str(file)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    yield "frames", [str(np.shape(frames)).encode(), *(f.tobytes() for f in frames)]


def bench_parts(folder: Path) -> Parts:
    """Returns the results of a measurement, its manifest without place and versions."""
    manifest = read_json(folder / "manifest.json")
    for name in ("checkpoint", "packages", "commit"):
        del manifest[name]
    results = read_json(folder / "results.json")
    families = results.get("families", results)  # of older versions: nothing beside
    clips = {name: family["clips"] for name, family in families.items()}
    yield "results", [json_bytes(clips)]
    yield "manifest", [json_bytes(manifest)]


def record_bytes(folder: Path) -> Iterator[bytes]:
    """Returns all records of the archives in a folder."""
    for file in sorted(folder.rglob("*.array_record*")):
        yield from ArrayRecordReader(str(file)).read_all()


def tensor_bytes(file: Path) -> Iterator[bytes]:
    """Returns the names, types, shapes and numbers of a safetensors file."""
    stored = dict(safetensors.deserialize(file.read_bytes()))
    for name, tensor in sorted(stored.items()):
        yield f"{name} {tensor['dtype']} {tensor['shape']}".encode()
        yield bytes(tensor["data"])


def without_none(value: Any) -> Any:
    """Returns a JSON value without the keys that are null: settings that are off."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [*map(without_none, value)] if isinstance(value, list) else value


def json_bytes(value: Any) -> bytes:
    """Returns a value as JSON with sorted keys."""
    return json.dumps(value, sort_keys=True).encode()


def read_json(file: Path) -> Any:
    """Returns the value in a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


READERS: dict[str, Callable[[Path], Parts]] = {
    "worlds": world_parts,
    "prepare": data_parts,
    "train": training_parts,
    "export": weight_parts,
    "import": weight_parts,
    "generate": frame_parts,
    "worldbench": bench_parts,
}


# --- Command line -----------------------------------------------------------------


def compare(before: Path, after: Path) -> bool:
    """Prints the hashes of two runs and returns whether all of them are equal."""
    a, b = read_json(before), read_json(after)
    for name in {**a, **b}:
        first, second = (found.get(name, "missing")[:12] for found in (a, b))
        verdict = "same" if a.get(name) == b.get(name) else "DIFFERENT"
        print(f"{name:<32} {first:<12} {second:<12} {verdict}")
    return a == b


def main() -> int:
    """Runs a checkout or compares two runs, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--checkout", type=Path, metavar="DIR", help="checkout to run")
    way.add_argument("--compare", type=Path, nargs=2, metavar="JSON", help="two runs")
    parser.add_argument("--out", type=Path, default=Path("hashes.json"))
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="new folder of outputs"
    )
    args = parser.parse_args()
    if args.compare:
        return 0 if compare(*args.compare) else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(args.checkout.resolve(), folder.resolve())
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

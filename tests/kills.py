"""Kills commands at random moments; what they make in the end must be the same bits.

    python -m tests.kills [NAME…] [--kills 30] [--seed 0] [--out FILE]

Each of `prepare`, `dit`, `vae`, `lora` (trainings) and `worlds` runs unbroken, twice,
and then again in new folders. SIGKILL ends it at moments that are uniform over the
time of the second unbroken run, or a longer one, and the same command starts again.
When it has come to its end the folder must hold what the unbroken one does: every file
of a dataset, and every array of a training's checkpoint with its position, records and
settings. Then the next folder is begun, until there were as many kills as asked for.

A server that has imported everything forks the commands, so kills meet their work
and seldom their imports. The status is 1 if a folder differs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
    "OPENBLAS_NUM_THREADS": "1",  # threads do not live on in a forked process
}
IMPORTED = (
    *("soraxla.cli.main", "soraxla.training.run", "soraxla.tools.prepare"),
    *("data_pipelines.worlds.builder", "tests.tiny"),
)
PATIENCE = 600  # seconds that a command may take

# The sizes of the trainings; their steps and checkpoints fill most of their time.
LOOP = {"loop.steps": 9, "loop.checkpoint_every": 2}
SMALL = {"layers": 1, "text_refiner_layers": 0}
ROWS = {
    **{"pack.row_length": 64, "pack.text_length": 32, "pack.max_segments": 4},
    **{"step.model.remat": "none", "step.optim.warmup_steps": 1, **LOOP},
    "loop.evaluators.preview": None,
}
WINDOWS = {
    **{"step.model.res_blocks": 1, "step.model.latent_channels": 4, **LOOP},
    **{"step.model.multipliers": (1, 1), "step.model.temporal_down": (True,)},
    "windows.shapes": [{"frames": 5, "height": 8, "width": 8, "batch": 1}],
}
PICTURES, CLIPS = 24, 80
SHARD = 8  # records in a shard of `worlds`, and at least in one of `prepare`
SHARD_MIB = SHARD * 550 / 2**20  # pictures of one token, with captions


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command without its last word, the folder; and what is compared."""

    words: Sequence[Any]
    read: Callable[[Path], dict[str, str]]


@dataclass(kw_only=True)
class Result:
    """The kills of one command."""

    seconds: float  # of the unbroken run
    kills: int = 0
    killed_at: list[float] = field(default_factory=list)  # seconds after the start
    folders: int = 0  # that came to their end
    differences: list[str] = field(default_factory=list)


def sets(settings: Mapping[str, Any]) -> list[str]:
    return [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]


def cases(home: Path) -> dict[str, Case]:
    data, media = ("--data", home / "data"), ("--data", home / "clips")
    vae = ("--vae", home / "model/vae", "--text-encoder", "hashed:16")
    lora = ("train", "--config", "finetune_wan:lora", "--init", home / "model")
    rows = {k: v for k, v in ROWS.items() if k != "step.model.remat"}
    small = {f"step.model.{k}": v for k, v in SMALL.items()}
    return {
        "prepare": Case(
            words=(
                *("prepare", "--source", home / "pictures", *vae),
                *("--shard-mib", SHARD_MIB, "--out"),
            ),
            read=files,
        ),
        "dit": Case(
            words=(
                *("train", "--config", "dit:debug", *data),
                *(*sets(ROWS | small), "--workdir"),
            ),
            read=training,
        ),
        "vae": Case(
            words=(
                *("train", "--config", "vae:debug", *media),
                *(*sets(WINDOWS), "--workdir"),
            ),
            read=training,
        ),
        "lora": Case(words=(*lora, *data, *sets(rows), "--workdir"), read=training),
        "worlds": Case(
            words=("worlds", "--world", "marks", "--clips", CLIPS, "--out"),
            read=files,
        ),
    }


# --- What is compared -------------------------------------------------------------


def files(folder: Path) -> dict[str, str]:
    """Returns the digest of every file, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def training(folder: Path) -> dict[str, str]:
    """Returns the digests of a training folder's newest state and of its records.

    Speeds, and the files of TensorBoard and of checkpoints, hold times.
    """
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    newest = folder / "checkpoints" / str(steps[-1])
    state = ocp.StandardCheckpointer().restore((newest / "state").resolve())
    found = {"checkpoints": str(steps)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found[f"state{jax.tree_util.keystr(path)}"] = digest(np.asarray(leaf).tobytes())
    [position] = (newest / "plan").glob("metadata")
    found["position"] = position.read_text(encoding="utf-8")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for record in map(json.loads, lines):
        numbers = {k: v for k, v in record.items() if "per_second" not in k}
        found[f"metrics {len(found)}"] = json.dumps(numbers)
    for place in sorted((folder / "checksums").iterdir()):
        found[f"checksums {place.name}"] = "there"
    # Everything else, and nothing that a kill has left behind.
    timed = ("checkpoints/", "tensorboard/", "checksums/", "metrics.jsonl")
    rest = files(folder).items()
    return found | {name: value for name, value in rest if not name.startswith(timed)}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: {one.get(name, 'none')[:20]}, then {other.get(name, 'none')[:20]}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


# --- Forked processes -------------------------------------------------------------


def command(words: Sequence[str], log: str) -> None:
    """Runs a command in this process, which ends with its status."""
    with open(log, "a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from data_pipelines.worlds import builder
    from soraxla.cli.main import main
    from soraxla.parallel import compiler

    builder._SHARD = SHARD
    # Programs that call oneDNN are not kept, and would be compiled by each process.
    compiler.compiler_options = lambda **_: {}
    sys.exit(main(list(words)))


def written(read: Callable[[Path], dict[str, str]], folder: Path, out: str) -> None:
    """Writes what `read` finds in a folder to the file `out`."""
    Path(out).write_text(json.dumps(read(folder)), encoding="utf-8")


class Commands:
    """Processes forked from a server that has imported what the commands need."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._log = folder / "log"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTED))

    def fork(self, function: Callable[..., None], *args: Any) -> Any:
        process = self._context.Process(target=function, args=args)
        process.start()
        return process

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Runs a function to its end.

        Raises:
            RuntimeError: it failed.
        """
        process = self.fork(function, *args)
        process.join(PATIENCE)
        if process.exitcode != 0:
            process.kill()
            raise RuntimeError(f"status {process.exitcode}\n{self._log.read_text()}")

    def run(self, words: Sequence[Any]) -> float:
        """Runs a command to its end; returns its seconds."""
        began = time.monotonic()
        self.call(command, [*map(str, words)], str(self._log))
        return time.monotonic() - began

    def killed(self, words: Sequence[Any], after: float) -> bool:
        """Kills a command after some seconds; returns False if it ended before.

        Raises:
            RuntimeError: it ended with another status than 0.
        """
        process = self.fork(command, [*map(str, words)], str(self._log))
        process.join(after)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode not in (0, -9):
            raise RuntimeError(f"status {process.exitcode}\n{self._log.read_text()}")
        return process.exitcode == -9

    def read(self, case: Case, folder: Path) -> dict[str, str]:
        out = self._folder / "found.json"
        self.call(written, case.read, folder, str(out))
        return json.loads(out.read_text(encoding="utf-8"))


# --- The run ----------------------------------------------------------------------


def inputs(home: Path) -> None:
    """Writes media, and a model and a VAE of random weights."""
    import numpy as np
    from PIL import Image

    from soraxla.checkpoints.model_folder import save_folder
    from soraxla.core.config import to_dict
    from soraxla.media.write import write_video
    from tests import tiny

    for name in ("pictures", "clips"):
        (home / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        picture.save(home / "pictures" / f"{i:03}.png")
        (home / "pictures" / f"{i:03}.txt").write_text(f"noise number {i}")
    y, x = np.mgrid[:32, :48] * 4.0
    for i in range(6):
        frames = [np.stack([x + 5 * t, y + 9 * i, 0 * x + 90], -1) for t in range(9)]
        frames = [frame.clip(0, 255).astype(np.uint8) for frame in frames]
        write_video(home / "clips" / f"{i}.mp4", frames, 12)
        (home / "clips" / f"{i}.txt").write_text(f"colours that drift, {i}")
    dit, vae = replace(tiny.DIT, **SMALL), tiny.loaded_vae()
    config = tiny.loaded_dit().config | {"model": to_dict(dit)}
    save_folder(home / "model/dit", tiny.dit_params(dit), config)
    save_folder(home / "model/vae", vae.params, vae.config)


def kill(
    commands: Commands, case: Case, folder: Path, *, kills: int, rng: random.Random
) -> Result:
    """Kills a command `kills` times, in as many folders as that takes."""
    commands.run([*case.words, folder / "compiled"])
    seconds = commands.run([*case.words, folder / "unbroken"])
    expected = commands.read(case, folder / "unbroken")
    result = Result(seconds=round(seconds, 2))
    found = differences(commands.read(case, folder / "compiled"), expected)
    result.differences += [f"without a kill: {line}" for line in found]
    while result.kills < kills:
        out, before = folder / f"killed_{result.folders}", result.kills
        while result.kills < kills:
            # Other work may slow the machine, so later kills leave it more time.
            after = rng.uniform(0, seconds) * (1 + (result.kills - before) / 10)
            if not commands.killed([*case.words, out], after):
                break
            result.kills += 1
            result.killed_at.append(round(after, 2))
        else:
            commands.run([*case.words, out])
        result.folders += 1
        found = differences(expected, commands.read(case, out))
        result.differences += [f"{out.name}: {line}" for line in found]
        print(f"  {result.kills} kills, {len(found)} differences", flush=True)
    return result


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("names", nargs="*", metavar="NAME")
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, help="JSON file for the results")
    args = arguments.parse_args()
    os.environ.update(ENVIRONMENT)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(home / "compiled")
        commands = Commands(home)
        commands.call(inputs, home)
        known = cases(home)
        data = ("prepare", "--source", home / "clips", *known["prepare"].words[3:])
        commands.run([*data, home / "data"])
        for name in args.names or known:
            print(name, flush=True)
            rng = random.Random(f"{args.seed} {name}")
            (home / name).mkdir()
            results[name] = kill(
                commands, known[name], home / name, kills=args.kills, rng=rng
            )
    print("| command | kills | folders | unbroken run, s | differences |")
    print("|---|---|---|---|---|")
    for name, result in results.items():
        numbers = (result.kills, result.folders, result.seconds)
        print(
            f"| {name} | {' | '.join(map(str, numbers))} | {len(result.differences)} |"
        )
        for line in result.differences[:20]:
            print(f"    {line}")
    if args.out is not None:
        write(args, results)
    return int(any(result.differences for result in results.values()))


def write(args: argparse.Namespace, results: Mapping[str, Result]) -> None:
    """Writes the results with the versions and the commit that they are of."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    report = {
        "command": f"python -m tests.kills --kills {args.kills} --seed {args.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "orbax-checkpoint", "array-record")},
        "results": {name: vars(result) for name, result in results.items()},
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

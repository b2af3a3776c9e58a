"""Breaks one thing at a time in a copy of the tree and sees its fast tests fail.

    python -m tests.mutations [NAME…]

Prints a line for each mutation with the tests that caught it; the status is 1 if one
was missed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("soraxla", "data_pipelines", "configs", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """A replacement of text in a file, which must occur once, and tests to catch it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = {
    "segment mask of attention": Mutation(
        "soraxla/ops/engines/xla_flash.py",
        "key.ids_M[:, None] == query.ids_Q[None, :]",
        "key.ids_M[:, None] >= query.ids_Q[None, :]",
        ("tests/ops/test_attention.py::test_it_is_every_segment_s_own_attention",),
    ),
    "noise key by visit": Mutation(
        "soraxla/diffusion/process.py",
        "return fold(key, jnp.asarray(visit))",
        "return fold(key, jnp.zeros_like(jnp.asarray(visit)))",
        ("tests/diffusion/test_process.py",),
    ),
    "padding in the loss": Mutation(
        "soraxla/diffusion/loss.py",
        "jnp.where(generated, jnp.maximum(n_BL, 1.0) ** -0.5, 0.0)",
        "jnp.maximum(n_BL, 1.0) ** -0.5",
        ("tests/diffusion/test_loss.py",),
    ),
    "causal pad of the VAE": Mutation(
        "soraxla/models/vae/layers.py",
        "x = jnp.concatenate([past, x], axis=1)\n        self.future.append(x[:, x.s",
        "x = jnp.concatenate([past[:, 1:], x, past[:, :1]], axis=1)\n"
        "        self.future.append(x[:, x.s",
        ("tests/models/vae/test_model.py::test_a_latent_sees_no_later_frame",),
    ),
    "row order of guidance": Mutation(
        "soraxla/diffusion/guidance.py",
        "rows = [batch, negative]",
        "rows = [negative, batch]",
        ("tests/diffusion/test_guidance.py",),
    ),
    "frame rate of RoPE": Mutation(
        "soraxla/packing/patchify.py",
        "scale = rope_fps / fps if moves",
        "scale = fps / rope_fps if moves",
        ("tests/packing/test_patchify.py",),
    ),
    "resume off by one": Mutation(
        "soraxla/training/loop.py",
        "for step in range(first + 1, loop.steps + 1):",
        "for step in range(first + (first > 0) + 1, loop.steps + 1):",
        ("tests/training/test_loop.py::test_k_steps_and_the_rest_are_all_steps",),
    ),
    "data of a resumed run": Mutation(
        "soraxla/training/loop.py",
        "batches.set_state(position)",
        "next(batches)",
        ("tests/training/test_loop.py::test_k_steps_and_the_rest_are_all_steps",),
    ),
    "decay of the EMA": Mutation(
        "soraxla/training/state.py",
        "decay = jnp.minimum(settings.ema_decay, (1.0 + step) / (10.0 + step))",
        "decay = jnp.minimum(settings.ema_decay, (2.0 + step) / (11.0 + step))",
        (
            "tests/training/test_state.py::test_the_average_starts_quickly_and_ends_at_its_decay",
        ),
    ),
    "transposed kernel on import": Mutation(
        "soraxla/checkpoints/wan/layout.py",
        "return rearrange(tensor, self.axes, **self.sizes)",
        "ours = rearrange(tensor, self.axes, **self.sizes)\n"
        "        square = ours.ndim == 2 and ours.shape[0] == ours.shape[1]\n"
        "        return ours.T if square else ours",
        ("tests/checkpoints/wan/test_wan21.py::test_the_transformer_is_diffusers",),
    ),
    "block skip of splash": Mutation(
        "soraxla/ops/engines/tpu_splash.py",
        "block_mask=2 * meet_IJ.astype(jnp.int32)[None]",
        "block_mask=2 * jnp.ones_like(meet_IJ, jnp.int32)[None]",
        (
            "tests/ops/test_tpu_splash.py::test_blocks_of_other_segments_are_never_visited",
        ),
    ),
}


def copy_of_the_tree(folder: Path) -> Path:
    """Copies what the tests need."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder


def failing_tests(tree: Path, mutation: Mutation) -> list[str]:
    """Returns the names of the tests that fail with the mutation.

    Raises:
        ValueError: the text to replace does not occur once.
        RuntimeError: pytest ended without failed tests but not well.
    """
    path = tree / mutation.file
    before = path.read_text(encoding="utf-8")
    if before.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.file} holds {mutation.old!r} {before.count(mutation.old)} "
            "times, expected once: adapt tests/mutations.py"
        )
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    try:
        done = subprocess.run(
            [*command, *mutation.tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-1000:])
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)


def main(*names: str) -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_tree(Path(folder))
        for name in names or MUTATIONS:
            failed = failing_tests(tree, MUTATIONS[name])
            missed += not failed
            found = ", ".join(failed) if failed else "MISSED"
            print(f"{name}: {found}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

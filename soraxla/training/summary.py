"""Summary of a training: printed before its first step, and after its last."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from data_pipelines.vae_windows import WindowConfig
from soraxla.core.config import flat
from soraxla.packing.schedule import schedule_window
from soraxla.packing.schedule_index import ScheduleIndex
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import Experiment, LoopConfig
from soraxla.training.routing import kept_tokens
from soraxla.training.step_flops import step_flops


class StepWork(NamedTuple):
    """The mean work of a step.

    Attributes:
        amount: tokens of clips, without padding, or pixels; see `unit`.
        unit: "tokens" or "px".
        room: tokens that the rows have room for; None for a VAE.
        flops: of forward and backward pass, counted; None for a VAE.
    """

    amount: int
    unit: str
    room: int | None = None
    flops: int | None = None


def packed_work(cfg: DiTTrainingConfig, index: ScheduleIndex) -> StepWork:
    """Returns the mean work of a transformer's steps, from the first window's rows."""
    rows = schedule_window(index, cfg.pack, seed=cfg.step.seed, window=0)
    visits = [visit for row in rows for visit in row]
    tokens = [visit.tokens for visit in visits]
    text = [visit.text_tokens for visit in visits]
    share = cfg.batch_rows / len(rows)
    kept = tokens
    if cfg.step.routing is not None:
        kept = kept_tokens(visits, index, cfg.step.routing).tolist()
    return StepWork(
        amount=round(sum(tokens) * share),
        unit="tokens",
        room=cfg.batch_rows * cfg.pack.row_length,
        flops=round(step_flops(cfg.step, tokens, kept, text) * share),
    )


def window_work(windows: WindowConfig) -> StepWork:
    """Returns the mean pixels of a VAE's steps, were files large enough for each."""
    total = sum(shape.weight for shape in windows.shapes)
    pixels = sum(
        shape.weight / total * shape.batch * shape.frames * shape.height * shape.width
        for shape in windows.shapes
    )
    return StepWork(amount=round(pixels), unit="px")


def differences(preset: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Returns `key = value (preset: value)` of each setting that differs."""
    was, now = dict(flat(preset)), dict(flat(config))
    lines = []
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            lines.append(f"{key} = {now.get(key)!r} (preset: {was.get(key)!r})")
    return lines


def setting_lines(settings: Mapping[str, Any]) -> list[str]:
    """Returns `key = value` of every setting, sorted; a long list by its length."""

    def shown(value: Any) -> str:
        many = isinstance(value, list) and len(value) > 20
        return f"[{len(value)} entries]" if many else repr(value)

    return [f"{key} = {shown(value)}" for key, value in sorted(flat(settings))]


def count(params: PyTree) -> int:
    """Returns the number of parameters of a tree of arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def device_bytes(tree: PyTree) -> int:
    """Returns the bytes that a tree of sharded arrays, or shapes, takes on a device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def program_bytes(program: jax.stages.Compiled) -> int | None:
    """Returns the memory of a program on a device; None if its platform says none."""
    used = program.memory_analysis()
    if used is None:
        return None
    new = used.output_size_in_bytes - used.alias_size_in_bytes
    return used.argument_size_in_bytes + new + used.temp_size_in_bytes


def step_memory(experiment: Experiment) -> list[str]:
    """Returns the line on the memory of a compiled step; none if it is unknown.

    The first batch is read, and the step is compiled for the devices.
    """
    try:
        needed = program_bytes(experiment.compiled_step())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        return [f"{'':<8}a step does not fit a device: {reason}"]
    return (
        []
        if needed is None
        else [f"{'':<8}a step needs {_size(float(needed))} a device"]
    )


def summary(
    experiment: Experiment, loop: LoopConfig, data: str, work: StepWork
) -> list[str]:
    """Returns the lines on a training: model, mesh, data, a step's work, memory.

    Args:
        data: the dataset, or the folder of media, in a few words.
    """
    model = experiment.settings["step"]["model"]
    trained = count(experiment.state.params)
    frozen = sum(map(count, experiment.frozen))
    parameters = f"{trained:,} parameters"
    if frozen:
        parameters += f" trained beside {frozen:,} frozen ones"
    mesh = experiment.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    device = mesh.devices.flat[0]
    kind = getattr(device, "device_kind", device.platform)
    step = f"{work.amount:,} {work.unit}"
    if work.room:
        step += f" of {work.room:,} ({work.amount / work.room:.0%})"
    if work.flops:
        step += f", {work.flops:.3g} FLOPs"
    held = device_bytes((experiment.state, experiment.frozen))
    rows = {
        "model": f"{experiment.settings['kind']}, {parameters}, {model['dtype']}",
        "mesh": f"{mesh.size} x {kind}: {axes}",
        "data": data,
        "a step": f"{step}, in the mean",
        "memory": f"{_size(float(held))} a device for weights, EMA and optimizer; "
        "activations come on top",
        "steps": f"{loop.steps:,}, a checkpoint every {loop.checkpoint_every:,}",
    }
    return [f"{name:<8}{text}" for name, text in rows.items()]


def ending(
    kind: str, workdir: Path, step: int, steps: int, skipped: int = 0
) -> list[str]:
    """Returns the lines after a training: where things are, and what to type next.

    Args:
        kind: of the training, or "synthetic" for one that trained on no dataset.
        skipped: the number of steps without a finite gradient.
    """
    made = ["checkpoints", "metrics.jsonl", "tensorboard", "previews"]
    there = [name for name in made if (workdir / name).exists()]
    lines = [f"{workdir}: step {step:,} of {steps:,}; {', '.join(there)}"]
    if skipped:
        lines.append(f"{skipped:,} of {step:,} steps had no finite gradient: skipped")
    if step < steps:
        return [*lines, "next: the same command again, which goes on from here"]
    if kind == "synthetic":
        return lines
    commands = {
        "dit": f'generate --checkpoint {workdir} --prompt "…" --out video.mp4',
        "vae": f"prepare --source MEDIA --vae {workdir} --out DATASET",
        "captioner": f"caption apply --checkpoint {workdir} --clips CLIPS",
    }
    return [*lines, f"next: soraxla {commands[kind]}"]


def indented(title: str, lines: Iterable[str]) -> list[str]:
    """Returns a title and its lines below it, indented; nothing without lines."""
    lines = [f"  {line}" for line in lines]
    return [title, *lines] if lines else []


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"

"""Memory and traffic of programs on TPUs, by the TPU compiler, without a TPU.

The real programs are compiled ahead of time for a named topology. The result shows that
they fit and which bytes they send, but not their speed, since no TPU has run them.
"""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.core.types import PackedBatch
from soraxla.diffusion.guidance import Guidance
from soraxla.diffusion.time_grid import Grid
from soraxla.generation.request import SamplingConfig
from soraxla.generation.sampling import Begun, programs, state_sharding
from soraxla.models import dit, vae
from soraxla.models.dit.flops import token_flops
from soraxla.models.dit.module import TEXT_AXES
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.collectives import Collective, collectives
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import (
    MESH_AXES,
    PACKED_AXES,
    REPLICATED,
    LogicalAxes,
    MeshConfig,
    axis_size,
    make_mesh,
    param_shardings,
    partition_spec,
    with_shardings,
)
from soraxla.tools.topologies import chip_of, topology_devices
from soraxla.training.dit_experiment import check_mesh
from soraxla.training.dit_step import dit_init, dit_step
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.heads import state_rules
from soraxla.training.loop import Experiment
from soraxla.training.routing import rounded
from soraxla.training.step_flops import step_flops
from soraxla.training.summary import device_bytes

SAMPLED = SamplingConfig()

# A function that jits the program for the mesh that is set, and its arguments' shapes.
Program = tuple[Callable[[], Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The compiler's analysis: bytes of one chip, FLOPs and tokens of all chips.

    Attributes:
        peak: arguments, output and temporaries together, without donated arguments.
        flops: counted, not the compiler's; None for the VAE.
        estimate_seconds: the larger of FLOPs at the chip's peak and bytes sent at its
            links' peak, as if they overlapped wholly: a bound, not a measurement.
        filling_rows: the rows that would fill the memory, were all but the weights and
            the optimizer's state proportional to rows; None for the VAE.
    """

    what: str
    topology: str
    chips: int
    mesh: dict[str, int]
    settings: dict[str, Any]
    compile_seconds: float
    arguments: int
    temporaries: int
    peak: int
    hbm: int
    collectives: list[Collective]
    tokens: int
    flops: int | None
    estimate_seconds: float | None
    filling_rows: int | None

    @property
    def free(self) -> float:
        """Share of the chip's memory that is left."""
        return 1.0 - self.peak / self.hbm

    @property
    def tokens_a_second(self) -> float | None:
        """Tokens per second of all chips at most."""
        return self.estimate_seconds and self.tokens / self.estimate_seconds

    @property
    def mfu(self) -> float | None:
        """Share of the chips' peak FLOPs at most (MFU)."""
        if self.flops is None or self.estimate_seconds is None:
            return None
        peak = self.chips * chip_of(self.topology).bf16_teraflops * 1e12
        return self.flops / (peak * self.estimate_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan ready for JSON."""
        return asdict(self) | {"collectives": [c._asdict() for c in self.collectives]}


class DoesNotFit(UserError):
    """The compiler ran out of a chip's memory."""


def plan_training(cfg: DiTTrainingConfig, topology: str, *, clips: int = 4) -> Plan:
    """Plans the train step of `soraxla train`, with rows full of `clips` equal clips.

    Raises:
        DoesNotFit: it does not fit the chip.
        UserError: see `topology_devices`; the mesh does not divide what it cuts.
    """
    mesh = _mesh(cfg, topology)
    tokens, text = _clips(cfg, clips)
    kept, routing = np.array(tokens), cfg.step.routing
    if routing is not None:
        kept = kept - routing.skipping(kept)
    work = step_flops(cfg.step, tokens, kept.tolist(), text)
    return _plan("train", topology, mesh, train_program(cfg, mesh), cfg, work)


def plan_sampling(cfg: DiTTrainingConfig, topology: str) -> Plan:
    """Plans the sampler of `soraxla generate` on rows of one clip; raises as above.

    FLOPs and the estimate are of one step, in which guidance predicts twice.
    """
    mesh = _mesh(cfg, topology)
    work = 2 * token_flops(cfg.step.model, *_clips(cfg, 1))
    program = sample_program(cfg, mesh)
    return _plan("sample", topology, mesh, program, cfg, work)


def plan_decoding(
    model: VAEConfig, settings: MeshConfig, topology: str, *, size, latents: int
) -> Plan:
    """Plans a chunk of the VAE's decoder, see `decode_program`; raises as above."""
    mesh = make_mesh(settings, topology_devices(topology))
    program = decode_program(mesh, cfg=model, size=size, latents=latents)
    asked = {"vae": to_dict(model), "size": list(size), "latents": latents}
    return _plan("vae-decode", topology, mesh, program, asked, None)


def fitted(
    cfg: DiTTrainingConfig, topology: str, *, what: str, rows: bool
) -> DiTTrainingConfig:
    """Returns the configuration with the mesh and rows that commands choose by default.

    Sampling shares a row among all chips. A training has rows for all of them, as near
    to the configured number as possible, unless `rows` is True: the user named it.

    Raises:
        UserError: see `topology_devices`.
    """
    devices = topology_devices(topology)
    if what != "train":
        if cfg.mesh == MeshConfig():
            cfg = replace(cfg, mesh=MeshConfig(fsdp=1, context=len(devices)))
        cfg = replace(cfg, accumulate=1)
        return cfg if rows else replace(cfg, batch_rows=1)
    parts = max(1, len(devices) // (cfg.mesh.context * cfg.mesh.tensor))
    parts *= cfg.accumulate
    near = parts * max(1, round(cfg.batch_rows / parts))
    return cfg if rows else replace(cfg, batch_rows=near)


def _mesh(cfg: DiTTrainingConfig, topology: str) -> Mesh:
    mesh = make_mesh(cfg.mesh, topology_devices(topology), width=cfg.step.model.width)
    check_mesh(cfg, mesh)
    return mesh


def _clips(cfg: DiTTrainingConfig, clips: int) -> tuple[list[int], list[int]]:
    """Returns tokens and text tokens of a batch's clips."""
    each = cfg.pack.row_length // clips, cfg.pack.text_length // clips
    tokens, text = ([n] * (clips * cfg.batch_rows) for n in each)
    return tokens, text


def _plan(
    what: str,
    topology: str,
    mesh: Mesh,
    program: Program,
    asked: Any,
    flops: int | None,
) -> Plan:
    """Compiles a program and reads its plan."""
    (build, arguments), chip = program, chip_of(topology)
    hbm = int(chip.hbm_gib * 2**30)
    fill = functools.partial(
        filling_rows, asked, mesh, held=device_bytes(arguments[0]), hbm=hbm
    )
    with jax.set_mesh(mesh):
        started = time.monotonic()
        try:
            compiled = build().lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            raise _refusal(error, what, topology, fill) from error
    seconds = time.monotonic() - started
    memory, sent = compiled.memory_analysis(), collectives(compiled.as_text())
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + new + memory.temp_size_in_bytes
    estimate = None
    if flops is not None:
        computing = flops / (mesh.size * chip.bf16_teraflops * 1e12)
        sending = sum(c.bytes for c in sent) / (chip.ici_gigabytes * 1e9)
        estimate = max(computing, sending)
    return Plan(
        what=what,
        topology=topology,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        settings=asked if isinstance(asked, dict) else to_dict(asked),
        compile_seconds=round(seconds, 1),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=peak,
        hbm=hbm,
        collectives=sent,
        tokens=0
        if isinstance(asked, dict)
        else asked.batch_rows * asked.pack.row_length,
        flops=flops,
        estimate_seconds=estimate,
        filling_rows=fill(peak),
    )


def filling_rows(
    asked: Any, mesh: Mesh, peak: float | int, *, held: int, hbm: int
) -> int | None:
    """Returns the rows that would fill `hbm`, see `Plan`; None if there are no rows.

    Args:
        asked: the configuration that was planned.
        peak: bytes of a chip with the configuration's rows.
        held: bytes among them that do not depend on the rows.
    """
    if not isinstance(asked, DiTTrainingConfig):
        return None
    unit = asked.accumulate * axis_size(mesh, MESH_AXES["batch"])
    rows = asked.batch_rows * (hbm - held) / max(1, peak - held)
    return unit * max(0, int(rows / unit))


def _refusal(
    error: Exception, what: str, topology: str, fill: Callable[[float], int | None]
) -> Exception:
    """Returns the error to raise: a clear one for a program that is too large."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return error
    amounts = re.findall(r"([\d.]+)([KMGT])\b", text)[:2]
    used = " of ".join(f"{number} {unit}iB" for number, unit in amounts)
    advice = "take more chips, shorter rows, fewer rows a chip, or cut along "
    if amounts:
        number, unit = amounts[0]
        rows = fill(float(number) * 2 ** (10 * (1 + "KMGT".index(unit))))
        if rows:
            advice = f"about {rows} rows would fill it; {advice}"
    return DoesNotFit(
        f"{what} does not fit a chip of {topology}: it needs {used or 'too much'}; "
        f"{advice}mesh.context or mesh.tensor"
    )


def train_program(cfg: DiTTrainingConfig, mesh: Mesh) -> Program:
    """Returns the train step's program.

    Raises:
        UserError: the configuration has LoRA, but not the shapes of its frozen weights.
    """
    if cfg.step.lora is not None:
        raise UserError(
            "step.lora trains adapters of a folder's weights, which the plan does not "
            "cover: leave it out to plan the training of the whole model"
        )
    experiment = Experiment(
        settings={},
        init=functools.partial(dit_init, cfg.step),
        step=functools.partial(
            dit_step,
            cfg=cfg.step,
            accumulate=cfg.accumulate,
            route_length=_route_length(cfg, mesh),
        ),
        batches=(),
        unit="tokens",
        mesh=mesh,
        rules=state_rules(cfg.step),
    )
    return experiment.step_fn, (
        experiment.state,
        abstract_batch(cfg, mesh, jnp.bfloat16),
    )


def _route_length(cfg: DiTTrainingConfig, mesh: Mesh) -> int | None:
    """Returns the tokens of a shorter row, if no token is a condition token."""
    if cfg.step.routing is None:
        return None
    whole = cfg.pack.row_length
    skipping = int(cfg.step.routing.skipping(np.array(whole)))
    return rounded(whole - skipping, whole, axis_size(mesh, MESH_AXES["tokens"]))


def sample_program(cfg: DiTTrainingConfig, mesh: Mesh) -> Program:
    """Returns the program of a sampler's step, as of `soraxla generate`'s defaults."""
    model, batch = cfg.step.model, abstract_batch(cfg, mesh, jnp.float32)
    abstract = jax.eval_shape(lambda: dit.init(jax.random.key(0), model))
    params = with_shardings(abstract, param_shardings(abstract, dit.RULES, mesh))
    times: Any = jax.ShapeDtypeStruct(
        (SAMPLED.steps + 1, *batch.shift.shape), jnp.float32
    )
    grid = Grid(times, times)
    key = jax.eval_shape(lambda: jax.random.key(0))
    process = cfg.step.process
    # The programs are cached by settings, but compiler options depend on the platform.
    guidance = Guidance(cfg_scale=SAMPLED.cfg_scale)
    sharding = state_sharding(batch, mesh)
    build = functools.partial(
        programs.__wrapped__, model, process, SAMPLED.solver, guidance, sharding
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    condition_t = jax.ShapeDtypeStruct((), jnp.float32)
    inputs = params, (batch, batch), grid, key, condition_t
    begun, state = jax.eval_shape(build().begin, *inputs)
    axes = TEXT_AXES if begun.text.bias is not None else TEXT_AXES._replace(bias=None)
    text = jax.tree.map(functools.partial(_placed, mesh), begun.text, axes)
    begun = Begun(with_shardings(begun.x, sharding), None, text)
    state = with_shardings(state, jax.tree.map(lambda _: sharding, state))
    return lambda: build().step, (*inputs, begun, state, number, number)


def decode_program(
    mesh: Mesh, *, cfg: VAEConfig, size: tuple[int, int], latents: int
) -> Program:
    """Returns the program of the VAE's decoder for a first chunk of latent frames.

    Args:
        size: (width, height) in pixels.
    """
    abstract = jax.eval_shape(lambda: vae.init(jax.random.key(0), cfg))
    params = with_shardings(abstract, param_shardings(abstract, REPLICATED, mesh))
    width, height = size
    shape = (1, latents, height // cfg.spatial, width // cfg.spatial)
    whole = NamedSharding(mesh, PartitionSpec())
    z = jax.ShapeDtypeStruct((*shape, cfg.latent_channels), jnp.float32, sharding=whole)
    decode = functools.partial(vae.decode_chunk, cfg=cfg, past=None)
    return lambda: jit(lambda params, z: decode(params, latents=z)), (params, z)


def abstract_batch(cfg: DiTTrainingConfig, mesh: Mesh, dtype: Any) -> PackedBatch:
    """Returns the shapes of a whole batch, with shardings.

    Args:
        dtype: of latents and text; a loader's are bfloat16, a sampler's float32.
    """
    model, pack = cfg.step.model, cfg.pack
    b, n, m, s = cfg.batch_rows, pack.row_length, pack.text_length, pack.max_segments
    shapes: dict[str, Any] = {
        "latents": ((b, n, model.patch_dim), dtype),
        "segment_ids": ((b, n), jnp.int32),
        "token_index": ((b, n), jnp.int32),
        "positions": ((b, n, 3), jnp.float32),
        "condition_mask": ((b, n), jnp.bool_),
        "controls": ((b, n, model.controls.width), jnp.float32),
        "features": ((b, n, cfg.step.feature_width), dtype),
        "text": ((b, m, model.text_width), dtype),
        "text_segment_ids": ((b, m), jnp.int32),
        "visit": ((b, s), jnp.uint32),
        "shift": ((b, s), jnp.float32),
    }

    arrays: dict[str, Any] = {
        name: _placed(mesh, jax.ShapeDtypeStruct(*each), getattr(PACKED_AXES, name))
        for name, each in shapes.items()
    }
    return PackedBatch(**arrays)


def _placed(mesh: Mesh, abstract: Any, axes: LogicalAxes) -> jax.ShapeDtypeStruct:
    """Returns the abstract array with the sharding of its logical axes."""
    sharding = NamedSharding(mesh, partition_spec(abstract.shape, axes, mesh))
    return with_shardings(abstract, sharding)

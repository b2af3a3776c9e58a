"""Speed of soraxla on one GPU: ceilings, attention, training, decoding, sampling.

    python -m benchmarks.gpu [--json FILE] [--seconds 520] [--tiny]

- ceilings: a large bf16 product and a copy, which bound all other cases;
- attention: one row of 16,384 tokens, 12 heads of 128, of 1, 4 and 16 segments, forward
  and with gradients, in useful TFLOP/s (own segments only), and a quarter of it;
- training: steps on packed rows of 16,384 tokens of the published mix of sizes, and the
  MFU: of the chip's peak, the share that real tokens and their own segments use;
- decoding: 81 frames of 1280 × 720 by a VAE of Wan's size, host latents to host pixels;
- sampling: guided steps of Wan 1.3B for 81 frames of 832 × 480.

Weights and inputs are random. The program uses cuDNN's attention only if it agrees with
the portable engine. A case that fails or has no time left says so in its line and
stops no other. `--tiny` runs the same cases on a machine without a GPU.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from benchmarks.attention import segment_lengths, with_gradients
from benchmarks.harness import check_equal, conditions, write_json
from benchmarks.sizes import published_sizes
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.diffusion.guidance import Guidance, guided
from soraxla.diffusion.process import Process
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import Euler
from soraxla.generation.vae_streaming import decode_clip
from soraxla.models import dit, vae
from soraxla.models.dit.config import DiTConfig, dit_config
from soraxla.models.dit.flops import token_flops, train_flops
from soraxla.models.vae.model import VAEConfig
from soraxla.ops import attention
from soraxla.ops.engines import gpu_cudnn, gpu_dense, xla_flash
from soraxla.ops.engines.engine import Engine
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.patchify import positions
from soraxla.packing.schedule import schedule_steps
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step

# Dense bf16 TFLOP/s by the data sheets.
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "B200": 2250.0}
ROUNDS = 5
SAMPLED_STEPS = 4
ROWS_TIMED = 3  # rows that are trained on in a round, each a step
WAN_STEPS = 50  # of a whole sampling, Wan's default


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of all cases."""

    product: int  # side of the matrices
    copy: int  # bf16 numbers
    tokens: int  # of a row
    shrink: int  # of the sides of the published sizes
    heads: int
    models: dict[str, DiTConfig]
    vae: VAEConfig
    decoded: tuple[int, int, int]  # frames, height, width
    sampler: DiTConfig
    sampled: tuple[int, int, int]


_VAE = VAEConfig(latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16, dtype="bfloat16")
FULL = Sizes(
    product=8192,
    copy=2**31,
    tokens=16_384,
    shrink=1,
    heads=12,
    models={
        f"{name}, remat {remat}": dit_config(name, remat=remat)
        for name, remat in (
            ("wan_1_3b", "dots"),
            ("l", "dots"),
            ("wan_1_3b", "full"),
            ("l", "none"),
        )
    },
    vae=_VAE,
    decoded=(81, 720, 1280),
    sampler=dit_config("wan_1_3b"),
    sampled=(81, 480, 832),
)
TINY = Sizes(
    product=128,
    copy=2**16,
    tokens=1024,
    shrink=4,
    heads=1,
    models={"debug": dit_config("debug")},
    vae=replace(_VAE, base_width=8),
    decoded=(5, 32, 48),
    sampler=dit_config("wan_1_3b", layers=2, width=64, heads=1, mlp_width=128),
    sampled=(5, 32, 48),
)

Result = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Result]]]


def clocked(run: Callable[[], Any]) -> Result:
    """Returns seconds of the first call, which compiles, and least and median later."""
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    first, *rest = seconds
    return {"first_s": first, "min_s": min(rest), "median_s": statistics.median(rest)}


def peak() -> float | None:
    """Returns TFLOP/s of this device by its data sheet, None if unknown."""
    kind = jax.devices()[0].device_kind
    return next((tflops for name, tflops in PEAKS.items() if name in kind), None)


# ---- Ceilings ----------------------------------------------------------------------


def ceilings(sizes: Sizes) -> Cases:
    def product() -> Result:
        n = sizes.product
        a, b = (
            jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in (0, 1)
        )
        run = jit(jnp.matmul)
        times = clocked(lambda: run(a, b))
        return {**times, "tflops": 2 * n**3 / times["median_s"] / 1e12}

    def copy() -> Result:
        x = jax.random.normal(jax.random.key(0), (sizes.copy,), jnp.bfloat16)
        run = jit(lambda x: -x)
        times = clocked(lambda: run(x))
        return {**times, "gb_a_second": 4 * sizes.copy / times["median_s"] / 1e9}

    yield f"product of {sizes.product}", product
    yield f"copy of {2 * sizes.copy / 2**30:.3g} GiB", copy


# ---- Attention ---------------------------------------------------------------------


def rows_of(tokens: int, segments: int, heads: int) -> tuple[list[jax.Array], Any]:
    """Returns q, k, v and the output's gradient of one row, its ids, and Σ l²."""
    lengths = segment_lengths(tokens, segments)
    ids = jnp.asarray(np.repeat(np.arange(1, segments + 1), lengths)[None], jnp.int32)
    keys = jax.random.split(jax.random.key(segments), 4)
    shape = (1, tokens, heads, 128)
    made = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]
    return made, (ids, float(np.sum(lengths.astype(float) ** 2)))


def by(engine: Engine) -> Callable:
    def run(q, k, v, ids):
        return attention._attention(engine, "attn", q, k, v, ids, ids, None)

    return run


def check_cudnn(sizes: Sizes) -> Result:
    """Returns cuDNN's errors against the portable engine, and uses cuDNN from then on.

    Raises:
        ValueError: the errors are too large.
    """
    (q, k, v, grad), (ids, _) = rows_of(sizes.tokens // 4, 4, 2)
    run = [
        jit(functools.partial(with_gradients, by(engine)))(q, k, v, ids, grad)
        for engine in (gpu_cudnn.ENGINE, xla_flash.ENGINE)
    ]
    ours, theirs = ({n: np.asarray(x, np.float32) for n, x in r.items()} for r in run)
    errors = check_equal(ours, theirs, tolerance=1e-2)
    attention.ENGINES["gpu"] = gpu_cudnn.ENGINE
    return {"errors": errors}


def attentions(sizes: Sizes) -> Cases:
    def case(engine: Engine, segments: int, sizes: Sizes = sizes) -> Result:
        (q, k, v, grad), (ids, squares) = rows_of(sizes.tokens, segments, sizes.heads)
        forward = jit(by(engine))
        both = jit(functools.partial(with_gradients, by(engine)))
        fwd = clocked(lambda: forward(q, k, v, ids))
        all_ = clocked(lambda: both(q, k, v, ids, grad))
        flops = 4 * 128 * sizes.heads * squares
        backward = max(all_["median_s"] - fwd["median_s"], 1e-9)
        return {
            **all_,
            "forward_tflops": flops / fwd["median_s"] / 1e12,
            "backward_tflops": 2.5 * flops / backward / 1e12,
        }

    if jax.default_backend() == "gpu":
        yield "cuDNN is right", functools.partial(check_cudnn, sizes)
        for segments in (4, 1, 16):
            yield (
                f"attention, cuDNN, {segments} segments",
                functools.partial(case, gpu_cudnn.ENGINE, segments),
            )
    yield "attention, XLA, 4 segments", functools.partial(case, xla_flash.ENGINE, 4)
    short = replace(sizes, tokens=sizes.tokens // 4)
    for name, engine in (("dense", gpu_dense.ENGINE), ("XLA", xla_flash.ENGINE)):
        run = functools.partial(case, engine, 16, short)
        yield f"attention, {name}, 16 segments, a quarter of a row", run


# ---- Training ----------------------------------------------------------------------


def packed_rows(
    model: DiTConfig, sizes: Sizes, rows: int
) -> list[tuple[PackedBatch, int]]:
    """Returns batches of one row of the published mix, with the FLOPs of a step."""
    config = PackConfig(
        row_length=sizes.tokens, text_length=sizes.tokens // 8, max_segments=64
    )
    index, rng = published_sizes(shrink=sizes.shrink), np.random.default_rng(0)
    made = []
    for _, (row,) in islice(schedule_steps(index, config, seed=0, batch_rows=1), rows):
        segments = [
            _random(model, rng.integers(0, 16, (d.tokens, 3)), d.text_tokens, d.number)
            for d in row
        ]
        work = train_flops(model, [d.tokens for d in row], [d.text_tokens for d in row])
        made.append((jax.device_put(pack([segments], config)), work))
    return made


def training(sizes: Sizes) -> Cases:
    def case(model: DiTConfig) -> Result:
        step = DiTStepConfig(model=model)
        batches = packed_rows(model, sizes, ROWS_TIMED)
        state = jit(functools.partial(dit_init, step))()
        run = jit(functools.partial(dit_step, cfg=step), donate_argnums=0)

        def all_rows():
            nonlocal state
            for batch, _ in batches:
                state, metrics = run(state, batch)
            return metrics["loss"]

        times = clocked(all_rows)
        flops = sum(work for _, work in batches)
        tflops = flops / times["median_s"] / 1e12
        top = peak()
        tokens = sum(int((batch.segment_ids > 0).sum()) for batch, _ in batches)
        return {
            **times,
            "tokens_a_second": tokens / times["median_s"],
            "tflops": tflops,
            **({"mfu": tflops / top} if top else {}),
        }

    for name, model in sizes.models.items():
        yield f"train step, {name}", functools.partial(case, model)


# ---- Decoding and sampling ---------------------------------------------------------


def decoding(sizes: Sizes) -> Cases:
    frames, height, width = sizes.decoded

    def case() -> Result:
        cfg = sizes.vae
        grid = _grid(sizes.decoded)
        params = jit(functools.partial(vae.init, cfg=cfg))(jax.random.key(0))
        shape = (grid.t, grid.h, grid.w, cfg.latent_channels)
        latents = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        times = clocked(lambda: decode_clip(params, cfg, latents))
        return {**times, "frames_a_second": frames / times["median_s"]}

    yield f"decode {frames}x{height}x{width}", case


def sampling(sizes: Sizes) -> Cases:
    frames, height, width = sizes.sampled

    def case() -> Result:
        model, grid = sizes.sampler, _grid(sizes.sampled)
        batch = _clip(model, grid)
        params = _weights(model)
        times = Euler().grid(SAMPLED_STEPS, batch.shift)

        def run(params: PyTree, batch: PackedBatch, times: Any) -> jax.Array:
            denoise = guided(
                functools.partial(dit.denoiser, params, model),
                batch,
                batch._replace(text=-batch.text),
                guidance=Guidance(cfg_scale=5.0),
            )
            euler = functools.partial(sample, process=Process(), solver=Euler())
            return euler(denoise, batch.latents, batch, times)

        run = jit(run)
        clock = clocked(lambda: run(params, batch, times))
        a_step = clock["median_s"] / SAMPLED_STEPS
        tokens = batch.segment_ids.size
        flops = 2 * token_flops(model, [tokens], [batch.text.shape[1]])
        return {
            **clock,
            "s_a_step": a_step,
            "tflops": flops / a_step / 1e12,
            f"video_s_a_second_in_{WAN_STEPS}_steps": frames
            / 16
            / (WAN_STEPS * a_step),
        }

    yield f"sample {frames}x{height}x{width}", case


def _grid(size: tuple[int, int, int]) -> LatentGrid:
    frames, height, width = size
    return LatentGrid(t=1 + (frames - 1) // 4, h=height // 8, w=width // 8)


def _clip(model: DiTConfig, grid: LatentGrid) -> PackedBatch:
    """Returns a row of one random clip with 64 random text tokens."""
    place = positions(grid, model.patch, 16.0, model.rope_fps)
    config = PackConfig(row_length=len(place), text_length=64, max_segments=1)
    return jax.device_put(pack([[_random(model, place, 64, 0)]], config))


def _random(model: DiTConfig, place: np.ndarray, text: int, visit: int) -> Segment:
    rng = np.random.default_rng(visit)
    return Segment(
        tokens=rng.standard_normal((len(place), model.patch_dim), np.float32),
        positions=place.astype(np.float32),
        text=rng.standard_normal((text, model.text_width), np.float32),
        visit=visit,
        shift=3.0,
    )


def _weights(model: DiTConfig) -> PyTree:
    """Returns random weights in the type of the products; no layer is 0."""

    def make(key: jax.Array) -> PyTree:
        params = dit.cast_kernels(dit.init(key, model), model)
        return jax.tree.map(lambda x: x + jnp.asarray(0.01, x.dtype), params)

    return jit(make)(jax.random.key(0, impl="rbg"))


# ---- All of it ---------------------------------------------------------------------


def main(sizes: Sizes, seconds: float, file: Path | None) -> dict[str, Result]:
    """Runs every case in turn; a failed one holds its error."""
    start, results = time.perf_counter(), {}
    for section in (ceilings, attentions, training, decoding, sampling):
        for name, case in section(sizes):
            if time.perf_counter() - start > seconds:
                results[name] = {"error": f"not run: {seconds:.0f} s were over"}
                continue
            try:
                results[name] = case()
            except Exception as error:
                line = str(error).strip().split("\n")[0][:200]
                results[name] = {"error": f"{type(error).__name__}: {line}"}
            print(f"{time.perf_counter() - start:5.0f} s  {name}", flush=True)
            if file is not None:
                write_json(file, {**conditions(), "results": results})
            jax.clear_caches()
    print_table(results)
    return results


def print_table(results: dict[str, Result]) -> None:
    width = max(map(len, results))
    for name, result in results.items():
        shown = {
            k: f"{v:.4g}" if isinstance(v, float) else v for k, v in result.items()
        }
        print(f"{name:{width}}", *(f"{k} {v}" for k, v in shown.items()), sep="   ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--seconds", type=float, default=520.0, help="no later case")
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    arguments = parser.parse_args()
    main(TINY if arguments.tiny else FULL, arguments.seconds, arguments.json)
